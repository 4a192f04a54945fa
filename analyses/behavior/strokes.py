"""How a chain of links swims: numbers computed from its joint angles."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

SWING = 0.5  # radians: a smaller reversal of a joint does not count


def joints(model: "mujoco.MjModel") -> np.ndarray:
    """Indices of a chain's joints in a pose [nq], in order from the first link."""
    return np.array([model.jnt_qposadr[k] for k in range(model.njnt) if model.joint(k).name.startswith("joint_")])


def count(angles: np.ndarray) -> float:
    """Number of strokes of joint angles [T, J] in radians, mean over joints.

    A stroke is a swing there and back, so it has two reversals; only reversals of more than ``SWING`` count.
    """
    return float(np.mean([_reversals(angle) for angle in angles.T]) / 2)


def _reversals(angle: np.ndarray) -> int:
    """Number of reversals of more than ``SWING`` in one joint's angle [T]."""
    reversals, direction, low, high = 0, 0, angle[0], angle[0]
    for value in angle:
        low, high = min(low, value), max(high, value)
        if direction >= 0 and high - value > SWING:
            reversals, direction, low = reversals + (direction > 0), -1, value
        elif direction <= 0 and value - low > SWING:
            reversals, direction, high = reversals + (direction < 0), 1, value
    return reversals


def wave(angles: np.ndarray) -> float:
    """How closely the angles [T, J] of neighboring joints trace a circle, mean over the pairs: 0 to 1.

    The two angles of a pair trace a path in the plane. The value is the area that the path sweeps about its mean,
    divided by the area that it would sweep if each move were perpendicular to the radius. It is 1 for a circle (a wave
    that travels along the body) and 0 for a path that goes back the way it came.
    """
    centered = angles - angles.mean(0)
    moves, places = np.diff(centered, axis=0), (centered[1:] + centered[:-1]) / 2
    a, b, da, db = places[:, :-1], places[:, 1:], moves[:, :-1], moves[:, 1:]
    largest = (np.hypot(a, b) * np.hypot(da, db)).sum(0)
    area = np.abs((a * db - b * da).sum(0))
    return float(np.divide(area, largest, out=np.zeros_like(area), where=largest > 0).mean())
