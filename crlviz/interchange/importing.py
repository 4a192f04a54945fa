"""``crlviz import``: convert runs of the paper's code or of JaxGCRL to run directories."""

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from crlviz import __version__, envs
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.interchange import paper_format
from crlviz.interchange.paper_format import JAXGCRL, Parameters, Settings, Sizes
from crlviz.networks.config import LAYERS_PER_BLOCK, NetworkConfig

_STEP = re.compile(r"step_(\d{1,15})\.pkl")
_FINAL = ("final.pkl", "final")
_NAMED = re.compile(r"(?P<env>\w+)_(?P<seed>\d{1,9})_\d{8}-\d{6}")  # how the paper's code names its runs
# Environments with another id here: JaxGCRL's evaluation maze has one more goal than crlviz's, and the paper's code
# may spell out a default.
_RENAMED = {
    (JAXGCRL, "ant_big_maze_eval"): "ant_big_maze_eval_humanoid",
    (paper_format.PAPER, "arm_grasp_0.3"): "arm_grasp",
}
# Options that make our environments behave like JaxGCRL's; those for the paper's are in crlviz.envs.
_NOISY = {"normalize_quaternion": False}
_JAXGCRL_OPTIONS: dict[str, dict[str, Any]] = {
    "ant": _NOISY,
    "ant_ball": _NOISY | {"independent_offset": False},
    "ant_push": _NOISY | {"box_at_rest": False},
}


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The run directory to make; for several runs, the directory to make them in.",
)
@click.option("--env", help="The environment, if the run does not name one or names one that crlviz does not have.")
def command(paths: tuple[Path, ...], out: Path, env: str | None) -> None:
    """Make run directories from runs of the paper's code or JaxGCRL.

    PATH is a run directory (args.pkl, step_*.pkl, final.pkl) or single files of one. Nothing in them is executed.

    \b
    Example: crlviz import runs/ant_u4_maze_1000_20250101-000000 --out runs/theirs
    """
    for run in import_runs(paths, out, env):
        config = RunDirectory(run).read_config()
        settings, steps = config["config"], [f"{count:,}" for count in RunDirectory(run).checkpoint_steps()]
        shape = f"depth {settings['critic']['depth']}, width {settings['critic']['width']}"
        click.echo(printable(f"wrote {run}: {settings['env']}, {shape}, after {', '.join(steps)} environment steps"))
        for note in config["imported"]["notes"]:
            click.echo(printable(f"  {note}"))


def import_runs(paths: Sequence[Path], out: Path, env: str | None = None) -> list[Path]:
    """Import runs of the paper's code or of JaxGCRL.

    Args:
      paths: run directories, or single files of runs.
      out: the run directory to make, which must not exist yet; for several runs, the directory to make them in.
      env: environment id; overrides the one that the run names.

    Returns:
      The new run directories. Each is written atomically.

    Raises:
      UsageError: ``out`` exists, or ``env`` is needed.
      CrlvizError: a file is missing, damaged, holds more than arrays and settings, or does not fit the others.
    """
    sources = _sources(paths)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise UsageError(f"two of the runs are called {max(names, key=names.count)}; import them separately")
    places = [out] if len(sources) == 1 else [out / name for name in names]
    for place in places:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise UsageError(f"{place} exists already; give a new directory to --out")
    for source, place in zip(sources, places, strict=True):
        atomic_files.make_directory(place.parent)
        with atomic_files.directory(place) as temporary:
            _import(source, temporary, env)
            if place.exists():
                place.rmdir()
    return places


@dataclass(frozen=True)
class _Source:
    """A run to import: its name, its settings if it has args.pkl, and its parameter files by environment steps."""

    name: str
    settings: Settings | None
    files: dict[int, Path]

    @property
    def directory_name(self) -> re.Match[str] | None:
        """Match with environment and seed, if the directory is named as the paper's code names it."""
        return _NAMED.fullmatch(self.name)


