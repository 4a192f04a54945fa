"""The interface of all environments: brax's ``Env`` and what crlviz needs beyond it."""

import abc
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.envs.looks import View
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import mujoco


class State(struct.PyTreeNode):
    """State of an environment, with the fields of brax's ``State``.

    Not brax's class, because importing brax takes longer than drawing a point mass, which needs no physics.
    """

    pipeline_state: Any
    obs: jax.Array
    reward: jax.Array
    done: jax.Array
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    info: dict[str, Any] = struct.field(default_factory=dict)


class GoalEnv(abc.ABC):
    """A goal-conditioned environment: the observation is the state followed by the goal.

    ``step`` fills ``state.metrics`` with ``distance`` (meters from the achieved to the commanded goal, after the step),
    ``success`` and ``success_easy`` (1.0 within the threshold). The reward is ``success``; contrastive RL does not use
    it. ``done`` is 1.0 only if the body fails; the caller limits the length of episodes.

    Attributes:
      id: its name for ``crlviz.envs.make``.
      state_dim: length of the state part of an observation.
      goal_indices: indices of the achieved goal in the state.
      action_size: length of an action; each number is in [-1, 1].
      goal_distance: success threshold in meters.
      goal_distance_easy: wider success threshold in meters; None: ``success_easy`` equals ``success``.
      episode_length: steps of an episode.
      dt: seconds of a step.
      view: the camera of its pictures.
      maze: the maze it walks in, or None.
      placeable: whether the body or object that reaches goals can be moved on its own (``observation_at``); false if
        its position follows from joint angles.
      backends: engines it runs on, the paper's first: ``jax`` alone, or keys of ``physics.PIPELINES``.
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
        """An initial state; ``start`` [2] and ``goal`` [goal_dim] in meters replace the drawn ones.

        The start is the position of the body, or of the object that it must move.

        Raises:
          UsageError: a start is given to a body whose start cannot be chosen.
        """

    @abc.abstractmethod
    def step(self, state: State, action: jax.Array) -> State:
        """The state after an action [action]."""

    @property
    @abc.abstractmethod
    def model(self) -> "mujoco.MjModel":
        """The MuJoCo model of the body, its world and its goal, for rendering."""

    @abc.abstractmethod
    def pose(self, state: State) -> jax.Array:
        """The joint positions [nq] of ``model`` in a state."""

    def with_goal(self, state: State, goal: jax.Array) -> State:
        """The state with another commanded goal [goal_dim] in meters; the body goes on as it was.

        Raises:
          UsageError: the environment sets its goal itself.
        """
        raise UsageError(f"the goal of {self.id} cannot be changed")

    def pushed(self, state: State, by: jax.Array) -> State:
        """The state with the body's velocity changed by [2] meters per second along x and y.

        Raises:
          UsageError: the body has no velocity, or does not move freely in the plane.
        """
        raise UsageError(f"{self.id} has no body that a push could move")

    def outline(self, pose: np.ndarray) -> np.ndarray | None:
        """The body as a line from above: points [..., P, 2] in meters, for poses [..., nq]; None: a disc."""
        return None

    def observation_at(self, state: State, place: jax.Array | None, goal: jax.Array) -> jax.Array:
        """The observation [observation_size] of an initial state with another position and goal.

        Args:
          state: from ``reset``.
          place: position [2] in meters of the body or object that must reach the goal; None: as in the state.
          goal: commanded goal [goal_dim] in meters.

        Raises:
          UsageError: a position is given, and the body is not ``placeable``.
        """
        if place is None:
            return jnp.concatenate([state.obs[: self.state_dim], goal])
        if not self.placeable:
            raise UsageError(f"the position of {self.id} follows from its joints; it cannot be moved")
        # No other number of the state depends on the position.
        return jnp.concatenate([state.obs[: self.state_dim].at[jnp.array(self._place_indices)].set(place), goal])

    @property
    def _place_indices(self) -> tuple[int, ...]:
        """Indices in the state of the x, y that ``observation_at`` sets."""
        return self.goal_indices[:2]

    @property
    def goal_dim(self) -> int:
        """Length of a goal."""
        return len(self.goal_indices)

    @property
    def observation_size(self) -> int:
        """Length of an observation: the state and the goal."""
        return self.state_dim + self.goal_dim

    @property
    def backend(self) -> str:
        """The engine it runs on, one of ``backends``."""
        return self.backends[0]


__all__ = ["GoalEnv", "State"]
