"""The typed config of a run, with the paper's values as defaults; and the named presets."""

import contextlib
import dataclasses
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from crlviz import envs
from crlviz.algorithms import registry
from crlviz.algorithms.cmd import CMDConfig
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.gcbc import GCBCConfig
from crlviz.algorithms.gciql import GCIQLConfig
from crlviz.algorithms.gcsl import GCSLConfig
from crlviz.algorithms.qrl import QRLConfig
from crlviz.algorithms.sac import SACConfig
from crlviz.algorithms.td3 import TD3Config
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.envs import mazes
from crlviz.errors import CrlvizError, UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.options import nearest
from training import dataset_presets
from training.dataset_config import DatasetConfig
from training.names_elsewhere import NAMES_ELSEWHERE
from training.presets import PRESETS as PRESETS
from training.presets import preset, preset_of
from training.schedule import Schedule, schedule
from training.teacher import Teacher


@dataclass(frozen=True)
class TrainConfig:
    """The config of one run. Defaults are the paper's (section 4 and appendix); presets change them.

    Attributes:
      env: id of the training environment.
      layout: rows of a custom maze, for env ``point_maze`` or another body's ``..._maze``.
      env_options: further options of ``crlviz.envs.make``, by name; they apply to ``eval_env`` too.
      eval_env: id of the evaluation environment; empty: the same as ``env``.
      seed: seed of all random keys.
      algorithm: name of the learning algorithm.
      actor, critic: network shapes; phi and psi share the critic's.
      crl, cmd, sac, td3, gcsl, gcbc, qrl, gciql: settings of the update. Each algorithm's file in ``crlviz/algorithms``
        has such a section. The section of the run's algorithm applies, and config.json holds no other.
      explore: how actions are chosen that fill the buffer, as in ``action_choice.read``: sample, or by the critic
        best-of-K or softmax-K of K samples. Evaluations during training take the mean.
      num_envs: environments stepped in parallel.
      unroll: steps of each environment in a training step.
      updates: gradient updates in a training step.
      batch_size: rows in a batch.
      gamma: discount of the hindsight goals.
      dataset: the data set to learn from instead of stepping environments. ``env`` is then the evaluation environment,
        or empty if there is none.
      gradient_steps: on a data set, updates in total; rounded up to whole epochs.
      replay_steps: steps of each environment that the buffer keeps, at least; rounded up to whole unrolls.
      window: steps of each environment that a training step samples from; this many are collected before the first
        update.
      precision: precision of the networks' matrix products in training: float32, tf32 or bfloat16, all accumulated in
        float32. The products that ``crlviz.precision`` keeps exact are excepted. Lower precision is faster on
        accelerators; a CPU always computes in float32.
      fused: run the networks' layers as one GPU kernel: on, off or auto. With auto a run does so if a check at its
        start finds that the kernel agrees with the plain path and is faster. On a CPU auto is the plain path.
      env_steps: steps in total over all environments, prefill included; rounded up to whole epochs.
      evaluations: number of evaluations, besides the one at the start.
      eval_episodes: episodes in an evaluation.
      episode_length: steps in an episode; 0: the environment's own.
      redraw_goals: once a training step, draw a new start and goal for each environment. All episodes that begin in
        that step's unroll use them. The paper's code draws them once for each environment and keeps them for the whole
        run.
      loss_bound: absolute loss above which a run counts as diverged. Healthy losses start near 1e4 at depth 1,024 and
        near 10 at depth 4, and fall; the critic's loss contains squared logits, and these reach 1e6 only after
        divergence.
      on_nan: what to do on divergence: stop, or rewind to the last saved state and continue with another key.
      rewinds: maximum number of rewinds.
      save_every: save a checkpoint and the state every this many evaluations; the last evaluation is always saved.
      keep: number of newest checkpoints to keep; 0: all.
      save_replay: save the buffer with the state. Without it a resumed run fills a new buffer with a window of each
        environment, so its results differ from those of an uninterrupted run.
      keep_state: keep the last state of a finished run, so that it can be trained longer.
      teacher: the agent that a student imitates (``crlviz distill``).
      collector_depth: depth of the collector that fills the buffer (``crlviz train --learners``); 0: the run acts
        itself.
      log: other tools that get the rows of metrics.csv, separated by commas: tensorboard, wandb.

    The default of a setting that is added later must reproduce the old behavior: a run on disk that lacks the setting
    resumes unchanged.
    """

    env: str
    layout: tuple[str, ...] = ()
    env_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    eval_env: str = ""
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    gradient_steps: int = 100_000
    seed: int = 0
    algorithm: str = "crl"
    actor: NetworkConfig = field(default_factory=NetworkConfig)
    critic: NetworkConfig = field(default_factory=NetworkConfig)
    crl: CRLConfig = field(default_factory=CRLConfig)
    cmd: CMDConfig = field(default_factory=CMDConfig)
    sac: SACConfig = field(default_factory=SACConfig)
    td3: TD3Config = field(default_factory=TD3Config)
    gcsl: GCSLConfig = field(default_factory=GCSLConfig)
    gcbc: GCBCConfig = field(default_factory=GCBCConfig)
    qrl: QRLConfig = field(default_factory=QRLConfig)
    gciql: GCIQLConfig = field(default_factory=GCIQLConfig)
    explore: str = "sample"
    num_envs: int = 512
    unroll: int = 62
    updates: int = 800
    batch_size: int = 512
    gamma: float = 0.99
    replay_steps: int = 10_000
    window: int = 1_000
    precision: str = "float32"
    fused: str = "auto"
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
    collector_depth: int = 0
    log: str = ""
    teacher: Teacher = field(default_factory=Teacher)

    @property
    def own(self) -> Any:
        """The settings of its algorithm, an ``Algorithm.Config``."""
        return getattr(self, registry.section(self.algorithm))

    @cached_property
    def schedule(self) -> Schedule:
        """The counts that follow from the config.

        Raises:
          UsageError: a setting out of range, or settings that contradict each other.
        """
        return schedule(self)

    def check(self) -> None:
        """Check what can be checked before importing brax, which takes a second, and before compiling.

        Raises:
          UsageError: an unknown environment or algorithm, a setting out of range, or settings that contradict each
            other.
        """
        if self.env or not self.dataset.path:
            envs.check(self.env, self.layout or None)
        if self.eval_env:
            envs.check(self.eval_env)
        schedule(self)


