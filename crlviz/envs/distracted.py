"""Any environment with features in its state that do not help: projections of the state, and noise."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.envs.base import GoalEnv, State

if TYPE_CHECKING:
    import mujoco

_MEMORY = 0.9  # share of the noise that a step keeps; its variance stays 1
_SEED = 0  # of the projections, which are the same in every run


class DistractedState(struct.PyTreeNode):
    """The environment's own state, the noise [M], and the key of the noise to come."""

    own: Any
    noise: jax.Array
    key: jax.Array


class Distracted(GoalEnv):
    """The same environment with ``count`` uninformative features appended to the state.

    The first half (rounded up) are fixed random projections of the state, so they are redundant. The others are normal
    noise, independent of the state and correlated from step to step.
    """

    def __init__(self, env: GoalEnv, count: int):
        self._env, self._own_dim, self._redundant = env, env.state_dim, (count + 1) // 2
        self._noisy = count - self._redundant
        for name in ("id", "goal_indices", "action_size", "goal_distance", "goal_distance_easy", "episode_length"):
            setattr(self, name, getattr(env, name))
        self.dt, self.view, self.maze, self.placeable, self.backends = (
            env.dt, env.view, env.maze, env.placeable, env.backends,
        )  # fmt: skip
        self.state_dim = env.state_dim + count
        draws = np.random.default_rng(_SEED).normal(size=(env.state_dim, self._redundant))
        self._projections = (draws / np.sqrt(env.state_dim)).astype(np.float32)

    @property
    def model(self) -> "mujoco.MjModel":
        return self._env.model

    @property
    def backend(self) -> str:
        return self._env.backend

    def pose(self, state: State) -> jax.Array:
        return self._env.pose(self._own(state))

    def outline(self, pose: np.ndarray) -> np.ndarray | None:
        return self._env.outline(pose)

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        key, noise_key = jax.random.split(jax.random.fold_in(rng, self._noisy))
        own = self._env.reset(rng, start, goal)  # the same as without distractors
        return self._with(own, jax.random.normal(noise_key, (self._noisy,)), key)

    def step(self, state: State, action: jax.Array) -> State:
        before = state.pipeline_state
        key, noise_key = jax.random.split(before.key)
        fresh = jax.random.normal(noise_key, (self._noisy,))
        noise = _MEMORY * before.noise + np.sqrt(1 - _MEMORY**2) * fresh
        return self._with(self._env.step(self._own(state), action), noise, key)

    def with_goal(self, state: State, goal: jax.Array) -> State:
        return self._with(self._env.with_goal(self._own(state), goal), *self._noise_of(state))

    def pushed(self, state: State, by: jax.Array) -> State:
        return self._with(self._env.pushed(self._own(state), by), *self._noise_of(state))

    def observation_at(self, state: State, place: jax.Array | None, goal: jax.Array) -> jax.Array:
        return self._observe(self._env.observation_at(self._own(state), place, goal), state.pipeline_state.noise)

    def _noise_of(self, state: State) -> tuple[jax.Array, jax.Array]:
        return state.pipeline_state.noise, state.pipeline_state.key

    def _own(self, state: State) -> State:
        obs = jnp.concatenate([state.obs[: self._own_dim], state.obs[self.state_dim :]])
        return state.replace(pipeline_state=state.pipeline_state.own, obs=obs)

    def _with(self, own: State, noise: jax.Array, key: jax.Array) -> State:
        return own.replace(
            pipeline_state=DistractedState(own.pipeline_state, noise, key), obs=self._observe(own.obs, noise)
        )

    def _observe(self, obs: jax.Array, noise: jax.Array) -> jax.Array:
        own, goal = obs[: self._own_dim], obs[self._own_dim :]
        return jnp.concatenate([own, own @ self._projections, noise, goal])
