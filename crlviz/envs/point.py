"""A point mass in a maze, light enough to train on a laptop. Plain jax, no physics engine."""

from functools import cached_property
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.envs import looks
from crlviz.envs.base import GoalEnv, State
from crlviz.envs.mazes import Maze

if TYPE_CHECKING:
    import mujoco

_FORCE = 0.15  # an action of 1 adds this to the velocity, in meters per step
_DRAG = 0.5  # share of the velocity lost in a step; so the top speed is 0.3 m per step on each axis
_START_JITTER = 0.1  # meters, uniform, on each axis
_MARGIN = 1e-4  # distance kept to the faces of a cell, in cells: far more than rounding, far less than a step


class PointState(struct.PyTreeNode):
    """Position [2] in meters, velocity [2] in meters per step, goal [2] in meters."""

    position: jax.Array
    velocity: jax.Array
    goal: jax.Array


class PointMaze(GoalEnv):
    """State: x, y, and the velocity's x, y. Action: a force in [-1, 1] on each axis. Goal: x, y.

    Within a step the point moves straight. At a wall it loses the velocity into the wall and slides along it, so its
    path never enters a wall. (It moves less than a cell per step, so it meets at most one wall face on each axis.)
    Cells are 1 m and the maze is centered on the origin. So inputs are of order one, which makes learning fastest.
    """

    goal_indices = (0, 1)
    goal_distance = 0.25
    goal_distance_easy = 0.5
    episode_length = 150
    dt = 0.1
    state_dim = 4
    action_size = 2
    view = looks.View("point", distance=3.2, elevation=-62.0)
    maze: Maze

    def __init__(self, id: str, maze: Maze):
        self.id = id
        self.maze = maze
        self._cell_size = maze.cell_size
        # numpy arrays, converted when traced: a jax array would compile a program for each of these operations.
        self._walls = maze.walls
        self._origin = np.asarray(maze.origin, np.float32)
        pairs, weights = maze.pairs
        self._pairs = maze.xy(pairs).astype(np.float32)
        self._weights = weights.astype(np.float32)

    @cached_property
    def model(self) -> "mujoco.MjModel":
        import mujoco

        from crlviz.envs import physics  # here: training a point needs no physics engine

        tree = ElementTree.fromstring("<mujoco><worldbody><geom name='floor' type='plane'/></worldbody></mujoco>")
        looks.dress(tree, self.view)
        size = self._cell_size
        physics.add_walls(tree, self.maze, 0.25 * size)
        look = {"size": 0.12 * size, "rgba": looks.BODY}
        physics.add_slider(tree, "point", height=0.12 * size, geom=look)
        physics.add_target(tree, radius=self.goal_distance)
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))

    def pose(self, state: State) -> jax.Array:
        point = state.pipeline_state
        return jnp.concatenate([point.position, point.goal])

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        pair_key, jitter_key = jax.random.split(rng)
        pair = jnp.asarray(self._pairs)[jax.random.choice(pair_key, len(self._pairs), p=self._weights)]
        jitter = jax.random.uniform(jitter_key, (2,), minval=-_START_JITTER, maxval=_START_JITTER)
        point = PointState(
            position=pair[0] + jitter if start is None else jnp.asarray(start, float),
            velocity=jnp.zeros(2),
            goal=pair[1] if goal is None else jnp.asarray(goal, float),
        )
        zero = jnp.zeros(())
        return State(point, self._observe(point), zero, zero, self._measure(point))

    def step(self, state: State, action: jax.Array) -> State:
        point = state.pipeline_state
        velocity = (1 - _DRAG) * point.velocity + _FORCE * jnp.clip(action, -1, 1)
        position, velocity = self._move(point.position, velocity)
        point = point.replace(position=position, velocity=velocity)
        metrics = self._measure(point)
        return state.replace(pipeline_state=point, obs=self._observe(point), reward=metrics["success"], metrics=metrics)

    def with_goal(self, state: State, goal: jax.Array) -> State:
        return self._at(state, state.pipeline_state.replace(goal=goal))

    def pushed(self, state: State, by: jax.Array) -> State:
        point = state.pipeline_state
        return self._at(state, point.replace(velocity=point.velocity + by * self.dt))

    def _at(self, state: State, point: PointState) -> State:
        return state.replace(pipeline_state=point, obs=self._observe(point), metrics=self._measure(point))

    def _move(self, position: jax.Array, velocity: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Position [2] and velocity [2] after one step from position [2] at velocity [2]; exact among square walls."""
        size = self._cell_size
        at = (position - self._origin) / size + 0.5  # in cells, so that cell i spans [i, i + 1)
        step = velocity / size
        here = jnp.floor(at)
        ahead = jnp.floor(at + step)
        face = jnp.where(step > 0, here + 1, here)
        # The fraction of the step at which it reaches the face between the two cells; inf if it stays in its cell.
        reach = jnp.where(ahead != here, (face - at) / jnp.where(step == 0, 1, step), jnp.inf)
        (i, j), (i2, j2) = here.astype(int), ahead.astype(int)

        def wall(row, column):
            return jnp.asarray(self._walls)[row, column]

        # First the axis whose face is reached first, then the other one, from the row or column that this leaves it in.
        x_first = reach[0] <= reach[1]
        x_blocked_first = wall(i2, j)
        y_blocked_first = wall(i, j2)
        x_blocked = jnp.where(x_first, x_blocked_first, wall(i2, jnp.where(y_blocked_first, j, j2)))
        y_blocked = jnp.where(x_first, wall(jnp.where(x_blocked_first, i, i2), j2), y_blocked_first)
        blocked = jnp.stack([x_blocked, y_blocked]) & (ahead != here)
        # Keep off the faces of the final cell, so that rounding never puts the point into the next one.
        cell = jnp.where(blocked, here, ahead)
        at = jnp.clip(at + step, cell + _MARGIN, cell + 1 - _MARGIN)
        return size * (at - 0.5) + self._origin, jnp.where(blocked, 0.0, velocity)

    def _observe(self, point: PointState) -> jax.Array:
        return jnp.concatenate([point.position, point.velocity, point.goal])

    def _measure(self, point: PointState) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(point.position - point.goal)
        return {
            "distance": distance,
            "success": (distance < self.goal_distance).astype(float),
            "success_easy": (distance < self.goal_distance_easy).astype(float),
        }
