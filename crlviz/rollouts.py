"""Roll out a policy in an environment: episodes as one jitted scan, their statistics, and a Dataset of them."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz import jax_config
from crlviz.algorithms import action_choice
from crlviz.algorithms.action_choice import ActionChoice
from crlviz.algorithms.base import Algorithm, HasQ
from crlviz.envs.base import GoalEnv, State
from crlviz.errors import UsageError
from crlviz.inputs import as_numbers
from crlviz.options import check_count
from crlviz.precision import exact

if TYPE_CHECKING:
    import xarray as xr

    from crlviz.agent import Agent

_RESETS = 16  # resets per episode from which distinct goals are chosen

Policy = Callable[[jax.Array, jax.Array], jax.Array]


def simulate(
    env: GoalEnv, policy: Policy, states: State, key: jax.Array, length: int, record: Callable[..., Any]
) -> Any:
    """Step a batch of environments. Pure; the caller jits it.

    Args:
      env: the environment.
      policy: maps (observation [B, n], key) to actions [B, action].
      states: initial states, batched.
      key: random key of the policy.
      length: number of steps.
      record: maps (state before, action, state after, alive [B]) to the values kept of a step. An episode is alive up
        to and including the step that ends it; later steps are not part of it.

    Returns:
      The recorded values [length, ...].
    """

    def step(carry, _):
        state, alive, key = carry
        key, action_key = jax.random.split(key)
        action = policy(state.obs, action_key)
        following = jax.vmap(env.step)(state, action)
        recorded = record(state, action, following, alive)
        return (following, alive & (following.done == 0), key), recorded

    alive = jnp.ones(states.obs.shape[0], bool)
    with exact():
        _, records = jax.lax.scan(step, (states, alive, key), length=length)
    return records


def evaluate(env: GoalEnv, policy: Policy, key: jax.Array, episodes: int, length: int) -> dict[str, jax.Array]:
    """Means of statistics over new episodes. Pure; the caller jits it.

    Returns:
      Scalars: ``time_at_goal`` (steps within the success distance), ``success`` (share of episodes with at least one
      such step), ``success_easy`` (the same at the wider threshold), ``distance`` (at the last step, in meters) and
      ``episode_steps`` (length of an episode in steps).
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

    def record(before, action, after, alive):
        return after.metrics, alive

    metrics, alive = simulate(env, policy, states, policy_key, length, record)
    at_goal = metrics["success"] * alive
    last = alive.sum(0) - 1
    return {
        "time_at_goal": at_goal.sum(0).mean(),
        "success": (at_goal.sum(0) > 0).mean(),
        "success_easy": ((metrics["success_easy"] * alive).sum(0) > 0).mean(),
        "distance": metrics["distance"][last, jnp.arange(episodes)].mean(),
        "episode_steps": alive.sum(0).mean(),
    }


@jax_config.with_fixed_settings
def rollout(
    agent: "Agent",
    episodes: int = 16,
    *,
    seed: int = 0,
    goals: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    policy: str = "mean",
    length: int | None = None,
    env: GoalEnv | None = None,
    distinct: bool = False,
) -> "xr.Dataset":
    """Roll out an agent and record every step.

    Args:
      agent: from ``crlviz.load``.
      episodes: number of episodes, run as one batch.
      seed: random seed of starts, goals and the policy's noise.
      goals: commanded goals [episodes, goal] in meters; default: drawn by the environment.
      starts: start positions [episodes, 2] in meters; default: drawn by the environment.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      length: number of steps; default: the environment's episode length.
      env: the environment; default: the agent's training environment.
      distinct: avoid drawn goals within the success distance of an earlier episode's goal, while other goals remain.

    Raises:
      UsageError: fewer than one episode or step; goals or starts of the wrong shape, not finite, or in a wall.

    Returns:
      Dataset with dimensions ``episode`` and ``time``. Before each step: ``state``, ``pose`` (drawn by renderers),
        ``action``, and their ``q`` if the algorithm has a critic. After it: ``achieved``, ``distance`` and ``success``.
        ``alive`` is false after the step in which the body failed; the physics continues. ``goal`` is per episode.
    """
    from crlviz import datasets

    env = env or agent.env
    length = env.episode_length if length is None else length
    if not all(isinstance(count, (int, np.integer)) for count in (episodes, length)):
        raise UsageError(f"{episodes!r} episodes of {length!r} steps: give whole numbers")
    check_count(episodes, "episodes")
    check_count(length, "steps")
    goals = checked_positions(env, "goals", goals, (episodes, env.goal_dim))
    starts = checked_positions(env, "starts", starts, (episodes, 2))
    key = jax.random.key(seed)
    choice = action_choice.for_agents(policy, [agent])
    resets, chosen = episodes, np.arange(episodes)
    if distinct and episodes > 1:
        resets = _RESETS * episodes
        chosen = _distinct(np.asarray(_goals(env, resets, key)), episodes, env.goal_distance)
    records = _rollout(env, resets, length, choice, agent.algorithm, agent.params, key, chosen, starts, goals)
    steps = {name: np.asarray(jnp.swapaxes(leaf, 0, 1)) for name, leaf in records.items()}
    attrs = {"env": env.id, "checkpoint": str(agent.source), "seed": seed}
    return datasets.described(_dataset(env, steps).assign_attrs(attrs))


