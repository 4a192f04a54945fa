"""The schedule of a run: the counts that follow from its config, with the checks that they need."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crlviz.algorithms import action_choice, registry
from crlviz.errors import UsageError
from crlviz.precision import PRECISIONS

if TYPE_CHECKING:
    from training.config import TrainConfig


LENGTHS = "env_steps", "gradient_steps"  # the settings of a run's length


@dataclass(frozen=True)
class Schedule:
    """The counts of a run.

    A training step is one unroll and its updates; an epoch is the training steps between two evaluations.

    Attributes:
      prefill_unrolls: unrolls before the first update, which fill the first window.
      epochs: number of evaluations after the start.
      steps_per_epoch: training steps in an epoch.
      replay_capacity: steps of each environment that the buffer holds.
      env_steps_per_step: environment steps of an unroll, over all environments; 0 on a data set.
      updates_per_step: updates in a training step.
    """

    prefill_unrolls: int
    epochs: int
    steps_per_epoch: int
    replay_capacity: int
    env_steps_per_step: int
    updates_per_step: int

    @property
    def steps(self) -> int:
        """Training steps in the whole run."""
        return self.epochs * self.steps_per_epoch

    def number(self, step: int) -> int:
        """What names an evaluation, checkpoint or state after ``step`` training steps.

        That is its environment steps, or on a data set its updates.
        """
        return self.env_steps(step) if self.env_steps_per_step else self.gradient_steps(step)

    @property
    def total(self) -> int:
        """The ``number`` of the last evaluation."""
        return self.number(self.steps)

    @property
    def unit(self) -> str:
        """What ``number`` counts, in words."""
        return "environment step" if self.env_steps_per_step else "update"

    @property
    def total_env_steps(self) -> int:
        """Environment steps in the whole run."""
        return self.env_steps(self.steps)

    def env_steps(self, step: int) -> int:
        """Environment steps after ``step`` training steps, prefill included."""
        return (self.prefill_unrolls + step) * self.env_steps_per_step

    def gradient_steps(self, step: int) -> int:
        """Updates after ``step`` training steps."""
        return step * self.updates_per_step

    def steps_to(self, number: int) -> int:
        """Training steps needed to reach a ``number``, rounded up; at least one."""
        each = self.env_steps_per_step or self.updates_per_step
        return max(1, -(-number // each) - self.prefill_unrolls)


def schedule(config: "TrainConfig") -> Schedule:
    """Check a config and compute its schedule. ``config.schedule`` holds the result.

    Raises:
      UsageError: a setting out of range, or settings that contradict each other.
    """
    _check_counts(config)
    _check_choices(config)
    _check_algorithm(config)
    if config.dataset.path:
        return _in_epochs(config, Schedule(0, 1, 1, 0, 0, config.updates))
    capacity = -(-config.replay_steps // config.unroll) * config.unroll
    _check_buffer(config, capacity)
    prefill = -(-config.window // config.unroll)
    counts = Schedule(prefill, 1, 1, capacity, config.unroll * config.num_envs, config.updates)
    return _in_epochs(config, counts)


def length_name(config: "TrainConfig") -> str:
    """The setting that gives a run's length, which ``Schedule.number`` counts."""
    return "gradient_steps" if config.dataset.path else "env_steps"


