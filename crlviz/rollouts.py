"""Running a policy in an environment: episodes as one jitted scan, their statistics, and a Dataset of them."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz import jax_config
from crlviz.agent import as_numbers
from crlviz.envs.base import GoalEnv, State
from crlviz.errors import UsageError
from crlviz.networks.residual import Actor, Critic
from crlviz.options import check_count
from crlviz.precision import exact

if TYPE_CHECKING:
    import xarray as xr

    from crlviz.agent import Agent

_DRAWS = 16  # resets for each episode that is to have a goal of its own

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
    with exact():
        _, records = jax.lax.scan(step, (states, alive, key), length=length)
    return records


def evaluate(env: GoalEnv, policy: Policy, key: jax.Array, episodes: int, length: int) -> dict[str, jax.Array]:
    """Statistics of fresh episodes, means over episodes; pure, to be jitted by the caller.

    Returns:
      ``time_at_goal`` (steps within the success distance), ``success`` (share of episodes with at least one such
      step), ``success_easy`` (the same at the wider threshold), ``distance`` (at the last step, meters) and
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


@jax_config.as_usual
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
    distinct: bool = False,
) -> "xr.Dataset":
    """Run an agent and keep what happened.

    Args:
      agent: from ``crlviz.load``.
      episodes: how many, all at once.
      seed: of starts, goals and the policy's noise.
      goals: commanded goals [episodes, goal] in meters; default: drawn by the environment.
      starts: start positions [episodes, 2] in meters; default: drawn by the environment.
      deterministic: act by the mean, or draw actions.
      length: steps; default: the environment's episode.
      env: another environment than the agent's own.
      distinct: pass over drawn goals that an earlier episode has, to within the success distance, as long as there are
        others.

    Raises:
      UsageError: no episode or step, goals or starts of another shape, not finite, or in a wall.

    Returns:
      Dataset with dimensions ``episode``, ``time``: ``state`` and ``pose`` (before the step; the pose is what
      bodies are drawn from), ``action``, ``q`` of them, ``achieved``, ``distance`` and ``success``
      (after the step), ``alive`` (false once the body has failed; the physics goes on) and, per episode, ``goal``.
    """
    import xarray as xr

    from crlviz import datasets

    env = env or agent.env
    length = env.episode_length if length is None else length
    if not all(isinstance(count, (int, np.integer)) for count in (episodes, length)):
        raise UsageError(f"{episodes!r} episodes of {length!r} steps: give whole numbers")
    check_count(episodes, "episodes")
    check_count(length, "steps")
    goals = _places(env, "goals", goals, (episodes, env.goal_dim))
    starts = _places(env, "starts", starts, (episodes, 2))
    key = jax.random.key(seed)
    networks = agent.actor, agent.critic, agent.params
    drawn, draws = episodes, np.arange(episodes)
    if distinct and episodes > 1:
        drawn = _DRAWS * episodes
        draws = _distinct(np.asarray(_goals(env, drawn, key)), episodes, env.goal_distance)
    records = _rollout(env, drawn, length, deterministic, *networks, key, draws, starts, goals)
    steps = {name: np.asarray(jnp.swapaxes(leaf, 0, 1)) for name, leaf in records.items()}
    observation = steps["observation"]
    each = ("episode", "time")
    texts = {
        "state": ("state before the step", "mixed"),
        "action": ("action", "1"),
        "achieved": ("achieved goal after the step", "m"),
        "pose": ("joint positions before the step, which place every body", "mixed"),
        "goal": ("commanded goal", "m"),
        "distance": ("distance to the goal after the step", "m"),
        "q": ("Q(s, a, g) of the step", "1"),
        "success": ("within the success distance", "1"),
        "alive": ("episode not yet ended before the step", "1"),
    }
    variables = {
        "state": ((*each, "state_index"), observation[..., : env.state_dim]),
        "action": ((*each, "action_index"), steps["action"]),
        "achieved": ((*each, "goal_index"), steps["achieved"]),
        "pose": ((*each, "joint"), steps["pose"]),
        "goal": (("episode", "goal_index"), observation[:, 0, env.state_dim :]),
        "distance": (each, steps["distance"]),
        "q": (each, steps["q"]),
        "success": (each, steps["success"] & steps["alive"]),
        "alive": (each, steps["alive"]),
    }
    dataset = xr.Dataset(
        {
            name: (dims, values, dict(zip(("long_name", "units"), texts[name], strict=True)))
            for name, (dims, values) in variables.items()
        },
        coords={
            "episode": np.arange(episodes),
            "time": np.arange(length) * env.dt,
        },
        attrs={"env": env.id, "checkpoint": str(agent.source), "seed": seed},
    )
    return datasets.described(dataset)


@partial(jax.jit, static_argnums=range(6))
def _rollout(
    env: GoalEnv,
    drawn: int,
    length: int,
    deterministic: bool,
    actor: Actor,
    critic: Critic,
    params: dict[str, Any],
    key: jax.Array,
    draws: Any,
    starts: Any,
    goals: Any,
) -> dict[str, jax.Array]:
    """What ``rollout`` keeps of each step, [length, episodes, ...]. Traced once for agents of one shape.

    Its episodes are the ``draws`` [episodes] of ``drawn`` resets.
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, drawn)[draws], starts, goals)

    def policy(observation, key):
        return actor.act(params["actor"], observation, None if deterministic else key)

    def record(before, action, after, alive):
        state, goal = before.obs[:, : env.state_dim], before.obs[:, env.state_dim :]
        return {
            "observation": before.obs,
            "action": action,
            "achieved": after.obs[:, jnp.array(env.goal_indices)],
            "pose": jax.vmap(env.pose)(before),
            "distance": after.metrics["distance"],
            "q": critic.q(params["critic"], state, action, goal),
            "success": after.metrics["success"] > 0,
            "alive": alive,
        }

    return simulate(env, policy, states, policy_key, length, record)


@partial(jax.jit, static_argnums=(0, 1))
def _goals(env: GoalEnv, drawn: int, key: jax.Array) -> jax.Array:
    """The goals [drawn, goal] that ``_rollout``'s resets draw."""
    keys = jax.random.split(jax.random.split(key)[0], drawn)
    return jax.vmap(lambda key: env.reset(key).obs[env.state_dim :])(keys)


def _distinct(goals: np.ndarray, count: int, apart: float) -> np.ndarray:
    """Indices [count] of goals [N, goal], those farther apart than that first; where all are taken, anew."""
    left = list(range(len(goals)))
    chosen: list[int] = []
    while len(chosen) < count:
        taken: list[int] = []
        for index in left:
            if all(np.linalg.norm(goals[index] - goals[other]) > apart for other in taken):
                taken.append(index)
        chosen += taken
        left = [index for index in left if index not in taken]
    return np.array(chosen[:count])


def _places(env: GoalEnv, name: str, places: Any, shape: tuple[int, int]) -> Any:
    """The places as an array of that shape, or none."""
    if places is None:
        return None
    places = as_numbers(name, places)
    if places.shape != shape:
        raise UsageError(f"{name} have shape {places.shape}; {shape[0]} episodes of {env.id} take {shape}")
    if env.maze is not None and not np.all(free := env.maze.is_free(np.asarray(places)[:, :2])):
        x, y = np.asarray(places)[~free][0, :2]
        raise UsageError(f"{name} hold {x:g},{y:g}, which is not in a free cell of {env.id}")
    return places
