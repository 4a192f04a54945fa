"""``crlviz train``."""

import sys
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
@click.option("--max-pair-distance", type=int, help="Train on starts and goals at most so many cells apart.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json.")
def command(
    env: str,
    out: Path,
    preset: str | None,
    max_pair_distance: int | None,
    settings: tuple[str, ...],
    **options: Any,
) -> None:
    """Train an agent in ENV and write a run directory.

    \b
    Example: crlviz train point_big_maze --depth 16 --seed 1 --out runs/d16
    """
    from crlviz import envs, mazes
    from crlviz.errors import UsageError
    from training import config as configs

    preset = preset or ("laptop" if env.startswith("point") else "paper")
    if max_pair_distance is not None:
        env = mazes.within(env, max_pair_distance)
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

    run = train(config, out, command=["crlviz", *sys.argv[1:]])
    click.echo(f"wrote {run}")
