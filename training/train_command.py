"""``crlviz train``."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crlviz.escaping import printable
from training.options import of_a_run

if TYPE_CHECKING:
    from training.config import TrainConfig

_SEED = "{seed}"  # placeholder for the seed in --out


@click.command()
@click.argument("env", required=False)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="Learn from these trajectories (.npz of OGBench, or .nc of crlviz record) instead of stepping ENV. "
    "Evaluations are on held-out rows, and in ENV.  [default ENV: the file's, if it is known here]",
)
@click.option("--env", "named_env", metavar="ENV", help="The same as ENV.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory to create; with several seeds, the folder of all.  [default: runs/ENV-depth16-...-seed0]",
)
@click.option(
    "--resume",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Resume this run instead, or all runs in this folder.",
)
@of_a_run
@click.option("--seed", metavar="N|0-4", help="Random seed. Several, as 0-4 or 1,3, train OUT/seed0, OUT/seed1, ...")
@click.option("--seeds", hidden=True)
@click.option(
    "--learners",
    metavar="4,16",
    help="Depths of learners that train at the same time from this run's buffer alone, and never act.",
)
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--watch", is_flag=True, help="Keep the page RUN/watch/index.html up to date while training.")
@click.option(
    "--log",
    multiple=True,
    metavar="tensorboard|wandb",
    help="Log to this tool too, which needs its package: pip install 'crlviz[tensorboard,wandb]'. May be given twice.",
)
@click.option("--max-pair-distance", type=int, help="Train on starts and goals at most this many cells apart.")
@click.option("--save-every", type=int, help="Save every this many evaluations.  [default: 1]")
@click.option("--keep", type=int, help="Number of newest checkpoints to keep; 0 keeps all.  [default: 0]")
@click.option(
    "--save-replay/--no-save-replay",
    default=None,
    help="Save the replay buffer with the state. Without it a saved state is small, but a resumed run fills a new "
    "buffer, so its results differ from those of an uninterrupted run.  [default: save]",
)
@click.option(
    "--keep-state/--no-keep-state",
    default=None,
    help="Keep the last state of a finished run, so that --resume RUN --env-steps N trains it longer.  [default: keep]",
)
@click.option("--on-nan", type=click.Choice(["stop", "rewind"]), help="What to do on divergence.  [default: stop]")
@click.option("--rewinds", type=int, help="Maximum number of rewinds.  [default: 3]")
@click.option(
    "--devices",
    metavar="N|all",
    help="Number of devices to split environments and batches over.  [default: 1; with --distributed all]",
)
@click.option(
    "--distributed",
    metavar="auto|I/N@HOST:PORT",
    help="Join a run of several processes. auto: read the process number from a cluster such as SLURM. Otherwise: this "
    "is process I of N, and process 0 listens at HOST:PORT.",
)
def command(
    env: str | None,
    named_env: str | None,
    out: Path | None,
    resume: Sequence[Path],
    dataset: Path | None,
    watch: bool,
    devices: str | None,
    distributed: str | None,
    **options: Any,
) -> None:
    """Train an agent in ENV and write a run directory; or resume a run.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save the run and stop it; --resume then finishes it with the same results. A
    saved state holds the replay buffer: gigabytes at the paper's size, twice that while one replaces another.

    Several seeds start and compile once. A GPU trains as many at once as fit its memory; a CPU trains them one after
    the other. If one fails, the others continue. OUT may contain {seed}: runs/d16-seed{seed}.

    With --devices the results equal the results on one device up to rounding, and a run resumes on any number of
    devices. With --distributed give every process the same command, and put OUT on a disk that all processes share.

    With --learners the run, in OUT/collector, feeds learners of other depths, in OUT/learner-depth4 and so on (paper
    figure 8). All do their updates on the same batches; --resume OUT resumes all of them. With --dataset no environment
    is explored: crl, gcbc, qrl and gciql learn from the file, with OGBench's goals and weights.

    \b
    Example: crlviz train point_big_maze --depth 16 --seed 1 --out runs/d16
             crlviz train swimmer --depth 16 --learners 4,16 --out runs/fed
             crlviz train point_big_maze --depth 16 --seed 0-4 --out runs/d16
             crlviz train --resume runs/d16
             crlviz train humanoid --depth 64 --devices 4 --out runs/d64
             crlviz train --dataset walks.nc --algorithm gcbc --depth 8 --out runs/clone
    """
    from crlviz.processes import interrupts
    from training.run.signals import Stopped

    options["log"] = ",".join(options["log"]) or None
    if env and named_env:
        raise click.UsageError("ENV and --env name the same; give one of them")
    env = env or named_env
    try:
        # Handles signals until training starts; from then on training.run.signals does.
        with interrupts.exit_at_once(), _processes(devices, distributed) as count:
            if resume:
                _resume(resume, env or dataset, out, watch, count, options)
            else:
                _train(env, dataset, out, watch, count, options)
    except Stopped as stopped:
        click.echo(stopped, err=True)
        sys.exit(stopped.exit_code)


@contextlib.contextmanager
def _processes(devices: str | None, distributed: str | None) -> Iterator[str]:
    """Yield the number of devices as text. A worker process never gets there: it works, then exits."""
    if not distributed:
        yield devices or "1"
        return
    from crlviz.errors import UsageError

    if devices not in (None, "all"):
        raise UsageError("--distributed trains on all devices of all its processes; leave --devices out")
    from training.run import hosts, worker

    hosts.join(distributed)
    if not hosts.is_coordinator():
        sys.exit(worker.work())
    with hosts.coordinator():
        yield "all"


def _train(
    env: str | None, file: Path | None, out: Path | None, watch: bool, devices: str, options: dict[str, Any]
) -> None:
    from crlviz.envs import mazes
    from crlviz.errors import UsageError
    from training import dataset_presets
    from training.config import from_options
    from training.sweep import grid

    if not env and not file:
        raise UsageError("train takes ENV, or --resume RUN, or --dataset FILE")
    dataset = None
    if file:
        from training.run import recorded_data

        dataset, env = recorded_data.found(file, env)
    assert env is not None
    max_distance, seeds = options.pop("max_pair_distance"), _read_seeds(options["seed"], options.pop("seeds"))
    depths = _read_depths(options.pop("learners"))
    if dataset and depths:
        raise UsageError("--learners takes the buffer of a collector; leave --dataset out")
    if watch and depths:
        raise UsageError("--watch keeps the page of one run; run crlviz watch RUN for the collector or a learner")
    if watch and seeds:
        raise UsageError("--watch keeps the page of one run; run crlviz watch RUN for each of several seeds")
    if seeds:
        options["seed"] = None
    id = env if max_distance is None else mazes.within(env, max_distance)
    start = {name: options.pop(name) for name in ("preset", "layout", "settings")}
    config = from_options(id, start["preset"], options, start["settings"], start["layout"], dataset)
    config.check()
    if dataset:
        click.echo(dataset_presets.told(config, start["preset"]), err=True)
    if out is None:
        given = {
            name: value for name, value in (options | {"max_pair_distance": max_distance}).items() if value is not None
        }
        fed = f"-learners{','.join(map(str, depths))}" if depths else ""
        name = f"{grid.name(config, env=env, options=given, dataset=dataset, **start)}{fed}-seed"
        out = Path("runs") / (name + (_SEED if seeds else str(config.seed)))
    pattern = str(out if _SEED in str(out) else out / f"seed{_SEED}")
    outs = {seed: Path(pattern.replace(_SEED, str(seed))) for seed in seeds}
    if not dataset:
        _warn_if_slow(start["preset"], env)
    _start(config, out, outs, depths, devices, watch)


def _start(
    config: "TrainConfig", out: Path, outs: Mapping[int, Path], depths: Sequence[int], devices: str, watch: bool
) -> None:
    """Train what the options describe: a collector with learners, several seeds, or one run.

    Args:
      config: the config, of the first seed.
      out: the run directory, or the directory of several runs.
      outs: the run directory of each of several seeds.
      depths: depths of the learners of a collector; none: train without them.
      devices: a value of ``--devices``.
      watch: keep a page of the run.
    """
    from training import trainer
    from training.sharding import select

    selected, argv = select(devices), ["crlviz", *sys.argv[1:]]
    again = [] if _SEED in str(out) else [out]
    if depths:
        from training import collectors

        runs = collectors.train(config, depths, outs or {config.seed: out}, again=again, command=argv, devices=selected)
    elif outs:
        runs = trainer.train_seeds(config, outs, again=again, command=argv, devices=selected)
    else:
        # A directory that is not empty will be refused, so there is nothing to watch in it.
        fresh = not out.exists() or (out.is_dir() and not any(out.iterdir()))
        with _watching(out) if watch and fresh else contextlib.nullcontext():
            runs = [trainer.train(config, out, command=argv, devices=selected)]
    click.echo(f"wrote {', '.join(map(str, runs))}")


def _warn_if_slow(preset: str | None, env: str) -> None:
    """Warn about GPU settings on a CPU, which take weeks; not if JAX_PLATFORMS chose the CPU."""
    import jax

    from crlviz import gpu_errors
    from training.config import preset_of

    if preset_of(preset, env) == "paper" and jax.default_backend() == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        click.echo(
            f"jax finds no GPU here ({gpu_errors.why_none()}), and on a CPU the paper's settings take weeks. crlviz "
            "plan estimates how long; --preset laptop trains less",
            err=True,
        )


def _read_seeds(text: str | None, old: str | None) -> list[int]:
    """The seeds of several runs; empty for one run.

    Args:
      text: the value of ``--seed``.
      old: the value of ``--seeds``, its name for several runs in an older crlviz, which also takes one.
    """
    from crlviz.errors import UsageError
    from crlviz.options import hint_at_new_name, read_values

    if old is not None:
        hint_at_new_name("--seeds", "--seed")
        if text is not None:
            raise UsageError("--seed takes several seeds, such as 0-4; leave --seeds out")
    given = text if old is None else old
    if given is None:
        return []
    values = read_values("--seed", given)
    if not all(value.removeprefix("-").isdecimal() for value in values):
        raise UsageError(f"--seed takes whole numbers separated by commas, or a range such as 0-4, not {given!r}")
    return list(map(int, values)) if old is not None or len(values) > 1 else []


def _read_depths(text: str | None) -> list[int]:
    """The depths of ``--learners``; empty if it is not given."""
    from crlviz.errors import UsageError
    from crlviz.options import read_values

    values = read_values("--learners", text) if text is not None else []
    if not all(value.isdecimal() for value in values):
        raise UsageError(f"--learners takes depths separated by commas, such as 4,16, not {text!r}")
    return list(map(int, values))


def _resume(
    places: Sequence[Path], env: object, out: Path | None, watch: bool, devices: str, options: dict[str, Any]
) -> None:
    from crlviz.checkpoints.run_directory import KEEPING
    from crlviz.errors import UsageError
    from training import config as configs
    from training.schedule import LENGTHS

    settings = configs.read_settings(options.pop("settings"))
    parsed = configs.replace(configs.TrainConfig(env=""), settings)
    given = {name: value for name, value in options.items() if value is not None}
    fixed = [f"--{name.replace('_', '-')}" for name in given if name not in (*KEEPING, *LENGTHS)]
    fixed += [f"--set {name}" for name in settings if name not in (*KEEPING, *LENGTHS)]
    if env or out or fixed:
        what = ("an ENV" if isinstance(env, str) else "--dataset") if env else "--out" if out else fixed[0]
        raise UsageError(
            f"--resume continues a run with its own settings; {what} cannot be given beside it, and --set may change "
            f"{', '.join((*KEEPING, 'env_steps'))}"
        )
    given = {name: getattr(parsed, name) for name in settings} | given
    runs = list(dict.fromkeys(run for place in places for run in _runs(place)))
    if watch and len(runs) > 1:
        raise UsageError("--watch keeps the page of one run; run crlviz watch RUN for each of several")
    from training import collectors, trainer
    from training.sharding import select

    selected, done = select(devices), [run for run in runs if trainer.finished(run, _length(run, given))]
    fed, alone = collectors.families(runs)
    how: dict[str, Any] = {"again": places, "command": ["crlviz", *sys.argv[1:]], "devices": selected}
    with _watching(runs[0]) if watch and not done else contextlib.nullcontext():
        if fed:
            collectors.resume(fed, given, **how)
        if alone:
            trainer.resume_seeds(alone, given, **how)
    for run in runs:
        click.echo(f"{run} is finished already" if run in done else f"wrote {run}")


def _length(run: Path, given: Mapping[str, Any]) -> int | None:
    """The length that the options give a run, if any."""
    from training.config import read_run
    from training.schedule import length_name

    return given.get(length_name(read_run(run)))


def _runs(place: Path) -> list[Path]:
    """The run at a path, or the runs inside it, as several seeds make them."""
    from crlviz.checkpoints.run_directory import RunDirectory, runs_in

    return [place] if RunDirectory(place).exists() else runs_in(place) or [place]


@contextlib.contextmanager
def _watching(run: Path) -> Iterator[None]:
    """Run ``crlviz watch`` in a separate process; it ends when the run or this process does."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    watcher = subprocess.Popen(
        [sys.executable, "-P", "-m", "crlviz", "watch", str(run), "--trainer", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # Ctrl-C stops only the training, so the page still shows where it stopped
    )
    with errors:
        yield
        # It draws the finished run one last time.
        with contextlib.suppress(subprocess.TimeoutExpired):
            if watcher.wait(timeout=60):
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                reason = printable(lines[-1]) if lines else "no reason given"
                click.echo(f"Warning: the page of --watch was not updated: {reason}", err=True)
