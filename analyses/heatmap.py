"""Does Q follow the maze or the crow? (paper figure 9)

Q(s, a, g) over every free position for a goal, beside the rank correlation of Q with the distance through the maze and
with the straight line. A map means little where the policy never was, so its coverage can be laid over.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from tqdm import tqdm

from analyses import outputs
from analyses.heatmap_pictures import COVERAGE_EPISODES, animate, plot
from crlviz import datasets, envs, files, mazes, switches
from crlviz.errors import UsageError
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

MOST_PLACES = 4
FIXED = {"positions": "goal", "goals": "start"}  # what Q is drawn over -> what stays fixed


@switches.as_usual
def compute(
    agents: Sequence["Agent"],
    places: np.ndarray | None = None,
    *,
    over: str = "positions",
    action: str = "policy",
    resolution: int = 8,
    coverage: bool = False,
    seed: int = 0,
) -> xr.Dataset:
    """Q over positions for fixed goals, or over goals from fixed starts.

    Args:
      agents: in the same maze.
      places: what stays fixed, [P, 2] in metres: goals, or starts where ``over`` is ``goals``. Default:
        ``default_places`` of the first agent.
      over: ``positions`` or ``goals``: what x and y are.
      action: ``policy`` (the policy's own at that position, for that goal) or ``zeros``.
      resolution: points along a side of a cell; without a maze, along a tenth of the plane's side.
      coverage: also run 128 training episodes by the sampled policy and count the points they pass.
      seed: of the reset that gives the other state coordinates, and of those episodes.

    Returns:
      Dataset over what the agents differ in, ``goal`` (or ``start``), ``x`` and ``y``: ``q``, ``geodesic`` and
      ``straight`` (metres to the fixed place), ``rank_correlation`` over ``distance_kind`` (Spearman's, of Q with minus
      that distance: 1 where Q orders all points by it), and ``visits`` with coverage. Points inside walls are NaN.

    Raises:
      UsageError: agents in different mazes, or a place inside a wall.
    """
    if over not in FIXED:
        raise UsageError(f"over {over!r} is unknown; take {' or '.join(FIXED)}")
    if action not in ("policy", "zeros"):
        raise UsageError(f"action {action!r} is unknown; take policy or zeros")
    if resolution < 1:
        raise UsageError(f"resolution {resolution}: a cell needs at least one point")
    env, fixed = agents[0].env, FIXED[over]
    if env.goal_dim < 2:
        raise UsageError(f"goals of {env.id} lie on a line; a map needs goals in a plane")
    for agent in agents[1:]:
        if agent.env.maze != env.maze or agent.env.state_dim != env.state_dim:
            raise UsageError(f"{agents[0].source} and {agent.source} walk in different environments; draw them apart")
    if places is None:
        places = default_places(agents[0], over)
    places = np.atleast_2d(places)
    x, y, free = _grid(env, resolution, seed)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    if env.maze is not None:
        for place in places:
            if not env.maze.is_free(place):
                raise UsageError(f"the {fixed} {place[0]:g},{place[1]:g} is not in a free cell of {env.id}")
    straight = np.where(free, np.linalg.norm(points[None] - places[:, None, None], axis=-1), np.nan)
    geodesic = straight
    if env.maze is not None:
        geodesic = np.stack([env.maze.geodesic(points, place) for place in places])
        geodesic = np.where(free & np.isfinite(geodesic), geodesic, np.nan)
    each_point = (fixed, "x", "y")
    shared = xr.Dataset(
        {
            "geodesic": (each_point, geodesic, {"long_name": "distance through the maze", "units": "m"}),
            "straight": (each_point, straight, {"long_name": "straight-line distance", "units": "m"}),
        },
        coords={
            fixed: np.arange(len(places)),
            f"{fixed}_x": (fixed, places[:, 0], {"long_name": f"{fixed}'s x", "units": "m"}),
            f"{fixed}_y": (fixed, places[:, 1], {"long_name": f"{fixed}'s y", "units": "m"}),
            "x": ("x", x, {"long_name": "x", "units": "m"}),
            "y": ("y", y, {"long_name": "y", "units": "m"}),
            "distance_kind": ["geodesic", "straight"],
        },
        attrs={"env": env.id, "over": over, "action": action, "spacing": float(x[1] - x[0]) if len(x) > 1 else 1.0}
        | _maze_attrs(env.maze),
    )
    reset = np.asarray(jax.jit(env.reset)(jax.random.key(seed)).obs)  # jitted: one program, not one an operation
    each = []
    for agent in tqdm(agents, unit="checkpoint", disable=None if len(agents) > 2 else True):
        q = np.full((len(places), *free.shape), np.nan, np.float32)
        for index, place in enumerate(places):
            ends = (points[free], place) if over == "positions" else (place, points[free])
            q[index][free] = _q(agent, reset, *ends, action=action)
        part = _with_correlations(q, shared)
        if coverage:
            visits = _visits(agent, shared, seed)
            text = {"long_name": f"steps spent, {COVERAGE_EPISODES} episodes", "units": "1"}
            part = part.assign(visits=(("x", "y"), visits, text))
        each.append(part)
    return datasets.combine(agents, each, shared)


@switches.as_usual
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
    return goals[far[:MOST_PLACES]]


@switches.as_usual
def default_places(agent: "Agent", over: str) -> np.ndarray:
    """What stays fixed [P, 2] unless told: ``default_goals``; over goals, the maze's starts (at most four)."""
    if over == "positions":
        return default_goals(agent)
    env = agent.env
    if env.maze is not None:
        return env.maze.xy(env.maze.starts[:MOST_PLACES])
    state = jax.jit(env.reset)(jax.random.key(0))
    return np.asarray(state.obs)[None, list(env.goal_indices[:2])]


@switches.as_usual
def all_places(env: Any) -> np.ndarray:
    """Places [P, 2] that a page lets one choose from: the middle of every free cell; without a maze, ten by ten."""
    x, y, free = _grid(env, 1, 0)
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)[free]


