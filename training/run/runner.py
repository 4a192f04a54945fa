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
from training.loop.divergence import BlowUp
from training.run import saved_state as states
from training.run import signals
from training.run.compiled import Programs
from training.run.seed_run import Member

Fit = Callable[[int], Programs]  # programs for so many members, or for fewer where memory holds no more


class Run:
    """One run, or several that differ in their seed alone: group after group, each in lockstep on a program's lanes.

    Args:
      members: the runs.
      fit: of ``programs.fitting``, for their config.
      began: ``time.perf_counter`` when work on them began.
      again: what ``crlviz train --resume`` takes to go on with them.
      progress: show a bar over all; None: where there is a terminal, and elsewhere a line an evaluation; False:
        neither.
    """

    def __init__(
        self, members: Sequence[Member], fit: Fit, began: float, again: Sequence[Path], progress: bool | None = None
    ):
        self.members = members
        self._fit, self._began, self._again = fit, began, again
        self._lanes: Sequence[Member] = ()
        self._state: Any = None
        self._step_seconds = 0.0
        self._saving: dict[Member, Future[None]] = {}
        self._lines = progress is None and not sys.stderr.isatty()
        self._started, self._done_before = time.perf_counter(), sum(member.env_steps for member in members)
        self._bar = tqdm(
            total=sum(member.all_env_steps for member in members),
            unit="step",
            unit_scale=True,
            disable=None if progress is None else not progress,
        )

    def go(self) -> None:
        """Train all to the end.

        A member with which something goes wrong drops out of its group, and the others go on without it. One that may
        rewind goes on after them; of another, ``trouble`` tells what it was.

        Raises:
          Stopped: by a signal, after saving the group that was training.
        """
        waiting = list(self.members)
        with self._bar, ThreadPoolExecutor(1) as self._saver, signals.heard(self._answer) as heard:
            while waiting:
                self._lanes = next(groups(waiting, self._fit))
                waiting = [member for member in waiting if member not in self._lanes]
                self._train(heard)
                self._began = time.perf_counter()
                waiting += [member for member in self._lanes if self._goes_on(member)]

    @property
    def training(self) -> list[Member]:
        """Members of the present group with which nothing went wrong."""
        return [member for member in self._lanes if not member.trouble]

    @property
    def step(self) -> int:
        """Training steps that the present group has done."""
        return self.training[0].counters.step

    def _train(self, heard: Callable[[], int | None]) -> None:
        """The group to its last evaluation, that included, or until it has lost all members."""
        try:
            self._load()
        except CrlvizError as error:
            for member in self._lanes:
                member.trouble = error
        counts = self._lanes[0].schedule
        while self.training:
            if self.step % counts.steps_per_epoch == 0:
                self._evaluate()
                self._save([member for member in self.training if member.checkpoint_due], checkpoint=True)
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
        """The states of the group, [members, ...]."""
        members = self._lanes
        self._programs = self._fit(len(members))
        for member in members:
            member.begin(self._began)
        saved = [member.saved for member in members if member.saved]
        if saved:
            again = [member.counters.rewinds if member.rewound else 0 for member in members]
            self._state = self._programs.load(saved, again)
        else:
            seeds, rewinds = zip(*((member.config.seed, member.counters.rewinds) for member in members), strict=True)
            self._state = self._programs.start(seeds, rewinds)

    def _step(self) -> None:
        start = time.perf_counter()
        self._state, losses, troubles = self._programs.advance(self._state)
        losses, troubles = jax.device_get((losses, troubles))
        self._step_seconds = time.perf_counter() - start
        share = self._step_seconds / len(self.training)  # a member that dropped out takes no part of it
        for lane, member in self._each(self.training):
            with self._apart(member):
                own = {name: float(values[lane]) for name, values in losses.items()}
                member.advance(own, jax.tree.map(lambda leaf, lane=lane: leaf[lane], troubles), share)
        self._show()

    def _evaluate(self) -> None:
        """A row in the table of each member that has none for this moment."""
        lacking = [member for member in self.training if not member.evaluated]
        if not lacking:
            return
        seeds, index = [member.config.seed for member in self._lanes], self.step // lacking[0].schedule.steps_per_epoch
        scores = self._programs.evaluate(self._state, seeds, index)
        rows = []
        for lane, member in self._each(lacking):
            with self._apart(member):
                rows.append(member.record(scores[lane]))
        if rows:
            speed = f"{rows[0]['updates_per_second']:.0f} updates/s, " if "updates_per_second" in rows[0] else ""
            success, at_goal = (sum(row[name] for row in rows) / len(rows) for name in ("success", "time_at_goal"))
            said = f"{speed}success {success:.2f}, time at goal {at_goal:.0f}"
            self._bar.set_postfix_str(said)
            if self._lines:
                self._say(f"{self._progress(lacking[0])}, {said}")

    def _save(self, members: Sequence[Member], *, checkpoint: bool) -> None:
        """Copy the states and write those of some members, and maybe their checkpoints, beside training."""
        if not members:
            return
        self._finish_saving()
        first = members[0]
        resumes = first.config.keep_state or first.counters.step != first.schedule.steps
        copied = self._programs.copy(self._state, replay=resumes and first.config.save_replay)
        for lane, member in self._each(members):
            if not member.trouble:
                own = jax.tree.map(lambda leaf, lane=lane: leaf[lane, ...], copied)
                self._saving[member] = self._saver.submit(member.write, own, member.counted(), checkpoint=checkpoint)

    def _finish_saving(self) -> None:
        """Wait for what is being written."""
        saving, self._saving = self._saving, {}
        for member, written in saving.items():
            with self._apart(member):
                written.result()

    def _goes_on(self, member: Member) -> bool:
        """Clear up after a member that has left its lane; whether it takes another, after a rewind."""
        try:
            if isinstance(member.trouble, BlowUp):
                self._say(member.rewind(member.trouble))
                self._show()
                return True
            if not member.trouble and not member.config.keep_state:
                states.remove(member.path)
        except CrlvizError as error:
            member.trouble = error
        return False

    @contextlib.contextmanager
    def _apart(self, member: Member) -> Iterator[None]:
        """What goes wrong with a member is its own trouble."""
        try:
            yield
        except CrlvizError as error:
            member.trouble = error
            if self.training:
                self._say(f"{member.path}: {printable(error)}; the others go on without it")

    def _each(self, members: Sequence[Member]) -> list[tuple[int, Member]]:
        """Some members of the group and their lanes."""
        return [(lane, member) for lane, member in enumerate(self._lanes) if member in members]

    def _progress(self, member: Member) -> str:
        """Where a member's group stands, and how long all will take yet at the rate since it began to train."""
        whose = f"{len(self._lanes)} of {len(self.members)} runs: " if len(self.members) > 1 else ""
        done, total = (sum(getattr(each, name) for each in self.members) for name in ("env_steps", "all_env_steps"))
        fresh, elapsed = done - self._done_before, time.perf_counter() - self._started
        left = f" ({tqdm.format_interval(elapsed * (total - done) / fresh)} left)" if total > done and fresh > 0 else ""
        return f"{whose}{member.env_steps:,} of {member.all_env_steps:,} environment steps{left}"

    def _show(self) -> None:
        self._bar.update(sum(member.env_steps for member in self.members) - self._bar.n)

    def _answer(self, name: str) -> None:
        self._say(
            f"{name}: stopping after this training step (one takes about {self._step_seconds:.1f} s), then "
            f"saving; once more to leave at once"
        )

    def _say(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)


def groups(members: Sequence[Member], fit: Fit) -> Iterator[list[Member]]:
    """The members in groups that can train in lockstep: those at one place, as many as memory holds."""
    waiting = list(members)
    while waiting:
        alike = [member for member in waiting if member.place == waiting[0].place]
        group = alike[: fit(len(alike)).members]
        yield group
        waiting = [member for member in waiting if member not in group]
