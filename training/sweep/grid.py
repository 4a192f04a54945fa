"""The cells of a sweep: one run for each combination of settings, with its name and its progress on disk."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from crlviz.algorithms import registry
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import KEEPING, RunDirectory
from crlviz.envs import mazes
from crlviz.errors import UsageError
from crlviz.options import read_values
from training import config as configs
from training.config import TrainConfig, from_options
from training.dataset_config import DatasetConfig

# For each value of --ablate, its name in a run's name, and the fields of the actor and critic configs that it sets
# (paper figures 5 and 16, table 2).
ABLATIONS = {
    "residual": ("no-residual", "residual=false"),
    "layer-norm": ("no-layer-norm", "layer_norm=false"),
    "swish": ("no-swish", "activation=relu"),
    "hyperspherical": ("hyperspherical", "layer_norm=false", "sphere=true"),
}
_PAIRS = "max_pair_distance"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      kind: name without the seed: depth and every setting that differs from the preset. Cells of one kind differ only
        in their seed.
      folder: parent of the run directory.
      config: settings of the run.
      arguments: command line after ``crlviz`` that trains it, without the seed and ``--out``.
    """

    kind: str
    folder: Path
    config: TrainConfig
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the run directory."""
        return f"{self.kind}-seed{self.config.seed}"

    @property
    def out(self) -> Path:
        """Path of the run directory."""
        return self.folder / self.name

    @property
    def total(self) -> int:
        """Environment steps of the complete run, on a data set updates."""
        return self.config.schedule.total

    @property
    def rows(self) -> list[dict[str, str]]:
        """Rows of ``metrics.csv``, one for each evaluation so far; empty before the first."""
        return RunDirectory(self.out).read_metrics()

    @property
    def done(self) -> int:
        """Environment steps at the last evaluation, on a data set updates; 0 before the first."""
        rows = self.rows
        return metrics_table.number(rows[-1]) if rows else 0

    @property
    def finished(self) -> bool:
        """Whether the run has trained all its steps."""
        return self.begun and RunDirectory(self.out).finished(self.total)

    @property
    def begun(self) -> bool:
        """Whether the directory holds this run, finished or not.

        Raises:
          UsageError: the directory holds a run with other settings, or is not a run directory.
        """
        if not RunDirectory(self.out).exists():
            if self.out.exists() and (not self.out.is_dir() or any(p.name[0] != "." for p in self.out.iterdir())):
                raise UsageError(f"{self.out} exists and is not a run directory; give another directory to --out")
            return False
        contents = [configs.content(config) for config in (configs.read_run(self.out), self.config)]
        saved, wanted = (
            flatten_dict({"algorithm": content["algorithm"], **content["config"]}, sep=".") for content in contents
        )
        for name in {**wanted, **saved}:
            old, new = saved.get(name), wanted.get(name)  # an environment option may be in only one of the two
            if name not in KEEPING and old != new:
                raise UsageError(
                    f"{self.out} holds a run with other settings: {name} is {old} there and {new} in this "
                    "sweep; give another directory to --out"
                )
        return True


def grid(
    env: str | None,
    out: Path,
    options: Mapping[str, str | None],
    *,
    settings: Sequence[str] = (),
    ablate: str | None = None,
    preset: str | None = None,
    layout: Path | None = None,
    file: Path | None = None,
) -> list[Cell]:
    """Build and check the cells of a sweep: the Cartesian product of all values; seeds vary fastest.

    Args:
      env: environment ids, separated by commas; None: the one that made ``file``, if it is known here.
      out: parent of the run directories.
      options: options of ``crlviz train`` by name. Values are separated by commas; 0-4 means 0,1,2,3,4; None means not
        given. ``max_pair_distance`` also takes ``none``: train on all pairs.
      settings: ``NAME=VALUE[,VALUE...]``. One of an algorithm's own applies to the cells with that algorithm.
      ablate: keys of ``ABLATIONS``, separated by commas. Each is changed in turn; the full network is always included.
      preset: name of the preset to start from.
      layout: file with a custom maze.
      file: the data set to learn from.

    Raises:
      UsageError: a value is invalid, or two cells have the same name.
    """
    found = {id: _found(file, id) for id in (read_values("ENV", env) if env else [None])}
    axes = {"env": [id for _, id in found.values()]}
    datasets = {id: dataset for dataset, id in found.values()}
    axes |= {name: read_values(_flag(name), text) for name, text in options.items() if text is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        axes[f"{name}{equals}"] = read_values(_flag(name), text) if equals else [""]
    axes["ablate"] = ["", *(read_values("--ablate", ablate) if ablate else [])]
    axes["seed"] = axes.pop("seed", ["0"])  # last, so that it varies fastest
    varied = [name for name, values in axes.items() if len(values) > 1]
    cells: dict[str, Cell] = {}
    sections = {name: registry.section(name) for name in axes.get("algorithm", [])}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        if sections:  # settings of the sweep's other algorithms
            foreign = set(sections.values()) - {sections[chosen["algorithm"]]}
            chosen = {name: value for name, value in chosen.items() if name.partition(".")[0] not in foreign}
        pair_distance = chosen.get(_PAIRS, "none")
        given = {name: value for name, value in chosen.items() if name in (*options, "seed") and name != _PAIRS}
        sets = [name + value for name, value in chosen.items() if name not in (*given, "env", "ablate", _PAIRS)]
        sets += _without(chosen["ablate"])
        id = chosen["env"] if pair_distance == "none" else mazes.within(chosen["env"], _cells(pair_distance))
        # A sweep makes many runs, and at the paper's size a saved state takes gigabytes.
        drop = {} if "keep_state=" in chosen else {"keep_state": False}
        dataset = datasets[chosen["env"]]
        config = from_options(id, preset, given | drop, sets, layout, dataset)
        config.check()
        own = {"algorithm": config.algorithm} if dataset else {}
        default = from_options(id, preset, own, layout=layout, dataset=dataset)
        kind = _kind(
            config, default, {name: chosen[name] for name in varied if name in chosen}, chosen["env"], pair_distance
        )
        arguments = ["train", *filter(None, [chosen["env"]]), *(["--dataset", str(file)] if file else [])]
        arguments += ["--preset", preset] if preset else []
        arguments += ["--layout", str(layout)] if layout else []
        arguments += [_flag(_PAIRS), pair_distance] if pair_distance != "none" else []
        arguments += [text for name, value in given.items() if name != "seed" for text in (_flag(name), value)]
        arguments += [text for setting in sets for text in ("--set", setting)]
        arguments += ["--no-keep-state"] if drop else []
        cell = Cell(kind, out, config, tuple(arguments))
        if cells.setdefault(cell.name, cell).config != config:
            raise UsageError(f"two runs would both be called {cell.name}; run them as two sweeps with different --out")
    return list(cells.values())


def name(
    config: TrainConfig,
    preset: str | None,
    env: str,
    options: Mapping[str, Any],
    settings: Sequence[str] = (),
    layout: Path | None = None,
    dataset: DatasetConfig | None = None,
) -> str:
    """Default run name of ``crlviz train`` without ``--out``: as a sweep over every given option would name it.

    Args:
      config: settings of the run.
      preset: from the command line.
      env: environment id, as on the command line.
      options: the options that were given, by name.
      settings: values of ``--set``.
      layout: from the command line.
      dataset: the data set.

    Returns:
      The name, without the seed.
    """
    default = from_options(config.env, preset, {"algorithm": config.algorithm}, layout=layout, dataset=dataset)
    varied = {"env": env} | {name: str(value) for name, value in options.items() if name not in KEEPING}
    for setting in settings:
        key, _, value = setting.partition("=")
        varied[f"{key}="] = value
    if layout:
        varied["layout"] = layout.stem
    kind = _kind(config, default, varied, env or config.dataset.name, str(options.get(_PAIRS, "none")))
    return re.sub(r"[^\w.=,+-]+", "_", kind)


def _found(file: Path | None, env: str | None) -> tuple[DatasetConfig | None, str]:
    """The settings of a data set and the environment of the evaluations; without a file None and the environment."""
    if file is None:
        return None, str(env)
    from training.run import recorded_data

    return recorded_data.found(file, env)


def _flag(name: str) -> str:
    return name if name == "ENV" else f"--{name.replace('_', '-')}"


def _without(part: str) -> list[str]:
    """Values of ``--set`` that make an ablation of actor and critic; none for an empty name."""
    if part and part not in ABLATIONS:
        raise UsageError(f"--ablate takes {', '.join(ABLATIONS)}, not {part!r}")
    return [f"{network}.{field}" for network in ("actor", "critic") if part for field in ABLATIONS[part][1:]]


def _cells(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{_flag(_PAIRS)} takes whole numbers of cells or none, separated by commas, not {text!r}")
    return int(text)


def _kind(config: TrainConfig, default: TrainConfig, varied: Mapping[str, str], env: str, pair_distance: str) -> str:
    """Name a cell by its depth and by what differs from the preset, so a run keeps its name when the sweep grows."""
    actor, critic = config.actor, config.critic
    parts = [env] if "env" in varied else []
    parts += [config.algorithm] if config.algorithm != "crl" else []
    parts += [f"depth{critic.depth}"] if actor.depth == critic.depth else [f"actor{actor.depth}-critic{critic.depth}"]
    if (actor.width, critic.width) != (default.actor.width, default.critic.width):
        parts += [f"width{critic.width}"] if actor.width == critic.width else []
    if config.batch_size != default.batch_size:
        parts.append(f"batch{config.batch_size}")
    if pair_distance != "none":
        parts.append(f"pairs{pair_distance}")
    if varied.get("ablate"):
        parts.append(ABLATIONS[varied["ablate"]][0])
    named = (
        "env",
        "algorithm",
        "depth",
        "actor_depth",
        "critic_depth",
        "width",
        "batch_size",
        "ablate",
        "seed",
        "seed=",
        _PAIRS,
    )
    parts += [f"{name.removesuffix('=')}={value}" for name, value in varied.items() if name not in named]
    return "-".join(parts)
