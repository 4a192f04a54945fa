"""Recording of trajectories: agents, noisy agents and random actions, in batches, so that memory stays small."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz import __version__, jax_config
from crlviz.algorithms import action_choice
from crlviz.algorithms.action_choice import ActionChoice
from crlviz.algorithms.base import Algorithm
from crlviz.envs.base import GoalEnv, State
from crlviz.errors import UsageError
from crlviz.options import check_count
from crlviz.rollouts import simulate
from crlviz.trajectories.data import Trajectories

if TYPE_CHECKING:
    from crlviz.agent import Agent

RANDOM = "random"
_MOST_AT_ONCE = 256  # episodes
_MOST_BYTES = 1 << 28  # of the rows of a batch
_SPREAD = 0.25  # in cells: how far from a cell's center a start anywhere is; a body does not begin in a wall
_NOISIEST = 10.0  # more is random actions of -1 and 1


@dataclass(frozen=True, eq=False)
class Source:
    """Who acts in some of the episodes.

    Attributes:
      agent: from ``crlviz.load``; None: random actions, uniform in [-1, 1].
      episodes: their number.
      policy: how the agent's actions are chosen, as in ``action_choice.read``.
      noise: standard deviation of normal noise on its actions, which are then clipped to [-1, 1].
    """

    agent: "Agent | None"
    episodes: int
    policy: str = "mean"
    noise: float = 0.0

    def described(self) -> dict[str, Any]:
        """What a file tells of it."""
        if self.agent is None:
            return {"policy": RANDOM, "episodes": self.episodes}
        agent = self.agent
        facts = {"checkpoint": str(agent.source), "env_steps": agent.env_steps, "policy": self.policy}
        return facts | ({"noise": self.noise} if self.noise else {}) | {"episodes": self.episodes}


def record(
    env: GoalEnv,
    sources: Sequence[Source],
    *,
    seed: int = 0,
    length: int | None = None,
    anywhere: bool = False,
    made: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Trajectories]:
    """Record trajectories, source by source, in blocks.

    A reached goal does not end an episode; a fall does. Rows from the first number that is not finite on
    are left out, and so is a trajectory without a transition.

    Args:
      env: the environment of all of them.
      sources: who acts.
      seed: of starts, goals, noise and random actions.
      length: most transitions of an episode; default: the environment's episode length.
      anywhere: starts are uniform over the maze's free cells, rather than the environment's.
      made: further facts of their making for the file, such as the environment's options.

    Raises:
      UsageError: no episode or step; a policy that an agent does not have; noise out of range; or starts anywhere
        without a maze in which a start can be chosen.
    """
    length = env.episode_length if length is None else length
    check_count(length, "steps")
    choices = [_check(source) for source in sources]
    if anywhere and (env.maze is None or not _takes_starts(env)):
        raise UsageError(f"{env.id} has no maze in which a start can be chosen; leave out --starts anywhere")
    with jax_config.fixed_settings():  # a generator: the caller's settings return between the blocks
        width = _width(env)
    at_once = min(_MOST_AT_ONCE, max(source.episodes for source in sources))
    at_once = max(1, min(at_once, _MOST_BYTES // (4 * width * (length + 1))))
    facts = {
        "env": env.id,
        "goal_indices": env.goal_indices,
        "made": _made(env, sources, seed, length, anywhere) | dict(made),
    }
    for number, (source, choice) in enumerate(zip(sources, choices, strict=True)):
        for first in range(0, source.episodes, at_once):
            with jax_config.fixed_settings():
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), first)
                acting = (None, None) if source.agent is None else (source.agent.algorithm, source.agent.params)
                rows = _rows(env, length, at_once, choice, anywhere, *acting, source.noise, key)
                block = _block(rows, min(at_once, source.episodes - first), env.state_dim, facts)
            if block is not None:
                yield block


def _check(source: Source) -> ActionChoice | None:
    """How a source chooses actions; None: at random."""
    check_count(source.episodes, "episodes")
    if source.agent is None:
        if source.noise:
            raise UsageError("random actions take no noise")
        return None
    if not 0 <= source.noise <= _NOISIEST:
        raise UsageError(f"noise of {source.noise:g} on actions in [-1, 1]: take 0 to {_NOISIEST:g}")
    return action_choice.for_agents(source.policy, [source.agent])


def _takes_starts(env: GoalEnv) -> bool:
    """Whether the start of this body can be chosen."""
    try:
        jax.eval_shape(env.reset, jax.random.key(0), jnp.zeros(2))
    except UsageError:
        return False
    return True


def _width(env: GoalEnv) -> int:
    """Numbers in a row: of the observation, the action, and the physics."""
    state = jax.eval_shape(env.reset, jax.random.key(0))
    return env.observation_size + env.action_size + sum(leaf.shape[-1] for leaf in _physics(state).values())


def _physics(state: State) -> dict[str, jax.Array]:
    """Joint positions and velocities, of a body that runs in a physics engine."""
    physics = getattr(state.pipeline_state, "own", state.pipeline_state)  # of an environment with distractors
    return {"qpos": physics.q, "qvel": physics.qd} if hasattr(physics, "qd") else {}


def _made(env: GoalEnv, sources: Sequence[Source], seed: int, length: int, anywhere: bool) -> dict[str, Any]:
    """What a file tells of its making."""
    return {
        "code": f"crlviz {__version__}",
        "sources": [source.described() for source in sources],
        "seed": seed,
        "length": length,
        "goal_distance": env.goal_distance,
        "starts": "anywhere" if anywhere else "of the environment",
    }


@partial(jax.jit, static_argnums=range(6))
def _rows(
    env: GoalEnv,
    length: int,
    episodes: int,
    choice: ActionChoice | None,
    anywhere: bool,
    algorithm: Algorithm | None,
    params: Any,
    noise: Any,
    key: jax.Array,
) -> dict[str, jax.Array]:
    """The rows [length + 1, episodes, ...] of a batch, and whether the episode is alive in them."""
    reset_key, start_key, policy_key = jax.random.split(key, 3)
    reset_keys = jax.random.split(reset_key, episodes)
    starts = _anywhere(env, start_key, episodes) if anywhere else None
    states = jax.vmap(env.reset)(reset_keys, starts)

    def act(observation, key):
        if choice is None:
            return jax.random.uniform(key, (len(observation), env.action_size), minval=-1.0, maxval=1.0)
        key, noise_key = jax.random.split(key)
        action = choice.act(algorithm, params, observation, key)
        return jnp.clip(action + noise * jax.random.normal(noise_key, action.shape), -1, 1)

    def row(before, action, after, alive):
        return {"observation": before.obs, "action": action, "alive": alive, **_physics(before)}

    return simulate(env, act, states, policy_key, length + 1, row)  # the row after the last transition too


def _anywhere(env: GoalEnv, key: jax.Array, count: int) -> jax.Array:
    """Positions [count, 2] in meters, uniform over free cells, near their centers."""
    assert env.maze is not None
    cell_key, place_key = jax.random.split(key)
    centers = jnp.asarray(env.maze.xy(np.array(env.maze.free)), jnp.float32)
    most = _SPREAD * env.maze.cell_size
    spread = jax.random.uniform(place_key, (count, 2), minval=-most, maxval=most)
    return centers[jax.random.randint(cell_key, (count,), 0, len(centers))] + spread


def _block(rows: dict[str, jax.Array], count: int, state_dim: int, facts: dict[str, Any]) -> Trajectories | None:
    """The first ``count`` episodes of a batch as trajectories; None: none has a transition."""
    arrays = {name: np.swapaxes(np.asarray(values), 0, 1)[:count] for name, values in rows.items()}
    alive = arrays.pop("alive")
    usable = np.ones(alive.shape, bool)
    for values in arrays.values():
        usable &= np.isfinite(values).all(-1)
    # An episode ends with the row after the last in which it is alive, or with the last whose numbers are finite.
    fallen = np.concatenate([np.zeros((count, 1), bool), ~alive[:, :-1]], axis=1)
    kept = np.logical_and.accumulate(usable & ~fallen, axis=1)
    kept &= kept.sum(1, keepdims=True) > 1
    lengths = kept.sum(1)[kept.any(1)]
    if not len(lengths):
        return None
    found: dict[str, Any] = {name: np.ascontiguousarray(values[kept], np.float32) for name, values in arrays.items()}
    observation = found.pop("observation")
    return Trajectories(
        state=np.ascontiguousarray(observation[:, :state_dim]),
        goal=np.ascontiguousarray(observation[:, state_dim:]),
        ends=np.cumsum(lengths) - 1,
        **found,
        **facts,
    )
