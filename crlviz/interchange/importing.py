"""``crlviz import``: runs of the paper's code, and of JaxGCRL, as run directories of ours."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from crlviz import __version__, envs
from crlviz.checkpoints import atomic_files, run_directory
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.interchange import paper_format
from crlviz.interchange.paper_format import JAXGCRL, Parameters, Settings, Sizes
from crlviz.networks.residual import LAYERS_PER_BLOCK, NetworkConfig

_STEP = re.compile(r"step_(\d{1,15})\.pkl")
_FINAL = ("final.pkl", "final")
_NAMED = re.compile(r"(?P<env>\w+)_(?P<seed>\d{1,9})_\d{8}-\d{6}")  # the paper's code calls its runs so
# What we call otherwise: its maze of evaluation has one goal more, and the paper's code may name a default.
_RENAMED = {
    (JAXGCRL, "ant_big_maze_eval"): "ant_big_maze_eval_humanoid",
    (paper_format.PAPER, "arm_grasp_0.3"): "arm_grasp",
}
# Where JaxGCRL's environments differ from ours; the paper's are in crlviz.envs.
_NOISY = {"normalize_quaternion": False}
_JAXGCRL_OPTIONS: dict[str, dict[str, Any]] = {
    "ant": _NOISY,
    "ant_ball": _NOISY | {"independent_offset": False},
    "ant_push": _NOISY | {"box_at_rest": False},
}


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The run directory to make; of several, where."
)
@click.option("--env", help="The environment, where the run does not say or crlviz has not that one.")
def command(paths: tuple[Path, ...], out: Path, env: str | None) -> None:
    """Make run directories of what the paper's code or JaxGCRL saved.

    PATH is a run directory (args.pkl, step_*.pkl, final.pkl) or such files of one. Nothing in them is executed.

    \b
    Example: crlviz import runs/ant_u4_maze_1000_20250101-000000 --out runs/theirs
    """
    for run in import_runs(paths, out, env):
        config = run_directory.read_config(run)
        settings, steps = config["config"], [f"{count:,}" for count in run_directory.all_steps(run)]
        shape = f"depth {settings['critic']['depth']}, width {settings['critic']['width']}"
        click.echo(printable(f"wrote {run}: {settings['env']}, {shape}, after {', '.join(steps)} environment steps"))
        for note in config["imported"]["notes"]:
            click.echo(printable(f"  {note}"))


def import_runs(paths: Sequence[Path], out: Path, env: str | None = None) -> list[Path]:
    """Import runs.

    Args:
      paths: run directories, or files of some.
      out: the run directory to make, which must not exist yet; of several runs, the directory to make them in.
      env: overrides what the run says.

    Returns:
      The run directories, each there whole or not at all.

    Raises:
      UsageError: ``out`` exists, or the environment must be named.
      CrlvizError: a file is missing, damaged, holds more than arrays and settings, or does not fit the others.
    """
    sources = _sources(paths)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UsageError(f"two of the runs are called {max(names, key=names.count)}; import them apart")
    places = [out] if len(sources) == 1 else [out / name for name in names]
    for place in places:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UsageError(f"{place} exists already; give a new directory to --out")
    for source, place in zip(sources, places, strict=True):
        atomic_files.make_directory(place.parent)
        with atomic_files.directory(place) as made:
            _import(source, made, env)
            if place.exists():
                place.rmdir()
    return places


@dataclass(frozen=True)
class _Source:
    """A run elsewhere: its name, its settings' file where there is one, and its parameters by environment steps."""

    name: str
    settings: Settings | None
    files: dict[int, Path]

    @property
    def directory_name(self) -> re.Match[str] | None:
        """Environment and seed, where the directory is called as the paper's code does."""
        return _NAMED.fullmatch(self.name)


def _sources(paths: Sequence[Path]) -> list[_Source]:
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if not path.exists():
            raise CrlvizError(f"there is no {path}")
        found = [path]
        if path.is_dir():
            # JaxGCRL keeps its checkpoints one directory down.
            inside = [p for folder in (path, path / "ckpt") if folder.is_dir() for p in sorted(folder.iterdir())]
            found = [p for p in inside if _STEP.fullmatch(p.name) or p.name in _FINAL]
            if not found:
                raise CrlvizError(f"{path} holds no step_<env_steps>.pkl and no final.pkl")
        folders.setdefault(found[0].resolve().parent, []).extend(found)
    return [_source(folder.parent if folder.name == "ckpt" else folder, found) for folder, found in folders.items()]


