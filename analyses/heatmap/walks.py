"""Where the policy goes on a map: arrows from a grid of points, or trajectories from the maze's starts."""

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

SHOWS = ("nothing", "policy", "trajectories")
_MOST_POINTS = 400  # arrows on a map
_ARROW = 1 / 20  # of an episode: how long an arrow's body walks


def walks(agent: "Agent", goals: np.ndarray, show: str, seed: int) -> xr.Dataset:
    """Positions of the deterministic policy on its way to goals [P, 2] in meters.

    Args:
      agent: in a maze.
      goals: [P, 2] in meters.
      show: ``policy`` (the first twentieth of an episode from each point of a grid) or ``trajectories`` (whole episodes
        from the maze's starts, until they reach the goal).
      seed: of the bodies' initial states.

    Returns:
      ``walk_x`` and ``walk_y`` in meters over ``goal``, ``walker`` and ``step``; NaN once an episode has ended.

    Raises:
      UsageError: an environment without a maze.
    """
    env = agent.env
    if env.maze is None:
        raise UsageError(f"{env.id} has no maze, so no places to start from; leave out --show")
    if show == "policy":
        per_cell = 2 if 4 * len(env.maze.free) <= _MOST_POINTS else 1
        x, y, free = env.maze.grid(per_cell)
        starts = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)[free]
        length = max(1, round(env.episode_length * _ARROW))
    else:
        starts, length = env.maze.xy(env.maze.starts), env.episode_length
    both = np.stack([np.tile(starts, (len(goals), 1)), np.repeat(goals, len(starts), axis=0)])
    places, alive, reached = map(
        np.array, _walk(env, length, agent.algorithm, agent.params, jax.random.key(seed), *both)
    )
    if show == "trajectories":
        alive &= np.cumsum(reached, axis=0) - reached == 0
    places[~alive] = np.nan
    paths = np.concatenate([both[:1], places]).reshape(length + 1, len(goals), len(starts), 2)
    dims = ("goal", "walker", "step")
    return xr.Dataset(
        {
            f"walk_{axis}": (dims, paths[..., k].transpose(1, 2, 0), {"long_name": f"{axis} on the way", "units": "m"})
            for k, axis in enumerate("xy")
        },
        attrs={"show": show},
    )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _walk(
    env: GoalEnv, length: int, algorithm: Any, params: Any, key: jax.Array, starts: Any, goals: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions [time, B, 2] of episodes from starts to goals [B, 2], whether each still runs, and is at its goal."""
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, len(starts)), starts, goals)

    def policy(observation, key):
        return algorithm.act(params, observation)

    def record(before, action, after, alive):
        return after.obs[:, jnp.array(env.goal_indices[:2])], alive, after.metrics["success"] > 0

    return simulate(env, policy, states, policy_key, length, record)
