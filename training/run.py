"""A run under way: training steps, evaluations, saving beside them, and what happens when something goes wrong."""

import dataclasses
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from crlviz import checkpoints, files
from crlviz.errors import CrlvizError
from training import guard, signals, table
from training import state as states
from training.programs import Programs
from training.state import Counters


class Run:
    """A run in the directory ``path``, from its newest saved state on, or from its beginning.

    Args:
      path: the run directory, which nobody else writes in.
      programs: of its config.
      began: ``time.perf_counter`` when work on it began.
      progress: show a bar; None: where there is a terminal.

    Raises:
      CrlvizError: the saved state or the table of evaluations is damaged.
    """

    def __init__(self, path: Path, programs: Programs, began: float, progress: bool | None = None):
        self.path = path
        self.programs = programs
        self.config, self.schedule = programs.loop.config, programs.loop.schedule
        self.counters = Counters()
        self._state: Any = None
        self._rows: list[table.Row] = []
        self._restore()
        self._began = began - self.counters.wall_seconds
        self._step_seconds = 0.0
        self._saving: Future[None] | None = None
        self._bar = tqdm(
            total=self.schedule.env_steps(self.config, self.schedule.steps),
            unit="step",
            unit_scale=True,
            disable=None if progress is None else not progress,
        )

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self.schedule.env_steps(self.config, self.counters.step)

    def go(self) -> None:
        """Train to the end.

        Raises:
          BlowUp: an update went wrong, and the config says stop or its rewinds are used up.
          Stopped: by a signal, after saving.
          CrlvizError: something cannot be written.
        """
        with self._bar, ThreadPoolExecutor(1) as self._saver, signals.heard(self._answer) as heard:
            while True:
                try:
                    self._advance(heard)
                    break
                except guard.BlowUp as trouble:
                    self._finish_saving()
                    self._rewind(trouble)
            self._finish_saving()
        states.remove(self.path)

    def _advance(self, heard: Callable[[], int | None]) -> None:
        """To the last evaluation, that included."""
        while True:
            if self.counters.step % self.schedule.steps_per_epoch == 0:
                if not self._evaluated():
                    self._evaluate()
                if self._checkpoint_due():
                    self._save(checkpoint=True)
                if self.counters.step == self.schedule.steps:
                    return
            if number := heard():
                self._save(checkpoint=False)
                self._finish_saving()
                raise signals.Stopped(
                    f"stopped at environment step {self.env_steps:,}; go on with: crlviz train --resume {self.path}",
                    number,
                )
            self._step()

    def _step(self) -> None:
        start = time.perf_counter()
        self._state, losses, trouble = self.programs.step(self._state)
        losses, trouble = jax.device_get((losses, trouble))
        self._step_seconds = time.perf_counter() - start
        counters = self.counters
        if trouble.found:
            done = self.schedule.gradient_steps(self.config, counters.step)
            raise guard.blow_up(trouble, done, self.config.actor.depth)
        self.counters = dataclasses.replace(
            counters,
            step=counters.step + 1,
            train_seconds=counters.train_seconds + self._step_seconds,
            sums={name: counters.sums.get(name, 0.0) + float(value) for name, value in losses.items()},
        )
        self._bar.update(self.env_steps - self._bar.n)

    def _evaluated(self) -> bool:
        """Whether the table has a row for the present moment."""
        return bool(self._rows) and int(self._rows[-1]["env_steps"]) == self.env_steps

    def _evaluate(self) -> None:
        counters, config, per_epoch = self.counters, self.config, self.schedule.steps_per_epoch
        row: dict[str, Any] = {name: total / per_epoch for name, total in counters.sums.items()}
        if counters.step:
            seconds = counters.train_seconds - counters.evaluated_seconds
            row["updates_per_second"] = per_epoch * config.updates / seconds
            row["env_steps_per_second"] = per_epoch * config.unroll * config.num_envs / seconds
        row |= self.programs.evaluate(self._state, counters.step // per_epoch)
        for name, value in row.items():
            if not math.isfinite(value):
                raise guard.BlowUp(f"{name} became {value} in the evaluation at environment step {self.env_steps:,}")
        row |= {
            "env_steps": self.env_steps,
            "gradient_steps": self.schedule.gradient_steps(config, counters.step),
            "wall_seconds": self._wall_seconds(),
            "train_seconds": counters.train_seconds,
        }
        self._rows.append(row)
        table.write(self.path, self._rows)
        self.counters = dataclasses.replace(counters, sums={}, evaluated_seconds=counters.train_seconds)
        speed = f"{row['updates_per_second']:.0f} updates/s, " if counters.step else ""
        self._bar.set_postfix_str(f"{speed}success {row['success']:.2f}, time at goal {row['time_at_goal']:.0f}")

    def _checkpoint_due(self) -> bool:
        """Whether this evaluation's checkpoint is wanted and not there (it may be, in a run resumed from here)."""
        epoch = self.counters.step // self.schedule.steps_per_epoch
        wanted = epoch == self.schedule.epochs or (epoch > 0 and epoch % self.config.save_every == 0)
        return wanted and self.env_steps not in checkpoints.all_steps(self.path)

    def _save(self, *, checkpoint: bool) -> None:
        """Copy the state and write it, and a checkpoint, beside training."""
        self._finish_saving()
        last = self.counters.step == self.schedule.steps
        drop_replay = last or not self.config.save_replay
        copied = states.snapshot(self._state.replace(replay=None) if drop_replay else self._state)
        counters = dataclasses.replace(self.counters, wall_seconds=self._wall_seconds())
        env_steps, updates = self.env_steps, self.schedule.gradient_steps(self.config, counters.step)

        def write() -> None:
            # The state first: a checkpoint without its state could be trained past but not gone on from.
            if not last:
                states.write(self.path, env_steps, copied, counters)
            if checkpoint:
                networks = {"actor": copied.learner.actor, "critic": copied.learner.critic}
                checkpoints.write(self.path, env_steps, updates, networks)
                for old in checkpoints.all_steps(self.path)[: -self.config.keep] if self.config.keep else []:
                    files.remove_directory(self.path / "checkpoints" / str(old))

        self._saving = self._saver.submit(write)

    def _finish_saving(self) -> None:
        """Wait for what is being written; raises what went wrong."""
        saving, self._saving = self._saving, None
        if saving:
            saving.result()

    def _rewind(self, trouble: guard.BlowUp) -> None:
        """Go back to the last saved state with another key; or, if that is not wanted or no longer, raise."""
        done, config = self.counters.rewinds, self.config
        if config.on_nan == "stop" or done == config.rewinds:
            steps = checkpoints.all_steps(self.path)
            last = self.path / "checkpoints" / str(steps[-1]) if steps else "none yet"
            if config.on_nan == "stop":
                what = f"the run stops (crlviz train --resume {self.path} --on-nan rewind goes on with another key)"
            else:
                what = f"the run stops after {done} rewinds"
            raise guard.BlowUp(f"{trouble}; {what}; last good checkpoint: {last}") from None
        self._restore(rewinds=done + 1)
        self._say(
            f"{trouble}; going back to environment step {self.env_steps:,} with another key "
            f"({done + 1} of {config.rewinds})"
        )
        self._bar.update(self.env_steps - self._bar.n)

    def _restore(self, rewinds: int = 0) -> None:
        """Take up the newest saved state, or the first; with another key after a rewind."""
        self._state = None  # let go before another is read
        saved = states.newest(self.path)
        if not saved:
            self._state, self.counters, self._rows = self.programs.start(rewinds), Counters(rewinds=rewinds), []
            return
        state, counters = states.read(saved, self.programs.example)
        if rewinds:
            state = state.replace(key=jax.random.fold_in(state.key, rewinds))
            counters = dataclasses.replace(counters, rewinds=rewinds)
        self._state = self.programs.refill(state) if state.replay is None else state
        self.counters = counters
        if self.env_steps != int(saved.name):
            raise CrlvizError(f"{saved / 'manifest.json'} counts other environment steps than it is named by")
        self._rows = table.read(self.path, self.env_steps)
        if len(self._rows) <= counters.step // self.schedule.steps_per_epoch:
            raise CrlvizError(
                f"{self.path / 'metrics.csv'} lacks evaluations from before environment step {self.env_steps:,}; "
                "put it back, or train anew in another directory"
            )
        table.write(self.path, self._rows)

    def _wall_seconds(self) -> float:
        return time.perf_counter() - self._began

    def _answer(self, name: str) -> None:
        self._say(
            f"{name}: stopping after this training step (one takes about {self._step_seconds:.1f} s), then "
            f"saving; once more to leave at once"
        )

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)
