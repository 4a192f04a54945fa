"""The Panda arm at a table: reach, grasp, push, and pick from one bin into another.

Source: the paper's code (arm_*). The arm's parameters are those of its compiled models; its shapes are simplified.
"""

import abc
import json
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs import physics
from crlviz.envs.base import GoalEnv, State
from crlviz.envs.looks import GOAL, View
from crlviz.envs.physics import PhysicsEnv, add

_TIMESTEP, _FRAMES = 0.002, 25
_SOLVER = {"opt.iterations": 6, "opt.ls_iterations": 12}
_INITIAL = (1.571, 0.742, 0, -1.571, 0, 3.054, 1.449)  # joint angles with the hand above the table
_FINGERS = (0.04, 0.04)
# Joint targets for actions of -1 and 1; the third, fifth and seventh joint are fixed.
_LOW = np.array([0.3491, 0, 0, -3.0718, 0, 2.3562, 1.4487])
_HIGH = np.array([2.7925, 1.48353, 0, -0.0698, 0, 3.7525, 1.4487])
_MOVED = np.array([0, 1, 3, 5])
_OPEN = 255.0  # control that opens the fingers
_CUBE_HEIGHT = 0.07  # meters; the cube starts there and falls onto the table
_GOAL_HEIGHT = 0.03  # meters
# Largest error of the distance between the fingertips for a successful grasp, meters.
_OPENNESS_WITHIN = {"success": 0.02, "success_easy": 0.05, "success_hard": 0.005}
_STEEL, _DARK = (0.88, 0.88, 0.9, 1), (0.3, 0.32, 0.36, 1)
_ORANGE, _GRAY = (0.85, 0.45, 0.2, 1), (0.62, 0.64, 0.67, 1)


class Arm(PhysicsEnv):
    """A task of the arm. Action: targets of joints 1, 2, 4 and 6; with fingers, a fifth: above 0 closes, else opens.

    q holds the cube's pose [7] if there is a cube, the goal marker's pose [7], 7 joint angles, and the fingers.
    Observed poses and velocities are from before the last physics step, as in the paper's code.
    """

    goal_distance = 0.1
    goal_distance_easy = 0.3
    goal_distance_hard = 0.03
    action_size = 5
    episode_length = 1000
    backends = ("mjx",)
    view = View(lookat=(0, 0.45, 0.15), distance=1.5, azimuth=-125.0, elevation=-30.0)
    fingers = True
    impratio = 1.0

    def __init__(self, id: str, *, backend: str = "mjx"):
        """
        Args:
          id: the environment's name.
          backend: ``mjx``.
        """
        tree = _arm(self.fingers, self.impratio)
        boxes = self._add_objects(tree)
        _add_contacts(tree, self.fingers, boxes)
        super().__init__(id, tree, backend=backend, timestep=_TIMESTEP, frames=_FRAMES)
        self.sys = self.sys.tree_replace(_SOLVER)
        self._hand = self.sys.link_names.index("link7")

    @abc.abstractmethod
    def _add_objects(self, tree: ElementTree.Element) -> list[str]:
        """Add the objects on the table, in the order of q; returns geoms that the arm and the cube collide with."""

    def _control(self, action: jax.Array) -> jax.Array:
        low, high = _LOW[_MOVED], _HIGH[_MOVED]
        target = jnp.asarray(_LOW, float).at[_MOVED].set((low + high) / 2 + action[:4] * (high - low) / 2)
        if not self.fingers:
            return target
        return jnp.concatenate([target, jnp.full(2, jnp.where(action[4] > 0, 0.0, _OPEN))])

    def _hand_motion(self, state: Any) -> jax.Array:
        """The hand's position and velocity [6]."""
        return jnp.concatenate([state.x.pos[self._hand], state.xd.vel[self._hand]])


class ArmReach(Arm):
    """State: 7 joint angles, the hand's xyz and velocity. Goal: the hand's xyz, (0, 0.5, 0.3) +- 0.2 m."""

    state_dim = 13
    goal_indices = (7, 8, 9)
    action_size = 4
    placeable = False
    fingers = False

    def _add_objects(self, tree: ElementTree.Element) -> list[str]:
        _mat(tree, 0, 0.5, 0.2)
        _marker(tree, type="sphere", size=0.03)
        return []

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        physics.no_start(self.id, start)
        if goal is None:
            goal = jnp.array([0, 0.5, 0.3]) + jax.random.uniform(rng, (3,), minval=-0.2, maxval=0.2)
        q = jnp.asarray(self.sys.init_q, float).at[:3].set(goal).at[7:].set(jnp.array(_INITIAL))
        return q, jnp.zeros(self.sys.qd_size())

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        return q.at[:3].set(goal)

    def _observe(self, state, control: jax.Array) -> jax.Array:
        return jnp.concatenate([state.q[7:14], self._hand_motion(state)])

    def _goal_of(self, state) -> jax.Array:
        return state.q[:3]


