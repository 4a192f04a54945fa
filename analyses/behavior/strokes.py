"""How a chain of links beats: numbers about its joints' angles."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco

SWING = 0.5  # radians: a joint that turned back by less has not turned back


def joints(model: "mujoco.MjModel") -> np.ndarray:
    """Where a chain's joints are in a pose [nq], from the first link on."""
    return np.array([model.jnt_qposadr[k] for k in range(model.njnt) if model.joint(k).name.startswith("joint_")])


def count(angles: np.ndarray) -> float:
    """Strokes, which are swings there and back: how often joints [T, J] in radians turn back by over ``SWING``, halved;
    mean over joints."""
    return float(np.mean([_turns(angle) for angle in angles.T]) / 2)


def _turns(angle: np.ndarray) -> int:
    turns, way, low, high = 0, 0, angle[0], angle[0]
    for now in angle:
        low, high = min(low, now), max(high, now)
        if way >= 0 and high - now > SWING:
            turns, way, low = turns + (way > 0), -1, now
        elif way <= 0 and now - low > SWING:
            turns, way, high = turns + (way < 0), 1, now
    return turns


def wave(angles: np.ndarray) -> float:
    """How far the angles [T, J] of neighboring joints go round rather than there and back.

    The area that the two angles circle about their mean over what they would at a right angle to their place: 1 for a
    circle, which is a wave that runs along the body, 0 for a path that goes back where it came; mean over pairs.
    """
    centerd = angles - angles.mean(0)
    moves, places = np.diff(centerd, axis=0), (centerd[1:] + centerd[:-1]) / 2
    a, b, da, db = places[:, :-1], places[:, 1:], moves[:, :-1], moves[:, 1:]
    most = (np.hypot(a, b) * np.hypot(da, db)).sum(0)
    area = np.abs((a * db - b * da).sum(0))
    return float(np.divide(area, most, out=np.zeros_like(area), where=most > 0).mean())
