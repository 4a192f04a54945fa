"""Does Q follow the maze or the straight line? (paper figure 9)

Maps of Q(s, a, g) over all free positions for a goal, with the rank correlation of Q with the geodesic and with the
straight-line distance. Q is unreliable where the policy never goes, so a map can outline the policy's coverage.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from tqdm import tqdm

from analyses.common import ground, outputs
from analyses.heatmap.heatmap_pictures import COVERAGE_EPISODES, HOW_TO_READ, animate, plot
from analyses.heatmap.places import (
    MAX_PLACES,
    all_places,
    default_goals,
    default_places,
    default_resolution,
    grid,
    position,
)
from analyses.heatmap.walks import SHOWS, walks
from crlviz import charts, datasets, jax_config
from crlviz.algorithms.base import Meaning
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.options import check_choice
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

FIXED = {"positions": "goal", "goals": "start"}  # axis of the maps -> the other argument of Q, which stays fixed


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"],
    places: np.ndarray | None = None,
    *,
    over: str = "positions",
    action: str = "policy",
    resolution: int | None = None,
    coverage: bool = False,
    show: str = "nothing",
    seed: int = 0,
) -> xr.Dataset:
    """Q over positions for fixed goals, or over goals from fixed starts.

    Args:
      agents: with the same body, in mazes with the same walls; they may have been trained on different starts and
        goals.
      places: the fixed goals (the fixed starts, if ``over`` is ``goals``), [P, 2] in meters. Default:
        ``default_places`` of the first agent.
      over: ``positions`` or ``goals``: the meaning of x and y.
      action: ``policy`` (the policy's action at that position, for that goal) or ``zeros``.
      resolution: points along a side of a cell; without a maze, along a tenth of the plane's side. Default: 8, fewer in
        large mazes.
      coverage: also run 128 training episodes of the sampled policy and count the points that they visit.
      show: also where the policy goes: ``policy`` or ``trajectories`` (see ``walks``), over positions alone.
      seed: of the reset that gives the other state coordinates, and of those episodes.

    Returns:
      Dataset over the factors in which the agents differ, ``goal`` (or ``start``), ``x`` and ``y``: ``q``, ``geodesic``
      and ``straight`` (meters to the fixed place), ``rank_correlation`` over ``distance_kind`` (Spearman's, between Q
      and minus that distance: 1 if Q orders all points by it), ``partial_correlation`` (the same given the other
      distance), ``distance_correlation`` (of the two distances), ``visits`` with coverage, and the ``walks`` to show.
      Points inside walls are NaN.

    Raises:
      UsageError: unknown option, different walls or bodies, a place inside a wall, an environment without a plane of
        goals, or an agent without a critic.
    """
    check(over, action, resolution, show)
    meanings = {agent.q_meaning for agent in agents}  # before anything is computed
    meaning = meanings.pop() if len(meanings) == 1 else Meaning("Q(s, a, g), of each critic its own", "1")
    env = agents[0].env
    _check_comparable(agents)
    resolution = default_resolution(env) if resolution is None else resolution
    state = jax.jit(env.reset)(jax.random.key(seed))  # jit: compiles one program instead of one for each operation
    if places is None:
        places = default_places(agents[0], over) if env.placeable or over == "positions" else position(env, state)
    places = np.atleast_2d(places)
    x, y, free = grid(env, resolution, seed)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    shared = _distances(env, places, x, y, free, FIXED[over])
    attrs = {"env": datasets.env_names(agents), "over": over, "action": action, charts.HELP: HOW_TO_READ}
    shared.attrs = attrs | ({} if show == "nothing" else {"show": show}) | shared.attrs
    observations = _observations(env, state, places, points[free], over)
    parts = []
    for agent in tqdm(agents, unit="checkpoint", disable=None if len(agents) > 2 else True):
        q = np.full((len(places), *free.shape), np.nan, np.float32)
        for index, observation in enumerate(observations):
            q[index][free] = _compute_q(agent, observation, action=action)
        part = _with_correlations(q, meaning, shared)
        if coverage:
            visits = _count_visits(agent, shared, seed)
            told = {"long_name": f"steps spent, {COVERAGE_EPISODES} episodes", "units": "1"}
            part = part.assign(visits=(("x", "y"), visits, told))
        if show != "nothing":
            part = part.merge(walks(agent, places, show, seed))
        parts.append(part)
    return datasets.combine(agents, parts, shared)


def _check_comparable(agents: Sequence["Agent"]) -> None:
    """Check that one map can show all agents: the same body and walls, and goals in a plane."""
    env = agents[0].env
    if env.goal_dim < 2:
        raise UsageError(f"goals of {env.id} lie on a line; a map needs goals in a plane")
    for agent in agents[1:]:
        same_walls = agent.env.maze is None if env.maze is None else env.maze.same_ground(agent.env.maze)
        if not same_walls or agent.env.state_dim != env.state_dim:
            raise UsageError(
                f"{agents[0].source} walks in {env.id} and {agent.source} in {agent.env.id}, which differ in walls "
                "or bodies; draw them separately"
            )


def _distances(
    env: GoalEnv, places: np.ndarray, x: np.ndarray, y: np.ndarray, free: np.ndarray, fixed: str
) -> xr.Dataset:
    """The part that all agents share: distances in meters from each place to the points of the grid.

    Args:
      env: the environment.
      places: [P, 2] in meters.
      x, y, free: the grid, from ``grid``.
      fixed: what the places are: ``goal`` or ``start``.

    Raises:
      UsageError: a place inside a wall.
    """
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    if env.maze is not None:
        for place in places:
            if not env.maze.is_free(place):
                raise UsageError(f"the {fixed} {place[0]:g},{place[1]:g} is not in a free cell of {env.id}")
    straight = np.where(free, np.linalg.norm(points[None] - places[:, None, None], axis=-1), np.nan)
    geodesic = straight
    if env.maze is not None:
        geodesic = env.maze.geodesics(points, places)
        geodesic = np.where(free & np.isfinite(geodesic), geodesic, np.nan)
    dims = (fixed, "x", "y")
    alike = spearman(geodesic, straight)
    return xr.Dataset(
        {
            "distance_correlation": (
                fixed,
                alike,
                {"long_name": "Spearman correlation of the distances", "units": "1"},
            ),
            "geodesic": (dims, geodesic, {"long_name": "distance through the maze", "units": "m"}),
            "straight": (dims, straight, {"long_name": "straight-line distance", "units": "m"}),
        },
        coords={
            fixed: np.arange(len(places)),
            f"{fixed}_x": (fixed, places[:, 0], {"long_name": f"{fixed}'s x", "units": "m"}),
            f"{fixed}_y": (fixed, places[:, 1], {"long_name": f"{fixed}'s y", "units": "m"}),
            "x": ("x", x, {"long_name": "x", "units": "m"}),
            "y": ("y", y, {"long_name": "y", "units": "m"}),
            "distance_kind": ["geodesic", "straight"],
        },
        attrs={"spacing": float(x[1] - x[0]) if len(x) > 1 else 1.0} | ground.attrs(env.maze),
    )


def check(over: str, action: str, resolution: int | None, show: str) -> None:
    check_choice("over", over, FIXED)
    check_choice("show", show, SHOWS)
    if show != "nothing" and over == "goals":
        raise UsageError(f"--show {show} draws the policy on its way to a goal; over goals there are many")
    check_choice("action", action, ("policy", "zeros"))
    if resolution is not None and resolution < 1:
        raise UsageError(f"resolution {resolution}: a cell needs at least one point")


@jax_config.with_fixed_settings
def on_a_page(
    agents: Sequence["Agent"], *, over: str = "positions", resolution: int | None = None, **options: Any
) -> xr.Dataset:
    """The Dataset of the interactive page: ``compute`` for ``all_places``, coarser if the page would be too large.

    Args:
      agents, over, options: as for ``compute``.
      resolution: largest number of points along a cell's side. Default: ``default_resolution``.
    """
    from analyses.heatmap.heatmap_page import choose_resolution

    env = agents[0].env
    places = all_places(env) if over == "positions" or env.placeable else default_places(agents[0], over)
    cells = len(env.maze.free) if env.maze else 100
    largest = default_resolution(env) if resolution is None else resolution
    resolution = choose_resolution(len(places) * cells, len(agents), largest)
    return compute(agents, places, over=over, resolution=resolution, **options)


def _observations(env: GoalEnv, state: Any, places: np.ndarray, points: np.ndarray, over: str) -> list[np.ndarray]:
    """For each fixed place, observations [N, state + goal] at points [N, 2].

    Raises:
      UsageError: the environment cannot place its body at a position.
    """
    if over == "positions":
        if not env.placeable:
            raise UsageError(
                f"the position of {env.id} follows from its joints, so it has no map over positions; take --over goals"
            )
        return [np.asarray(_placed(env, state, points, place)) for place in places]
    # A body that cannot be placed can still be used at its own position.
    own = position(env, state)
    starts = [None if not env.placeable and np.allclose(place, own, atol=1e-6) else place for place in places]
    return [np.asarray(_placed(env, state, start, points)) for start in starts]


def _compute_q(agent: "Agent", observation: np.ndarray, *, action: str) -> np.ndarray:
    """Q [N] of observations [N, state + goal]."""
    env = agent.env
    states, goals = observation[:, : env.state_dim], observation[:, env.state_dim :]
    actions = np.zeros((len(states), env.action_size), np.float32)
    if action == "policy":
        actions = np.asarray(agent.act(observation))
    return np.asarray(agent.q(states, actions, goals))


@partial(jax.jit, static_argnums=0)
def _placed(env: GoalEnv, state: Any, positions: Any, goals: Any) -> jax.Array:
    """Observations [N, state + goal] for positions and goals, [N, 2] or [2]; everything else as in ``state``.

    Positions of None leave the body where it is.
    """
    drawn = state.obs[env.state_dim :]  # a goal's third coordinate (a height) stays as drawn

    def one(position, goal):
        return env.observation_at(state, position, drawn.at[:2].set(goal))

    axes = [None if value is None or value.ndim == 1 else 0 for value in (positions, goals)]
    return jax.vmap(one, axes)(positions, goals)


def _with_correlations(q: np.ndarray, meaning: Meaning, shared: xr.Dataset) -> xr.Dataset:
    """Dataset of a checkpoint's Q [P, X, Y] and its rank correlation with each distance."""
    kinds = shared.distance_kind.values
    correlation = np.stack([spearman(q, -shared[kind].values) for kind in kinds], axis=-1)
    partial = _partial(correlation, shared.distance_correlation.values)
    attrs = {"long_name": "Spearman correlation of Q with minus the distance", "units": "1"}
    partial_attrs = {"long_name": "the same given the other distance", "units": "1"}
    fixed = shared.geodesic.dims[0]
    return xr.Dataset(
        {
            "q": (shared.geodesic.dims, q, {"long_name": meaning.title, "units": meaning.unit}),
            "rank_correlation": ((fixed, "distance_kind"), correlation, attrs),
            "partial_correlation": ((fixed, "distance_kind"), partial, partial_attrs),
        }
    )


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation [P] of a [P, ...] and b [P, ...] where b is finite; NaN if one is constant."""
    result = np.full(len(a), np.nan)
    for index, known in enumerate(np.isfinite(b)):
        # Ranks by pandas: importing scipy.stats takes longer than ranking a heatmap.
        ranks = [pd.Series(values[index][known]).rank().to_numpy() for values in (a, b)]
        with np.errstate(invalid="ignore", divide="ignore"):
            result[index] = np.corrcoef(*ranks)[0, 1]
    return result


def _partial(correlation: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Partial correlation [P, 2] of Q with each of two distances given the other; NaN where one follows from the other.

    Args:
      correlation: [P, 2], of Q with each distance.
      alike: [P], of the two distances.
    """
    other = correlation[:, ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (correlation - other * alike[:, None]) / np.sqrt((1 - other**2) * (1 - alike[:, None] ** 2))


def _count_visits(agent: "Agent", shared: xr.Dataset, seed: int) -> np.ndarray:
    """Number of steps of training episodes at each point of the grid [X, Y]."""
    places, alive = _episodes(agent.env, agent.algorithm, agent.params, jax.random.key(seed))
    places = np.asarray(places)[np.asarray(alive)]
    half = shared.attrs["spacing"] / 2
    edges = [np.append(shared[axis].values - half, shared[axis].values[-1] + half) for axis in "xy"]
    return np.histogram2d(places[:, 0], places[:, 1], bins=edges)[0].astype(np.int32)


@partial(jax.jit, static_argnums=(0, 1))
def _episodes(env: GoalEnv, algorithm: Any, params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions of training episodes [time, episode, 2], and whether each still runs; nothing else, for speed."""
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, COVERAGE_EPISODES))

    def record(before, action, after, alive):
        return after.obs[:, jnp.array(env.goal_indices[:2])], alive

    return simulate(env, partial(algorithm.act, params), states, policy_key, env.episode_length, record)


def summary(dataset: xr.Dataset) -> str:
    """Rank correlations of each run's newest checkpoint as a text table; the mean if there are many places."""
    fixed = dataset.geodesic.dims[0]
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {fixed:>14} {'maze':>6} {'line':>6}"]
    for label, parts in datasets.runs(dataset).items():
        correlation = parts[max(parts)].rank_correlation.transpose(fixed, "distance_kind")
        places = [
            f"{x:g},{y:g}" for x, y in zip(dataset[f"{fixed}_x"].values, dataset[f"{fixed}_y"].values, strict=True)
        ]
        if len(places) > MAX_PLACES:
            correlation, places = correlation.mean(fixed, keepdims=True), [f"mean of {len(places)}"]
        for place, (by_maze, by_line) in zip(places, correlation.values, strict=True):
            rows.append(f"{label:{width}} {place:>14} {by_maze:6.2f} {by_line:6.2f}")
    return "\n".join(rows)


__all__ = ["all_places", "animate", "compute", "default_goals", "default_places", "plot", "summary"]
