"""The ant that pushes a ball to a goal."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp

from crlviz.envs import physics
from crlviz.envs.ant import Ant

_RADIUS = 0.5  # meters
_MASS = 0.5759586531581287  # kg
_LIMITS = (-10.3213, 10.3)  # range of the ball's coordinates in meters


class AntBall(Ant):
    """State: the ant's 29 numbers, then the ball's x, y. Goal: the ball's x, y.

    The ant starts near the origin. The goal is 5 m away in any direction, and the ball about a fifth of the way to the
    goal, up to 1 m off.

    Source: the paper's code (ant_ball), on brax's own model.
    """

    state_dim = 31
    goal_indices = (29, 30)
    goal_radius = 5.0

    def __init__(
        self,
        id: str,
        *,
        backend: str = "spring",
        normalize_quaternion: bool = True,
        ball_is_goal: bool = True,
        independent_offset: bool = True,
    ):
        """
        Args:
          id: the environment's name.
          backend: ``spring`` (the paper's), ``generalized`` or ``mjx``.
          normalize_quaternion: as for the ant.
          ball_is_goal: hindsight goals are positions of the ball. False: the last joint's velocity and the ball's x, by
            an off-by-one error of the paper's code. Distance and success are the ball's in both cases.
          independent_offset: the ball's offset has a random angle. False: the offset's sine is that of the goal's
            angle, as in the paper's code.
        """
        if not ball_is_goal:
            self.goal_indices = (28, 29)
        self._independent_offset = independent_offset
        super().__init__(id, backend=backend, normalize_quaternion=normalize_quaternion)

    def _add_objects(self, tree: ElementTree.Element) -> None:
        # The ball collides with the torso, the feet and the floor.
        for geom in physics.child(tree, "body[@name='torso']").iter("geom"):
            if geom.get("contype") == "1" or geom.get("name") == "torso_geom":
                geom.set("conaffinity", "1")
        ball = {"size": _RADIUS, "mass": _MASS, "contype": 1, "conaffinity": 0, "rgba": (0.85, 0.45, 0.2, 1)}
        physics.add_slider(tree, "ball", height=_RADIUS, limits=_LIMITS, armature=1, geom=ball)

    def _place(self, q: jax.Array, qd: jax.Array, goal: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        angle = jax.random.uniform(rng, maxval=2 * jnp.pi)
        across = jnp.sin(angle) if self._independent_offset else goal[1] / jnp.linalg.norm(goal)
        ball = 0.2 * goal + jnp.stack([jnp.cos(angle), across])
        return q.at[-4:].set(jnp.concatenate([ball, goal])), qd.at[-4:].set(0)

    def _observe(self, state, control: jax.Array) -> jax.Array:
        return jnp.concatenate([state.q[:15], state.qd[:14], state.x.pos[-2, :2]])

    @property
    def _place_indices(self) -> tuple[int, ...]:
        return 29, 30  # the ball's, also if hindsight goals are not

    def _distance(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.linalg.norm(body[29:] - goal)
