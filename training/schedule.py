"""The schedule of a run: the counts that follow from its config, with the checks that they need."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from crlviz.algorithms import action_choice, registry
from crlviz.errors import UsageError
from crlviz.precision import PRECISIONS

if TYPE_CHECKING:
    from training.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The counts of a run.

    A training step is one unroll and its updates; an epoch is the training steps between two evaluations.

    Attributes:
      prefill_unrolls: unrolls before the first update, which fill the first window.
      epochs: number of evaluations after the start.
      steps_per_epoch: training steps in an epoch.
      replay_capacity: steps of each environment that the buffer holds.
      env_steps_per_step: environment steps of an unroll, over all environments.
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

    def steps_to(self, env_steps: int) -> int:
        """Training steps needed to reach ``env_steps``, rounded up; at least one."""
        return max(1, -(-env_steps // self.env_steps_per_step) - self.prefill_unrolls)


def schedule(config: "TrainConfig") -> Schedule:
    """Check a config and compute its schedule. ``config.schedule`` holds the result.

    Raises:
      UsageError: a setting out of range, or settings that contradict each other.
    """
    _check_counts(config)
    _check_choices(config)
    _check_algorithm(config)
    capacity = -(-config.replay_steps // config.unroll) * config.unroll
    _check_buffer(config, capacity)
    prefill = -(-config.window // config.unroll)
    counts = Schedule(prefill, 1, 1, capacity, config.unroll * config.num_envs, config.updates)
    steps = counts.steps_to(config.env_steps)
    per_epoch = -(-steps // config.evaluations)
    return dataclasses.replace(counts, epochs=-(-steps // per_epoch), steps_per_epoch=per_epoch)


def _check_counts(config: "TrainConfig") -> None:
    at_least_one = ("num_envs", "unroll", "updates", "env_steps", "evaluations", "eval_episodes", "window")
    for name in (*at_least_one, "save_every"):
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
    total, per_step = counts.total_env_steps, counts.env_steps_per_step
    if total != config.env_steps:
        changes.append(
            f"env_steps {config.env_steps:,} is rounded up to {total:,}: {counts.prefill_unrolls * per_step:,} to fill "
            f"the buffer, then whole training steps of {per_step:,}, {counts.steps_per_epoch} for each evaluation"
        )
    if counts.epochs != config.evaluations:
        changes.append(f"evaluations {config.evaluations:,} become {counts.epochs:,}")
    return "; ".join(changes)


def extended(config: "TrainConfig", env_steps: int) -> "TrainConfig":
    """Return the config with another total of environment steps, rounded up to epochs of the same length as before.

    Both configs compute the same up to the end of the shorter run.

    Raises:
      UsageError: ``env_steps`` is not positive.
    """
    schedule(dataclasses.replace(config, env_steps=env_steps))
    before = config.schedule
    epochs = -(-before.steps_to(env_steps) // before.steps_per_epoch)
    if epochs == before.epochs:
        return config
    total = before.env_steps(epochs * before.steps_per_epoch)
    return dataclasses.replace(config, env_steps=total, evaluations=epochs)