def _dataset(env: GoalEnv, steps: dict[str, np.ndarray]) -> "xr.Dataset":
    """The recorded values [episode, time, ...] of ``_rollout`` as a Dataset, with units."""
    import xarray as xr

    observation, each = steps["observation"], ("episode", "time")
    variables = {
        "state": ("state before the step", "mixed", (*each, "state_index"), observation[..., : env.state_dim]),
        "action": ("action", "1", (*each, "action_index"), steps["action"]),
        "achieved": ("achieved goal after the step", "m", (*each, "goal_index"), steps["achieved"]),
        "pose": ("joint positions before the step, which place every body", "mixed", (*each, "joint"), steps["pose"]),
        "goal": ("commanded goal", "m", ("episode", "goal_index"), observation[:, 0, env.state_dim :]),
        "distance": ("distance to the goal after the step", "m", each, steps["distance"]),
        "success": ("within the success distance", "1", each, steps["success"] & steps["alive"]),
        "alive": ("episode not yet ended before the step", "1", each, steps["alive"]),
    }
    if "q" in steps:
        variables["q"] = ("Q(s, a, g) of the step", "1", each, steps["q"])
    episodes, length = steps["alive"].shape
    return xr.Dataset(
        {
            name: (dims, values, {"long_name": long_name, "units": units})
            for name, (long_name, units, dims, values) in variables.items()
        },
        coords={"episode": np.arange(episodes), "time": np.arange(length) * env.dt},
    )


@partial(jax.jit, static_argnums=range(5))
def _rollout(
    env: GoalEnv,
    resets: int,
    length: int,
    choice: ActionChoice,
    algorithm: Algorithm,
    params: dict[str, Any],
    key: jax.Array,
    chosen: Any,
    starts: Any,
    goals: Any,
) -> dict[str, jax.Array]:
    """The values that ``rollout`` records [length, episodes, ...]. Traced once for agents of the same shape.

    Args:
      resets: number of initial states to draw.
      chosen: indices [episodes] of those that are used.
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, resets)[chosen], starts, goals)

    def record(before, action, after, alive):
        state, goal = before.obs[:, : env.state_dim], before.obs[:, env.state_dim :]
        q = {"q": algorithm.q(params, state, action, goal)} if isinstance(algorithm, HasQ) else {}
        return q | {
            "observation": before.obs,
            "action": action,
            "achieved": after.obs[:, jnp.array(env.goal_indices)],
            "pose": jax.vmap(env.pose)(before),
            "distance": after.metrics["distance"],
            "success": after.metrics["success"] > 0,
            "alive": alive,
        }

    return simulate(env, partial(choice.act, algorithm, params), states, policy_key, length, record)


@partial(jax.jit, static_argnums=(0, 1))
def _goals(env: GoalEnv, resets: int, key: jax.Array) -> jax.Array:
    """The goals [resets, goal] that ``_rollout`` draws with the same key."""
    keys = jax.random.split(jax.random.split(key)[0], resets)
    return jax.vmap(lambda key: env.reset(key).obs[env.state_dim :])(keys)


def _distinct(goals: np.ndarray, count: int, separation: float) -> np.ndarray:
    """Choose goals [N, goal] in rounds, each of goals farther apart than ``separation`` meters: indices [count]."""
    remaining = list(range(len(goals)))
    chosen: list[int] = []
    while len(chosen) < count:
        group: list[int] = []
        for index in remaining:
            if all(np.linalg.norm(goals[index] - goals[other]) > separation for other in group):
                group.append(index)
        chosen += group
        remaining = [index for index in remaining if index not in group]
    return np.array(chosen[:count])


def checked_positions(env: GoalEnv, name: str, positions: Any, shape: tuple[int, int]) -> Any:
    """Check starts or goals in meters; returns them as an array of this shape, or None.

    Raises:
      UsageError: they have another shape, are not finite, or lie in a wall.
    """
    if positions is None:
        return None
    positions = as_numbers(name, positions)
    if positions.shape != shape:
        raise UsageError(f"{name} have shape {positions.shape}; {shape[0]} episodes of {env.id} take {shape}")
    if env.maze is not None and not np.all(free := env.maze.is_free(np.asarray(positions)[:, :2])):
        x, y = np.asarray(positions)[~free][0, :2]
        raise UsageError(f"{name} hold {x:g},{y:g}, which is not in a free cell of {env.id}")
    return positions
