"""brax's two-link arm that reaches for a point."""

import jax
import jax.numpy as jnp
from brax.base import Transform

from crlviz.envs import physics
from crlviz.envs.looks import View
from crlviz.envs.physics import PhysicsEnv

_TIP = (0.11, 0, 0)  # fingertip in the frame of the second link, meters
_REACH = 0.2  # largest distance of a goal from the base, meters


class Reacher(PhysicsEnv):
    """State: cosines and sines of the 2 joint angles, the fingertip's xyz and its velocity. Goal: the fingertip's xyz.

    Starts near a fixed pose. The goal is drawn within 20 cm of the base, with a uniform radius, so more densely near
    it. Of a given goal, only x and y are used.

    Source: the paper's code and its successor (reacher), on brax's own model.
    """

    state_dim = 10
    goal_indices = (4, 5, 6)
    action_size = 2
    goal_distance = 0.05
    goal_distance_easy = None
    episode_length = 1000
    placeable = False
    backends = ("generalized", "spring")
    view = View(distance=0.9, azimuth=90.0, elevation=-55.0)

    def __init__(self, id: str, *, backend: str = "generalized", physics_step: float = 0.005):
        """
        Args:
          id: the environment's name.
          backend: ``generalized``, with two physics steps of 0.01 s per step; or ``spring``, with four and weaker
            motors, as in the paper's code.
          physics_step: seconds of a physics step on ``spring``. The paper's code asks for 0.005, but brax 0.10 ignored
            it and used 0.01.
        """
        timestep, frames, gear = (physics_step, 4, [25.0, 25.0]) if backend == "spring" else (0.01, 2, None)
        super().__init__(id, physics.asset("reacher"), backend=backend, timestep=timestep, frames=frames, gear=gear)

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        physics.no_start(self.id, start)
        pose_key, velocity_key, distance_key, angle_key = jax.random.split(rng, 4)
        q = self.sys.init_q + jax.random.uniform(pose_key, (4,), minval=-0.1, maxval=0.1)
        qd = jax.random.uniform(velocity_key, (4,), minval=-0.005, maxval=0.005)
        if goal is None:
            angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
            goal = _REACH * jax.random.uniform(distance_key) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return self._set_goal(q, goal), qd.at[2:].set(0)

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        return q.at[2:].set(goal[:2])

    def _observe(self, state, control: jax.Array) -> jax.Array:
        tip = Transform.create(pos=jnp.array(_TIP, float))
        position = state.x.take(1).do(tip).pos
        velocity = tip.do(state.xd.take(1)).vel
        return jnp.concatenate([jnp.cos(state.q[:2]), jnp.sin(state.q[:2]), position, velocity])

    def _goal_of(self, state) -> jax.Array:
        return state.x.pos[-1]
