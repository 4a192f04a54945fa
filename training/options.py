"""The command-line options that set a run's config, shared by every verb that takes them."""

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from crlviz.algorithms import registry

_OPTIONS = (
    click.option(
        "--preset",
        help="Settings to start from: paper, laptop or smoke.  [default: laptop for bodies of plain jax, else paper]",
    ),
    click.option(
        "--algorithm", metavar="NAME", help=f"Learning algorithm: {', '.join(registry.NAMES)}.  [default: crl]"
    ),
    click.option("--depth", type=int, help="Layers in the residual blocks of actor and critic."),
    click.option("--actor-depth", type=int, help="Depth of the actor alone."),
    click.option("--critic-depth", type=int, help="Depth of the critic's encoders alone."),
    click.option("--width", type=int, help="Units of each layer."),
    click.option("--batch-size", type=int, help="Rows in each update."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "tf32", "bfloat16"]),
        help="Precision of matrix products; lower is faster on a GPU, no different on a CPU.  [default: float32]",
    ),
    click.option("--env-steps", type=int, help="Environment steps in total, over all environments."),
    click.option("--gradient-steps", type=int, help="Updates in total, on a data set."),
    click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze."),
    click.option(
        "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json."
    ),
)


def of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add these options to a command, in this order."""
    return reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)
