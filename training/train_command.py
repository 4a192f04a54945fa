"""``crlviz train``."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from crlviz.escaping import printable
from training.options import of_a_run

_SEED = "{seed}"  # in --out: the seed takes its place


@click.command()
@click.argument("env", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The run directory to make; of --seeds, one that holds them.  [default: runs/ENV-depth16-...-seed0]",
)
@click.option(
    "--resume",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Go on with this run instead, or those in it.",
)
@of_a_run
@click.option("--seed", type=int, help="Of everything random.")
@click.option("--seeds", metavar="0-4", help="Several seeds, as OUT/seed0, OUT/seed1, ...")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--watch", is_flag=True, help="Keep a page in RUN/watch/index.html, fresh after evaluations.")
@click.option("--max-pair-distance", type=int, help="Train on starts and goals at most so many cells apart.")
@click.option("--save-every", type=int, help="Evaluations between two saves.  [default: 1]")
@click.option("--keep", type=int, help="Newest checkpoints to keep, 0 for all.  [default: 0]")
@click.option(
    "--save-replay/--no-save-replay",
    default=None,
    help="Without replay a saved state is small, but a resumed run collects its replay anew, so its numbers are not "
    "those of a run that was never stopped.  [default: with]",
)
@click.option(
    "--keep-state/--no-keep-state",
    default=None,
    help="Keep the last state of a finished run, so that --resume RUN --env-steps N trains it longer.  [default: keep]",
)
@click.option("--on-nan", type=click.Choice(["stop", "rewind"]), help="When an update blows up.  [default: stop]")
@click.option("--rewinds", type=int, help="How often to rewind, at most.  [default: 3]")
@click.option(
    "--devices",
    metavar="N|all",
    help="Share environments and batches out over so many.  [default: 1; with --distributed all]",
)
@click.option(
    "--distributed",
    metavar="auto|I/N@HOST:PORT",
    help="This is one of several processes that train the run together: auto under SLURM's srun and the like, or which "
    "one of how many, and where the first listens.",
)
def command(
    env: str | None,
    out: Path | None,
    resume: Sequence[Path],
    watch: bool,
    devices: str | None,
    distributed: str | None,
    **options: Any,
) -> None:
    """Train an agent in ENV and write a run directory; or go on with one.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 save before they stop the run, which --resume takes to where it would have
    ended. A saved state holds the replay: gigabytes at the paper's size, and two of them while one is replaced.

    With --seeds several runs start and compile once. A GPU trains them at once, as many as its memory holds; on a CPU
    they take turns. One that fails loses no other. OUT may have {seed} in its name: runs/d16-seed{seed}.

    With --devices the numbers are those of one device but for rounding, and a run goes on with any number of them. With
    --distributed every process is given the same command, and OUT is on a disk that all of them see.

    \b
    Example: crlviz train point_big_maze --depth 16 --seed 1 --out runs/d16
             crlviz train point_big_maze --depth 16 --seeds 0-4 --out runs/d16
             crlviz train --resume runs/d16
             crlviz train humanoid --depth 64 --devices 4 --out runs/d64
    """
    from crlviz.processes import interrupts
    from training.run.signals import Stopped

    try:
        # Until it trains, and then training.run.signals hears what is sent.
        with interrupts.nothing_begun(), _processes(devices, distributed) as sharing:
            if resume:
                _resume(resume, env, out, watch, sharing, options)
            else:
                _train(env, out, watch, sharing, options)
    except Stopped as stopped:
        click.echo(stopped, err=True)
        sys.exit(stopped.exit_code)


@contextlib.contextmanager
def _processes(devices: str | None, distributed: str | None) -> Iterator[str]:
    """Gives the number of devices. Of several processes only the first comes by; the others follow it, and leave."""
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


def _train(env: str | None, out: Path | None, watch: bool, devices: str, options: dict[str, Any]) -> None:
    from crlviz import envs
    from crlviz.envs import mazes
    from crlviz.errors import UsageError
    from training.config import from_options, schedule
    from training.sweep import grid

    if not env:
        raise UsageError("train takes ENV, or --resume RUN")
    seeds, near = options.pop("seeds"), options.pop("max_pair_distance")
    if watch and seeds is not None:
        raise UsageError("--watch keeps the page of one run; crlviz watch RUN does it for each of --seeds")
    id = env if near is None else mazes.within(env, near)
    start = {name: options.pop(name) for name in ("preset", "layout", "settings")}
    config = from_options(id, start["preset"], options, start["settings"], start["layout"])
    # All that can be told before brax is imported, which takes a second, and before anything is compiled.
    envs.check(id, config.layout or None)
    if config.eval_env:
        envs.check(config.eval_env)
    schedule(config)
    if out is None:
        given = {name: value for name, value in (options | {"max_pair_distance": near}).items() if value is not None}
        named = f"{grid.name(config, env=env, options=given, **start)}-seed"
        out = Path("runs") / (named + (str(config.seed) if seeds is None else _SEED))
    outs = _directories(seeds, options["seed"], out)
    from training import trainer
    from training.sharding import chosen

    here, typed = chosen(devices), ["crlviz", *sys.argv[1:]]
    _say_if_slow(start["preset"], env)
    if outs:
        again = [] if _SEED in str(out) else [out]
        runs = trainer.train_seeds(config, outs, again=again, command=typed, devices=here)
        click.echo(f"wrote {', '.join(map(str, runs))}")
        return
    # A directory that holds something already will be refused; there is nothing of this run's to watch in it.
    fresh = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    with _watching(out) if watch and fresh else contextlib.nullcontext():
        run = trainer.train(config, out, command=typed, devices=here)
    click.echo(f"wrote {run}")


def _say_if_slow(preset: str | None, env: str) -> None:
    """Settings made for a GPU take a CPU weeks; who has named the CPU knows."""
    import jax

    from training.config import preset_of

    if preset_of(preset, env) == "paper" and jax.default_backend() == "cpu" and not os.environ.get("JAX_PLATFORMS"):
        click.echo(
            "jax finds no GPU here, and on a CPU the paper's settings take weeks: crlviz plan tells how long; --preset "
            "laptop trains less, and a GPU needs jax[cuda12] or jax[cuda13]",
            err=True,
        )


def _directories(seeds: str | None, seed: int | None, out: Path) -> dict[int, Path]:
    """The run directory of each of ``--seeds``; none where that is not given."""
    from crlviz.errors import UsageError
    from crlviz.options import read_values

    if seeds is None:
        return {}
    if seed is not None:
        raise UsageError("--seed trains one and --seeds several; give one of the two")
    values = read_values("--seeds", seeds)
    if not all(value.isdecimal() for value in values):
        raise UsageError(f"--seeds takes whole numbers with commas between, or a range as 0-4, not {seeds!r}")
    named = str(out if _SEED in str(out) else out / f"seed{_SEED}")
    return {int(value): Path(named.replace(_SEED, value)) for value in values}


def _resume(
    places: Sequence[Path], env: str | None, out: Path | None, watch: bool, devices: str, options: dict[str, Any]
) -> None:
    from crlviz.checkpoints.run_directory import KEEPING
    from crlviz.errors import UsageError
    from training import config as configs

    settings = configs.read_settings(options.pop("settings"))
    read = configs.replace(configs.TrainConfig(env=""), settings)
    given = {name: value for name, value in options.items() if value is not None}
    fixed = [f"--{name.replace('_', '-')}" for name in given if name not in (*KEEPING, "env_steps")]
    fixed += [f"--set {name}" for name in settings if name not in (*KEEPING, "env_steps")]
    if env or out or fixed:
        what = "an ENV" if env else "--out" if out else fixed[0]
        raise UsageError(
            f"--resume goes on with a run as it was begun; {what} cannot be given beside it, and --set may change "
            f"{', '.join((*KEEPING, 'env_steps'))}"
        )
    given = {name: getattr(read, name) for name in settings} | given
    runs = list(dict.fromkeys(run for place in places for run in _runs(place)))
    if watch and len(runs) > 1:
        raise UsageError("--watch keeps the page of one run; crlviz watch RUN does it for each of several")
    from training import trainer
    from training.sharding import chosen

    here, done = chosen(devices), [run for run in runs if trainer.finished(run, given.get("env_steps"))]
    with _watching(runs[0]) if watch and not done else contextlib.nullcontext():
        trainer.resume_seeds(runs, given, again=places, command=["crlviz", *sys.argv[1:]], devices=here)
    for run in runs:
        click.echo(f"{run} is finished already" if run in done else f"wrote {run}")


def _runs(place: Path) -> list[Path]:
    """The run at a place, or those in it: what ``--seeds`` made."""
    inside = [] if (place / "config.json").exists() else [config.parent for config in place.glob("*/config.json")]
    return sorted(inside, key=lambda run: (len(run.name), run.name)) or [place]  # seed10 comes after seed9


@contextlib.contextmanager
def _watching(run: Path) -> Iterator[None]:
    """``crlviz watch`` beside the training, in a process of its own that ends when the run or this process does."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    watcher = subprocess.Popen(
        [sys.executable, "-P", "-m", "crlviz", "watch", str(run), "--trainer", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,  # so that Ctrl-C stops the training alone, and the page still shows where it stopped
    )
    with errors:
        yield
        # It draws the finished run once more.
        with contextlib.suppress(subprocess.TimeoutExpired):
            if watcher.wait(timeout=60):
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().splitlines()
                why = printable(words[-1]) if words else "no reason"
                click.echo(f"Warning: the page of --watch was not kept: {why}", err=True)
