"""Runs under way: training steps, evaluations, saving beside them, and what happens when something goes wrong."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from crlviz.errors import CrlvizError
from crlviz.escaping import printable
from training.loop.divergence import DivergenceError
from training.run import saved_state as states
from training.run import signals
from training.run.compiled import Programs
from training.run.seed_run import SeedRun

Fit = Callable[[int], Programs]  # programs for so many seed_runs, or for fewer where memory holds no more


class Run:
    """One run, or several that differ in their seed alone: group after group, each in lockstep on a program's slots.

    Args:
      seed_runs: the runs.
      fit: of ``programs.compile_for``, for their config.
      began: ``time.perf_counter`` when work on them began.
      again: what ``crlviz train --resume`` takes to go on with them.
      progress: show a bar over all; None: where there is a terminal, and elsewhere a line an evaluation; False:
        neither.
    """

    def __init__(
        self, seed_runs: Sequence[SeedRun], fit: Fit, began: float, again: Sequence[Path], progress: bool | None = None
    ):
        self.seed_runs = seed_runs
        self._fit, self._began, self._again = fit, began, again
        self._slots: Sequence[SeedRun] = ()
        self._state: Any = None
        self._step_seconds = 0.0
        self._saving: dict[SeedRun, Future[None]] = {}
        self._lines = progress is None and not sys.stderr.isatty()
        self._started, self._done_before = time.perf_counter(), sum(seed_run.env_steps for seed_run in seed_runs)
        self._bar = tqdm(
            total=sum(seed_run.all_env_steps for seed_run in seed_runs),
            unit="step",
            unit_scale=True,
            disable=None if progress is None else not progress,
        )

    def go(self) -> None:
        """Train all to the end.

        A seed_run with which something goes wrong drops out of its group, and the others go on without it. One that may
        rewind goes on after them; of another, ``trouble`` tells what it was.

        Raises:
          Stopped: by a signal, after saving the group that was training.
        """
        waiting = list(self.seed_runs)
        with self._bar, ThreadPoolExecutor(1) as self._saver, signals.heard(self._answer) as heard:
            while waiting:
                self._slots = next(groups(waiting, self._fit))
                waiting = [seed_run for seed_run in waiting if seed_run not in self._slots]
                self._train(heard)
                self._began = time.perf_counter()
                waiting += [seed_run for seed_run in self._slots if self._goes_on(seed_run)]

    @property
    def training(self) -> list[SeedRun]:
        """Members of the present group with which nothing went wrong."""
        return [seed_run for seed_run in self._slots if not seed_run.trouble]

    @property
    def step(self) -> int:
        """Training steps that the present group has done."""
        return self.training[0].counters.step

    def _train(self, heard: Callable[[], int | None]) -> None:
        """The group to its last evaluation, that included, or until it has lost all seed_runs."""
        try:
            self._load()
        except CrlvizError as error:
            for seed_run in self._slots:
                seed_run.trouble = error
        counts = self._slots[0].schedule
        while self.training:
            if self.step % counts.steps_per_epoch == 0:
                self._evaluate()
                self._save([seed_run for seed_run in self.training if seed_run.checkpoint_due], checkpoint=True)
                if not self.training or self.step == counts.steps:
                    break
            if number := heard():
                self._save(self.training, checkpoint=False)
                self._finish_saving()
                if not self.training:
                    break
                again = " ".join(f"--resume {path}" for path in self._again)
                raise signals.Stopped(
                    f"stopped at environment step {self.training[0].env_steps:,}; go on with: crlviz train {again}",
                    number,
                )
            self._step()
        self._finish_saving()
        self._state = None

    def _load(self) -> None:
        """The states of the group, [seed_runs, ...]."""
        seed_runs = self._slots
        self._programs = self._fit(len(seed_runs))
        for seed_run in seed_runs:
            seed_run.begin(self._began)
        saved = [seed_run.saved for seed_run in seed_runs if seed_run.saved]
        if saved:
            again = [seed_run.counters.rewinds if seed_run.rewound else 0 for seed_run in seed_runs]
            self._state = self._programs.load(saved, again)
        else:
            seeds, rewinds = zip(
                *((seed_run.config.seed, seed_run.counters.rewinds) for seed_run in seed_runs), strict=True
            )
            self._state = self._programs.start(seeds, rewinds)

    def _step(self) -> None:
        start = time.perf_counter()
        self._state, losses, troubles = self._programs.advance(self._state)
        losses, troubles = jax.device_get((losses, troubles))
        self._step_seconds = time.perf_counter() - start
        share = self._step_seconds / len(self.training)  # a seed_run that dropped out takes no part of it
        for slot, seed_run in self._each(self.training):
            with self._apart(seed_run):
                own = {name: float(values[slot]) for name, values in losses.items()}
                seed_run.advance(own, jax.tree.map(lambda leaf, slot=slot: leaf[slot], troubles), share)
        self._show()

    def _evaluate(self) -> None:
        """A row in the table of each seed_run that has none for this moment."""
        lacking = [seed_run for seed_run in self.training if not seed_run.evaluated]
        if not lacking:
            return
        seeds, index = (
            [seed_run.config.seed for seed_run in self._slots],
            self.step // lacking[0].schedule.steps_per_epoch,
        )
        scores = self._programs.evaluate(self._state, seeds, index)
        rows = []
        for slot, seed_run in self._each(lacking):
            with self._apart(seed_run):
                rows.append(seed_run.record(scores[slot]))
        if rows:
            speed = f"{rows[0]['updates_per_second']:.0f} updates/s, " if "updates_per_second" in rows[0] else ""
            success, at_goal = (sum(row[name] for row in rows) / len(rows) for name in ("success", "time_at_goal"))
            said = f"{speed}success {success:.2f}, time at goal {at_goal:.0f}"
            self._bar.set_postfix_str(said)
            if self._lines:
                self._say(f"{self._progress(lacking[0])}, {said}")

    def _save(self, seed_runs: Sequence[SeedRun], *, checkpoint: bool) -> None:
        """Copy the states and write those of some seed_runs, and maybe their checkpoints, beside training."""
        if not seed_runs:
            return
        self._finish_saving()
        first = seed_runs[0]
        resumes = first.config.keep_state or first.counters.step != first.schedule.steps
        copied = self._programs.copy(self._state, replay=resumes and first.config.save_replay)
        for slot, seed_run in self._each(seed_runs):
            if not seed_run.trouble:
                own = jax.tree.map(lambda leaf, slot=slot: leaf[slot, ...], copied)
                self._saving[seed_run] = self._saver.submit(
                    seed_run.write, own, seed_run.counted(), checkpoint=checkpoint
                )

    def _finish_saving(self) -> None:
        """Wait for what is being written."""
        saving, self._saving = self._saving, {}
        for seed_run, written in saving.items():
            with self._apart(seed_run):
                written.result()

    def _goes_on(self, seed_run: SeedRun) -> bool:
        """Clear up after a seed_run that has left its slot; whether it takes another, after a rewind."""
        try:
            if isinstance(seed_run.trouble, DivergenceError):
                self._say(seed_run.rewind(seed_run.trouble))
                self._show()
                return True
            if not seed_run.trouble and not seed_run.config.keep_state:
                states.remove(seed_run.path)
        except CrlvizError as error:
            seed_run.trouble = error
        return False

    @contextlib.contextmanager
    def _apart(self, seed_run: SeedRun) -> Iterator[None]:
        """What goes wrong with a seed_run is its own trouble."""
        try:
            yield
        except CrlvizError as error:
            seed_run.trouble = error
            if self.training:
                self._say(f"{seed_run.path}: {printable(error)}; the others go on without it")

    def _each(self, seed_runs: Sequence[SeedRun]) -> list[tuple[int, SeedRun]]:
        """Some seed_runs of the group and their slots."""
        return [(slot, seed_run) for slot, seed_run in enumerate(self._slots) if seed_run in seed_runs]

    def _progress(self, seed_run: SeedRun) -> str:
        """Where a seed_run's group stands, and how long all will take yet at the rate since it began to train."""
        whose = f"{len(self._slots)} of {len(self.seed_runs)} runs: " if len(self.seed_runs) > 1 else ""
        done, total = (sum(getattr(each, name) for each in self.seed_runs) for name in ("env_steps", "all_env_steps"))
        fresh, elapsed = done - self._done_before, time.perf_counter() - self._started
        left = f" ({tqdm.format_interval(elapsed * (total - done) / fresh)} left)" if total > done and fresh > 0 else ""
        return f"{whose}{seed_run.env_steps:,} of {seed_run.all_env_steps:,} environment steps{left}"

    def _show(self) -> None:
        self._bar.update(sum(seed_run.env_steps for seed_run in self.seed_runs) - self._bar.n)

    def _answer(self, name: str) -> None:
        self._say(
            f"{name}: stopping after this training step (one takes about {self._step_seconds:.1f} s), then "
            f"saving; once more to leave at once"
        )

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def groups(seed_runs: Sequence[SeedRun], fit: Fit) -> Iterator[list[SeedRun]]:
    """The seed_runs in groups that can train in lockstep: those at one place, as many as memory holds."""
    waiting = list(seed_runs)
    while waiting:
        alike = [seed_run for seed_run in waiting if seed_run.place == waiting[0].place]
        group = alike[: fit(len(alike)).members]
        yield group
        waiting = [seed_run for seed_run in waiting if seed_run not in group]
