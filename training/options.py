"""The options that say what a run is, for each verb that takes one run's settings."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path

import click

_OPTIONS = (
    click.option(
        "--preset",
        help="Settings to start from: paper, laptop or smoke.  [default: laptop for point and swimmer, else paper]",
    ),
    click.option("--depth", type=int, help="Layers inside residual blocks, of actor and critic."),
    click.option("--actor-depth", type=int, help="The actor's alone."),
    click.option("--critic-depth", type=int, help="The critic encoders' alone."),
    click.option("--width", type=int, help="Units of each layer."),
    click.option("--batch-size", type=int, help="Rows of an update."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "tf32", "bfloat16"]),
        help="Of matrix products; less is quicker on a GPU and nothing on a CPU.  [default: float32]",
    ),
    click.option("--env-steps", type=int, help="Steps in total, over all environments."),
    click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze."),
    click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json."
    ),
)


def of_a_run(command: Callable) -> Callable:
    """Give a command these options, in this order."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)
