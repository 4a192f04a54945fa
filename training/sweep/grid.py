"""The cells of a sweep: every combination of settings, what each is called, and what has become of it."""

import csv
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from crlviz import envs
from crlviz.checkpoints import run_directory
from crlviz.envs import mazes
from crlviz.errors import UsageError
from crlviz.options import read_values
from training import config as configs
from training.config import TrainConfig, from_options, schedule

# What --ablate takes out of actor and critic, as a field and its value (paper figures 5 and 16).
ABLATIONS = {"residual": ("residual", "false"), "layer-norm": ("layer_norm", "false"), "swish": ("activation", "relu")}
_NEAR = "max_pair_distance"


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      kind: its depth, and where it leaves its preset; cells of one kind differ in their seed alone.
      folder: that holds its run directory.
      config: what it is told.
      arguments: what one types after ``crlviz`` to train it, but for its seed and ``--out``.
    """

    kind: str
    folder: Path
    config: TrainConfig
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its run directory."""
        return f"{self.kind}-seed{self.config.seed}"

    @property
    def out(self) -> Path:
        """Its run directory."""
        return self.folder / self.name

    @property
    def total(self) -> int:
        """Environment steps of the whole run."""
        counts = schedule(self.config)
        return counts.env_steps(self.config, counts.steps)

    @property
    def rows(self) -> list[dict[str, str]]:
        """Its evaluations so far."""
        try:
            with open(self.out / "metrics.csv", newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    @property
    def done(self) -> int:
        """Environment steps of its last evaluation."""
        rows = self.rows
        return int(rows[-1]["env_steps"] or 0) if rows else 0

    @property
    def finished(self) -> bool:
        from training.trainer import finished  # brax

        return self.begun and finished(self.out)

    @property
    def begun(self) -> bool:
        """Whether its directory holds this very run, finished or not.

        Raises:
          UsageError: the directory holds something else.
        """
        if not (self.out / "config.json").is_file():
            if self.out.exists() and (not self.out.is_dir() or any(p.name[0] != "." for p in self.out.iterdir())):
                raise UsageError(f"{self.out} exists and is no run directory; give another directory to --out")
            return False
        there, here = (
            flatten_dict(dataclasses.asdict(config), sep=".") for config in (configs.of_run(self.out), self.config)
        )
        for name in {**here, **there}:
            then, now = there.get(name), here.get(name)  # an environment's options may be on one side alone
            if name not in run_directory.KEEPING and then != now:
                raise UsageError(
                    f"{self.out} holds a run with other settings: {name} is {then} there and {now} in this "
                    "sweep; give another directory to --out"
                )
        return True


def grid(
    env: str,
    out: Path,
    options: Mapping[str, str | None],
    *,
    settings: Sequence[str] = (),
    ablate: str | None = None,
    preset: str | None = None,
    layout: Path | None = None,
) -> list[Cell]:
    """The cells of a sweep, checked; seeds vary fastest.

    Args:
      env: environment ids with commas between.
      out: the directory of their run directories.
      options: values of the options of ``crlviz train`` by name, with commas between, 0-4 for 0,1,2,3,4; None: not
        given. Of ``max_pair_distance`` a value may be ``none``: all pairs.
      settings: ``NAME=VALUE[,VALUE...]``.
      ablate: keys of ``ABLATIONS`` with commas between: each is left out in turn, besides the full network.
      preset: settings to start from.
      layout: a maze of one's own.

    Raises:
      UsageError: a value out of range, or two cells of one name.
    """
    axes = {"env": read_values("ENV", env)}
    axes |= {name: read_values(_flag(name), text) for name, text in options.items() if text is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        axes[f"{name}{equals}"] = read_values(_flag(name), text) if equals else [""]
    axes["ablate"] = ["", *(read_values("--ablate", ablate) if ablate else [])]
    axes["seed"] = axes.pop("seed", ["0"])  # last, so that it varies fastest
    various = [name for name, values in axes.items() if len(values) > 1]
    cells: dict[str, Cell] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        near = chosen.get(_NEAR, "none")
        given = {name: value for name, value in chosen.items() if name in (*options, "seed") and name != _NEAR}
        sets = [name + value for name, value in chosen.items() if name not in (*given, "env", "ablate", _NEAR)]
        sets += _without(chosen["ablate"])
        id = chosen["env"] if near == "none" else mazes.within(chosen["env"], _cells(near))
        # A sweep is many runs, and a state is gigabytes at the paper's size.
        drop = {} if "keep_state=" in chosen else {"keep_state": False}
        config = from_options(id, preset, given | drop, sets, layout)
        envs.check(id, config.layout or None)
        if config.eval_env:
            envs.check(config.eval_env)
        schedule(config)
        plain = from_options(id, preset, layout=layout)
        kind = _kind(config, plain, {name: chosen[name] for name in various}, chosen["env"], near)
        typed = ["train", chosen["env"], *(["--preset", preset] if preset else [])]
        typed += ["--layout", str(layout)] if layout else []
        typed += [_flag(_NEAR), near] if near != "none" else []
        typed += [text for name, value in given.items() if name != "seed" for text in (_flag(name), value)]
        typed += [text for setting in sets for text in ("--set", setting)]
        typed += ["--no-keep-state"] if drop else []
        cell = Cell(kind, out, config, tuple(typed))
        if cells.setdefault(cell.name, cell).config != config:
            raise UsageError(f"two cells of this sweep would be called {cell.name}; sweep them into two directories")
    return list(cells.values())


def name(
    config: TrainConfig,
    preset: str | None,
    env: str,
    options: Mapping[str, Any],
    settings: Sequence[str] = (),
    layout: Path | None = None,
) -> str:
    """What ``crlviz train`` calls a run that is given no ``--out``: as a sweep of all that was typed would, but for
    its seed.

    Args:
      config: of the run.
      preset, settings, layout: what was typed.
      env: environment id as typed.
      options: those that were given, by name.
    """
    plain = from_options(config.env, preset, layout=layout)
    various = {"env": env} | {name: str(value) for name, value in options.items() if name not in run_directory.KEEPING}
    for setting in settings:
        key, _, value = setting.partition("=")
        various[f"{key}="] = value
    if layout:
        various["layout"] = layout.stem
    kind = _kind(config, plain, various, env, str(options.get(_NEAR, "none")))
    return re.sub(r"[^\w.=,-]+", "_", kind)


def _flag(name: str) -> str:
    return name if name == "ENV" else f"--{name.replace('_', '-')}"


def _without(part: str) -> list[str]:
    """The settings that leave a part of the network out."""
    if part and part not in ABLATIONS:
        raise UsageError(f"--ablate takes {', '.join(ABLATIONS)}, not {part!r}")
    return [f"{network}.{'='.join(ABLATIONS[part])}" for network in ("actor", "critic") if part]


def _cells(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"{_flag(_NEAR)} takes whole numbers of cells or none, with commas between, not {text!r}")
    return int(text)


def _kind(config: TrainConfig, plain: TrainConfig, various: Mapping[str, str], env: str, near: str) -> str:
    """Depth, and where a cell leaves its preset: the same run has the same name when a sweep grows."""
    actor, critic = config.actor, config.critic
    parts = [env] if "env" in various else []
    parts += [f"depth{critic.depth}"] if actor.depth == critic.depth else [f"actor{actor.depth}-critic{critic.depth}"]
    if (actor.width, critic.width) != (plain.actor.width, plain.critic.width):
        parts += [f"width{critic.width}"] if actor.width == critic.width else []
    if config.batch_size != plain.batch_size:
        parts.append(f"batch{config.batch_size}")
    if near != "none":
        parts.append(f"pairs{near}")
    if various.get("ablate"):
        parts.append(f"no-{various['ablate']}")
    named = ("env", "depth", "actor_depth", "critic_depth", "width", "batch_size", "ablate", "seed", "seed=", _NEAR)
    parts += [f"{name.removesuffix('=')}={value}" for name, value in various.items() if name not in named]
    return "-".join(parts)