_OF_DATASETS = {"dataset", "gradient_steps"}

# The settings that an option of ``crlviz train`` and ``crlviz sweep`` changes, if its name differs from theirs.
OPTIONS: dict[str, tuple[str, ...]] = {
    "depth": ("actor.depth", "critic.depth"),
    "width": ("actor.width", "critic.width"),
    "actor_depth": ("actor.depth",),
    "critic_depth": ("critic.depth",),
}


def from_options(
    env: str,
    preset_name: str | None = None,
    options: dict[str, Any] | None = None,
    settings: Sequence[str] = (),
    layout: Path | None = None,
    dataset: DatasetConfig | None = None,
) -> TrainConfig:
    """The config for a command's options.

    Args:
      env: environment id; empty: without one, on a data set.
      preset_name: preset to start from. None: ``laptop`` for light bodies, ``paper`` for others.
      options: values by option name (``depth``, ``seed``, ...); later ones override earlier ones. None: not given.
      settings: any other field, as text ``NAME=VALUE``.
      layout: file of a custom maze.
      dataset: the data set to learn from; its settings override the preset's.

    Raises:
      UsageError: unknown preset, environment, algorithm or field, a value of the wrong type, or a setting of another
        algorithm.
    """
    preset_name = preset_of(preset_name, env)
    changes = preset(preset_name, env) | {"env": env}
    if dataset:
        algorithm = str((options or {}).get("algorithm") or "crl")
        registry.check(algorithm)
        changes |= dataset_presets.settings(dataset, algorithm, preset_name)
    if env and preset_name == "paper":
        changes["env_options"] = envs.paper_options(env)
    if layout:
        changes["layout"] = mazes.parse(layout)
    given = read_settings(settings)
    changes |= given
    for option, value in (options or {}).items():
        if value is not None:
            changes |= dict.fromkeys(OPTIONS.get(option, (option,)), value)
    config = replace(TrainConfig(env=env, dataset=dataset or DatasetConfig()), changes)
    for name in given:
        if name.partition(".")[0] in _foreign(config):
            raise UsageError(f"{name} is not a setting of {config.algorithm}; known are {', '.join(names(config))}")
    return config


