"""Does the agent stitch? Goals farther away than those of training, from every start cell (paper figure 11)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import outputs
from analyses.sweeps.scaling import styles
from crlviz import charts, datasets, jax_config, options
from crlviz.algorithms import action_choice
from crlviz.algorithms.action_choice import ActionChoice
from crlviz.algorithms.base import Algorithm
from crlviz.envs.base import GoalEnv
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError
from crlviz.options import OLD_POLICIES, Command, check_choice, check_count
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

MAX_CELLS = 100  # more cells give more pairs than a picture can show, and each pair costs an episode
_MAX_BATCH = 1024  # episodes in one compiled program: bounds its memory
X_AXES = {"cells": "cells from start to goal", "meters": "distance from start to goal (m)"}
METRICS = {"success": "goals reached (share)", "time_at_goal": "time at goal (steps)"}


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"],
    *,
    episodes: int = 1,
    max_cells: int = MAX_CELLS,
    policy: str = "mean",
    length: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Run the policy from every start cell to every goal cell of a maze.

    Args:
      agents: in mazes with the same walls; they may have been trained on different pairs of start and goal.
      episodes: number of episodes for each pair. Episodes start at the center of a cell, so those of a point mass or a
        humanoid are identical with its mean actions; those of an ant differ, as its reset adds noise.
      max_cells: largest number of cells. In a larger maze, its start and the cells that lie farthest apart are used.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      length: steps of an episode; default: the environment's.
      seed: of the bodies' initial states and the policy's noise.

    Returns:
      Dataset over the factors in which the agents differ, ``start`` and ``goal``, which number the free cells in order
      of geodesic distance from the maze's start: ``success`` (share of episodes), ``time_at_goal`` (steps), ``seen``
      (whether training draws this pair) and, the same for all agents, ``distance`` (geodesic, meters) and ``cells``
      (the same in cells). NaN where start and goal are the same cell.

    Raises:
      UsageError: an environment without a maze, mazes with different walls, fewer than two cells, or no episodes.
    """
    check_count(episodes, "episodes")
    if max_cells < 2:
        raise UsageError(f"{max_cells} cells: at least two are needed, a start and a goal")
    maze = _shared_maze(agents)
    cells, count = _choose_cells(maze, max_cells)
    shared = _distances(maze, cells)
    attrs = {"env": datasets.env_names(agents), "episodes": episodes, "cell_size": maze.cell_size, "free_cells": count}
    pairs = np.argwhere(shared.cells.values > 0)
    choice = action_choice.for_agents(policy, agents)
    parts = [_compute_one(agent, cells, pairs, episodes, choice, length, seed) for agent in agents]
    return datasets.combine(agents, parts, shared.assign_attrs(attrs))


def _shared_maze(agents: Sequence["Agent"]) -> Maze:
    """The maze of the agents.

    Raises:
      UsageError: an environment has none, or their walls differ.
    """
    maze = agents[0].env.maze
    for agent in agents:
        if agent.env.maze is None:
            raise UsageError(f"{agent.env.id} has no maze, so no cells to start from")
        if maze is None or not np.array_equal(agent.env.maze.walls, maze.walls):
            raise UsageError(f"{agents[0].source} and {agent.source} walk in different mazes; analyze them separately")
    assert maze is not None
    return maze


def _choose_cells(maze: Maze, max_cells: int) -> tuple[np.ndarray, int]:
    """The cells [N, 2] that can be reached, by distance from the maze's start, and how many there were.

    Of more than ``max_cells``, the start and those that lie farthest from it and from each other.
    """
    start, cells = maze.starts[0], np.array(maze.free)
    from_start = maze.geodesic(maze.xy(cells), maze.xy(start))
    reachable = np.isfinite(from_start)
    cells, from_start = cells[reachable], from_start[reachable]
    count = len(cells)
    if count > max_cells:
        chosen = np.append(maze.spread(cells, max_cells - 1, start), np.flatnonzero((cells == start).all(1)))
        cells, from_start = cells[chosen], from_start[chosen]
    return cells[np.argsort(from_start, kind="stable")], count


def _distances(maze: Maze, cells: np.ndarray) -> xr.Dataset:
    """The part that all agents share: distances between the cells [N, 2], in meters and in cells."""
    places, dims = maze.xy(cells), ("start", "goal")
    distance, steps = maze.geodesics(places, places), maze.steps(cells).astype(int)
    return xr.Dataset(
        {
            "distance": (dims, distance, {"long_name": "way through the maze", "units": "m"}),
            "cells": (dims, steps, {"long_name": X_AXES["cells"], "units": "1"}),
        },
        coords={
            f"{side}_{axis}": (side, places[:, k], {"long_name": f"{side} cell's {axis}", "units": "m"})
            for side in dims
            for k, axis in enumerate("xy")
        },
    ).assign_coords(start=np.arange(len(cells)), goal=np.arange(len(cells)))


