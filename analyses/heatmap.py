"""Does Q follow the maze or the crow? (paper figure 9)

Q(s, a, g) over every free position for a goal, beside the rank correlation of Q with the distance through the maze and
with the straight line. A map means little where the policy never was, so its coverage can be laid over.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import numpy as np
import xarray as xr

from crlviz import charts, datasets, envs, mazes
from crlviz.errors import UsageError
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

MOST_GOALS = 4
_COVERAGE_EPISODES = 128


def compute(
    agents: Sequence["Agent"],
    goals: np.ndarray | None = None,
    *,
    action: str = "policy",
    resolution: int = 8,
    coverage: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """Q over positions.

    Args:
      agents: in the same maze.
      goals: positions [G, 2] in metres; default: ``default_goals`` of the first agent.
      action: ``policy`` (the policy's own at that position, for that goal) or ``zeros``.
      resolution: points along a side of a cell; without a maze, along a tenth of the plane's side.
      coverage: also run 128 training episodes by the sampled policy and count the points they pass.
      seed: of the reset that gives the other state coordinates, and of those episodes.

    Returns:
      Dataset over what the agents differ in, ``goal``, ``x`` and ``y``: ``q``, ``geodesic`` and ``straight`` (metres to
      the goal), ``rank_correlation`` over ``distance_kind`` (Spearman's, of Q with minus that distance: 1 where Q
      orders all positions by it), and ``visits`` with coverage. Positions inside walls are NaN.

    Raises:
      UsageError: agents in different mazes, or a goal inside a wall.
    """
    if action not in ("policy", "zeros"):
        raise UsageError(f"action {action!r} is unknown; take policy or zeros")
    if resolution < 1:
        raise UsageError(f"resolution {resolution}: a cell needs at least one point")
    env = agents[0].env
    if env.goal_dim < 2:
        raise UsageError(f"goals of {env.id} lie on a line; a map needs goals in a plane")
    for agent in agents[1:]:
        if agent.env.maze != env.maze or agent.env.state_dim != env.state_dim:
            raise UsageError(f"{agents[0].source} and {agent.source} walk in different environments; draw them apart")
    goals = default_goals(agents[0]) if goals is None else np.atleast_2d(goals)
    x, y, free = _positions(env, resolution, seed)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    if env.maze is not None:
        for goal in goals:
            if not env.maze.is_free(goal):
                raise UsageError(f"the goal {goal[0]:g},{goal[1]:g} is not in a free cell of {env.id}")
    straight = np.where(free, np.linalg.norm(points[None] - goals[:, None, None], axis=-1), np.nan)
    geodesic = straight
    if env.maze is not None:
        geodesic = np.stack([env.maze.geodesic(points, goal) for goal in goals])
        geodesic = np.where(free & np.isfinite(geodesic), geodesic, np.nan)
    shared = xr.Dataset(
        {
            "geodesic": (("goal", "x", "y"), geodesic, {"long_name": "distance through the maze", "units": "m"}),
            "straight": (("goal", "x", "y"), straight, {"long_name": "straight-line distance", "units": "m"}),
        },
        coords={
            "goal": np.arange(len(goals)),
            "goal_x": ("goal", goals[:, 0], {"long_name": "goal's x", "units": "m"}),
            "goal_y": ("goal", goals[:, 1], {"long_name": "goal's y", "units": "m"}),
            "x": ("x", x, {"long_name": "x", "units": "m"}),
            "y": ("y", y, {"long_name": "y", "units": "m"}),
            "distance_kind": ["geodesic", "straight"],
        },
        attrs={"env": env.id, "action": action, "spacing": float(x[1] - x[0]) if len(x) > 1 else 1.0}
        | _maze_attrs(env.maze),
    )
    each = [_one(agent, shared, points, goals, free, action, coverage, seed) for agent in agents]
    return datasets.combine(agents, each, shared)


def default_goals(agent: "Agent") -> np.ndarray:
    """Goal positions [G, 2] of the agent's evaluation, at most four: the farthest through the maze.

    The evaluation environment's; where that is the training one and the maze has an evaluation layout, that layout's.
    """
    env = agent.eval_env
    if env.maze is None:
        state = jax.jit(env.reset)(jax.random.key(0))
        return np.asarray(state.obs[env.state_dim : env.state_dim + 2])[None]
    maze, far_goals = env.maze, f"{env.id}_eval"
    if env is agent.env and far_goals in envs.ids():
        maze = envs.check(far_goals) or maze
    goals = maze.xy(maze.goals if not maze.hops else sorted({tuple(cell) for cell in maze.pairs[0][:, 1].tolist()}))
    far = np.argsort(-maze.geodesic(goals, maze.xy(maze.starts[0])), kind="stable")
    return goals[far[:MOST_GOALS]]


def _positions(env: Any, resolution: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The grid x [X], y [Y] and which points are free [X, Y]."""
    if env.maze is not None:
        return env.maze.grid(resolution)
    # No maze: a square that holds where episodes start and where their goals are, with some room.
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(seed), 256))
    starts = np.asarray(states.obs)[:, list(env.goal_indices[:2])]
    goals = np.asarray(states.obs)[:, env.state_dim : env.state_dim + 2]
    both = np.concatenate([starts, goals])
    centre = (both.min(0) + both.max(0)) / 2
    half = 0.6 * np.ptp(both, axis=0).max()
    steps = (np.arange(10 * resolution) + 0.5) / (10 * resolution) * 2 - 1
    return centre[0] + half * steps, centre[1] + half * steps, np.ones((len(steps), len(steps)), bool)


