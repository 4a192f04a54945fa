"""The training of one or several runs: steps, evaluations, saving in the background, errors and signals."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import jax
from tqdm import tqdm

from crlviz.errors import CrlvizError
from crlviz.escaping import printable
from training.loop.divergence import DivergenceError
from training.loop.train_loop import TrainState
from training.run import signals
from training.run.saved_state import Saved
from training.run.seed_run import SeedRun


class Steps(Protocol):
    """The interface of what a group of runs trains with. See ``Programs`` for details. A slot holds a run."""

    @property
    def slots(self) -> int: ...

    def start(self, seeds: Sequence[int], rewinds: Sequence[int]) -> Any: ...

    def load(self, saved: Sequence[Saved], rewinds: Sequence[int]) -> Any: ...

    def advance(self, state: Any) -> tuple[Any, Any, Any]: ...

    def share(self, slot: int, training: int) -> float: ...

    def evaluate(self, state: Any, seeds: Sequence[int], index: int) -> list[dict[str, float]]: ...

    def copy(self, state: Any, *, replay: bool) -> Any: ...

    def part(self, copied: Any, slot: int) -> tuple[TrainState, dict[str, Any]]: ...


# Programs for a number of slots, or for fewer if memory holds no more: a result of ``compiled.compile_for``.
CompileSlots = Callable[[int], Steps]


class Run:
    """One run, or several that differ only in their seed, trained group by group; a group trains in lockstep.

    Args:
      seed_runs: the runs.
      compile_slots: result of ``compiled.compile_for`` for their config.
      start_time: ``time.perf_counter`` at the start of work on them.
      again: paths for the ``crlviz train --resume`` command that resumes them, which a message shows.
      progress: True: show a progress bar; False: show nothing; None: a bar in a terminal, else a line for each
        evaluation.
    """

    def __init__(
        self,
        seed_runs: Sequence[SeedRun],
        compile_slots: CompileSlots,
        start_time: float,
        again: Sequence[Path],
        progress: bool | None = None,
    ):
        self.seed_runs = seed_runs
        self._compile_slots, self._start_time, self._again = compile_slots, start_time, again
        self._slots: Sequence[SeedRun] = ()
        self._state: Any = None
        self._step_seconds = 0.0
        self._saving: dict[SeedRun, Future[None]] = {}
        self._lines = progress is None and not sys.stderr.isatty()
        self._started, self._done_before = time.perf_counter(), sum(seed_run.number for seed_run in seed_runs)
        self._bar = tqdm(
            total=sum(seed_run.total for seed_run in seed_runs),
            unit="step",
            unit_scale=True,
            disable=None if progress is None else not progress,
        )

    def go(self) -> None:
        """Train all runs to the end.

        A run that fails drops out of its group, and the others continue. If it may rewind, it continues after them;
        otherwise its ``error`` says what happened.

        Raises:
          Stopped: a signal was received; the group that was training is saved.
        """
        waiting = list(self.seed_runs)
        with self._bar, ThreadPoolExecutor(1) as self._saver, signals.recorded(self._answer) as received:
            while waiting:
                self._slots = self._next_group(waiting)
                waiting = [seed_run for seed_run in waiting if seed_run not in self._slots]
                try:
                    self._train(received)
                finally:
                    for seed_run in self._slots:
                        seed_run.logs.close()
                self._start_time = time.perf_counter()
                waiting += [seed_run for seed_run in self._slots if self._continues(seed_run)]

    def _next_group(self, waiting: Sequence[SeedRun]) -> Sequence[SeedRun]:
        """The runs of those waiting that train next, in lockstep."""
        return next(groups(waiting, self._compile_slots))

    @property
    def training(self) -> list[SeedRun]:
        """Runs of the current group that have not failed."""
        return [seed_run for seed_run in self._slots if not seed_run.error]

    @property
    def step(self) -> int:
        """Training steps done by the current group."""
        return self.training[0].counters.step

    def _train(self, received: Callable[[], int | None]) -> None:
        """Train the current group to its last evaluation, or until all its runs have failed."""
        try:
            self.load()
        except CrlvizError as error:
            for seed_run in self._slots:
                seed_run.error = error
        counts = self._slots[0].schedule
        while self.training:
            if self.step % counts.steps_per_epoch == 0:
                self._evaluate()
                self._save([seed_run for seed_run in self.training if seed_run.checkpoint_due], checkpoint=True)
                if not self.training or self.step == counts.steps:
                    break
            if number := received():
                self._save(self.training, checkpoint=False)
                self._finish_saving()
                if not self.training:
                    break
                again = " ".join(f"--resume {path}" for path in self._again)
                first = self.training[0]
                where = f"{first.schedule.unit} {first.number:,}"
                raise signals.Stopped(f"stopped at {where}; go on with: crlviz train {again}", number)
            self.advance()
        self._finish_saving()
        self._state = None

    def load(self) -> None:
        """Load or create the states [slots, ...] of the current group."""
        seed_runs = self._slots
        self._programs = self._compile_slots(len(seed_runs))
        for seed_run in seed_runs:
            seed_run.start_clock(self._start_time)
        saved = [seed_run.saved for seed_run in seed_runs if seed_run.saved]
        if saved:
            rewinds = [seed_run.counters.rewinds if seed_run.rewound else 0 for seed_run in seed_runs]
            self._state = self._programs.load(saved, rewinds)
        else:
            seeds = [seed_run.config.seed for seed_run in seed_runs]
            rewinds = [seed_run.counters.rewinds for seed_run in seed_runs]
            self._state = self._programs.start(seeds, rewinds)

    def advance(self) -> None:
        """Do a training step of the group, and count it in each run."""
        start = time.perf_counter()
        self._state, losses, diverged = self._programs.advance(self._state)
        losses, diverged = jax.device_get((losses, diverged))
        self._step_seconds = time.perf_counter() - start
        count = len(self.training)  # a run that dropped out gets no share of the time
        for slot, seed_run in self._each(self.training):
            with self._isolated(seed_run):
                own = {name: float(values[slot]) for name, values in losses.items()}
                seconds = self._step_seconds * self._programs.share(slot, count)
                seed_run.advance(own, jax.tree.map(lambda leaf, slot=slot: leaf[slot], diverged), seconds)
        self._show()

    def _evaluate(self) -> None:
        """Evaluate the group; add a row to the metrics table of each run that has none for this step."""
        lacking = [seed_run for seed_run in self.training if not seed_run.evaluated]
        if not lacking:
            return
        seeds = [seed_run.config.seed for seed_run in self._slots]
        index = self.step // lacking[0].schedule.steps_per_epoch
        scores = self._programs.evaluate(self._state, seeds, index)
        rows = []
        for slot, seed_run in self._each(lacking):
            with self._isolated(seed_run):
                rows.append(seed_run.record(scores[slot]))
        if rows:
            speed = f"{rows[0]['updates_per_second']:.0f} updates/s, " if "updates_per_second" in rows[0] else ""
            scores_text = speed + scores_in_words(rows)
            self._bar.set_postfix_str(scores_text)
            if self._lines:
                self.say(f"{self._progress(lacking[0])}, {scores_text}")

    def _save(self, seed_runs: Sequence[SeedRun], *, checkpoint: bool) -> None:
        """Copy the states, and write those of ``seed_runs`` in the background, with checkpoints if asked for."""
        if not seed_runs:
            return
        self._finish_saving()
        first = seed_runs[0]
        resumes = first.config.keep_state or first.counters.step != first.schedule.steps
        copied = self._programs.copy(self._state, replay=resumes and first.config.save_replay)
        for slot, seed_run in self._each(seed_runs):
            if not seed_run.error:
                own, networks = self._programs.part(copied, slot)
                wanted = networks if checkpoint else None
                self._saving[seed_run] = self._saver.submit(seed_run.write, own, seed_run.counted(), wanted)

    def _finish_saving(self) -> None:
        """Wait until everything is written."""
        saving, self._saving = self._saving, {}
        for seed_run, written in saving.items():
            with self._isolated(seed_run):
                written.result()

    def _continues(self, seed_run: SeedRun) -> bool:
        """Finish a run that has left its slot; returns whether it was rewound and needs another slot."""
        try:
            if isinstance(seed_run.error, DivergenceError):
                self.say(seed_run.rewind(seed_run.error))
                self._show()
                return True
            if not seed_run.error and not seed_run.config.keep_state:
                seed_run.directory.remove_states()
        except CrlvizError as error:
            seed_run.error = error
        return False

    @contextlib.contextmanager
    def _isolated(self, seed_run: SeedRun) -> Iterator[None]:
        """Record an error of one run in its ``error``, so that the others continue."""
        try:
            yield
        except CrlvizError as error:
            self._drop(seed_run, error)

    def _drop(self, seed_run: SeedRun, error: CrlvizError) -> None:
        """Go on without a run that failed."""
        seed_run.error = error
        if self.training:
            self.say(f"{seed_run.path}: {printable(error)}; the others continue without it")

    def _each(self, seed_runs: Sequence[SeedRun]) -> list[tuple[int, SeedRun]]:
        """(Slot, run) of the given runs of the current group."""
        return [(slot, seed_run) for slot, seed_run in enumerate(self._slots) if seed_run in seed_runs]

    def _progress(self, seed_run: SeedRun) -> str:
        """Progress of a run's group, and the time left for all runs at the average rate so far."""
        whose = f"{len(self._slots)} of {len(self.seed_runs)} runs: " if len(self.seed_runs) > 1 else ""
        done, total = (sum(getattr(each, name) for each in self.seed_runs) for name in ("number", "total"))
        gained, elapsed = done - self._done_before, time.perf_counter() - self._started
        left = (
            f" ({tqdm.format_interval(elapsed * (total - done) / gained)} left)" if total > done and gained > 0 else ""
        )
        return f"{whose}{seed_run.number:,} of {seed_run.total:,} {seed_run.schedule.unit}s{left}"

    def _show(self) -> None:
        """Update the progress bar."""
        self._bar.update(sum(seed_run.number for seed_run in self.seed_runs) - self._bar.n)

    def _answer(self, name: str) -> None:
        """Tell the user that a signal was received."""
        self.say(
            f"{name}: stopping after this training step (one takes about {self._step_seconds:.1f} s), then "
            "saving; send it again to exit at once"
        )

    def say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def scores_in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """The mean scores of rows of metrics.csv; without evaluations the errors on held-out rows."""
    names = {"success": "success {:.2f}", "time_at_goal": "time at goal {:.0f}"}
    if rows[0].get("success") in (None, ""):
        names = {"held_out_accuracy": "held-out accuracy {:.2f}", "held_out_action_error": "action error {:.3f}"}
    means = {name: [float(row[name]) for row in rows if row.get(name) not in (None, "")] for name in names}
    return ", ".join(names[name].format(sum(values) / len(values)) for name, values in means.items() if values)


def groups(seed_runs: Sequence[SeedRun], compile_slots: CompileSlots) -> Iterator[list[SeedRun]]:
    """Split runs into groups that can train in lockstep: with equal ``resume_point``, as many as memory holds."""
    waiting = list(seed_runs)
    while waiting:
        matching = [seed_run for seed_run in waiting if seed_run.resume_point == waiting[0].resume_point]
        group = matching[: compile_slots(len(matching)).slots]
        yield group
        waiting = [seed_run for seed_run in waiting if seed_run not in group]
