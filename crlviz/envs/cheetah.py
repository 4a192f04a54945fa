"""brax's half cheetah: runs to a line ahead of it."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp

from crlviz.envs import physics
from crlviz.envs.looks import View
from crlviz.envs.physics import PhysicsEnv

_GOAL = 5.0  # meters ahead
_NOISE = 0.1  # of an initial state: uniform on positions, normal on velocities
_SCALE = 0.6310935071511995  # of all masses, so that cheetah and goal marker weigh 14 kg, as in the paper's code
_GEAR = [120.0, 90.0, 60.0, 120.0, 100.0, 100.0]  # brax's, for spring


class Cheetah(PhysicsEnv):
    """State: q [9], whose first is the torso's x, and qd [9]. Goal: the torso's x; default 5 m.

    A given start sets x; its second number is ignored.

    Source: the paper's successor (half_cheetah), on brax's own model.
    """

    state_dim = 18
    goal_indices = (0,)
    action_size = 6
    goal_distance = 0.5
    goal_distance_easy = 2.0
    episode_length = 1000
    backends = ("mjx", "generalized", "spring")
    view = View("torso", distance=4.0, azimuth=90.0, elevation=-15.0)

    def __init__(self, id: str, *, backend: str = "mjx"):
        """
        Args:
          id: the environment's name.
          backend: ``mjx``, ``generalized``, or ``spring`` with brax's motors and smaller physics steps for it.
        """
        timestep, frames, gear = (0.003125, 16, _GEAR) if backend == "spring" else (0.01, 5, None)
        super().__init__(id, _model(), backend=backend, timestep=timestep, frames=frames, gear=gear)

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        pose_key, velocity_key = jax.random.split(rng)
        sys = self.sys
        q = sys.init_q + jax.random.uniform(pose_key, (sys.q_size(),), minval=-_NOISE, maxval=_NOISE)
        qd = _NOISE * jax.random.normal(velocity_key, (sys.qd_size(),))
        if start is not None:
            q = q.at[0].set(start[0])
        return self._set_goal(q, jnp.array([_GOAL]) if goal is None else goal), qd.at[-1].set(0)

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        return q.at[-1].set(goal[0])

    def _observe(self, state, control: jax.Array) -> jax.Array:
        return jnp.concatenate([state.q[:9], state.qd[:9]])

    def _goal_of(self, state) -> jax.Array:
        return state.x.pos[-1, :1]


def _model() -> ElementTree.Element:
    tree = physics.asset("half_cheetah")
    # brax lets MuJoCo scale the model to 14 kg, which newer versions warn about. Scale the density instead.
    del physics.child(tree, "compiler").attrib["settotalmass"]
    physics.child(tree, "default/geom").set("density", f"{1000 * _SCALE}")
    physics.add_target(tree, axes="x", mass=_SCALE)
    damping = physics.child(tree, "numeric[@name='constraint_ang_damping']")
    damping.set("data", damping.get("data", "") + " 1")
    return tree
