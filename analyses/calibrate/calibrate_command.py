"""``crlviz calibrate``: compare the distance that a critic learned with the steps that its policy needs."""

from collections.abc import Sequence
from pathlib import Path

import click

from analyses.calibrate import calibration
from analyses.calibrate.calibration_picture import plot
from analyses.common import outputs
from crlviz.algorithms.action_choice import FORMS
from crlviz.options import check_count


@click.command()
@outputs.checkpoints
@outputs.out("calibrate.html")
@click.option("--episodes", type=int, default=calibration.EPISODES, show_default=True, help="Episodes of each.")
@click.option(
    "--policy",
    default="sample",
    show_default=True,
    metavar="RULE",
    help=f"How actions are chosen: {FORMS}. A critic learns the time that the sampled policy takes.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the episodes and the draw of pairs.")
def command(checkpoints: Sequence[Path], out: Sequence[Path], episodes: int, policy: str, seed: int) -> None:
    """Is the distance that a critic learned the time that its policy needs?

    Draws the learned distance over the steps that episodes needed, to achieved and to commanded goals. In a maze, it
    also draws it over the shortest path. Shows rank correlations, and learned steps per needed step, near and far.

    \b
    Example: crlviz calibrate runs/d4 runs/d16 --out calibrate.html
    """
    from crlviz.agent import load_all

    outputs.check(out)
    check_count(episodes, "episodes")
    dataset = calibration.compute(load_all(checkpoints), episodes=episodes, policy=policy, seed=seed)
    click.echo(calibration.summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset))
