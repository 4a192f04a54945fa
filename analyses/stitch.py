"""Does it stitch? Goals farther away than any it was trained on, from every start to every goal (paper figure 11)."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import outputs
from analyses.sweeps.scaling import styles
from crlviz import charts, datasets, jax_config
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.networks.residual import Actor
from crlviz.options import check_choice, check_count
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

MOST_CELLS = 100  # more make more pairs than a picture shows, each an episode
_AT_ONCE = 1024  # episodes in one program: bounds its memory
OVER = {"cells": "cells from start to goal", "meters": "way from start to goal (m)"}
SHOW = {"success": "goals reached (share)", "time_at_goal": "time at goal (steps)"}


@jax_config.as_usual
def compute(
    agents: Sequence["Agent"],
    *,
    episodes: int = 1,
    most: int = MOST_CELLS,
    sampled: bool = False,
    length: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Run every start cell to every goal cell of a maze.

    Args:
      agents: in mazes of the same walls; they may have been trained on different pairs.
      episodes: for each pair. Starting at a cell's very center and acting by its mean, a point mass or a humanoid does
        the same each time; an ant starts with noise, and a sampled policy differs.
      most: cells to start from and go to; of a maze with more, its start and those that lie farthest apart.
      sampled: draw actions instead of taking the mean.
      length: steps of an episode; default: the environment's.
      seed: of the bodies' first states and the policy's noise.

    Returns:
      Dataset over what the agents differ in, ``start`` and ``goal``, both numbering the free cells by their way from
      the maze's start: ``success`` (share of episodes), ``time_at_goal`` (steps), ``seen`` (whether training draws
      this pair) and, alike for all, ``distance`` (through the maze, meters) and ``cells`` (between them). A cell to
      itself is no task: NaN.

    Raises:
      UsageError: an environment without a maze, mazes with different walls, or no episode.
    """
    maze = agents[0].env.maze
    check_count(episodes, "episodes")
    for agent in agents:
        if agent.env.maze is None:
            raise UsageError(f"{agent.env.id} has no maze, so no cells to start from")
        if maze is None or not np.array_equal(agent.env.maze.walls, maze.walls):
            raise UsageError(f"{agents[0].source} and {agent.source} walk in different mazes; stitch them apart")
    assert maze is not None
    if most < 2:
        raise UsageError(f"{most} cells: a start and a goal are at least two")
    start, cells = maze.starts[0], np.array(maze.free)
    way = maze.geodesic(maze.xy(cells), maze.xy(start))
    reached = np.isfinite(way)
    cells, way = cells[reached], way[reached]
    count = len(cells)
    if count > most:
        chosen = np.append(maze.spread(cells, most - 1, start), np.flatnonzero((cells == start).all(1)))
        cells, way = cells[chosen], way[chosen]
    cells = cells[np.argsort(way, kind="stable")]
    places = maze.xy(cells)
    distance = maze.geodesics(places, places)
    steps = maze.steps(cells)
    shared = xr.Dataset(
        {
            "distance": (("start", "goal"), distance, {"long_name": "way through the maze", "units": "m"}),
            "cells": (("start", "goal"), steps.astype(int), {"long_name": OVER["cells"], "units": "1"}),
        },
        coords={
            f"{side}_{axis}": (side, places[:, k], {"long_name": f"{side} cell's {axis}", "units": "m"})
            for side in ("start", "goal")
            for k, axis in enumerate("xy")
        },
        attrs={"env": datasets.worlds(agents), "episodes": episodes, "cell_size": maze.cell_size, "free_cells": count},
    ).assign_coords(start=np.arange(len(cells)), goal=np.arange(len(cells)))
    pairs = np.argwhere(steps > 0)
    return datasets.combine(
        agents, [_one(agent, cells, pairs, episodes, sampled, length, seed) for agent in agents], shared
    )