def _sources(paths: Sequence[Path]) -> list[_Source]:
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if not path.exists():
            raise CrlvizError(f"there is no {path}")
        files = [path]
        if path.is_dir():
            # JaxGCRL keeps its checkpoints in a subdirectory.
            entries = [p for folder in (path, path / "ckpt") if folder.is_dir() for p in sorted(folder.iterdir())]
            files = [p for p in entries if _STEP.fullmatch(p.name) or p.name in _FINAL]
            if not files:
                raise CrlvizError(f"{path} holds no step_<env_steps>.pkl and no final.pkl")
        folders.setdefault(files[0].resolve().parent, []).extend(files)
    return [_source(folder.parent if folder.name == "ckpt" else folder, files) for folder, files in folders.items()]


def _source(home: Path, files: Sequence[Path]) -> _Source:
    settings = paper_format.read_settings(home / "args.pkl") if (home / "args.pkl").exists() else None
    steps = {int(step[1]): file for file in files if (step := _STEP.fullmatch(file.name))}
    # final.pkl repeats the last step file. Without step files, its environment steps follow from the settings.
    for file in files if not steps else ():
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
            raise CrlvizError(f"{file} and {first.path} hold networks of different shapes; import them separately")
        updates = settings.gradient_steps(env_steps) if settings else None
        networks = {"actor": parameters.actor, "critic": parameters.critic}
        RunDirectory(run).write_checkpoint(
            env_steps, updates, networks | {"temperature": {"log_alpha": parameters.log_alpha}}
        )


def _write_config(source: _Source, first: Parameters, run: Path, env: str | None) -> None:
    settings, named, notes = source.settings, source.directory_name, []
    code = settings.code if settings else first.code
    if settings:
        config = dict(settings.config)
    else:
        if code == JAXGCRL and max(first.actor_shape.depth, first.critic_shape.depth) >= LAYERS_PER_BLOCK:
            raise CrlvizError(
                f"{first.path} does not say whether its networks have skip connections: put its args.pkl beside it"
            )
        config = {"seed": int(named["seed"]) if named else 0, "batch_size": 0, "eval_env": ""}
        notes.append("without args.pkl the activation is assumed to be swish; batch size and training are unknown")
    id, options = _environment(source, code, first, env)
    original = config["eval_env"] or id
    eval_env = _RENAMED.get((code, original), original)
    if not _known(eval_env):
        notes.append(f"it was evaluated in {original}, which crlviz does not have; here it is evaluated in {id}")
        eval_env = id
    config |= {"env": id, "layout": [], "env_options": options, "eval_env": eval_env}
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
    RunDirectory(run).write_config(
        {"algorithm": "crl", "config": config, "versions": versions, "imported": origin, "command": command}
    )


def _environment(source: _Source, code: str, first: Parameters, env: str | None) -> tuple[str, dict[str, Any]]:
    """The run's training environment as an id and options of crlviz, checked against the networks' dimensions."""
    settings, named = source.settings, source.directory_name
    original = settings.config["env"] if settings else named["env"] if named else ""
    id = env or _RENAMED.get((code, original), original)
    if not env and not _known(id):
        problem = (
            f"{settings.path} names {original!r}, which crlviz does not have"
            if settings
            else f"{first.path} names no environment"
        )
        raise UsageError(f"{problem}; name one with --env: {_matching(first.sizes)}")
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
            f"{_matching(first.sizes)}"
        )
    return id, options


def _known(id: str) -> bool:
    try:
        envs.check(id)
    except UsageError:
        return False
    return True


def _matching(sizes: Sizes) -> str:
    """Text that lists the environments with these dimensions."""
    names = []
    for name, body in envs.BODIES.items():
        if _sizes(envs.make(name if body.open else f"{name}_u_maze")) == sizes:
            names += [name] * body.open + [f"{name}_u_maze (or another maze)"] * (body.cell_size is not None)
    return " or ".join(names) or f"but no environment of crlviz has {_words(sizes)}"


def _sizes(env: Any) -> Sizes:
    return Sizes(env.state_dim, env.goal_dim, env.action_size)


def _words(sizes: Sizes) -> str:
    return f"states of {sizes.state}, goals of {sizes.goal} and actions of {sizes.action} numbers"