def _source(home: Path, found: Sequence[Path]) -> _Source:
    settings = paper_format.read_settings(home / "args.pkl") if (home / "args.pkl").exists() else None
    steps = {int(step[1]): file for file in found if (step := _STEP.fullmatch(file.name))}
    # final.pkl is the last step once more; alone, the settings tell when it was.
    for file in found if not steps else ():
        if not settings or file.name not in _FINAL:
            raise CrlvizError(f"{file} does not say after how many environment steps; rename it step_<env_steps>.pkl")
        steps[settings.last_step()] = file
    return _Source(home.name, settings, dict(sorted(steps.items())))


def _import(source: _Source, run: Path, env: str | None) -> None:
    settings, first = source.settings, None
    for env_steps, file in source.files.items():
        parameters = paper_format.read_parameters(file)
        if first is None:
            first = parameters
            _write_config(source, first, run, env)
        elif parameters.shapes != first.shapes:
            raise CrlvizError(f"{file} and {first.path} hold networks of different shapes; import them apart")
        updates = settings.gradient_steps(env_steps) if settings else None
        networks = {"actor": parameters.actor, "critic": parameters.critic}
        run_directory.write(run, env_steps, updates, networks | {"temperature": {"log_alpha": parameters.log_alpha}})


def _write_config(source: _Source, first: Parameters, run: Path, env: str | None) -> None:
    settings, named, notes = source.settings, source.directory_name, []
    code = settings.code if settings else first.code
    if settings:
        config = dict(settings.config)
    else:
        if code == JAXGCRL and max(first.actor_shape.depth, first.critic_shape.depth) >= LAYERS_PER_BLOCK:
            raise CrlvizError(
                f"{first.path} does not tell whether its networks skip layers: put its args.pkl beside it"
            )
        config = {"seed": int(named["seed"]) if named else 0, "batch_size": 0, "eval_env": ""}
        notes.append("without args.pkl the activation is taken to be swish; batch size and training are unknown")
    id, options = _environment(source, code, first, env)
    evaluated = config["eval_env"] or id
    other = _RENAMED.get((code, evaluated), evaluated)
    if not _known(other):
        notes.append(f"it was evaluated in {evaluated}, which crlviz has not; here that is {id}")
        other = id
    config |= {"env": id, "layout": [], "env_options": options, "eval_env": other}
    for name, shape in (("actor", first.actor_shape), ("critic", first.critic_shape)):
        residual, activation = (settings.residual(shape.depth), settings.activation) if settings else (True, "swish")
        config[name] = asdict(NetworkConfig(**shape._asdict(), residual=residual, activation=activation))
    origin = {
        "code": code,
        "files": [file.name for file in source.files.values()],
        "notes": notes,
        "args": dict(settings.args) if settings else {},
    }
    versions, command = {"crlviz": __version__}, ["crlviz", *sys.argv[1:]]
    run_directory.write_config(
        run, {"algorithm": "crl", "config": config, "versions": versions, "imported": origin, "command": command}
    )


def _environment(source: _Source, code: str, first: Parameters, env: str | None) -> tuple[str, dict[str, Any]]:
    """The environment that a run was trained in, as ours, and its options; checked against the networks' sizes."""
    settings, named = source.settings, source.directory_name
    says = settings.config["env"] if settings else named["env"] if named else ""
    id = env or _RENAMED.get((code, says), says)
    if not env and not _known(id):
        what = (
            f"{settings.path} names {says!r}, which crlviz has not"
            if settings
            else f"{first.path} names no environment"
        )
        raise UsageError(f"{what}; name one with --env: {_like(first.sizes)}")
    options = envs.paper_options(id)
    if code == JAXGCRL:
        body = max((name for name in envs.BODIES if f"{id}_".startswith(f"{name}_")), key=len)
        options = dict(_JAXGCRL_OPTIONS.get(body, {}))
        if settings and settings.args.get("backend"):
            options["backend"] = settings.args["backend"]
    sizes = _sizes(envs.make(id, **options))
    if sizes != first.sizes:
        raise UsageError(
            f"{first.path} has {_words(first.sizes)}, {id} has {_words(sizes)}; name another with --env: "
            f"{_like(first.sizes)}"
        )
    return id, options


def _known(id: str) -> bool:
    try:
        envs.check(id)
    except UsageError:
        return False
    return True


def _like(sizes: Sizes) -> str:
    """The environments with these sizes, in words."""
    found = []
    for name, body in envs.BODIES.items():
        if _sizes(envs.make(name if body.open else f"{name}_u_maze")) == sizes:
            found += [name] * body.open + [f"{name}_u_maze (or another maze)"] * (body.cell_size is not None)
    return " or ".join(found) or f"but none of crlviz has {_words(sizes)}"


def _sizes(env: Any) -> Sizes:
    return Sizes(env.state_dim, env.goal_dim, env.action_size)


def _words(sizes: Sizes) -> str:
    return f"states of {sizes.state}, goals of {sizes.goal} and actions of {sizes.action} numbers"