def _grid(env: Any, resolution: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _q(agent: "Agent", reset: np.ndarray, positions: np.ndarray, goals: np.ndarray, *, action: str) -> np.ndarray:
    """Q [N] of positions and goals, [N, 2] or [2]; all other coordinates as in the reset's observation."""
    env = agent.env
    count = np.broadcast_shapes(positions.shape[:-1], goals.shape[:-1])
    states = np.tile(reset[: env.state_dim], (*count, 1))
    states[:, list(env.goal_indices[:2])] = positions
    commanded = np.tile(reset[env.state_dim :], (*count, 1))  # a goal's further coordinates (a height) stay as drawn
    commanded[:, :2] = goals
    actions = np.zeros((*count, env.action_size), np.float32)
    if action == "policy":
        actions = np.asarray(agent.act(np.concatenate([states, commanded], axis=1)))
    return np.asarray(agent.q(states, actions, commanded))


def _with_correlations(q: np.ndarray, shared: xr.Dataset) -> xr.Dataset:
    """A checkpoint's q [P, X, Y] and its rank correlation with each distance."""
    from scipy.stats import spearmanr

    kinds = shared.distance_kind.values
    correlation = np.zeros((len(q), len(kinds)))
    for k, kind in enumerate(kinds):
        for index, distance in enumerate(shared[kind].values):
            known = np.isfinite(distance)
            correlation[index, k] = spearmanr(q[index][known], -distance[known]).statistic
    meaning = {"long_name": "Spearman correlation of Q with minus the distance", "units": "1"}
    fixed = shared.geodesic.dims[0]
    return xr.Dataset(
        {
            "q": (shared.geodesic.dims, q, {"long_name": "Q(s, a, g) = -||phi(s, a) - psi(g)||", "units": "1"}),
            "rank_correlation": ((fixed, "distance_kind"), correlation, meaning),
        }
    )


def _visits(agent: "Agent", shared: xr.Dataset, seed: int) -> np.ndarray:
    """How many steps of training episodes fall on each point of the grid [X, Y]."""
    places, alive = _episodes(agent.env, agent.actor, agent.params["actor"], jax.random.key(seed))
    places = np.asarray(places)[np.asarray(alive)]
    half = shared.attrs["spacing"] / 2
    edges = [np.append(shared[axis].values - half, shared[axis].values[-1] + half) for axis in "xy"]
    return np.histogram2d(places[:, 0], places[:, 1], bins=edges)[0].astype(np.int32)


@partial(jax.jit, static_argnums=(0, 1))
def _episodes(env: Any, actor: Any, params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where training episodes go, [time, episode, 2], and whether they still run; no more, so that it is quick."""
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, COVERAGE_EPISODES))

    def record(before, action, after, alive):
        return after.obs[:, jnp.array(env.goal_indices[:2])], alive

    return simulate(env, partial(actor.act, params), states, policy_key, env.episode_length, record)


def _maze_attrs(maze: mazes.Maze | None) -> dict[str, Any]:
    if maze is None:
        return {}
    return {"maze": "\n".join(maze.rows), "cell_size": maze.cell_size, "origin": list(maze.origin)}


@click.command()
@outputs.checkpoints
@outputs.out("heatmap.html", "gif for all of training")
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="X,Y",
    help="Goal in metres; may be given again. Default: in html all cells, else the four evaluation goals farthest away "
    "(in gif the farthest).",
)
@click.option("--start", "starts", multiple=True, metavar="X,Y", help="The same for the start of --over goals.")
@click.option(
    "--over",
    default="positions",
    show_default=True,
    help="positions: Q of all positions for a goal; goals: Q of all goals from a start.",
)
@click.option(
    "--checkpoints",
    "count",
    type=int,
    default=8,
    show_default=True,
    help="Checkpoints of a run that html and gif go through, evenly spread.",
)
@click.option("--action", default="policy", show_default=True, help="policy or zeros.")
@click.option("--scale", default="own", show_default=True, help="Colour scale of each map: own or shared.")
@click.option("--resolution", type=int, default=8, show_default=True, help="Points along a cell's side.")
@click.option("--coverage/--no-coverage", default=True, show_default=True, help="Outline where the policy goes.")
def command(checkpoints, out, goals, starts, over, count, action, scale, resolution, coverage) -> None:
    """Draw Q over the positions of a maze, one map a checkpoint and goal.

    An html without --goal is a page to play with: click a cell to move the goal, slide through training. All other
    pictures, and an html with --goal, are still and show each run's newest checkpoint; a gif goes through training.

    \b
    Example: crlviz heatmap runs/d4 runs/d16 --out maps.html
             crlviz heatmap runs/d4 runs/d16 --goal 2.5,2.5 --out maps.png --out maps.nc
             crlviz heatmap runs/d4 runs/d16 --out q.gif
    """
    from analyses.heatmap_page import fitting, page
    from crlviz.agent import load_all
    from crlviz.checkpoints import through_training

    outputs.check(out, also=(".gif",))
    if over not in FIXED:
        raise UsageError(f"over {over!r} is unknown; take {' or '.join(FIXED)}")
    given, other = (goals, starts) if over == "positions" else (starts, goals)
    if other:
        raise UsageError(f"--over {over} keeps the {FIXED[over]} fixed: give --{FIXED[over]}")
    if count < 1:
        raise UsageError(f"--checkpoints {count}: at least one is needed")
    places = np.array([_read_place(place, FIXED[over]) for place in given]) if given else None
    options = {"over": over, "action": action, "coverage": coverage}
    newest = load_all(checkpoints)
    endings = {path.suffix for path in out}
    paged, moving = ".html" in endings and places is None, ".gif" in endings
    agents = load_all([p for path in checkpoints for p in through_training(path, count)]) if paged or moving else []
    made: list[xr.Dataset] = []
    others: dict[str, Callable[[Path], None]] = {}
    if paged:
        cells = all_places(newest[0].env)
        made.append(compute(agents, cells, resolution=fitting(len(cells), len(agents), resolution), **options))
        html = page(made[0], scale=scale).encode()
        others[".html"] = lambda path: files.write(path, html)
    if moving:
        shown = default_places(newest[0], over)[:1] if places is None else places
        made.append(compute(agents, shown, resolution=resolution, **options))
        gif = animate(made[-1], scale=scale)
        others[".gif"] = lambda path: files.write(path, gif)
    if endings - others.keys() - {".nc"} or not made:
        made.append(compute(newest, places, resolution=resolution, **options))
    click.echo(summary(made[0]))
    outputs.write(out, made[0], lambda: plot(made[-1], scale=scale), others)


def summary(dataset: xr.Dataset) -> str:
    """The rank correlations of each run's newest checkpoint as a table of text; of many places, their mean."""
    fixed = dataset.geodesic.dims[0]
    rows = [f"{'checkpoint':28} {fixed:>14} {'maze':>6} {'line':>6}"]
    for label, parts in datasets.runs(dataset).items():
        correlation = parts[max(parts)].rank_correlation.transpose(fixed, "distance_kind")
        places = [
            f"{x:g},{y:g}" for x, y in zip(dataset[f"{fixed}_x"].values, dataset[f"{fixed}_y"].values, strict=True)
        ]
        if len(places) > MOST_PLACES:
            correlation, places = correlation.mean(fixed, keepdims=True), [f"mean of {len(places)}"]
        for place, (way, line) in zip(places, correlation.values, strict=True):
            rows.append(f"{label:28} {place:>14} {way:6.2f} {line:6.2f}")
    return "\n".join(rows)


def _read_place(text: str, option: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{option} takes X,Y in metres, for example 2.5,-1, not {text!r}") from None
    return x, y


__all__ = ["all_places", "animate", "command", "compute", "default_goals", "default_places", "plot", "summary"]