def _one(
    agent: "Agent", cells: np.ndarray, pairs: np.ndarray, episodes: int, sampled: bool, length: int | None, seed: int
) -> xr.Dataset:
    env = agent.env
    assert env.maze is not None
    length = length or env.episode_length
    each = np.repeat(pairs, episodes, axis=0)
    chunks = -(-len(each) // _AT_ONCE)
    size = -(-len(each) // chunks)  # equal chunks share one program; the last is filled up with its own first pairs
    places = env.maze.xy(cells)[np.resize(each, (chunks, size, 2))]
    keys = jax.random.split(jax.random.key(seed), chunks)
    params = agent.params["actor"]
    steps = [
        _time_at_goal(env, length, sampled, agent.actor, params, key, chunk[:, 0], chunk[:, 1])
        for key, chunk in zip(keys, places, strict=True)
    ]
    time_at_goal = np.concatenate(steps)[: len(each)].reshape(len(pairs), episodes)

    def matrix(values: np.ndarray) -> np.ndarray:
        whole = np.full((len(cells), len(cells)), np.nan)
        whole[tuple(pairs.T)] = values.mean(axis=1)
        return whole

    drawn = {(tuple(start), tuple(goal)) for start, goal in env.maze.pairs[0].tolist()}
    named = [tuple(cell) for cell in cells.tolist()]
    seen = [[(start, goal) in drawn for goal in named] for start in named]
    both = ("start", "goal")
    return xr.Dataset(
        {
            "success": (both, matrix(time_at_goal > 0), {"long_name": "share of episodes that reach", "units": "1"}),
            "time_at_goal": (both, matrix(time_at_goal), {"long_name": "time at goal", "units": "steps"}),
            "seen": (both, np.array(seen), {"long_name": "drawn in training", "units": "1"}),
        }
    )


@partial(jax.jit, static_argnums=range(4))
def _time_at_goal(
    env: GoalEnv, length: int, sampled: bool, actor: Actor, params: Any, key: jax.Array, starts: Any, goals: Any
) -> jax.Array:
    """Steps at the goal [B] of episodes from starts [B, 2] to goals [B, 2]; one trace for agents of one shape."""
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, len(starts)), starts, goals)

    def policy(observation, key):
        return actor.act(params, observation, key if sampled else None)

    def record(before, action, after, alive):
        return (after.metrics["success"] > 0) & alive

    return simulate(env, policy, states, policy_key, length, record).sum(0)


def curves(dataset: xr.Dataset, *, show: str = "success", over: str = "cells") -> pd.DataFrame:
    """Success or time at goal over distance, seen and unseen pairs apart: a row a group, kind of pair and distance.

    Args:
      dataset: from ``compute``.
      show: ``success`` or ``time_at_goal``.
      over: ``cells`` or ``meters`` (rounded to whole cells' lengths).

    Returns:
      Columns ``group``, ``depth``, ``pairs`` (seen or unseen), ``x``, ``number`` (of pairs), ``values`` (of
      each seed, its mean over pairs) and ``value`` (their mean).
    """
    _check(show, over)
    size = dataset.attrs["cell_size"]
    x = dataset.cells.values if over == "cells" else np.round(dataset.distance.values / size) * size
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        seen = parts[0].seen.values
        for pairs, chosen in (("seen", seen), ("unseen", ~seen)):
            for far in np.unique(x[x > 0]):
                here = chosen & (x == far)
                if not here.any():
                    continue
                scores = [float(part[show].values[here].mean()) for part in parts]
                rows.append(
                    {
                        "group": label,
                        "depth": depth,
                        "pairs": pairs,
                        "x": float(far),
                        "number": int(here.sum()),
                        "values": scores,
                        "value": float(np.mean(scores)),
                    }
                )
    return pd.DataFrame(rows)


def _check(show: str, over: str) -> None:
    check_choice("show", show, SHOW)
    check_choice("over", over, OVER)


@charts.whole
def plot(dataset: xr.Dataset, *, show: str = "success", over: str = "cells", size: int = 260) -> alt.TopLevelMixin:
    """A matrix a group of seeds, and below them the same over distance.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      show: ``success`` or ``time_at_goal``.
      over: of the curves: ``cells`` or ``meters``.
      size: pixels of a matrix's side.
    """
    groups = list(datasets.groups(dataset))
    table = curves(dataset, show=show, over=over)
    top = 1.0 if show == "success" else float(dataset[show].max())
    matrices = [_matrix(parts, label, show, top, size) for label, _, parts in groups]
    note = charts.seed_note([len(parts) for _, _, parts in groups])
    lines = _curves(table, show, top, over, size)
    return (
        alt.vconcat(alt.concat(*matrices, columns=4, spacing=24), lines, spacing=30)
        .resolve_scale(color="independent", strokeDash="independent")
        .properties(
            title=alt.TitleParams(
                f"Every start to every goal of {dataset.attrs['env']}",
                subtitle=[
                    f"{_cells(dataset)} numbered by their way from the maze's start. Dots: pairs drawn in training.",
                    f"Curves: mean over the pairs so far apart; {note}.",
                ],
            )
        )
    )


def _cells(dataset: xr.Dataset) -> str:
    """Which cells there are, in words."""
    count, of = dataset.sizes["start"], dataset.attrs.get("free_cells", dataset.sizes["start"])
    return "Cells are" if count == of else f"{count} of {of} cells, far apart,"


