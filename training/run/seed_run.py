"""One run among those that train in lockstep: its directory, table and counters, and what it saves."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crlviz.checkpoints import atomic_files, run_directory
from crlviz.errors import CrlvizError
from training.config import TrainConfig, schedule
from training.loop import divergence
from training.loop.divergence import Divergence
from training.loop.train_loop import TrainState
from training.run import metrics_table
from training.run import saved_state as states
from training.run.saved_state import Counters


class SeedRun:
    """A run in the directory ``path``, at its newest saved state, or at its beginning.

    What it computes is on a slot of the group's program; here is all that is its own.

    Attributes:
      path: the run directory, which nobody else writes in.
      config: its own, seed and all.
      schedule: of its config.
      counters: at this moment.
      saved: the state on disk that it goes on from; None: from the beginning.
      rewound: whether it goes on with another key than that state's.
      trouble: why it goes on no longer.

    Raises:
      CrlvizError: the saved state or the table of evaluations is damaged.
    """

    def __init__(self, path: Path, config: TrainConfig):
        self.path, self.config, self.schedule = path, config, schedule(config)
        self.trouble: CrlvizError | None = None
        self.rewound = False
        self.saved: states.Saved | None = None
        self.counters = Counters()
        self._rows: list[metrics_table.Row] = []
        self._began = math.nan
        self._restore()

    @property
    def env_steps(self) -> int:
        """Environment steps so far."""
        return self.schedule.env_steps(self.config, self.counters.step)

    @property
    def all_env_steps(self) -> int:
        """Environment steps of the whole run."""
        return self.schedule.env_steps(self.config, self.schedule.steps)

    @property
    def place(self) -> tuple[int, bool, bool]:
        """Members at one place can go on in lockstep: the step, and what is loaded to go on from there."""
        return self.counters.step, self.saved is not None, self.saved is not None and self.saved.replay

    @property
    def evaluated(self) -> bool:
        """Whether the table has a row for the present moment."""
        return bool(self._rows) and int(self._rows[-1]["env_steps"]) == self.env_steps

    @property
    def checkpoint_due(self) -> bool:
        """Whether this evaluation's checkpoint is wanted and not there (it may be, in a run resumed from here)."""
        epoch = self.counters.step // self.schedule.steps_per_epoch
        wanted = epoch == self.schedule.epochs or (epoch > 0 and epoch % self.config.save_every == 0)
        return wanted and self.env_steps not in run_directory.all_steps(self.path)

    def begin(self, began: float) -> None:
        """Start its clock: work on it began at that ``time.perf_counter``."""
        self._began = began - self.counters.wall_seconds

    def advance(self, losses: Mapping[str, float], trouble: Divergence, seconds: float) -> None:
        """Count a training step, which took so many seconds of this seed_run.

        Raises:
          DivergenceError: one of its updates went wrong.
        """
        counters = self.counters
        if trouble.found:
            done = self.schedule.gradient_steps(self.config, counters.step)
            raise divergence.divergence_error(trouble, done, self.config.actor.depth)
        self.counters = dataclasses.replace(
            counters,
            step=counters.step + 1,
            train_seconds=counters.train_seconds + seconds,
            sums={name: counters.sums.get(name, 0.0) + value for name, value in losses.items()},
        )

    def record(self, scores: Mapping[str, float]) -> metrics_table.Row:
        """Write the evaluation of the present moment into the table.

        Raises:
          DivergenceError: a number in it is not finite.
          WriteError: it cannot be written.
        """
        counters, config, per_epoch = self.counters, self.config, self.schedule.steps_per_epoch
        row: dict[str, Any] = {name: total / per_epoch for name, total in counters.sums.items()}
        if counters.step:
            seconds = counters.train_seconds - counters.evaluated_seconds
            row["updates_per_second"] = per_epoch * config.updates / seconds
            row["env_steps_per_second"] = per_epoch * config.unroll * config.num_envs / seconds
        row |= scores
        for name, value in row.items():
            if not math.isfinite(value):
                raise divergence.DivergenceError(
                    f"{name} became {value} in the evaluation at environment step {self.env_steps:,}"
                )
        row |= {
            "env_steps": self.env_steps,
            "gradient_steps": self.schedule.gradient_steps(config, counters.step),
            "wall_seconds": self._wall_seconds(),
            "train_seconds": counters.train_seconds,
        }
        self._rows.append(row)
        metrics_table.write(self.path, self._rows)
        self.counters = dataclasses.replace(counters, sums={}, evaluated_seconds=counters.train_seconds)
        return row

    def counted(self) -> Counters:
        """The counters of this moment, to be saved."""
        return dataclasses.replace(self.counters, wall_seconds=self._wall_seconds())

    def write(self, copied: TrainState, counters: Counters, *, checkpoint: bool) -> None:
        """Save a state of its own (``state.snapshot``) with the counters of its moment, and maybe a checkpoint.

        Raises:
          WriteError: it cannot be written.
        """
        counts, config, step = self.schedule, self.config, counters.step
        env_steps, updates = counts.env_steps(config, step), counts.gradient_steps(config, step)
        # The state first: a checkpoint without its state could be trained past but not gone on from.
        if step != counts.steps or config.keep_state:
            states.write(self.path, env_steps, copied, counters)
        if checkpoint:
            networks = {"actor": copied.learner.actor, "critic": copied.learner.critic}
            run_directory.write(self.path, env_steps, updates, networks)
            for old in run_directory.all_steps(self.path)[: -config.keep] if config.keep else []:
                atomic_files.remove_directory(self.path / "checkpoints" / str(old))

    def rewind(self, trouble: divergence.DivergenceError) -> str:
        """Go back to the last saved state with another key, and say so; or, if not wanted or no longer, raise."""
        done, config = self.counters.rewinds, self.config
        if config.on_nan == "stop" or done == config.rewinds:
            steps = run_directory.all_steps(self.path)
            last = self.path / "checkpoints" / str(steps[-1]) if steps else "none yet"
            if config.on_nan == "stop":
                what = f"the run stops (crlviz train --resume {self.path} --on-nan rewind goes on with another key)"
            else:
                what = f"the run stops after {done} rewinds"
            raise divergence.DivergenceError(f"{trouble}; {what}; last good checkpoint: {last}")
        seconds = self._wall_seconds()
        self._restore()
        self.counters = dataclasses.replace(self.counters, rewinds=done + 1, wall_seconds=seconds)
        self.rewound, self.trouble = True, None
        return (
            f"{trouble}; going back to environment step {self.env_steps:,} with another key "
            f"({done + 1} of {config.rewinds})"
        )

    def _restore(self) -> None:
        newest = states.newest(self.path)
        self.saved = states.look(newest) if newest else None
        self.counters = self.saved.counters if self.saved else Counters()
        self._rows = []
        if not self.saved:
            return
        if self.env_steps != int(self.saved.path.name):
            raise CrlvizError(f"{self.saved.path / 'manifest.json'} counts other environment steps than it is named by")
        self._rows = metrics_table.read(self.path, self.env_steps)
        if len(self._rows) <= self.counters.step // self.schedule.steps_per_epoch:
            raise CrlvizError(
                f"{self.path / 'metrics.csv'} lacks evaluations from before environment step {self.env_steps:,}; "
                "put it back, or train anew in another directory"
            )
        metrics_table.write(self.path, self._rows)

    def _wall_seconds(self) -> float:
        return time.perf_counter() - self._began
