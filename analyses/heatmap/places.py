"""Where heatmaps are computed: the fixed goals or starts of Q, and the grid of its other argument."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from crlviz import envs, jax_config
from crlviz.envs import mazes
from crlviz.envs.base import GoalEnv

if TYPE_CHECKING:
    from crlviz.agent import Agent

MAX_PLACES = 4
MAX_ON_A_PAGE = 256  # goals or starts to choose from on the interactive page
_MAX_POINTS = 256  # default limit along a map's longer side: a picture cannot show more


@jax_config.with_fixed_settings
def default_goals(agent: "Agent", max_count: int = MAX_PLACES) -> np.ndarray:
    """Goal positions [G, 2] in meters of the agent's evaluation, sorted by geodesic distance, farthest first.

    They are the goals of the evaluation environment. If that is the training environment and the maze has an evaluation
    layout, they are the goals of that layout. If there are more than ``max_count``, only the goals farthest from the
    start and from each other are returned.
    """
    maze = evaluation_maze(agent)
    if maze is None:
        state = jax.jit(agent.eval_env.reset)(jax.random.key(0))
        return np.asarray(state.obs[agent.eval_env.state_dim : agent.eval_env.state_dim + 2])[None]
    cells = goal_cells(maze)
    if len(cells) > max_count:
        return maze.xy(cells[maze.spread(cells, max_count, maze.starts[0])])
    order = np.argsort(-maze.geodesic(maze.xy(cells), maze.xy(maze.starts[0])), kind="stable")
    return maze.xy(cells[order])


def evaluation_maze(agent: "Agent") -> mazes.Maze | None:
    """The maze whose goals ``default_goals`` gives."""
    env, eval_id = agent.eval_env, f"{agent.eval_env.id}_eval"
    return (envs.check(eval_id) if env is agent.env and eval_id in envs.ids() else None) or env.maze


def goal_cells(maze: mazes.Maze) -> np.ndarray:
    """Cells [G, 2] that episodes take goals from."""
    return np.array(sorted({tuple(cell) for cell in maze.pairs[0][:, 1].tolist()}) if maze.hops else maze.goals)


@jax_config.with_fixed_settings
def default_places(agent: "Agent", over: str, max_count: int = MAX_PLACES) -> np.ndarray:
    """Default fixed places [P, 2] in meters: ``default_goals``; for maps over goals, the maze's first starts."""
    if over == "positions":
        return default_goals(agent, max_count)
    env = agent.env
    if env.maze is not None:
        return env.maze.xy(env.maze.starts[:max_count])
    return position(env, jax.jit(env.reset)(jax.random.key(0)))[None]


def position(env: GoalEnv, state: Any) -> np.ndarray:
    """Position [2] in meters of the body in a state."""
    return np.asarray(state.obs)[list(env.goal_indices[:2])]


@jax_config.with_fixed_settings
def all_places(env: GoalEnv) -> np.ndarray:
    """Places [P, 2] in meters to choose from on a page: the center of every free cell; without a maze, a 10 x 10 grid.

    If there are more than ``MAX_ON_A_PAGE`` cells: the start and the cells farthest from it and from each other.
    """
    maze = env.maze
    if maze is not None and len(maze.free) > MAX_ON_A_PAGE:
        start, cells = maze.starts[0], np.array(maze.free)
        chosen = maze.spread(cells, MAX_ON_A_PAGE - 1, start)
        return maze.xy(sorted({start, *map(tuple, cells[chosen].tolist())}))
    x, y, free = grid(env, 1, 0)
    return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)[free]


def default_resolution(env: GoalEnv) -> int:
    """Default number of points along a cell's side: 8; in large mazes, as many as a picture can show."""
    return min(8, max(1, _MAX_POINTS // max(env.maze.shape))) if env.maze else 8


def grid(env: GoalEnv, resolution: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates x [X], y [Y] of the grid in meters, and which points are free [X, Y]."""
    if env.maze is not None:
        return env.maze.grid(resolution)
    # No maze: a square around the starts and goals of episodes, with a margin.
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(seed), 256))
    starts = np.asarray(states.obs)[:, list(env.goal_indices[:2])]
    goals = np.asarray(states.obs)[:, env.state_dim : env.state_dim + 2]
    both = np.concatenate([starts, goals])
    center = (both.min(0) + both.max(0)) / 2
    half = 0.6 * np.ptp(both, axis=0).max()
    steps = (np.arange(10 * resolution) + 0.5) / (10 * resolution) * 2 - 1
    return center[0] + half * steps, center[1] + half * steps, np.ones((len(steps), len(steps)), bool)
