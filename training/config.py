"""Everything a run is told, typed, with the paper's values as defaults; and the named presets."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crlviz import envs
from crlviz.algorithms.crl import CRLConfig
from crlviz.checkpoints import run_directory
from crlviz.envs import mazes
from crlviz.errors import CrlvizError, UsageError
from crlviz.networks.residual import NetworkConfig
from crlviz.options import nearest
from crlviz.precision import PRECISIONS


@dataclass(frozen=True)
class TrainConfig:
    """One run. Defaults are the paper's (section 4 and appendix); presets change them.

    Attributes:
      env: environment id to collect in.
      layout: rows of a maze of your own, with env ``point_maze`` or another body's ``..._maze``.
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
      precision: of the networks' matrix products in training, but for those that ``crlviz.precision`` keeps exact:
        float32, tf32 or bfloat16, which sum in float32. Accelerators are quicker with less; a CPU computes float32
        whatever this says.
      env_steps: steps in total over all environments, prefill included; rounded up to whole epochs.
      evaluations: how often to evaluate and save, besides the start.
      eval_episodes: episodes of an evaluation.
      episode_length: steps of an episode; 0: the environment's own.
      redraw_goals: draw a new start and goal for each environment once a training step, from which its next episodes
        begin: all that begin within one unroll, where they are that short. The paper's code draws them once for each
        environment and keeps them for the whole run.
      loss_bound: an absolute loss beyond which a run counts as blown up. Healthy losses start near 1e4 at depth 1,024
        and near 10 at depth 4, and fall; logits squared, which the critic's loss holds, reach 1e6 only when lost.
      on_nan: what a blow-up does: stop, or rewind to the last saved state and go on with another key.
      rewinds: how often a run may rewind.
      save_every: evaluations between two saves of a checkpoint and the state that resumes; the last is always saved.
      keep: newest checkpoints to keep; 0: all.
      save_replay: save replay with the state. Without it a resumed run collects replay anew, a window of each
        environment, so its numbers differ from those of a run that was never stopped.
      keep_state: keep the last state of a finished run, so that it can be trained longer.

    A setting added later gets a default that computes what was computed before it: a run on disk that lacks it goes on
    as it began.
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
    precision: str = "float32"
    env_steps: int = 100_000_000
    evaluations: int = 50
    eval_episodes: int = 128
    episode_length: int = 0
    redraw_goals: bool = True
    loss_bound: float = 1e6
    on_nan: str = "stop"
    rewinds: int = 3
    save_every: int = 1
    keep: int = 0
    save_replay: bool = True
    keep_state: bool = True


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
    # A point mass in a maze learns with these in a minute on a core; ``envs.BODIES`` says what other light bodies need.
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


def preset(name: str, env: str = "") -> dict[str, Any]:
    """What the preset of that name changes, for a body's environment if one is named.

    Raises:
      UsageError: no such preset, or no such environment.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}; take {' or '.join(PRESETS)}")
    suited = envs.laptop_settings(env) if name == "laptop" and env else None
    return PRESETS[name] | (suited or {})


# The settings that an option of ``crlviz train`` and ``crlviz sweep`` changes, where they are not called like it.
OPTIONS: dict[str, tuple[str, ...]] = {
    "depth": ("actor.depth", "critic.depth"),
    "width": ("actor.width", "critic.width"),
    "actor_depth": ("actor.depth",),
    "critic_depth": ("critic.depth",),
}


def preset_of(name: str | None, env: str) -> str:
    """The preset that a run starts from, where none may be named."""
    return name or ("paper" if envs.laptop_settings(env) is None else "laptop")


def from_options(
    env: str,
    preset_name: str | None = None,
    options: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
    layout: Path | None = None,
) -> TrainConfig:
    """The config that a command's options ask for.

    Args:
      env: environment id.
      preset_name: None: ``laptop`` for light bodies, ``paper`` for others.
      options: by name (``depth``, ``seed``, ...), later ones over earlier ones; None: not given.
      settings: ``NAME=VALUE``, any other field as text.
      layout: the file of a maze of one's own.

    Raises:
      UsageError: unknown preset, environment or field, or a value that is not of its type.
    """
    preset_name = preset_of(preset_name, env)
    changes = preset(preset_name, env) | {"env": env}
    if preset_name == "paper":
        changes["env_options"] = envs.paper_options(env)
    if layout:
        changes["layout"] = mazes.parse(layout)
    changes |= read_settings(settings)
    for option, value in (options or {}).items():
        if value is not None:
            changes |= dict.fromkeys(OPTIONS.get(option, (option,)), value)
    return replace(TrainConfig(env=env), changes)


def read_settings(settings: Sequence[str]) -> dict[str, str]:
    """The texts of ``--set NAME=VALUE``, by name; of one given twice the last.

    Raises:
      UsageError: no equals sign.
    """
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {setting!r}")
        changes[name] = value
    return changes


def replace(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """The config with some fields changed, named as ``gamma`` or ``critic.depth``; text is read as the field's type.

    Raises:
      UsageError: unknown field, or a value that is not of its type.
    """
    return _replace(config, changes, "", names(config))


def _replace(config: Any, changes: dict[str, Any], prefix: str, known: list[str]) -> Any:
    """All changes at once: some are valid only together, as a depth of 5 and a tail of 1."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, tail = name.partition(".")
        if tail and isinstance(values.get(head), Mapping):
            value = {**values[head], tail: _literal(value)}
        elif head not in values or dataclasses.is_dataclass(values[head]) != bool(tail):
            raise UsageError(
                f"no setting is called {prefix + name!r}{nearest(prefix + name, known)}; known are {', '.join(known)}"
            )
        elif tail:
            inner.setdefault(head, {})[tail] = value
            continue
        elif isinstance(value, str):
            value = _read(prefix + name, value, type(values[head]))
        values[head] = value
    for head, parts in inner.items():
        values[head] = _replace(values[head], parts, f"{head}.", known)
    return dataclasses.replace(config, **values)