def _foreign(config: TrainConfig) -> set[str]:
    """Settings that do not apply: sections of other algorithms, and the sections of data sets and students."""
    others = set(map(registry.section, registry.NAMES)) - {registry.section(config.algorithm)}
    others |= set() if config.teacher.path else {"teacher"}
    return others if config.dataset.path else others | _OF_DATASETS


def read_settings(settings: Sequence[str]) -> dict[str, str]:
    """Parse ``--set NAME=VALUE`` into text values by name; the last of a repeated name wins.

    Raises:
      UsageError: a setting without an equals sign.
    """
    changes = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {setting!r}")
        changes[name] = value
    return changes


def replace(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    """Return the config with some fields changed, named like ``gamma`` or ``critic.depth``.

    Text is parsed as the field's type.

    Raises:
      UsageError: unknown field or algorithm, or a value of the wrong type.
    """
    algorithm = changes.get("algorithm", config.algorithm)
    registry.check(algorithm)
    return _replace(config, changes, "", names(dataclasses.replace(config, algorithm=algorithm)))


def _replace(config: Any, changes: dict[str, Any], prefix: str, known: list[str]) -> Any:
    """Make all changes at once: some are valid only together, such as a depth of 5 and a tail of 1."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        head, _, tail = name.partition(".")
        if tail and isinstance(values.get(head), Mapping):
            value = {**values[head], tail: _literal(value)}
        elif head not in values or dataclasses.is_dataclass(values[head]) != bool(tail):
            own = NAMES_ELSEWHERE.get(prefix + name)
            hint = f" (it is {own} here)" if own else nearest(prefix + name, known)
            raise UsageError(f"no setting is called {prefix + name!r}{hint}; known are {', '.join(known)}")
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
    """Parse the value of an environment option: true, false or a number if possible, else the text itself."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return json.loads(value)
    return value


def content(config: TrainConfig) -> dict[str, Any]:
    """What config.json holds of a config: ``algorithm``, and ``config`` without the sections of other algorithms."""
    settings = dataclasses.asdict(config)
    algorithm = settings.pop("algorithm")
    return {"algorithm": algorithm, "config": {k: v for k, v in settings.items() if k not in _foreign(config)}}


def load(settings: Mapping[str, Any], source: str | Path = "config.json") -> TrainConfig:
    """The config in ``settings``, as ``dataclasses.asdict`` gives it; missing settings get defaults.

    Args:
      settings: the settings by name.
      source: file to name in errors.

    Raises:
      CrlvizError: an unknown setting, as of a newer crlviz, or a value of the wrong type or out of range.
    """
    try:
        return _load(TrainConfig(env=""), settings, "")
    except UsageError as error:
        raise CrlvizError(f"{source} is damaged or from another version of crlviz: {error}") from None


def read_run(run: Path) -> TrainConfig:
    """The config of a run directory.

    Raises:
      CrlvizError: its config.json cannot be read, or an error of ``load``.
    """
    content = RunDirectory(run).read_config()
    return load({**content["config"], "algorithm": content["algorithm"]}, run / "config.json")


def _load(config: Any, settings: Mapping[str, Any], prefix: str) -> Any:
    fields, changes = {f.name for f in dataclasses.fields(config)}, {}
    for name, value in settings.items():
        if name not in fields:
            raise UsageError(f"no setting is called {prefix + name!r} here; if a newer crlviz wrote it, upgrade")
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


def names(config: TrainConfig) -> list[str]:
    """The dotted names of all settings that apply to the config's algorithm."""
    return _names(config, _foreign(config))


def _names(config: Any, without: Container[str] = ()) -> list[str]:
    result = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name not in without:
            result += [f"{f.name}.{n}" for n in _names(value)] if dataclasses.is_dataclass(value) else [f.name]
    return result


def _read(name: str, text: str, kind: type) -> Any:
    """Parse the text of a setting as its type."""
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            # Integers may be written like 1e6.
            with contextlib.suppress(ValueError, OverflowError):
                if kind is int and float(text) == int(float(text)):
                    return int(float(text))
    raise UsageError(
        f"{name} takes {'true or false' if kind is bool else f'a value of type {kind.__name__}'}, not {text!r}"
    )
