"""Running a policy in an environment: episodes as one jitted scan, their statistics, and a Dataset of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs.base import GoalEnv, State
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import xarray as xr

    from crlviz.agent import Agent

Policy = Callable[[jax.Array, jax.Array], jax.Array]


def simulate(
    env: GoalEnv, policy: Policy, states: State, key: jax.Array, length: int, record: Callable[..., Any]
) -> Any:
    """Step a batch of environments; pure, to be jitted by the caller.

    Args:
      env: the environment.
      policy: (observation [B, n], key) to actions [B, action].
      states: first states, batched.
      key: random key of the policy.
      length: steps.
      record: (state before, action, state after, alive [B]) to what is kept of a step. An episode is alive until the
        step that ends it; what comes after the end is no longer part of it.

    Returns:
      What was recorded, [length, ...].
    """

    def step(carry, _):
        state, alive, key = carry
        key, action_key = jax.random.split(key)
        action = policy(state.obs, action_key)
        following = jax.vmap(env.step)(state, action)
        kept = record(state, action, following, alive)
        return (following, alive & (following.done == 0), key), kept

    alive = jnp.ones(states.obs.shape[0], bool)
    _, records = jax.lax.scan(step, (states, alive, key), length=length)
    return records


def evaluate(env: GoalEnv, policy: Policy, key: jax.Array, episodes: int, length: int) -> dict[str, jax.Array]:
    """Statistics of fresh episodes, means over episodes; pure, to be jitted by the caller.

    Returns:
      ``time_at_goal`` (steps within the success distance), ``success`` (share of episodes with at least one such
      step), ``success_easy`` (the same at the wider threshold), ``distance`` (at the last step, metres) and
      ``episode_steps``.
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


def rollout(
    agent: "Agent",
    episodes: int = 16,
    *,
    seed: int = 0,
    goals: np.ndarray | None = None,
    starts: np.ndarray | None = None,
    deterministic: bool = True,
    length: int | None = None,
    env: GoalEnv | None = None,
) -> "xr.Dataset":
    """Run an agent and keep what happened.

    Args:
      agent: from ``crlviz.load``.
      episodes: how many, all at once.
      seed: of starts, goals and the policy's noise.
      goals: commanded goals [episodes, goal] in metres; default: drawn by the environment.
      starts: start positions [episodes, 2] in metres; default: drawn by the environment.
      deterministic: act by the mean, or draw actions.
      length: steps; default: the environment's episode.
      env: another environment than the agent's own.

    Raises:
      UsageError: no episode, goals or starts of another shape, or in a wall.

    Returns:
      Dataset with dimensions ``episode``, ``time``: ``state`` (before the step), ``action``, ``achieved`` (after the
      step), ``goal``, ``distance``, ``success`` and ``alive`` (false after a fall).
    """
    import xarray as xr

    env = env or agent.env
    length = length or env.episode_length
    if episodes < 1:
        raise UsageError(f"{episodes} episodes: at least one is needed")
    _check_places(env, "goals", goals, (episodes, env.goal_dim))
    _check_places(env, "starts", starts, (episodes, 2))
    reset_key, policy_key = jax.random.split(jax.random.key(seed))
    reset_keys = jax.random.split(reset_key, episodes)

    @jax.jit
    def run(params, starts, goals):
        states = jax.vmap(env.reset)(reset_keys, starts, goals)

        def policy(observation, key):
            return agent.policy(params, observation, None if deterministic else key)

        def record(before, action, after, alive):
            achieved = after.obs[:, jnp.array(env.goal_indices)]
            return before.obs, action, achieved, after.metrics["distance"], after.metrics["success"] > 0, alive

        return simulate(env, policy, states, policy_key, length, record)

    observation, action, achieved, distance, success, alive = (
        np.asarray(jnp.swapaxes(x, 0, 1)) for x in run(agent.params, starts, goals)
    )
    state, goal = observation[..., : env.state_dim], observation[:, 0, env.state_dim :]
    each = ("episode", "time")
    return xr.Dataset(
        {
            "state": ((*each, "state_index"), state, {"long_name": "state before the step", "units": "mixed"}),
            "action": ((*each, "action_index"), action, {"long_name": "action", "units": "1"}),
            "achieved": ((*each, "goal_index"), achieved, {"long_name": "achieved goal after the step", "units": "m"}),
            "goal": (("episode", "goal_index"), goal, {"long_name": "commanded goal", "units": "m"}),
            "distance": (each, distance, {"long_name": "distance to the goal after the step", "units": "m"}),
            "success": (each, success & alive, {"long_name": "within the success distance", "units": "1"}),
            "alive": (each, alive, {"long_name": "episode not yet ended before the step", "units": "1"}),
        },
        coords={
            "episode": np.arange(episodes),
            "time": ("time", np.arange(length) * env.dt, {"long_name": "time", "units": "s"}),
        },
        attrs={"env": env.id, "checkpoint": str(agent.source), "seed": seed},
    )


def _check_places(env: GoalEnv, name: str, places: np.ndarray | None, shape: tuple[int, int]) -> None:
    if places is None:
        return
    if np.shape(places) != shape:
        raise UsageError(f"{name} have shape {np.shape(places)}; {shape[0]} episodes of {env.id} take {shape}")
    if env.maze is not None and not np.all(free := env.maze.is_free(np.asarray(places)[:, :2])):
        x, y = np.asarray(places)[~free][0, :2]
        raise UsageError(f"{name} hold {x:g},{y:g}, which is not in a free cell of {env.id}")
