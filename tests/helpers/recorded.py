"""A small file of trajectories: a damped point that random pushes move, with the sizes of the point mass."""

from pathlib import Path

import numpy as np

from crlviz.trajectories import files
from crlviz.trajectories.data import Trajectories


def pushed(lengths: list[int], seed: int = 0) -> Trajectories:
    """Trajectories of these numbers of transitions: states (x, y, and their velocities), actions of two numbers."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    for length in lengths:
        action = rng.uniform(-1, 1, (length + 1, 2)).astype(np.float32)
        velocity = np.zeros((length + 1, 2), np.float32)
        for index in range(length):
            velocity[index + 1] = 0.8 * velocity[index] + 0.2 * action[index]
        place = rng.uniform(-1, 1, 2) + np.cumsum(velocity, 0) * 0.1
        states.append(np.concatenate([place, velocity], -1).astype(np.float32))
        actions.append(action)
    ends = np.cumsum([length + 1 for length in lengths]) - 1
    return Trajectories(np.concatenate(states), np.concatenate(actions), ends, goal_indices=(0, 1))


def file(path: Path, lengths: list[int] | None = None, seed: int = 0) -> Path:
    """Write such trajectories; by default 24 of 12 transitions."""
    files.write(path, pushed(lengths or [12] * 24, seed))
    return path