def _matrix(parts: Sequence[xr.Dataset], label: str, show: str, top: float, size: int) -> Any:
    first = parts[0]
    success = np.mean([part.success.values for part in parts], axis=0)
    start, goal = np.nonzero(np.isfinite(success))
    data = pd.DataFrame(
        {
            "start": start,
            "goal": goal,
            "success": success[start, goal].round(3),
            "time_at_goal": np.mean([part.time_at_goal.values for part in parts], axis=0)[start, goal].round(1),
            "distance": first.distance.values[start, goal].round(2),
            "cells": first.cells.values[start, goal],
            "seen": first.seen.values[start, goal].astype(bool),
        }
    )
    count, tile = len(success), size / len(success)
    ticks = list(range(0, count, max(1, count // 6)))
    axis: dict[str, Any] = {"grid": False, "labelAngle": 0, "values": ticks, "domain": False, "ticks": False}
    domain = list(range(count))
    place = {
        "x": alt.X("goal:O", title="goal cell", scale=alt.Scale(domain=domain, padding=0), axis=alt.Axis(**axis)),
        "y": alt.Y("start:O", title="start cell", scale=alt.Scale(domain=domain, padding=0), axis=alt.Axis(**axis)),
    }
    scale = alt.Scale(scheme="viridis", domain=[0, top])
    legend = alt.Legend(title=SHOW[show].split(" (")[0], gradientLength=120)
    color = alt.Color(f"{show}:Q", scale=scale, legend=legend)
    # The edges have the tiles' colors, so that no background shines through between tiles.
    edge = alt.Stroke(f"{show}:Q", scale=scale, legend=None)
    tooltip = ["start", "goal", "success", alt.Tooltip("time_at_goal", title="time at goal (steps)")]
    tooltip += [alt.Tooltip("distance", title="way (m)"), "cells", "seen"]
    dots: dict[str, Any] = {
        "size": min(60, max(3, (0.3 * tile) ** 2)),
        "color": "white",
        "stroke": "black",
        "strokeWidth": min(0.8, 0.05 * tile),
    }
    return alt.layer(
        alt.Chart(data).mark_rect(strokeWidth=1).encode(**place, color=color, stroke=edge, tooltip=tooltip),
        alt.Chart(data[data.seen]).mark_point(filled=True, opacity=1, **dots).encode(**place),
    ).properties(width=size, height=size, title=charts.panel_title(label, size))


def _curves(table: pd.DataFrame, show: str, top: float, over: str, size: int) -> Any:
    style, order = styles(table[["group", "depth"]].to_xarray()), list(dict.fromkeys(table.group))
    legend = alt.Legend(title=None, symbolOpacity=1, symbolSize=300)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    ticks = sorted(table.x.unique().tolist())
    ticks = ticks[:: -(-len(ticks) // 12)]
    x = alt.X(
        "x:Q", title=OVER[over], axis=alt.Axis(grid=False, format="~g", values=ticks), scale=alt.Scale(zero=False)
    )
    y = alt.Y("value:Q", title=SHOW[show], scale=alt.Scale(domain=[0, top]))
    panels = []
    for pairs, title in (("seen", "pairs seen in training"), ("unseen", "pairs never seen")):
        here = table[table.pairs == pairs]
        if here.empty:
            continue
        line = alt.Chart(here.drop(columns="values")).mark_line().encode(x=x, y=y, color=color, strokeDash=dash)
        tooltip = ["group:N", "x:Q", "value:Q", "number:Q"]
        marks = charts.seed_marks(here, y, x=x, color=color, shape=shape, tooltip=tooltip)
        panels.append(charts.layers(line, *marks).properties(width=1.3 * size, height=200, title=title))
    return alt.hconcat(*panels, spacing=30).resolve_scale(y="shared")


@click.command()
@outputs.checkpoints
@outputs.out("stitch.html")
@click.option("--episodes", type=int, default=1, show_default=True, help="Episodes of each pair.")
@click.option(
    "--cells",
    "most",
    type=int,
    default=MOST_CELLS,
    show_default=True,
    help="Cells to start from and go to, at most; of more, those that lie farthest apart.",
)
@click.option("--sampled", is_flag=True, help="Draw actions instead of taking the mean.")
@click.option("--show", default="success", show_default=True, help="success or time_at_goal.")
@click.option("--over", default="cells", show_default=True, help="Axis of the curves: cells or meters.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of first states and sampled actions.")
def command(checkpoints, out, episodes, most, sampled, show, over, seed) -> None:
    """Run every start cell to every goal cell of a maze: does success reach beyond the pairs of training?

    \b
    Example: crlviz stitch runs/d4 runs/d16 --out stitch.html --out stitch.nc
    """
    from crlviz.agent import load_all

    outputs.check(out)
    _check(show, over)
    check_count(episodes, "episodes")
    dataset = compute(load_all(checkpoints), episodes=episodes, most=most, sampled=sampled, seed=seed)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset, show=show, over=over))


def summary(dataset: xr.Dataset) -> str:
    """Success over seen and over unseen pairs as a table of text."""
    wide = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{wide}} {'seen':>14} {'unseen':>14}"]
    for label, _, part in datasets.each(dataset):
        seen, task = part.seen.values.astype(bool), np.isfinite(part.success.values)
        shares = [part.success.values[task & chosen] for chosen in (seen, ~seen)]
        cells = [f"{share.mean():.2f} of {len(share):5,}" if len(share) else "none" for share in shares]
        rows.append(f"{label:{wide}} {cells[0]:>14} {cells[1]:>14}")
    return "\n".join(rows)


__all__ = ["OVER", "SHOW", "command", "compute", "curves", "plot", "summary"]
