"""``crlviz heatmap``: pictures, an interactive page and an animation of ``analyses.heatmap.q_map``."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import click
import numpy as np
import xarray as xr

from analyses.common import outputs, play_links
from analyses.heatmap.heatmap_pictures import STILL, animate, is_shared, plot
from analyses.heatmap.places import MAX_PLACES, default_places, evaluation_maze, goal_cells
from analyses.heatmap.q_map import FIXED, check, compute, on_a_page, summary
from crlviz import charts
from crlviz.charts import print_options
from crlviz.checkpoints import atomic_files
from crlviz.errors import UsageError
from crlviz.options import Command

_STATIC = (".png", ".svg", ".pdf")  # formats without tooltips


@click.command(cls=Command, old_options={"--goals": "--max-goals", "--checkpoints": "--max-checkpoints"})
@outputs.checkpoints
@outputs.out("heatmap.html", "gif for all of training")
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="X,Y",
    help="Goal in meters; may be given several times. Default: in html all cells, at most 256; else evaluation goals "
    "far apart (in gif the farthest).",
)
@click.option(
    "--max-goals",
    type=int,
    default=MAX_PLACES,
    show_default=True,
    help="Largest number of default goals (or starts) in a still picture.",
)
@click.option("--start", "starts", multiple=True, metavar="X,Y", help="Start in meters, for --over goals; as --goal.")
@click.option(
    "--over",
    default="positions",
    show_default=True,
    help="positions: Q of all positions, for a goal; goals: Q of all goals, from a start.",
)
@click.option(
    "--max-checkpoints",
    type=int,
    default=8,
    show_default=True,
    help="Number of checkpoints of each run in html and gif, evenly spaced.",
)
@click.option(
    "--show", default="nothing", show_default=True, help="Over the map: nothing, policy (arrows) or trajectories."
)
@click.option("--action", default="policy", show_default=True, help="Action in Q: policy or zeros.")
@click.option("--scale", default="own", show_default=True, help="Color scale of each map: own or shared.")
@click.option("--resolution", type=int, help="Points along a cell's side. Default: 8, fewer in large mazes.")
@click.option("--coverage/--no-coverage", default=True, show_default=True, help="Outline where the policy goes.")
@play_links.option
def command(
    checkpoints, out, goals, max_goals, starts, over, max_checkpoints, show, action, scale, resolution, coverage, play
) -> None:
    """Draw Q over the positions of a maze, one map for each checkpoint and goal.

    An html without --goal is interactive: click a cell to move the goal, slide through training. A gif is an animation
    through training. Other pictures, and an html with --goal, are still and show each run's newest checkpoint.

    \b
    Example: crlviz heatmap runs/d4 runs/d16 --out maps.html
             crlviz heatmap runs/d4 runs/d16 --goal 2.5,2.5 --out maps.png --out maps.nc
             crlviz heatmap runs/d4 runs/d16 --out q.gif
    """
    from analyses.heatmap.heatmap_page import page
    from crlviz.agent import load_all, load_each
    from crlviz.checkpoints.checkpoint import through_training

    outputs.check(out, also=(".gif",))
    check(over, action, resolution, show)
    is_shared(scale)
    live = play_links.address(play, out)
    fixed_places, other = (goals, starts) if over == "positions" else (starts, goals)
    if other:
        raise UsageError(f"--over {over} keeps the {FIXED[over]} fixed: give --{FIXED[over]}")
    for option, number in (("max-checkpoints", max_checkpoints), ("max-goals", max_goals)):
        if number < 1:
            raise UsageError(f"--{option} {number}: at least one is needed")
    places = np.array([_read_place(place, FIXED[over]) for place in fixed_places]) if fixed_places else None
    options = {"over": over, "action": action, "coverage": coverage}
    runs, newest = zip(*load_each(checkpoints), strict=True)
    endings = {path.suffix for path in out}
    if show != "nothing" and ".html" in endings and places is None:
        raise UsageError(f"--show {show} needs a still picture: give --goal, or another ending than .html")
    interactive, animated = ".html" in endings and places is None, ".gif" in endings
    through = [through_training(path, max_checkpoints) for path in runs]
    if animated and max(map(len, through)) < 2:
        raise UsageError(STILL)
    agents = load_all([path for paths in through for path in paths]) if interactive or animated else []
    computed: list[xr.Dataset] = []
    others: dict[str, Callable[[Path], None]] = {}
    if interactive:
        computed.append(on_a_page(agents, resolution=resolution, **options))
        html = page(computed[0], scale=scale, play=live).encode(errors="replace")
        others[".html"] = lambda path: atomic_files.write(path, html)
    if animated:
        shown = default_places(newest[0], over)[:1] if places is None else places
        computed.append(compute(agents, shown, resolution=resolution, **options))
        gif = animate(computed[-1], scale=scale)
        others[".gif"] = lambda path: atomic_files.write(path, gif)
    if endings - others.keys() - {".nc"} or not computed:
        shown = default_places(newest[0], over, max_goals) if places is None else places
        computed.append(compute(newest, shown, resolution=resolution, show=show, **options))
        picture = partial(plot, computed[-1], scale=scale, tips=False)
        still = cache(lambda: charts.Rendering(print_options.draw(picture)))
        others |= dict.fromkeys(_STATIC, lambda path: atomic_files.write(path, still().file(path.suffix)))
        maze = evaluation_maze(newest[0])
        if places is None and over == "positions" and maze and len(shown) < (count := len(goal_cells(maze))):
            click.echo(
                f"{len(shown)} of {count} goals, far from the start and from each other; --max-goals {count}: all"
            )
    click.echo(summary(computed[0]))
    outputs.write(out, computed[0], lambda: plot(computed[-1], scale=scale), others)


def _read_place(text: str, option: str) -> tuple[float, float]:
    """Parse X,Y in meters.

    Raises:
      UsageError: the text is not two finite numbers.
    """
    try:
        x, y = (float(part) for part in text.split(","))
        if not np.isfinite([x, y]).all():
            raise ValueError
    except ValueError:
        raise UsageError(f"--{option} takes X,Y in meters, for example 2.5,-1, not {text!r}") from None
    return x, y
