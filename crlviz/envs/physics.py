"""Environments on a physics engine: brax's pipelines or MJX, on MuJoCo models that are changed in memory."""

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

with contextlib.redirect_stdout(io.StringIO()):  # MJX prints which optional packages it lacks; none is used here
    import mujoco
    from brax.base import System
    from brax.io import mjcf
    from mujoco import mjx

# All have init(sys, q, qd) and step(sys, state, control), and states with q, qd, x (poses) and xd (velocities).
PIPELINES = {
    "spring": "brax.spring.pipeline",
    "positional": "brax.positional.pipeline",
    "generalized": "brax.generalized.pipeline",
    "mjx": "crlviz.envs.mjx",
}


class PhysicsEnv(GoalEnv):
    """A body in a physics engine; a subclass says what is drawn, observed and measured.

    Attributes:
      sys: brax's system, which MJX takes for a model as well.
      control_range: [actuators, 2], what actions of -1 and 1 mean to the actuators.
      maze_view: replaces ``view`` in a maze.
      goal_distance_hard: a narrower threshold that some bodies report as ``success_hard``, meters.
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
          id: the name ``crlviz.envs.make`` knows it by.
          tree: the MuJoCo model, see ``asset``.
          backend: a key of ``PIPELINES``.
          timestep: seconds of a physics step.
          frames: physics steps to a step.
          gear: replaces the actuators' gear [actuators].
          maze: the maze it walks in.
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
        """The state of joint positions q [nq] and velocities qd [nv], the goal's among them; nothing is drawn.

        ``info["goal"]`` holds the goal [goal_dim]: the body that shows it may drift by rounding, the goal does not.
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

    @abc.abstractmethod
    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Joint positions and velocities of a first state."""

    @abc.abstractmethod
    def _observe(self, physics: Any, control: jax.Array) -> jax.Array:
        """The state part [state_dim] of the observation of a physics state reached under these controls."""

    @abc.abstractmethod
    def _goal_of(self, physics: Any) -> jax.Array:
        """The goal [goal_dim] that a first physics state shows."""

    def _follow(self, physics: Any, goal: jax.Array) -> tuple[Any, jax.Array]:
        """The physics state and the goal that the next step starts from."""
        return physics, goal

    def _control(self, action: jax.Array) -> jax.Array:
        """What the actuators get for an action."""
        return action

    def _failed(self, physics: Any) -> jax.Array:
        """1.0 where the body has failed."""
        return jnp.zeros(())

    def _distance(self, body: jax.Array, goal: jax.Array, before: jax.Array) -> jax.Array:
        """Meters from the achieved goal to the commanded one; ``before`` is the state part before the step."""
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
    """1.0 where a height in meters is outside [low, high], or not a number."""
    return 1.0 - ((height >= low) & (height <= high)).astype(float)


def asset(name: str) -> ElementTree.Element:
    """A model that ships with brax, for example ``ant``, as a tree to change."""
    return ElementTree.fromstring((resources.files("brax") / "envs" / "assets" / f"{name}.xml").read_text())


def load(tree: ElementTree.Element) -> System:
    """The brax system of a MuJoCo model; bodies without a joint are fused with their parents."""
    with warnings.catch_warnings():  # brax tells at every load that MJX is the newer engine
        warnings.simplefilter("ignore")
        system = mjcf.loads(ElementTree.tostring(tree, encoding="unicode"))
    if jax.process_count() > 1:
        # MJX puts its part on the first device of all, which only one of the processes can read.
        own = mjx.put_model(system.mj_model, device=jax.local_devices()[0])
        system = system.replace(**{field.name: getattr(own, field.name) for field in dataclasses.fields(own)})
    return system


def add(parent: ElementTree.Element, tag: str, **attributes: Any) -> ElementTree.Element:
    """Append an element; sequences of numbers are joined by spaces."""
    return ElementTree.SubElement(parent, tag, {key: _text(value) for key, value in attributes.items()})


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else " ".join(f"{x:.12g}" for x in np.ravel(value))


def child(tree: ElementTree.Element, tag: str) -> ElementTree.Element:
    """The first element of this tag below a tree that has one."""
    found = tree.find(f".//{tag}")
    if found is None:
        raise ValueError(f"the model has no <{tag}>")
    return found


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
    """A sphere that slides in the plane, between limits in meters if there are any: a goal to be seen, or a ball."""
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
    """The goal as a body that touches nothing; its coordinates are the last of q.

    Its joints have no limits: the paper's stop at 20 m, which the far cells of its larger mazes lie beyond.
    """
    look = {"size": radius, "mass": mass, "contype": 0, "conaffinity": 0, "rgba": looks.GOAL}
    add_slider(tree, "target", height=height, axes=axes, geom=look)


def add_walls(tree: ElementTree.Element, maze: Maze, height: float) -> None:
    """One box for every wall cell of a maze, ``height`` meters high, and a floor that reaches under them all."""
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
    """A start and a goal [2] in meters out of the maze's pairs, where they are not given."""
    cells, weights = maze.pairs
    pair = jnp.asarray(maze.xy(cells))[jax.random.choice(rng, len(cells), p=jnp.asarray(weights))]
    return (
        pair[0] if start is None else jnp.asarray(start, float),
        pair[1] if goal is None else jnp.asarray(goal, float)[:2],
    )


def no_start(id: str, start: jax.Array | None) -> None:
    """
    Raises:
      UsageError: a start is given to a body whose first state leaves none to choose.
    """
    if start is not None:
        raise UsageError(f"{id} has one first state; its start cannot be chosen")