def _in_epochs(config: "TrainConfig", counts: Schedule) -> Schedule:
    """The counts with their epochs."""
    steps = counts.steps_to(getattr(config, length_name(config)))
    per_epoch = -(-steps // config.evaluations)
    return dataclasses.replace(counts, epochs=-(-steps // per_epoch), steps_per_epoch=per_epoch)


def _check_counts(config: "TrainConfig") -> None:
    at_least_one = ("num_envs", "unroll", "updates", *LENGTHS, "evaluations", "eval_episodes", "window", "save_every")
    for name in at_least_one:
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.episode_length < 0:
        raise UsageError(
            f"episode_length is {config.episode_length}; it must be at least 1, or 0 for the environment's own"
        )
    for name in ("rewinds", "keep"):
        if getattr(config, name) < 0:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least 0")


def _check_choices(config: "TrainConfig") -> None:
    if config.on_nan not in ("stop", "rewind"):
        raise UsageError(f"on_nan is {config.on_nan!r}; take stop or rewind")
    if config.precision not in PRECISIONS:
        raise UsageError(f"precision is {config.precision!r}; take {', '.join(PRECISIONS)}")
    if config.fused not in ("auto", "on", "off"):
        raise UsageError(f"fused is {config.fused!r}; take auto, on or off")


def _check_algorithm(config: "TrainConfig") -> None:
    learner, on_data = registry.of(config.algorithm), bool(config.dataset.path)
    if on_data and not learner.offline:
        able = ", ".join(name for name in registry.NAMES if registry.of(name).offline)
        raise UsageError(f"{config.algorithm} does not learn from a data set; take {able}")
    if not on_data and not learner.online:
        raise UsageError(f"{config.algorithm} learns from a data set only: give --dataset FILE")
    action_choice.read(config.explore).check(registry.of(config.algorithm), "explore")
    if not config.loss_bound > 0:
        raise UsageError(f"loss_bound is {config.loss_bound}; it must be positive")
    if config.batch_size < 2:
        raise UsageError(f"batch_size is {config.batch_size}; InfoNCE needs at least 2 rows, one of them as a negative")
    if not 0 < config.gamma <= 1:
        raise UsageError(f"gamma is {config.gamma}; it must be above 0 and at most 1")


def _check_buffer(config: "TrainConfig", capacity: int) -> None:
    """Check that the buffer holds a window, and a window holds a batch. ``capacity``: steps of each environment."""
    if config.window > capacity:
        raise UsageError(f"window is {config.window} steps but the buffer holds {capacity}; raise replay_steps")
    held = config.window * config.num_envs
    if config.batch_size > held:
        raise UsageError(
            f"batch_size is {config.batch_size:,} but the buffer provides {held:,} rows "
            f"({config.num_envs} environments, windows of {config.window} steps); lower batch_size or raise num_envs "
            "or window"
        )


def rounded(config: "TrainConfig") -> str:
    """A sentence on what is rounded to whole training steps and epochs; empty if nothing is."""
    counts, changes = config.schedule, []
    if config.dataset.path:
        if counts.total != config.gradient_steps:
            changes.append(
                f"gradient_steps {config.gradient_steps:,} is rounded up to {counts.total:,}: whole training steps of "
                f"{counts.updates_per_step:,}, {counts.steps_per_epoch} for each evaluation"
            )
        return "; ".join(changes + _fewer(config))
    total, per_step = counts.total_env_steps, counts.env_steps_per_step
    if total != config.env_steps:
        changes.append(
            f"env_steps {config.env_steps:,} is rounded up to {total:,}: {counts.prefill_unrolls * per_step:,} to fill "
            f"the buffer, then whole training steps of {per_step:,}, {counts.steps_per_epoch} for each evaluation"
        )
    return "; ".join(changes + _fewer(config))


def _fewer(config: "TrainConfig") -> list[str]:
    """A sentence on evaluations that do not fit; none if they do."""
    epochs = config.schedule.epochs
    return [] if epochs == config.evaluations else [f"evaluations {config.evaluations:,} become {epochs:,}"]


def extended(config: "TrainConfig", total: int) -> "TrainConfig":
    """Return the config with another length (``length_name``), rounded up to epochs of the same length as before.

    Both configs compute the same up to the end of the shorter run.

    Raises:
      UsageError: ``total`` is not positive.
    """
    name = length_name(config)
    changes: dict[str, Any] = {name: total}
    schedule(dataclasses.replace(config, **changes))
    before = config.schedule
    epochs = -(-before.steps_to(total) // before.steps_per_epoch)
    if epochs == before.epochs:
        return config
    changes[name] = before.number(epochs * before.steps_per_epoch)
    return dataclasses.replace(config, evaluations=epochs, **changes)