def _one(
    agent: "Agent",
    shared: xr.Dataset,
    points: np.ndarray,
    goals: np.ndarray,
    free: np.ndarray,
    action: str,
    coverage: bool,
    seed: int,
) -> xr.Dataset:
    from scipy.stats import spearmanr

    env = agent.env
    reset = np.asarray(jax.jit(env.reset)(jax.random.key(seed)).obs)  # jitted: one program, not one an operation
    states = np.repeat(reset[None, : env.state_dim], free.sum(), axis=0)
    states[:, list(env.goal_indices[:2])] = points[free]
    q = np.full((len(goals), *free.shape), np.nan, np.float32)
    correlation = np.zeros((len(goals), 2))
    for index, goal in enumerate(goals):
        whole = reset[env.state_dim :].copy()  # a goal's further coordinates (a height) as drawn at reset
        whole[:2] = goal
        commanded = np.repeat(whole[None], len(states), axis=0)
        actions = np.zeros((len(states), env.action_size), np.float32)
        if action == "policy":
            actions = np.asarray(agent.act(np.concatenate([states, commanded], axis=1)))
        q[index][free] = agent.q(states, actions, commanded)
        for k, kind in enumerate(shared.distance_kind.values):
            correlation[index, k] = spearmanr(q[index][free], -shared[kind].values[index][free], nan_policy="omit")[0]
    meaning = {"long_name": "Spearman correlation of Q with minus the distance", "units": "1"}
    result = xr.Dataset(
        {
            "q": (("goal", "x", "y"), q, {"long_name": "Q(s, a, g) = -||phi(s, a) - psi(g)||", "units": "1"}),
            "rank_correlation": (("goal", "distance_kind"), correlation, meaning),
        }
    )
    if coverage:
        visits = _visits(agent, shared, seed)
        result = result.assign(
            visits=(("x", "y"), visits, {"long_name": f"steps spent, {_COVERAGE_EPISODES} episodes", "units": "1"})
        )
    return result


def _visits(agent: "Agent", shared: xr.Dataset, seed: int) -> np.ndarray:
    """How many steps of training episodes fall on each point of the grid [X, Y]."""
    runs = rollout(agent, _COVERAGE_EPISODES, seed=seed, deterministic=False)
    places = runs.achieved.values[runs.alive.values][:, :2]
    half = shared.attrs["spacing"] / 2
    edges = [np.append(shared[axis].values - half, shared[axis].values[-1] + half) for axis in "xy"]
    return np.histogram2d(places[:, 0], places[:, 1], bins=edges)[0].astype(np.int32)


def _maze_attrs(maze: mazes.Maze | None) -> dict[str, Any]:
    if maze is None:
        return {}
    return {"maze": "\n".join(maze.rows), "cell_size": maze.cell_size, "origin": list(maze.origin)}


def plot(dataset: xr.Dataset, *, scale: str = "own", size: int = 300) -> alt.TopLevelMixin:
    """Draw what ``compute`` returned: a column a checkpoint, a row a goal.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      scale: ``own``: each map from its lowest to its highest Q; ``shared``: one colour scale for all.
      size: pixels of a map's longer side.
    """
    if scale not in ("own", "shared"):
        raise UsageError(f"scale {scale!r} is unknown; take own or shared")
    low, high = (float(dataset.q.min()), float(dataset.q.max())) if scale == "shared" else (None, None)
    columns = list(datasets.each(dataset))
    rows = []
    for goal in range(dataset.sizes["goal"]):
        maps = [_map(part.isel(goal=goal), label, (low, high), size) for label, _, part in columns]
        rows.append(
            alt.hconcat(*maps, spacing=24).resolve_scale(color="shared" if scale == "shared" else "independent")
        )
    chart = alt.vconcat(*rows, spacing=18).resolve_scale(color="independent")
    action = "the policy's action" if dataset.attrs["action"] == "policy" else "action zero"
    notes = [f"Taking {action}; 0 is at the goal. The numbers: Spearman's, of Q with minus the distance to the goal."]
    if "visits" in dataset:
        notes.append(f"White outline: where {_COVERAGE_EPISODES} training episodes of this policy went.")
    return chart.properties(
        title=alt.TitleParams(f"Q(s, a, g) over positions in {dataset.attrs['env']}", subtitle=notes)
    )


