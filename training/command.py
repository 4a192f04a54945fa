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
@click.argument("env")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run directory to make.")
@click.option(
    "--preset", help="Settings to start from: paper, laptop or smoke.  [default: laptop for point, else paper]"
)
@click.option("--depth", type=int, help="Layers inside residual blocks, of actor and critic.")
@click.option("--actor-depth", type=int, help="The actor's alone.")
@click.option("--critic-depth", type=int, help="The critic encoders' alone.")
@click.option("--width", type=int, help="Units of each layer.")
@click.option("--seed", type=int, help="Of everything random.")
@click.option("--batch-size", type=int, help="Rows of an update.")
@click.option("--env-steps", type=int, help="Steps in total, over all environments.")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze.")
@click.option("--watch", is_flag=True, help="Keep a page in RUN/watch/index.html, renewed after evaluations.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json.")
def command(env: str, out: Path, preset: str | None, watch: bool, settings: tuple[str, ...], **options: Any) -> None:
    """Train an agent in ENV and write a run directory.

    \b
    Example: crlviz train point_big_maze --depth 16 --seed 1 --out runs/d16
    """
    from crlviz import envs, mazes
    from crlviz.errors import UsageError
    from training import config as configs

    preset = preset or ("laptop" if env.startswith("point") else "paper")
    changes = configs.preset(preset) | {"env": env}
    layout = options.pop("layout")
    if layout:
        changes["layout"] = mazes.parse(layout)
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, not {setting!r}")
        changes[name] = value
    names: dict[str, tuple[str, ...]] = {
        "depth": ("actor.depth", "critic.depth"),
        "width": ("actor.width", "critic.width"),
    }
    names |= {"actor_depth": ("actor.depth",), "critic_depth": ("critic.depth",)}
    for option, value in options.items():
        if value is not None:
            changes |= dict.fromkeys(names.get(option, (option,)), value)
    config = configs.replace(configs.TrainConfig(env=env), changes)
    envs.check(env, config.layout or None)  # before brax is imported, which takes a second
    from training.trainer import train

    # A directory that holds something already will be refused; there is nothing of this run's to watch in it.
    fresh = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    with _watching(out) if watch and fresh else contextlib.nullcontext():
        run = train(config, out, command=["crlviz", *sys.argv[1:]])
    click.echo(f"wrote {run}")


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
