"""``crlviz train``."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("env", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="The run directory to make.")
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run instead; takes no ENV.")
@click.option(
    "--preset", help="Settings to start from: paper, laptop or smoke.  [default: laptop for point, else paper]"
)
@click.option("--depth", type=int, help="Layers inside residual blocks, of actor and critic.")
@click.option("--actor-depth", type=int, help="The actor's alone.")
@click.option("--critic-depth", type=int, help="The critic encoders' alone.")
@click.option("--width", type=int, help="Units of each layer.")
@click.option("--seed", type=int, help="Of everything random.")
@click.option("--batch-size", type=int, help="Rows of an update.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    help="Of matrix products; less is quicker on a GPU and nothing on a CPU.  [default: float32]",
)
@click.option("--env-steps", type=int, help="Steps in total, over all environments.")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze.")
@click.option("--watch", is_flag=True, help="Keep a page in RUN/watch/index.html, renewed after evaluations.")
@click.option("--max-pair-distance", type=int, help="Train on starts and goals at most so many cells apart.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json.")
@click.option("--save-every", type=int, help="Evaluations between two saves.  [default: 1]")
@click.option("--keep", type=int, help="Newest checkpoints to keep, 0 for all.  [default: 0]")
@click.option(
    "--save-replay/--no-save-replay",
    default=None,
    help="Without replay a saved state is small, but a resumed run collects its replay anew, so its numbers are not "
    "those of a run that was never stopped.  [default: with]",
)
@click.option("--on-nan", type=click.Choice(["stop", "rewind"]), help="When an update blows up.  [default: stop]")
@click.option("--rewinds", type=int, help="How often to rewind, at most.  [default: 3]")
def command(env: str | None, out: Path | None, resume: Path | None, watch: bool, **options: Any) -> None:
    """Train an agent in ENV and write a run directory; or go on with one.

    Ctrl-C and SIGTERM save before they stop the run, which --resume takes to where it would have ended. A saved state
    holds the replay: gigabytes at the paper's size, and two of them while one is replaced.

    \b
    Example: crlviz train point_big_maze --depth 16 --seed 1 --out runs/d16
             crlviz train --resume runs/d16
    """
    from training.signals import Stopped

    try:
        if resume:
            _resume(resume, env, out, watch, options)
        else:
            _train(env, out, watch, options)
    except Stopped as stopped:
        click.echo(stopped, err=True)
        sys.exit(stopped.exit_code)


def _train(env: str | None, out: Path | None, watch: bool, options: dict[str, Any]) -> None:
    from crlviz import envs, mazes
    from crlviz.errors import UsageError
    from training.config import from_options

    if not env or not out:
        raise UsageError("train takes ENV and --out RUN, or --resume RUN")
    near = options.pop("max_pair_distance")
    if near is not None:
        env = mazes.within(env, near)
    start = {name: options.pop(name) for name in ("preset", "layout", "settings")}
    config = from_options(env, start["preset"], options, start["settings"], start["layout"])
    envs.check(env, config.layout or None)  # before brax is imported, which takes a second
    from training.trainer import train

    # A directory that holds something already will be refused; there is nothing of this run's to watch in it.
    fresh = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    with _watching(out) if watch and fresh else contextlib.nullcontext():
        run = train(config, out, command=["crlviz", *sys.argv[1:]])
    click.echo(f"wrote {run}")


def _resume(run: Path, env: str | None, out: Path | None, watch: bool, options: dict[str, Any]) -> None:
    from crlviz.errors import UsageError
    from training.config import KEEPING

    given = {name: value for name, value in options.items() if value not in (None, ())}
    fixed = [name for name in given if name not in KEEPING]
    if env or out or fixed:
        what = "an ENV" if env else "--out" if out else f"--{fixed[0].replace('settings', 'set').replace('_', '-')}"
        raise UsageError(f"--resume goes on with a run as it was begun; {what} cannot be given beside it")
    from training import trainer

    done = trainer.finished(run)
    with _watching(run) if watch and not done else contextlib.nullcontext():
        trainer.resume(run, given, command=["crlviz", *sys.argv[1:]])
    click.echo(f"{run} is finished already" if done else f"wrote {run}")


@contextlib.contextmanager
def _watching(run: Path) -> Iterator[None]:
    """``crlviz watch`` beside the training, in a process of its own that ends when the run or this process does."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    watcher = subprocess.Popen(
        [sys.executable, "-m", "crlviz", "watch", str(run)],
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
                click.echo(
                    f"Warning: the page of --watch was not kept: {words[-1] if words else 'no reason'}", err=True
                )