def _map(part: xr.Dataset, label: str, domain: tuple[float | None, float | None], size: int) -> Any:
    maze = None
    spacing, x, y = part.attrs["spacing"], part.x.values, part.y.values
    extent = (x[0] - spacing / 2, x[-1] + spacing / 2, y[0] - spacing / 2, y[-1] + spacing / 2)
    if "maze" in part.attrs:
        origin = (float(part.attrs["origin"][0]), float(part.attrs["origin"][1]))
        maze = mazes.Maze(tuple(part.attrs["maze"].split("\n")), float(part.attrs["cell_size"]), origin)
        extent = maze.extent
    ground = charts.in_metres(maze, extent, size)
    q = part.q.values
    i, j = np.nonzero(np.isfinite(q))
    # A little larger than their spacing, so that no seams show between them.
    data = charts.tiles(x[i], y[j], 1.08 * spacing).assign(
        q=q[i, j].round(4), geodesic=part.geodesic.values[i, j].round(3), straight=part.straight.values[i, j].round(3)
    )
    low, high = (
        bound if bound is not None else value
        for bound, value in zip(domain, (q[i, j].min(), q[i, j].max()), strict=True)
    )
    colour = alt.Color(
        "q:Q",
        scale=alt.Scale(scheme="viridis", domain=[float(low), float(high)]),
        legend=alt.Legend(title="Q", gradientLength=120),
    )
    layers = [
        alt.Chart(data)
        .mark_rect(strokeWidth=0)
        .encode(
            x=ground["x"],
            x2="y2:Q",
            y=ground["y"],
            y2="x2:Q",
            color=colour,
            tooltip=["x:Q", "y:Q", "q:Q", "geodesic:Q", "straight:Q"],
        )
    ]
    if maze is not None:
        layers.append(charts.walls(maze, ground))
    if "visits" in part:
        from scipy.ndimage import binary_closing

        layers.append(charts.outline(binary_closing(part.visits.values > 0, iterations=2), x, y, spacing, ground))
    if maze is not None:
        layers.append(charts.marker(maze.xy(maze.starts), ground, "start"))
    layers.append(charts.marker(np.array([part.goal_x.item(), part.goal_y.item()]), ground, "goal"))
    way, line = part.rank_correlation.values
    caption = f"rank correlation: maze {way:.2f}, straight line {line:.2f}"
    if maze is None:
        caption = f"rank correlation: straight line {line:.2f}"
    layers.append(
        alt.Chart()
        .mark_text(align="center", baseline="top", fontSize=12, clip=False)
        .encode(x=alt.value(ground["width"] / 2), y=alt.value(ground["height"] + 40), text=alt.value(caption))
    )
    return alt.layer(*layers).properties(
        width=ground["width"], height=ground["height"], title=alt.TitleParams(label, anchor="middle", fontSize=13)
    )


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    multiple=True,
    type=click.Path(path_type=Path),
    default=["heatmap.html"],
    show_default=True,
    help="html, png, svg, pdf or json for the picture, nc for the data; may be given again.",
)
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="X,Y",
    help="Goal in metres; may be given again. Default: the four evaluation goals farthest away.",
)
@click.option("--action", default="policy", show_default=True, help="policy or zeros.")
@click.option("--scale", default="own", show_default=True, help="Colour scale of each map: own or shared.")
@click.option("--resolution", type=int, default=8, show_default=True, help="Points along a cell's side.")
@click.option("--coverage/--no-coverage", default=True, show_default=True, help="Outline where the policy goes.")
def command(checkpoints, out, goals, action, scale, resolution, coverage) -> None:
    """Draw Q over the positions of a maze, one map a checkpoint and goal.

    \b
    Example: crlviz heatmap runs/d4 runs/d16 --goal 2.5,2.5 --out maps.png
    """
    from crlviz.agent import load_all

    charts.check_endings(out, also=(".nc",))
    places = np.array([_read_goal(goal) for goal in goals]) if goals else None
    agents = load_all(checkpoints)
    dataset = compute(agents, places, action=action, resolution=resolution, coverage=coverage)
    picture = plot(dataset, scale=scale)
    for path in out:
        datasets.save(dataset, path) if path.suffix == ".nc" else charts.save(picture, path)
    click.echo(summary(dataset))
    click.echo(f"wrote {', '.join(map(str, out))}")


def summary(dataset: xr.Dataset) -> str:
    """The rank correlations as a table of text."""
    rows = [f"{'checkpoint':28} {'goal':>14} {'maze':>6} {'line':>6}"]
    for label, _, part in datasets.each(dataset):
        for goal in range(dataset.sizes["goal"]):
            one = part.isel(goal=goal)
            way, line = one.rank_correlation.values
            rows.append(f"{label:28} {f'{one.goal_x.item():g},{one.goal_y.item():g}':>14} {way:6.2f} {line:6.2f}")
    return "\n".join(rows)


def _read_goal(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--goal takes X,Y in metres, for example 2.5,-1, not {text!r}") from None
    return x, y