class ArmCube(Arm):
    """State: the cube's xyz, 7 joint angles, the hand's xyz and velocity, the fingers' distance. Goal: the cube's xyz.

    A given start is the cube's x, y. Of a given goal, all three numbers are used.

    Attributes:
      cube: mean x, y in meters of the cube's start; ``cube_spread`` is the largest offset on each axis.
      target: mean x, y in meters of goals, which are 3 cm above the table; ``target_spread`` as for the cube.
    """

    state_dim = 17
    goal_indices: tuple[int, ...] = (0, 1, 2)
    cube: tuple[float, float]
    cube_spread: float
    target: tuple[float, float]
    target_spread: float

    def __init__(self, id: str, *, backend: str = "mjx"):
        super().__init__(id, backend=backend)
        self._fingers = jnp.array([self.sys.link_names.index(f"{side}_finger") for side in ("left", "right")])

    def _add_objects(self, tree: ElementTree.Element) -> list[str]:
        for x, y in (self.cube, self.target):
            _mat(tree, x, y, self.target_spread)
        _cube(tree, self.cube)
        _marker(tree, type="box", size=(0.03, 0.03, 0.03))
        return []

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        cube_key, goal_key = jax.random.split(rng)
        if goal is None:
            around = jnp.array([*self.target, _GOAL_HEIGHT])
            goal = around.at[:2].add(_spread(goal_key, self.target_spread))
        return self._initial_q(cube_key, start).at[7:10].set(goal), jnp.zeros(self.sys.qd_size())

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        return q.at[7:10].set(goal)

    def _initial_q(self, rng: jax.Array, start: jax.Array | None) -> jax.Array:
        """Initial q without the goal marker's pose; the cube is at the start, drawn if None."""
        if start is None:
            start = jnp.array(self.cube) + _spread(rng, self.cube_spread)
        q = jnp.asarray(self.sys.init_q, float).at[:2].set(start)
        # With fingertips (grasp) the last of these is the hinge of the left fingertip. So the right finger starts
        # closed, and the fingertips are 5 cm apart, as in the paper's code.
        return q.at[14:23].set(jnp.array([*_INITIAL, *_FINGERS]))

    def _observe(self, state, control: jax.Array) -> jax.Array:
        left, right = state.x.pos[self._fingers]
        opening = jnp.linalg.norm(right - left)
        return jnp.concatenate([state.q[:3], state.q[14:21], self._hand_motion(state), opening[None]])

    def _goal_of(self, state) -> jax.Array:
        return state.q[7:10]


class ArmPushEasy(ArmCube):
    """Bring the cube to a goal about 20 cm away."""

    cube, cube_spread = (-0.1, 0.6), 0.1
    target, target_spread = (0.1, 0.6), 0.1


class ArmPushHard(ArmCube):
    """Bring the cube to a goal about 50 cm away."""

    cube, cube_spread = (-0.25, 0.65), 0.25
    target, target_spread = (0.25, 0.65), 0.25


class ArmBinpick(ArmCube):
    """Lift the cube out of one bin into the other. The bins' walls are 6.6 cm high.

    Attributes:
      bins: x, y of the centers of the two bins in meters; ``bin_half`` is the distance from a center to the walls.
    """

    impratio = 10.0
    bins: tuple[tuple[float, float], tuple[float, float]]
    bin_half: float

    def _add_objects(self, tree: ElementTree.Element) -> list[str]:
        walls = [
            name for bin, (x, y) in zip("AB", self.bins, strict=True) for name in _bin(tree, bin, x, y, self.bin_half)
        ]
        _cube(tree, self.cube)
        _marker(tree, type="box", size=(0.03, 0.03, 0.03))
        return walls


class ArmBinpickEasy(ArmBinpick):
    """Small bins, 34 cm apart."""

    cube, cube_spread = (-0.15, 0.6), 0.09
    target, target_spread = (0.17, 0.6), 0.09
    bins, bin_half = ((-0.17, 0.6), (0.17, 0.6)), 0.14


class ArmBinpickHard(ArmBinpick):
    """Larger bins, 60 cm apart."""

    cube, cube_spread = (-0.3, 0.6), 0.15
    target, target_spread = (0.3, 0.6), 0.15
    bins, bin_half = ((-0.3, 0.6), (0.3, 0.6)), 0.19


