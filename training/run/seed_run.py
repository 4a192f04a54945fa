"""One seed's run: its directory, metrics table and counters, and how it saves and rewinds."""

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.metrics_table import Row
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from training.config import TrainConfig, content
from training.loop import distilled, divergence
from training.loop.dataset_loop import held_out_columns
from training.loop.divergence import Divergence
from training.loop.train_loop import TrainState
from training.run import loggers
from training.run import saved_state as states
from training.run.saved_state import Counters


class SeedRun:
    """The run in a directory, at its newest saved state, or at its start if there is none.

    The arrays of the run occupy a slot of the group's TrainState; this class holds everything else.

    Attributes:
      directory: the run directory; only this process writes in it.
      config: the run's config, with its own seed.
      schedule: schedule of the config.
      counters: current counters.
      logs: of other tools.
      saved: state on disk to resume from; None: start from the beginning.
      rewound: whether it continues with another key than the saved state's.
      error: why the run has stopped; None while it trains.

    Raises:
      CrlvizError: the saved state or the metrics table is damaged.
    """

    def __init__(self, directory: RunDirectory, config: TrainConfig):
        self.directory, self.config, self.schedule = directory, config, config.schedule
        self._algorithm = distilled.kind(config)
        self.error: CrlvizError | None = None
        self.rewound = False
        self.saved: states.Saved | None = None
        self.counters = Counters()
        self._rows: list[Row] = []
        self._start_time = math.nan
        self.logs = loggers.Logs(loggers.read(config.log), directory.path, content(config))
        self._restore()

    @property
    def path(self) -> Path:
        """Path of the run directory."""
        return self.directory.path

    @property
    def number(self) -> int:
        """Environment steps so far; on a data set updates (``Schedule.number``)."""
        return self.schedule.number(self.counters.step)

    @property
    def total(self) -> int:
        """The ``number`` of the whole run."""
        return self.schedule.total

    @property
    def resume_point(self) -> tuple[int, bool, bool]:
        """The step, whether a state is loaded, and whether with its buffer. Equal ones can train in lockstep."""
        return self.counters.step, self.saved is not None, self.saved is not None and self.saved.replay

    @property
    def evaluated(self) -> bool:
        """Whether the metrics table has a row for the current step."""
        return bool(self._rows) and metrics_table.number(self._rows[-1]) == self.number

    @property
    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due at this evaluation and not yet there (after resuming from here it may be)."""
        epoch = self.counters.step // self.schedule.steps_per_epoch
        wanted = epoch == self.schedule.epochs or (epoch > 0 and epoch % self.config.save_every == 0)
        return wanted and self.number not in self.directory.checkpoint_steps()

    def start_clock(self, start_time: float) -> None:
        """Start the clock; ``start_time`` is the ``time.perf_counter`` at the start of work on the run."""
        self._start_time = start_time - self.counters.wall_seconds

    def advance(self, losses: Mapping[str, float], diverged: Divergence, seconds: float) -> None:
        """Count a training step.

        Args:
          losses: its mean metrics, by name.
          diverged: the first divergence of its updates.
          seconds: this run's share of its time.

        Raises:
          DivergenceError: one of its updates diverged.
        """
        counters = self.counters
        if diverged.found:
            done = self.schedule.gradient_steps(counters.step)
            raise divergence.divergence_error(diverged, self._algorithm.losses, done, self.config.actor.depth)
        self.counters = dataclasses.replace(
            counters,
            step=counters.step + 1,
            train_seconds=counters.train_seconds + seconds,
            sums={name: counters.sums.get(name, 0.0) + value for name, value in losses.items()},
        )

    def record(self, scores: Mapping[str, float]) -> Row:
        """Add a row for the current step to the metrics table and return it.

        Args:
          scores: scores of the evaluation, by name.

        Raises:
          DivergenceError: a value is not finite.
          WriteError: the table cannot be written.
        """
        counters, config, per_epoch = self.counters, self.config, self.schedule.steps_per_epoch
        row: dict[str, Any] = {name: total / per_epoch for name, total in counters.sums.items()}
        if counters.step:
            seconds = counters.train_seconds - counters.evaluated_seconds
            row["updates_per_second"] = per_epoch * config.updates / seconds
            if self.schedule.env_steps_per_step:
                row["env_steps_per_second"] = per_epoch * self.schedule.env_steps_per_step / seconds
        row |= scores
        for name, value in row.items():
            if not math.isfinite(value):
                raise divergence.DivergenceError(
                    f"{name} became {value} in the evaluation at {self.schedule.unit} {self.number:,}"
                )
        row |= {"env_steps": self.number} if self.schedule.env_steps_per_step else {}
        row |= {
            "gradient_steps": self.schedule.gradient_steps(counters.step),
            "wall_seconds": self._wall_seconds(),
            "train_seconds": counters.train_seconds,
        }
        self._rows.append(row)
        self.directory.write_metrics(self._rows, self._columns)
        self.logs.record(self._rows)
        self.counters = dataclasses.replace(counters, sums={}, evaluated_seconds=counters.train_seconds)
        return row

    def counted(self) -> Counters:
        """The current counters with the clock time, for saving."""
        return dataclasses.replace(self.counters, wall_seconds=self._wall_seconds())

    def write(self, copied: TrainState, counters: Counters, networks: Mapping[str, Any] | None) -> None:
        """Save this run's state, and a checkpoint if ``networks`` are given.

        Args:
          copied: snapshot of the state (``saved_state.snapshot``), without the slot axis.
          counters: counters at the time of the snapshot.
          networks: what the checkpoint holds (``Algorithm.networks``); None: write none.

        Raises:
          WriteError: something cannot be written.
        """
        counts, config, step = self.schedule, self.config, counters.step
        number, updates = counts.number(step), counts.gradient_steps(step)
        # Write the state first: a checkpoint without its state could not be resumed from.
        if step != counts.steps or config.keep_state:
            # A learner is saved before its collector, whose newest state may still be the one before.
            states.write(self.directory, number, copied, counters, 1 if config.collector_depth else 0)
        if networks:
            self.directory.write_checkpoint(number, updates, networks)
            if config.keep:
                self.directory.remove_checkpoints(config.keep)

    def rewind(self, error: divergence.DivergenceError) -> str:
        """Go back to the last saved state with another key; returns a message about it.

        Args:
          error: the divergence.

        Raises:
          DivergenceError: the config says to stop, or the run has used all its rewinds.
        """
        done, config = self.counters.rewinds, self.config
        if config.on_nan == "stop" or done == config.rewinds:
            last = next(reversed(self.directory.checkpoints()), "none yet")
            if config.on_nan == "stop":
                outcome = f"the run stops (crlviz train --resume {self.path} --on-nan rewind tries another key)"
            else:
                outcome = f"the run stops after {done} rewinds"
            raise divergence.DivergenceError(f"{error}; {outcome}; last good checkpoint: {last}")
        seconds = self._wall_seconds()
        self.logs.close()  # they begin anew, with the rows that are left
        self._restore()
        self.counters = dataclasses.replace(self.counters, rewinds=done + 1, wall_seconds=seconds)
        self.rewound, self.error = True, None
        return (
            f"{error}; going back to {self.schedule.unit} {self.number:,} with another key "
            f"({done + 1} of {config.rewinds})"
        )

    def _restore(self) -> None:
        """Load the counters and the metrics table of the newest saved state."""
        newest = self.directory.newest_state()
        self.saved = states.verify(self.directory, newest) if newest else None
        self.counters = self.saved.counters if self.saved else Counters()
        self._rows = []
        if not self.saved:
            return
        if self.number != int(self.saved.path.name):
            raise CrlvizError(
                f"{self.saved.path / 'manifest.json'} does not match the {self.schedule.unit}s in its folder's name"
            )
        self._rows = [row for row in self.directory.read_metrics() if metrics_table.number(row) <= self.number]
        if len(self._rows) <= self.counters.step // self.schedule.steps_per_epoch:
            raise CrlvizError(
                f"{self.directory.metrics_file} lacks evaluations from before {self.schedule.unit} {self.number:,}; "
                "restore them, or train again in another directory"
            )
        self.directory.write_metrics(self._rows, self._columns)

    @property
    def _columns(self) -> tuple[str, ...]:
        """The columns of metrics.csv that are the algorithm's."""
        own = self._algorithm.columns()
        return (*own, *held_out_columns(self._algorithm)) if self.config.dataset.path else own

    def _wall_seconds(self) -> float:
        return time.perf_counter() - self._start_time
