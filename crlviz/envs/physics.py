"""Environments with a physics engine, brax's pipelines or MJX, on MuJoCo models edited in memory."""

import abc
import contextlib
import dataclasses
import io
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs import looks
from crlviz.envs.base import GoalEnv, State
from crlviz.envs.looks import View
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError
from crlviz.precision import exact

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints which optional packages are missing; we use none
    from crlviz.envs.engine import mujoco  # isort: split
    from brax.base import System  # imports mujoco too
    from brax.io import mjcf
    from mujoco import mjx

# Each has init(sys, q, qd), step(sys, state, control), and states with q, qd, x (poses) and xd (velocities).
PIPELINES = {
    "spring": "brax.spring.pipeline",
    "positional": "brax.positional.pipeline",
    "generalized": "brax.generalized.pipeline",
    "mjx": "crlviz.envs.mjx",
}


class PhysicsEnv(GoalEnv):
    """A body in a physics engine. Subclasses define initial states, observations and goals.

    Attributes:
      sys: brax's system, which is an MJX model too.
      control_range: actuator controls [actuators, 2] for actions of -1 and 1.
      maze_view: replaces ``view`` in a maze.
      goal_distance_hard: narrower success threshold in meters, for ``success_hard``; None: not reported.
    """

    maze_view: View
    goal_distance_hard: float | None = None

    def __init__(
        self,
        id: str,
        tree: ElementTree.Element,
        *,
        backend: str,
        timestep: float,
        frames: int,
        gear: Sequence[float] | None = None,
        maze: Maze | None = None,
    ):
        """
        Args:
          id: its name for ``crlviz.envs.make``.
          tree: the MuJoCo model, see ``asset``.
          backend: a key of ``PIPELINES``.
          timestep: seconds of a physics step.
          frames: physics steps per environment step.
          gear: replaces the actuators' gear [actuators].
          maze: the maze it walks in.

        Raises:
          UsageError: the body does not run on this backend.
        """
        if backend not in self.backends:
            raise UsageError(f"{id} does not run on {backend!r}; it runs on {', '.join(self.backends)}")
        self.id = id
        self.maze = maze
        self.dt = timestep * frames
        self._backend = backend
        self._frames = frames
        self._pipeline: ModuleType = import_module(PIPELINES[backend])
        if maze:
            self.view = self.maze_view
        looks.dress(tree, self.view)
        sys = load(tree).tree_replace({"opt.timestep": timestep})
        if gear is not None:
            sys = sys.replace(actuator=sys.actuator.replace(gear=jnp.asarray(gear, float)))
        self.sys: System = sys
        self.control_range = np.asarray(sys.actuator.ctrl_range)

    @property
    def backend(self) -> str:
        return self._backend

    @property
    def model(self) -> mujoco.MjModel:
        return self.sys.mj_model

    def pose(self, state: State) -> jax.Array:
        return state.pipeline_state.q

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        return self.at(*self._draw(rng, start, goal))

    def at(self, q: jax.Array, qd: jax.Array) -> State:
        """The state at joint positions q [nq] and velocities qd [nv], which include the goal's; nothing is random.

        ``info["goal"]`` holds the goal [goal_dim], because the goal's body in the model may drift by rounding.
        """
        with exact():
            physics = self._pipeline.init(self.sys, jnp.asarray(q, float), jnp.asarray(qd, float))
            body = self._observe(physics, jnp.zeros(self.sys.act_size()))
            goal = self._goal_of(physics)
        zero = jnp.zeros(())
        metrics = self._measure(body, goal, body)
        return State(physics, jnp.concatenate([body, goal]), zero, zero, metrics, {"goal": goal})

    def step(self, state: State, action: jax.Array) -> State:
        with exact():
            return self._step(state, action)

    def _step(self, state: State, action: jax.Array) -> State:
        control = self._control(action)
        physics, _ = jax.lax.scan(
            lambda physics, _: (self._pipeline.step(self.sys, physics, control), None),
            state.pipeline_state,
            length=self._frames,
        )
        body, goal = self._observe(physics, control), state.info["goal"]
        metrics = self._measure(body, goal, state.obs[: self.state_dim])
        done = self._failed(physics)
        physics, following = self._follow(physics, goal)
        return state.replace(
            pipeline_state=physics,
            obs=jnp.concatenate([body, goal]),
            reward=metrics["success"],
            done=done,
            metrics=metrics,
            info=state.info | {"goal": following},
        )

    def with_goal(self, state: State, goal: jax.Array) -> State:
        physics = state.pipeline_state
        return self._replaced(state, self._set_goal(physics.q, goal), physics.qd)

    def pushed(self, state: State, by: jax.Array) -> State:
        if self.model.jnt_type[0] != mujoco.mjtJoint.mjJNT_FREE:
            return super().pushed(state, by)
        physics = state.pipeline_state
        return self._replaced(state, physics.q, physics.qd.at[:2].add(by))

    def _replaced(self, state: State, q: jax.Array, qd: jax.Array) -> State:
        """The state at other joint positions [nq] and velocities [nv]."""
        moved = self.at(q, qd)
        return moved.replace(info=state.info | moved.info)

    def _set_goal(self, q: jax.Array, goal: jax.Array) -> jax.Array:
        """Joint positions [nq] with the goal's body at a goal [goal_dim]."""
        return q.at[-2:].set(goal[:2])

    @abc.abstractmethod
    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Draw joint positions [nq] and velocities [nv] of an initial state."""

    @abc.abstractmethod
    def _observe(self, physics: Any, control: jax.Array) -> jax.Array:
        """The state part [state_dim] of the observation of a physics state that these controls led to."""

    @abc.abstractmethod
    def _goal_of(self, physics: Any) -> jax.Array:
        """The goal [goal_dim] of an initial physics state."""

    def _follow(self, physics: Any, goal: jax.Array) -> tuple[Any, jax.Array]:
        """Physics state and goal for the next step; override it if the goal moves."""
        return physics, goal

    def _control(self, action: jax.Array) -> jax.Array:
        """Actuator controls [actuators] for an action [action]."""
        return action

    def _failed(self, physics: Any) -> jax.Array:
        """1.0 if the body has failed, else 0.0."""
        return jnp.zeros(())

    def _distance(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> jax.Array:
        """Meters from the achieved to the commanded goal; ``before`` is the state part before the step."""
        return jnp.linalg.norm(body[jnp.array(self.goal_indices)] - goal)

    def _measure(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> dict[str, jax.Array]:
        distance = self._distance(body, goal, before)
        thresholds = {
            "success": self.goal_distance,
            "success_easy": self.goal_distance_easy or self.goal_distance,
            "success_hard": self.goal_distance_hard,
        }
        return {"distance": distance} | {
            name: (distance < threshold).astype(float) for name, threshold in thresholds.items() if threshold
        }


def out_of(height: jax.Array, low: float, high: float) -> jax.Array:
    """1.0 where a height in meters is outside [low, high] or NaN."""
    return 1.0 - ((height >= low) & (height <= high)).astype(float)


def asset(name: str) -> ElementTree.Element:
    """Parse a MuJoCo model of brax, for example ``ant``, into a tree that may be edited."""
    return ElementTree.fromstring((resources.files("brax") / "envs" / "assets" / f"{name}.xml").read_text())


def load(tree: ElementTree.Element) -> System:
    """Compile a MuJoCo model into a brax system; bodies without a joint are fused with their parents."""
    with warnings.catch_warnings():  # brax warns on every load that MJX is the newer engine
        warnings.simplefilter("ignore")
        system = mjcf.loads(ElementTree.tostring(tree, encoding="unicode"))
    if jax.process_count() > 1:
        # MJX puts its arrays on the first global device, which only one of the processes can read.
        local = mjx.put_model(system.mj_model, device=jax.local_devices()[0])
        system = system.replace(**{field.name: getattr(local, field.name) for field in dataclasses.fields(local)})
    return system


def add(parent: ElementTree.Element, tag: str, **attributes: Any) -> ElementTree.Element:
    """Append an element; sequences of numbers are joined by spaces."""
    return ElementTree.SubElement(parent, tag, {key: _text(value) for key, value in attributes.items()})


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else " ".join(f"{x:.12g}" for x in np.ravel(value))


def child(tree: ElementTree.Element, tag: str) -> ElementTree.Element:
    """The first element that matches a tag or path below a tree.

    Raises:
      ValueError: there is none.
    """
    element = tree.find(f".//{tag}")
    if element is None:
        raise ValueError(f"the model has no <{tag}>")
    return element


def add_slider(
    tree: ElementTree.Element,
    name: str,
    *,
    height: float,
    axes: str = "xy",
    limits: tuple[float, float] | None = None,
    armature: float = 0.0,
    geom: Mapping[str, object],
) -> None:
    """Add a sphere that slides in the plane, within limits in meters if given: a visible goal, or a ball."""
    body = add(child(tree, "worldbody"), "body", name=name, pos=(0, 0, height))
    for axis, direction in {"x": (1, 0, 0), "y": (0, 1, 0)}.items():
        if axis in axes:
            ends = {"limited": True, "range": limits} if limits else {"limited": False}
            name_and_axis = {"name": f"{name}_{axis}", "type": "slide", "axis": direction}
            add(body, "joint", **name_and_axis, **ends, armature=armature, damping=0, stiffness=0)
    add(body, "geom", name=name, type="sphere", **geom)


def add_target(
    tree: ElementTree.Element, *, axes: str = "xy", radius: float = 0.9, height: float = 0.01, mass: float = 1.0
) -> None:
    """Add the goal as a body without contacts; its coordinates are the last of q.

    Its joints have no limits. The limits of the paper's code are 20 m, less than the distance to the far cells of the
    larger mazes.
    """
    look = {"size": radius, "mass": mass, "contype": 0, "conaffinity": 0, "rgba": looks.GOAL}
    add_slider(tree, "target", height=height, axes=axes, geom=look)


def add_walls(tree: ElementTree.Element, maze: Maze, height: float) -> None:
    """Add a box, ``height`` meters high, for every wall cell of a maze, and make the floor as large as the maze."""
    world = child(tree, "worldbody")
    half = maze.cell_size / 2
    child(tree, "geom[@name='floor']").set("size", f"{2 * max(np.abs(maze.extent)):g} " * 2 + "40")
    for (i, j), (x, y) in zip(maze.cells("#"), maze.xy(maze.cells("#")), strict=True):
        add(
            world, "geom", name=f"wall_{i}_{j}", type="box", pos=(x, y, height / 2), size=(half, half, height / 2),
            contype=1, conaffinity=1, rgba=looks.WALL,
        )  # fmt: skip


def draw_pair(
    maze: Maze, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Start and goal [2] in meters; those not given are drawn from the maze's pairs."""
    cells, weights = maze.pairs
    pair = jnp.asarray(maze.xy(cells))[jax.random.choice(rng, len(cells), p=jnp.asarray(weights))]
    return (
        pair[0] if start is None else jnp.asarray(start, float),
        pair[1] if goal is None else jnp.asarray(goal, float)[:2],
    )


def no_start(id: str, start: jax.Array | None) -> None:
    """Refuse a start for a body whose start cannot be chosen.

    Raises:
      UsageError: a start is given.
    """
    if start is not None:
        raise UsageError(f"{id} takes no start: its initial position cannot be chosen")
