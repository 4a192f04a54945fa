"""The ant in a room of boxes; it must push one box out of its way."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp

from crlviz.envs import physics
from crlviz.envs.ant import Ant
from crlviz.envs.looks import WALL, View

# Centers x, y and half sizes x, y in meters of the fixed boxes; all are 4 m high.
_BOXES = {
    "A": (-4, 20, 8, 8),
    "B": (8, 24, 4, 4),
    "C": (20, 20, 8, 8),
    "D": (-8, 4, 4, 8),
    "E": (24, 8, 4, 4),
    "F": (20, -4, 8, 8),
    "G": (0, -8, 12, 4),
}
_MOVABLE = (8, 8, 2)
_MOVABLE_HALF = (3.6, 3.6, 1.8)


class AntPush(Ant):
    """State: the ant's 29 numbers, then the movable box's x, y. Goal: torso x, y.

    The ant starts near the origin. The goal is at (16, 8) or (8, 16) m, plus up to 2 m on each axis.

    Source: the paper's code (ant_push), on brax's own model.
    """

    state_dim = 31
    backends = ("mjx",)
    view = View("torso", distance=16.0, azimuth=20.0, elevation=-60.0)

    def __init__(self, id: str, *, backend: str = "mjx", normalize_quaternion: bool = True, box_at_rest: bool = True):
        """
        Args:
          id: the environment's name.
          backend: ``mjx``.
          normalize_quaternion: as for the ant.
          box_at_rest: the box starts at rest. In the paper's code it starts with a velocity of about 0.1 m/s along x.
        """
        self._box_at_rest = box_at_rest
        super().__init__(id, backend=backend, normalize_quaternion=normalize_quaternion)

    def _add_objects(self, tree: ElementTree.Element) -> None:
        geom = physics.child(tree, "default/geom")
        geom.set("density", "40")
        geom.set("solimp", "0.995 0.995 0.01")
        physics.child(tree, "geom[@name='torso_geom']").set("contype", "1")
        first = physics.child(tree, "numeric[@name='init_qpos']")
        first.set("data", first.get("data", "").replace("0.55", "0.75"))
        world = physics.child(tree, "worldbody")
        for name, (x, y, half_x, half_y) in _BOXES.items():
            physics.add(
                world, "geom", name=f"box_{name}", type="box", pos=(x, y, 2), size=(half_x, half_y, 2),
                conaffinity=1, rgba=WALL,
            )  # fmt: skip
        box = physics.add(world, "body", name="box", pos=_MOVABLE)
        for axis, direction in zip("xyz", ((1, 0, 0), (0, 1, 0), (0, 0, 1)), strict=True):
            physics.add(
                box, "joint", name=f"box_{axis}", type="slide", axis=direction, limited=False, armature=0, damping=0
            )  # fmt: skip
        physics.add(
            box, "geom", name="box", type="box", size=_MOVABLE_HALF, mass=0.0002, contype=1, conaffinity=1,
            rgba=(0.8, 0.35, 0.25, 1),
        )  # fmt: skip

    def _draw_goal(self, rng: jax.Array) -> jax.Array:
        order_key, place_key = jax.random.split(rng)
        corner = jax.random.permutation(order_key, jnp.array([16.0, 8.0]))
        return corner + jax.random.uniform(place_key, (2,), maxval=2.0)

    def _place(self, q: jax.Array, qd: jax.Array, goal: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        return q.at[-2:].set(goal), qd.at[-5 if self._box_at_rest else -4 :].set(0)

    def _observe(self, state, control: jax.Array) -> jax.Array:
        # Only bodies with joints are links, so the box is the last but one.
        return jnp.concatenate([state.q[:15], state.qd[:14], state.x.pos[-2, :2]])