class ArmGrasp(ArmCube):
    """State: the cube's xyz, 7 joint angles, the hand's xyz and velocity, xyz of the left and right fingertip, their
    distance. Goal: xyz of both fingertips, on either side of the cube, and their distance.

    The goal follows the cube with a delay of one step, as in the paper's code. If a goal is given but no start, the
    cube starts between the goal's fingertips. ``distance`` is from the cube to the midpoint of the fingertips. Success
    also requires that the fingertips are about 7.5 cm apart.
    """

    state_dim = 23
    goal_indices = (16, 17, 18, 19, 20, 21, 22)
    placeable = False
    goal_distance = 0.05
    goal_distance_easy = 0.15
    goal_distance_hard = 0.02
    cube, cube_spread = (0.0, 0.6), 0.3
    openness = 0.075  # meters between the fingertips

    def __init__(self, id: str, *, backend: str = "mjx"):
        super().__init__(id, backend=backend)
        self._fingers = jnp.array([self.sys.link_names.index(f"{side}_fingertip") for side in ("left", "right")])

    def _add_objects(self, tree: ElementTree.Element) -> list[str]:
        for side in ("left", "right"):
            tip = add(
                physics.child(tree, f"body[@name='{side}_finger']"),
                "body",
                name=f"{side}_fingertip",
                pos=(0, 0.005, 0.07),
            )
            add(tip, "joint", name=f"{side}_fingertip_joint", type="hinge", axis=(0, 0, 1))
            add(tip, "geom", type="box", size=(0.005, 0.005, 0.005), rgba=_DARK)
        _mat(tree, *self.cube, self.cube_spread)
        _cube(tree, self.cube)
        marker = _marker(tree, type="box", size=(0.005, 0.005, 0.005))
        marker.set("quat", "0.7071068 0 0 0.7071068")
        add(marker, "geom", type="box", size=(0.005, 0.005, 0.005), pos=(0, 0.07, 0), rgba=GOAL)
        return []

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        if start is None and goal is not None:
            start = (goal[:2] + goal[3:5]) / 2
        q = self._initial_q(rng, start)
        return q.at[7:10].set(self._goal_around_cube(q)[:3]), jnp.zeros(self.sys.qd_size())

    def _observe(self, state, control: jax.Array) -> jax.Array:
        left, right = state.x.pos[self._fingers]
        opening = jnp.linalg.norm(right - left)
        return jnp.concatenate([state.q[:3], state.q[14:21], self._hand_motion(state), left, right, opening[None]])

    def _goal_of(self, state) -> jax.Array:
        return self._goal_around_cube(state.q)

    def with_goal(self, state: State, goal: jax.Array) -> State:
        return GoalEnv.with_goal(self, state, goal)  # it follows the cube

    def _goal_around_cube(self, q: jax.Array) -> jax.Array:
        """The goal [7] for the cube's position in q."""
        offset = jnp.array([self.openness / 2, 0, 0])
        return jnp.concatenate([q[:3] + offset, q[:3] - offset, jnp.array([self.openness])])

    def _follow(self, state, goal: jax.Array) -> tuple[Any, jax.Array]:
        goal = self._goal_around_cube(state.q)
        return state.replace(q=state.q.at[7:10].set(goal[:3])), goal

    def _distance(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.linalg.norm(body[:3] - (body[16:19] + body[19:22]) / 2)

    def _measure(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> dict[str, jax.Array]:
        metrics = super()._measure(body, goal, before)
        error = jnp.abs(body[22] - self.openness)
        return metrics | {name: metrics[name] * (error < within) for name, within in _OPENNESS_WITHIN.items()}


def _spread(rng: jax.Array, reach: float) -> jax.Array:
    """A random offset [2], uniform within +-reach."""
    return jax.random.uniform(rng, (2,), minval=-reach, maxval=reach)


def _arm(fingers: bool, impratio: float) -> ElementTree.Element:
    """The MuJoCo model of the arm, without the table.

    Joints 1 to 7 have no damping and no armature, though the paper's compiled models show both. Both come from a
    default class that the first link names. brax fuses that link into the world before it compiles, so they are lost;
    recorded trajectories of the paper's code confirm it. The hand has no mass, because brax fuses it into link 7, and
    the model sets the mass of link 7.
    """
    parameters = json.loads((resources.files("crlviz.envs") / "data" / "panda.json").read_text())
    tree = ElementTree.Element("mujoco", model="panda")
    add(tree, "compiler", angle="radian", autolimits=True)
    add(tree, "option", integrator="implicitfast", impratio=impratio)
    # No geoms collide by default; ``_add_contacts`` lists the pairs that do.
    add(add(tree, "default"), "geom", contype=0, conaffinity=0)
    bodies = {"world": add(tree, "worldbody")}
    actuators = add(tree, "actuator")
    for row in parameters["bodies"]:
        if row["name"].endswith("finger") and not fingers:
            continue
        body = bodies[row["name"]] = add(
            bodies[row["parent"]], "body", name=row["name"], pos=row["pos"], quat=row["quat"]
        )
        if "joint" in row:
            add(body, "inertial", **row["inertial"])
            add(body, "joint", **row["joint"])
        # The visible link between two joints.
        if np.linalg.norm(row["pos"]) and row["parent"].startswith("link"):
            add(bodies[row["parent"]], "geom", type="capsule", size=0.05, fromto=(0, 0, 0, *row["pos"]), rgba=_STEEL)
    for row in parameters["geoms"]:
        if row["body"] in bodies:
            look = _STEEL if row["body"] == "hand" else _DARK
            add(bodies[row["body"]], "geom", **{k: v for k, v in row.items() if k != "body"}, rgba=look)
    for row in parameters["actuators"]:
        if fingers or not row["joint"].startswith("finger"):
            add(actuators, "general", **row, gaintype="fixed", biastype="affine")
    if fingers:
        equal = {"joint1": "finger_joint1", "joint2": "finger_joint2", "polycoef": (0, 1, 0, 0, 0)}
        add(add(tree, "equality"), "joint", **equal, solref=(0.005, 1), solimp=(0.95, 0.99, 0.001))
    return tree


def _cube(tree: ElementTree.Element, at: tuple[float, float]) -> None:
    cube = add(physics.child(tree, "worldbody"), "body", name="cube", pos=(*at, _CUBE_HEIGHT))
    add(cube, "freejoint", name="cube")
    add(cube, "geom", name="cube_geom", type="box", size=(0.03, 0.03, 0.03), rgba=_ORANGE)


def _marker(tree: ElementTree.Element, **geom: object) -> ElementTree.Element:
    """Add the goal as a weightless body without contacts; returns its element."""
    marker = add(physics.child(tree, "worldbody"), "body", name="goal_marker", pos=(-0.3, 0.6, 0.07), gravcomp=1)
    add(marker, "freejoint", name="goal_marker")
    add(marker, "geom", **geom, rgba=GOAL)
    return marker


def _mat(tree: ElementTree.Element, x: float, y: float, half: float) -> None:
    """Add a square on the table that shows where objects may start or goals may lie."""
    look = {"type": "box", "size": (half, half, 0.0005), "rgba": _GRAY}
    add(physics.child(tree, "worldbody"), "geom", pos=(x, y, 0.0005), **look)


def _bin(tree: ElementTree.Element, name: str, x: float, y: float, half: float) -> list[str]:
    """Add the four walls of a bin; returns the names of their geoms."""
    thick, high = 0.005, 0.033  # half sizes in meters
    world = physics.child(tree, "worldbody")
    long, short = (half + thick, thick, high), (thick, half - thick, high)
    walls = [(x, y - half, long), (x, y + half, long), (x + half, y, short), (x - half, y, short)]
    for i, (at_x, at_y, size) in enumerate(walls, 1):
        add(world, "geom", name=f"bin{name}{i}", type="box", pos=(at_x, at_y, high), size=size, rgba=_GRAY)
    return [f"bin{name}{i}" for i in range(1, 5)]


def _add_contacts(tree: ElementTree.Element, fingers: bool, boxes: list[str]) -> None:
    """Add the table, and the pairs of geoms that collide: hand, fingers, cube, boxes and table."""
    world = physics.child(tree, "worldbody")
    add(world, "geom", name="table_geom", type="plane", size=(2.8, 2.4, 0.1), pos=(0, 0.2, 0))
    pairs = [("hand_geom", "table_geom")]
    if fingers:
        obstacles = [*boxes, "cube_geom", "table_geom"]
        left, right = "left_finger_geom", "right_finger_geom"
        pairs = [("hand_geom", other) for other in obstacles] + [(left, right)]
        pairs += [(finger, other) for finger in (left, right) for other in obstacles]
        pairs += [(box, "cube_geom") for box in boxes] + [("cube_geom", "table_geom")]
    contact = add(tree, "contact")
    for one, other in pairs:
        add(contact, "pair", geom1=one, geom2=other, condim=3, friction=(1, 1, 0.005, 0.0001, 0.0001))