def _compute_one(
    agent: "Agent",
    cells: np.ndarray,
    pairs: np.ndarray,
    episodes: int,
    choice: ActionChoice,
    length: int | None,
    seed: int,
) -> xr.Dataset:
    """Outcomes of one agent; ``pairs`` [P, 2] are indices of start and goal in ``cells`` [N, 2]."""
    env = agent.env
    assert env.maze is not None
    length = length or env.episode_length
    tasks = np.repeat(pairs, episodes, axis=0)
    chunks = -(-len(tasks) // _MAX_BATCH)
    size = -(-len(tasks) // chunks)  # equal chunks share one compiled program; the last is padded with the first tasks
    places = env.maze.xy(cells)[np.resize(tasks, (chunks, size, 2))]
    keys = jax.random.split(jax.random.key(seed), chunks)
    steps = [
        _time_at_goal(env, length, choice, agent.algorithm, agent.params, key, chunk)
        for key, chunk in zip(keys, places, strict=True)
    ]
    time_at_goal = np.concatenate(steps)[: len(tasks)].reshape(len(pairs), episodes)

    def matrix(values: np.ndarray) -> np.ndarray:
        result = np.full((len(cells), len(cells)), np.nan)
        result[tuple(pairs.T)] = values.mean(axis=1)
        return result

    drawn = {(tuple(start), tuple(goal)) for start, goal in env.maze.pairs[0].tolist()}
    named_cells = [tuple(cell) for cell in cells.tolist()]
    seen = [[(start, goal) in drawn for goal in named_cells] for start in named_cells]
    dims = ("start", "goal")
    return xr.Dataset(
        {
            "success": (dims, matrix(time_at_goal > 0), {"long_name": "share of episodes that reach", "units": "1"}),
            "time_at_goal": (dims, matrix(time_at_goal), {"long_name": "time at goal", "units": "steps"}),
            "seen": (dims, np.array(seen), {"long_name": "drawn in training", "units": "1"}),
        }
    )


@partial(jax.jit, static_argnums=range(4))
def _time_at_goal(
    env: GoalEnv, length: int, choice: ActionChoice, algorithm: Algorithm, params: Any, key: jax.Array, tasks: Any
) -> jax.Array:
    """Time at goal in steps [B] of episodes with tasks [B, 2, 2]: start and goal in meters.

    Traced once for all agents with the same network shape.
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, len(tasks)), tasks[:, 0], tasks[:, 1])

    def record(before, action, after, alive):
        return (after.metrics["success"] > 0) & alive

    return simulate(env, partial(choice.act, algorithm, params), states, policy_key, length, record).sum(0)


def curves(dataset: xr.Dataset, *, metric: str = "success", x_axis: str = "cells") -> pd.DataFrame:
    """Success or time at goal over distance, for seen and unseen pairs separately.

    Args:
      dataset: from ``compute``.
      metric: ``success`` or ``time_at_goal``.
      x_axis: ``cells`` or ``meters`` (rounded to multiples of a cell's side).

    Returns:
      One row for each group, kind of pair and distance. Columns ``group``, ``depth``, ``pairs`` (seen or unseen), ``x``
      (the distance), ``number`` (of pairs), ``values`` (for each seed, its mean over pairs) and ``value`` (their mean).

    Raises:
      UsageError: unknown ``metric`` or ``x_axis``.
    """
    _check(metric, x_axis)
    size = dataset.attrs["cell_size"]
    x = dataset.cells.values if x_axis == "cells" else np.round(dataset.distance.values / size) * size
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        seen = parts[0].seen.values
        for pairs, chosen in (("seen", seen), ("unseen", ~seen)):
            for distance in np.unique(x[x > 0]):
                at_distance = chosen & (x == distance)
                if not at_distance.any():
                    continue
                scores = [float(part[metric].values[at_distance].mean()) for part in parts]
                rows.append(
                    {
                        "group": label,
                        "depth": depth,
                        "pairs": pairs,
                        "x": float(distance),
                        "number": int(at_distance.sum()),
                        "values": scores,
                        "value": float(np.mean(scores)),
                    }
                )
    return pd.DataFrame(rows)


def _check(metric: str, x_axis: str) -> None:
    check_choice("metric", metric, METRICS)
    check_choice("x_axis", x_axis, X_AXES)


@charts.self_contained
def plot(dataset: xr.Dataset, *, metric: str = "success", x_axis: str = "cells", size: int = 260) -> alt.TopLevelMixin:
    """Draw a matrix of start and goal for each group of seeds, and below them curves over distance.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      metric: ``success`` or ``time_at_goal``.
      x_axis: axis of the curves: ``cells`` or ``meters``.
      size: side of a matrix in pixels.
    """
    groups = list(datasets.groups(dataset))
    table = curves(dataset, metric=metric, x_axis=x_axis)
    top = 1.0 if metric == "success" else float(dataset[metric].max())
    matrices = [_matrix(parts, label, metric, top, size) for label, _, parts in groups]
    note = charts.seed_note([len(parts) for _, _, parts in groups])
    lines = _curves(table, metric, top, x_axis, size)
    return (
        alt.vconcat(alt.concat(*matrices, columns=4, spacing=24), lines, spacing=30)
        .resolve_scale(color="independent", shape="independent", strokeDash="independent")
        .properties(
            title=alt.TitleParams(
                f"Every start to every goal of {dataset.attrs['env']}",
                subtitle=[
                    f"{_cells(dataset)} numbered by distance from the maze's start. Dots: pairs drawn in training.",
                    f"Curves: mean over the pairs at each distance; {note}.",
                ],
            )
        )
    )


def _cells(dataset: xr.Dataset) -> str:
    """Which cells the matrices show; begins a sentence."""
    count, free = dataset.sizes["start"], dataset.attrs.get("free_cells", dataset.sizes["start"])
    return "Cells are" if count == free else f"{count} of {free} cells, far apart,"


def _matrix(
    parts: Sequence[xr.Dataset], label: str, metric: str, top: float, size: int
) -> alt.LayerChart | alt.FacetChart:
    """The mean over one group of seeds, start cells by goal cells; colors go up to ``top``."""
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
    legend = alt.Legend(title=METRICS[metric].split(" (")[0], gradientLength=120)
    color = alt.Color(f"{metric}:Q", scale=scale, legend=legend)
    # Strokes have the tiles' colors, so that no background shows between tiles.
    edge = alt.Stroke(f"{metric}:Q", scale=scale, legend=None)
    tooltip = ["start", "goal", "success", alt.Tooltip("time_at_goal", title="time at goal (steps)")]
    tooltip += [alt.Tooltip("distance", title="distance (m)"), "cells", "seen"]
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


def _curves(table: pd.DataFrame, metric: str, top: float, x_axis: str, size: int) -> alt.HConcatChart:
    """Curves over distance: one panel for seen pairs, one for unseen pairs."""
    style, order = styles(table[["group", "depth"]].to_xarray()), list(dict.fromkeys(table.group))
    legend = alt.Legend(title=None, symbolOpacity=1, symbolSize=300)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    ticks = sorted(table.x.unique().tolist())
    ticks = ticks[:: -(-len(ticks) // 12)]
    x = alt.X(
        "x:Q", title=X_AXES[x_axis], axis=alt.Axis(grid=False, format="~g", values=ticks), scale=alt.Scale(zero=False)
    )
    y = alt.Y("value:Q", title=METRICS[metric], scale=alt.Scale(domain=[0, top]))
    panels = []
    for pairs, title in (("seen", "pairs seen in training"), ("unseen", "pairs never seen")):
        part = table[table.pairs == pairs]
        if part.empty:
            continue
        line = alt.Chart(part.drop(columns="values")).mark_line().encode(x=x, y=y, color=color, strokeDash=dash)
        tooltip = ["group:N", "x:Q", "value:Q", "number:Q"]
        marks = charts.seed_marks(part, y, x=x, color=color, shape=shape, tooltip=tooltip)
        panels.append(charts.layers(line, *marks).properties(width=1.3 * size, height=200, title=title))
    return alt.hconcat(*panels, spacing=30).resolve_scale(y="shared")


_OLD_OPTIONS = OLD_POLICIES | {"--cells": "--max-cells", "--show": "--metric", "--over": "--x-axis"}


@click.command(cls=Command, old_options=_OLD_OPTIONS)
@outputs.checkpoints
@outputs.out("stitch.html")
@click.option("--episodes", type=int, default=1, show_default=True, help="Episodes for each pair.")
@click.option(
    "--max-cells",
    type=int,
    default=MAX_CELLS,
    show_default=True,
    help="Largest number of cells; in a larger maze, those that lie farthest apart.",
)
@options.policy
@click.option("--metric", default="success", show_default=True, help="What to draw: success or time_at_goal.")
@click.option("--x-axis", default="cells", show_default=True, help="Axis of the curves: cells or meters.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of initial states and sampled actions.")
def command(
    checkpoints: Sequence[Path],
    out: Sequence[Path],
    episodes: int,
    max_cells: int,
    policy: str,
    metric: str,
    x_axis: str,
    seed: int,
) -> None:
    """Run from every start cell to every goal cell of a maze, also for pairs that training never draws.

    \b
    Example: crlviz stitch runs/d4 runs/d16 --out stitch.html --out stitch.nc
    """
    from crlviz.agent import load_all

    outputs.check(out)
    _check(metric, x_axis)
    check_count(episodes, "episodes")
    agents = load_all(checkpoints)
    dataset = compute(agents, episodes=episodes, max_cells=max_cells, policy=policy, seed=seed)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric, x_axis=x_axis))


def summary(dataset: xr.Dataset) -> str:
    """Success over seen and unseen pairs as a text table."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'seen':>14} {'unseen':>14}"]
    for label, _, part in datasets.each(dataset):
        seen, task = part.seen.values.astype(bool), np.isfinite(part.success.values)
        shares = [part.success.values[task & chosen] for chosen in (seen, ~seen)]
        cells = [f"{share.mean():.2f} of {len(share):5,}" if len(share) else "none" for share in shares]
        rows.append(f"{label:{width}} {cells[0]:>14} {cells[1]:>14}")
    return "\n".join(rows)


__all__ = ["METRICS", "X_AXES", "command", "compute", "curves", "plot", "summary"]
