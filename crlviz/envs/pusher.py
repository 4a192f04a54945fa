"""brax's arm that pushes a cylinder to a goal on its table."""

import jax
import jax.numpy as jnp
from brax.base import Transform

from crlviz.envs import physics
from crlviz.envs.looks import View
from crlviz.envs.physics import PhysicsEnv

_CENTER = (0.45, -0.05)  # x, y on the table, in meters; objects and goals are drawn relative to it
_SEPARATION = 0.17  # meters; a drawn object closer to the goal is moved away from the center
_OBJECT = ((-0.3, 0.0), (-0.2, 0.2))  # range of objects relative to the center, along y and x, in meters


class Pusher(PhysicsEnv):
    """State: 7 joint angles, the wrist's xyz, the object's xyz, 7 joint velocities. Goal: the object's xyz.

    A given start is the object's x, y. Of a given goal, only x and y are used.

    ``distance`` and success use the object's position before the step, as in the paper's code and its successor.

    Source: the paper's code and its successor (pusher), on brax's own model.

    Attributes:
      goals: range of goals relative to the center: low and high along y, then along x, in meters.
    """

    state_dim = 20
    goal_indices = (10, 11, 12)
    action_size = 7
    goal_distance = 0.1
    goal_distance_easy = None
    goal_distance_hard = 0.05
    episode_length = 1000
    backends = ("generalized", "spring")
    view = View(lookat=(0.3, -0.2, -0.2), distance=2.2, azimuth=120.0, elevation=-40.0)
    goals: tuple[tuple[float, float], tuple[float, float]]

    def __init__(self, id: str, *, backend: str = "generalized"):
        """
        Args:
          id: the environment's name.
          backend: ``generalized``, or ``spring`` with brax's stronger motors and smaller physics steps for it.
        """
        timestep, frames, gear = (0.001, 50, [20.0] * 7) if backend == "spring" else (0.01, 5, None)
        super().__init__(id, physics.asset("pusher"), backend=backend, timestep=timestep, frames=frames, gear=gear)
        names = self.sys.link_names
        self._links = jnp.array([names.index(name) for name in ("r_wrist_flex_link", "object", "goal")])

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        object_key, goal_key, velocity_key = jax.random.split(rng, 3)
        # q holds y before x, both relative to the center.
        goal = _draw_in(goal_key, self.goals) if goal is None else goal[1::-1] - jnp.array(_CENTER[::-1])
        if start is None:
            start = _draw_in(object_key, _OBJECT)
            distance = jnp.linalg.norm(start - goal)
            start = start * jnp.where(distance < _SEPARATION, _SEPARATION / distance, 1.0)
        else:
            start = start[::-1] - jnp.array(_CENTER[::-1])
        q = jnp.asarray(self.sys.init_q, float).at[7:].set(jnp.concatenate([start, goal]))
        qd = jax.random.uniform(velocity_key, (self.sys.qd_size(),), minval=-0.005, maxval=0.005)
        return q, qd.at[7:].set(0)

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        return q.at[-2:].set(goal[1::-1] - jnp.array(_CENTER[::-1]))

    def _centers(self, state) -> jax.Array:
        """Centers of mass [3, 3] of wrist, object and goal."""
        offset = Transform.create(pos=self.sys.link.inertia.transform.pos)
        return state.x.vmap().do(offset).pos[self._links]

    def _observe(self, state, control: jax.Array) -> jax.Array:
        wrist, cylinder, _ = self._centers(state)
        return jnp.concatenate([state.q[:7], wrist, cylinder, state.qd[:7]])

    def _goal_of(self, state) -> jax.Array:
        return self._centers(state)[2]

    def _distance(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> jax.Array:
        return super()._distance(before, goal, before)


class PusherEasy(Pusher):
    """Goals on one side of the object."""

    goals = ((-0.55, -0.25), (-0.2, 0.2))


class PusherHard(Pusher):
    """Goals anywhere in a square meter."""

    goals = ((-0.65, 0.35), (-0.55, 0.45))


def _draw_in(rng: jax.Array, ranges: tuple[tuple[float, float], tuple[float, float]]) -> jax.Array:
    low, high = jnp.array(ranges).T
    return jax.random.uniform(rng, (2,), minval=low, maxval=high)
