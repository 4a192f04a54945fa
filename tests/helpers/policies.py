"""Policies of a point mass whose behavior is known, and a point that falls on its way to a fixed goal."""

import jax.numpy as jnp
import numpy as np

from crlviz.envs import mazes
from tests.helpers.toys import ROOM, FallingPoint


def steer(observation, key=None):
    position, velocity, goal = jnp.split(observation, 3, axis=-1)
    return jnp.clip((goal - position - 0.5 * velocity) / 0.15, -1, 1)


def stay(observation, key=None):
    return jnp.zeros((*observation.shape[:-1], 2))


def push(x, y):
    return lambda observation, key=None: jnp.broadcast_to(jnp.array([x, y], float), (*observation.shape[:-1], 2))


def circle(observation, key=None):
    """Circle the middle of a room at a radius of about 1 m: along the tangent, with a correction of the radius."""
    position, velocity = observation[..., :2], observation[..., 2:4]
    radius = jnp.linalg.norm(position, axis=-1, keepdims=True) + 1e-6
    tangent = jnp.stack([-position[..., 1], position[..., 0]], axis=-1) / radius
    wanted = 0.15 * tangent + 0.5 * (1 - radius) * position / radius
    return jnp.clip((wanted - 0.5 * velocity) / 0.15, -1, 1)


class FixedGoal(FallingPoint):
    """A point that falls beyond a given line, with a fixed goal."""

    def __init__(self, line, goal):
        super().__init__("point_falling_maze", mazes.build(ROOM, centered=True))
        self.line, self._goal = line, np.asarray(goal, float)

    def reset(self, rng, start=None, goal=None):
        return super().reset(rng, start, self._goal if goal is None else goal)