def _literal(value: Any) -> Any:
    """An option of an environment: true, false or a number where the text is one."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return json.loads(value)
    return value


def load(settings: Mapping[str, Any], source: str | Path = "config.json") -> TrainConfig:
    """The config that ``dataclasses.asdict`` gave and config.json holds; settings it lacks take their defaults.

    Raises:
      CrlvizError: a setting of a newer crlviz, which nobody here knows to follow; or a value that is not of its type.
    """
    try:
        return _load(TrainConfig(env=""), settings, "")
    except UsageError as error:
        raise CrlvizError(f"{source} is damaged or of another crlviz: {error}") from None


def of_run(run: Path) -> TrainConfig:
    """The config of a run directory.

    Raises:
      CrlvizError: its config.json cannot be read, or as ``load``.
    """
    return load(run_directory.read_config(run)["config"], run / "config.json")


def _load(config: Any, settings: Mapping[str, Any], prefix: str) -> Any:
    fields, changes = {f.name for f in dataclasses.fields(config)}, {}
    for name, value in settings.items():
        if name not in fields:
            raise UsageError(f"no setting is called {prefix + name!r} in this one; if a newer one wrote it, upgrade")
        default = getattr(config, name)
        if dataclasses.is_dataclass(default) and isinstance(value, Mapping):
            value = _load(default, value, f"{prefix}{name}.")
        elif isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        elif type(default) is float and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise UsageError(f"{prefix}{name} is {value!r}, not a {type(default).__name__}")
        changes[name] = value
    return dataclasses.replace(config, **changes)


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
    """Counts that follow from a config.

    A training step is one collect and its updates; an epoch is the training steps between two evaluations.
    """

    prefill_unrolls: int
    epochs: int
    steps_per_epoch: int
    replay_capacity: int

    @property
    def steps(self) -> int:
        """Training steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def env_steps(self, config: TrainConfig, step: int) -> int:
        """Environment steps taken after that many training steps, the first window included."""
        return (self.prefill_unrolls + step) * config.unroll * config.num_envs

    def gradient_steps(self, config: TrainConfig, step: int) -> int:
        """Updates done after that many training steps."""
        return step * config.updates


def schedule(config: TrainConfig) -> Schedule:
    """Check a config and count.

    Raises:
      UsageError: a setting out of range, or settings that do not fit each other.
    """
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
    if config.on_nan not in ("stop", "rewind"):
        raise UsageError(f"on_nan is {config.on_nan!r}; take stop or rewind")
    if config.precision not in PRECISIONS:
        raise UsageError(f"precision is {config.precision!r}; take {', '.join(PRECISIONS)}")
    if not config.loss_bound > 0:
        raise UsageError(f"loss_bound is {config.loss_bound}; it must be positive")
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
    steps = _steps(config, config.env_steps, prefill)
    per_epoch = -(-steps // config.evaluations)
    return Schedule(prefill, -(-steps // per_epoch), per_epoch, capacity)


def _steps(config: TrainConfig, env_steps: int, prefill: int) -> int:
    """Training steps that reach so many environment steps."""
    return max(1, -(-env_steps // (config.unroll * config.num_envs)) - prefill)


def rounded(config: TrainConfig) -> str:
    """What a run does otherwise than it is told, to be made of whole training steps and epochs; empty if nothing."""
    counts = schedule(config)
    total, per_step = counts.env_steps(config, counts.steps), config.unroll * config.num_envs
    said = []
    if total != config.env_steps:
        said.append(
            f"env_steps {config.env_steps:,} is rounded up to {total:,}: {counts.prefill_unrolls * per_step:,} fill "
            f"replay, then come whole training steps of {per_step:,}, {counts.steps_per_epoch} to an evaluation"
        )
    if counts.epochs != config.evaluations:
        said.append(f"evaluations {config.evaluations:,} become {counts.epochs:,}")
    return "; ".join(said)


def extended(config: TrainConfig, env_steps: int) -> TrainConfig:
    """The run trained for other environment steps, rounded up so that it is evaluated as often as before.

    Up to where the shorter of the two ends, both compute the same.

    Raises:
      UsageError: no positive number.
    """
    schedule(dataclasses.replace(config, env_steps=env_steps))
    before = schedule(config)
    epochs = -(-_steps(config, env_steps, before.prefill_unrolls) // before.steps_per_epoch)
    if epochs == before.epochs:
        return config
    total = before.env_steps(config, epochs * before.steps_per_epoch)
    return dataclasses.replace(config, env_steps=total, evaluations=epochs)
