"""What every crlviz environment tells: what brax's ``Env`` has, and more."""

import abc
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.envs.looks import View
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import mujoco


class State(struct.PyTreeNode):
    """Of an environment: what brax's ``State`` holds, under the same names.

    It is not brax's own, as importing that takes longer than many a picture of a point mass, which needs no physics.
    """

    pipeline_state: Any
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    info: dict[str, Any] = struct.field(default_factory=dict)


class GoalEnv(abc.ABC):
    """A goal-conditioned environment: the observation is the state followed by the goal.

    ``step`` fills ``state.metrics`` with ``distance`` (meters from the achieved goal to the commanded one, after the
    step), ``success`` and ``success_easy`` (1.0 within the threshold); the reward is ``success``, which contrastive RL
    does not use. ``done`` is true only when the body fails; time limits are the caller's.

    Attributes:
      id: the name ``crlviz.envs.make`` knows it by.
      state_dim: length of the state part of an observation.
      goal_indices: where the achieved goal sits in the state.
      action_size: length of an action, each in [-1, 1].
      goal_distance: success threshold in meters.
      goal_distance_easy: the wider one; None where the body has none, and ``success_easy`` then equals ``success``.
      episode_length: steps of an episode.
      dt: seconds of a step.
      view: where a picture of it is taken from.
      maze: the maze it walks in, or None.
      placeable: whether what reaches goals can be put anywhere, all else as it is; not where its place follows from the
        angles of joints.
      backends: what it runs on, the paper's first: ``jax`` alone, or keys of ``physics.PIPELINES``.
    """

    id: str
    state_dim: int
    goal_indices: tuple[int, ...]
    action_size: int
    goal_distance: float
    goal_distance_easy: float | None
    episode_length: int
    dt: float
    view: View
    maze: Maze | None = None
    placeable: bool = True
    backends: tuple[str, ...] = ("jax",)

    @abc.abstractmethod
    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        """A first state; ``start`` [2] and ``goal`` [goal_dim] in meters replace the drawn ones.

        The start is where the body walks from, or the object lies that it is to move.

        Raises:
          UsageError: a start is given to a body that has nothing to place.
        """

    @abc.abstractmethod
    def step(self, state: State, action: jax.Array) -> State:
        """The state after an action [action]."""

    @property
    @abc.abstractmethod
    def model(self) -> "mujoco.MjModel":
        """The MuJoCo model that shows the body, its world and its goal."""

    @abc.abstractmethod
    def pose(self, state: State) -> jax.Array:
        """The joint positions [nq] of ``model`` that show a state."""

    def placed(self, state: State, place: jax.Array | None, goal: jax.Array) -> jax.Array:
        """The observation [observation_size] of a first state, had what reaches goals been put elsewhere.

        Args:
          state: from ``reset``.
          place: x, y in meters, [2], of the body or the object that is to reach the goal; None: as in the state.
          goal: commanded, [goal_dim] in meters.

        Raises:
          UsageError: a place is given, and the body is not ``placeable``.
        """
        if place is None:
            return jnp.concatenate([state.obs[: self.state_dim], goal])
        if not self.placeable:
            raise UsageError(f"where {self.id} is follows from its joints; it cannot be put elsewhere")
        # Nothing else in these states tells where that is.
        return jnp.concatenate([state.obs[: self.state_dim].at[jnp.array(self._place_indices)].set(place), goal])

    @property
    def _place_indices(self) -> tuple[int, ...]:
        """Where in the state the x, y are that ``placed`` sets."""
        return self.goal_indices[:2]

    @property
    def goal_dim(self) -> int:
        return len(self.goal_indices)

    @property
    def observation_size(self) -> int:
        return self.state_dim + self.goal_dim

    @property
    def backend(self) -> str:
        return self.backends[0]


__all__ = ["GoalEnv", "State"]
