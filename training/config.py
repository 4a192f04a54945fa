"""Everything a run is told, typed, with the paper's values as defaults; and the named presets."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crlviz.errors import UsageError
from crlviz.networks import NetworkConfig
from training.crl import CRLConfig


@dataclass(frozen=True)
class TrainConfig:
    """One run. Defaults are the paper's (section 4 and appendix); presets change them.

    Attributes:
      env: environment id to collect in.
      layout: rows of a maze of your own, with env ``point_maze``.
      env_options: further options of ``crlviz.envs.make``, by name; they hold for ``eval_env`` too.
      eval_env: environment id to evaluate in; empty: the same.
      seed: of everything random.
      actor, critic: network shapes; phi and psi share the critic's.
      crl: settings of the update.
      num_envs: environments stepped in parallel.
      unroll: steps of each environment in a training step.
      updates: gradient updates in a training step.
      batch_size: rows of an update.
      gamma: discount of the hindsight goals.
      replay_steps: steps of each environment that replay keeps, at least; rounded up to whole unrolls.
      window: steps of each environment that a training step samples from, all collected before the first update.
      env_steps: steps in total over all environments, prefill included; rounded up to whole epochs.
      evaluations: how often to evaluate and save, besides the start.
      eval_episodes: episodes of an evaluation.
      episode_length: steps of an episode; 0: the environment's own.
      redraw_goals: draw a new start and goal for every episode. The paper's code draws them once for each environment
        and keeps them for the whole run.
    """

    env: str
    layout: tuple[str, ...] = ()
    env_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    eval_env: str = ""
    seed: int = 0
    actor: NetworkConfig = field(default_factory=NetworkConfig)
    critic: NetworkConfig = field(default_factory=NetworkConfig)
    crl: CRLConfig = field(default_factory=CRLConfig)
    num_envs: int = 512
    unroll: int = 62
    updates: int = 800
    batch_size: int = 512
    gamma: float = 0.99
    replay_steps: int = 10_000
    window: int = 1_000
    env_steps: int = 100_000_000
    evaluations: int = 50
    eval_episodes: int = 128
    episode_length: int = 0
    redraw_goals: bool = True


# What each preset changes, by dotted field name.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's own values are the defaults; its code also keeps each environment's first start and goal.
    "paper": {"redraw_goals": False},
    # The whole way in a few thousand steps, to see that a body trains at all.
    "smoke": {
        "actor.width": 32,
        "critic.width": 32,
        "num_envs": 8,
        "unroll": 25,
        "updates": 4,
        "batch_size": 32,
        "replay_steps": 200,
        "window": 100,
        "env_steps": 2_000,
        "evaluations": 2,
        "eval_episodes": 4,
        "episode_length": 50,
    },
    # A point mass in a maze learns with these in a minute on a core.
    "laptop": {
        "actor.width": 64,
        "critic.width": 64,
        "crl.initial_temperature": 0.3,
        "crl.temperature_learning_rate": 1e-3,
        "num_envs": 64,
        "unroll": 150,
        "updates": 32,
        "batch_size": 64,
        "replay_steps": 1_500,
        "window": 1_500,
        "env_steps": 2_304_000,
        "evaluations": 16,
    },
}


def preset(name: str) -> dict[str, Any]:
    """What the preset of that name changes.

    Raises:
      UsageError: no such preset.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}; take {' or '.join(PRESETS)}")
    return PRESETS[name]


def replace(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The config with some fields changed, named as ``gamma`` or ``critic.depth``; text is read as the field's type.

    Raises:
      UsageError: unknown field, or a value that is not of its type.
    """
    return _replace(config, changes, "", names(config))


def _replace(config: Any, changes: dict[str, Any], prefix: str, known: list[str]) -> Any:
    for name, value in changes.items():
        head, _, tail = name.partition(".")
        fields = {f.name: f for f in dataclasses.fields(config)}
        options = getattr(config, head, None) if tail else None
        if isinstance(options, Mapping):
            value = {**options, tail: _literal(value)}
            tail = ""
        elif head not in fields or dataclasses.is_dataclass(getattr(config, head)) != bool(tail):
            raise UsageError(f"no setting is called {prefix + name!r}; known are {', '.join(known)}")
        if tail:
            value = _replace(getattr(config, head), {tail: value}, f"{head}.", known)
        elif isinstance(value, str):
            value = _read(prefix + name, value, type(getattr(config, head)))
        config = dataclasses.replace(config, **{head: value})
    return config


def _literal(value: Any) -> Any:
    """An option of an environment: true, false or a number where the text is one."""
    with contextlib.suppress(ValueError, TypeError):
        return json.loads(value)
    return value


def names(config: Any) -> list[str]:
    """Every setting's dotted name."""
    result = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        result += [f"{f.name}.{n}" for n in names(value)] if dataclasses.is_dataclass(value) else [f.name]
    return result


def _read(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            # 1e6 is a fine way to write a whole number.
            with contextlib.suppress(ValueError, OverflowError):
                if kind is int and float(text) == int(float(text)):
                    return int(float(text))
    raise UsageError(
        f"{name} takes {'true or false' if kind is bool else f'a value of type {kind.__name__}'}, not {text!r}"
    )


@dataclass(frozen=True)
class Schedule:
    """Counts that follow from a config: how many training steps make an epoch, and so on."""

    prefill_unrolls: int
    epochs: int
    steps_per_epoch: int
    replay_capacity: int

    def env_steps(self, config: TrainConfig, epoch: int) -> int:
        """Environment steps taken after that many epochs, the first window included."""
        unrolls = self.prefill_unrolls + epoch * self.steps_per_epoch
        return unrolls * config.unroll * config.num_envs

    def gradient_steps(self, config: TrainConfig, epoch: int) -> int:
        """Updates done after that many epochs."""
        return epoch * self.steps_per_epoch * config.updates


def schedule(config: TrainConfig) -> Schedule:
    """Check a config and count.

    Raises:
      UsageError: a setting out of range, or settings that do not fit each other.
    """
    for name in ("num_envs", "unroll", "updates", "env_steps", "evaluations", "eval_episodes", "window"):
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.episode_length < 0:
        raise UsageError(
            f"episode_length is {config.episode_length}; it must be at least 1, or 0 for the environment's own"
        )
    for name in ("learning_rate", "temperature_learning_rate", "initial_temperature"):
        if not 0 < getattr(config.crl, name) < math.inf:
            raise UsageError(f"crl.{name} is {getattr(config.crl, name)}; it must be positive and finite")
    if config.batch_size < 2:
        raise UsageError(f"batch_size is {config.batch_size}; InfoNCE needs at least 2 rows to tell one from another")
    if not 0 < config.gamma <= 1:
        raise UsageError(f"gamma is {config.gamma}; it must lie above 0 and at most at 1")
    prefill = -(-config.window // config.unroll)
    capacity = -(-config.replay_steps // config.unroll) * config.unroll
    if config.window > capacity:
        raise UsageError(f"window is {config.window} steps but replay keeps {capacity}; raise replay_steps")
    held = config.window * config.num_envs
    if config.batch_size > held:
        raise UsageError(
            f"batch_size is {config.batch_size:,} but replay gives {held:,} rows ({config.num_envs} environments, "
            f"windows of {config.window} steps); lower batch_size, or raise num_envs or window"
        )
    per_step = config.unroll * config.num_envs
    steps = max(1, -(-config.env_steps // per_step) - prefill)
    per_epoch = -(-steps // config.evaluations)
    return Schedule(prefill, -(-steps // per_epoch), per_epoch, capacity)
