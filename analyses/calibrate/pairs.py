"""Pairs of a moment and a later goal of the same episode, and the steps that the episode needed between them.

A goal counts as reached where the environment says so: within its success distance. The steps of a pair are counted to
the first such moment, however long the episode stayed there. Moments already within the success distance are left out.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from crlviz.envs.base import GoalEnv

_CANDIDATES = 40_000
_AT_ONCE = 4_000_000  # distances


class Pairs(NamedTuple):
    """Pairs of moments and goals of episodes.

    Attributes:
      episode, time: of the moment, before the step [N].
      goal: [N, goal], in meters.
      steps: [N], from the moment to the first one within the success distance of the goal; at least 1.
    """

    episode: np.ndarray
    time: np.ndarray
    goal: np.ndarray
    steps: np.ndarray


def achieved(runs: xr.Dataset, env: GoalEnv, edges: np.ndarray, most: int, rng: np.random.Generator) -> Pairs:
    """Pairs whose goal the episode achieves later, drawn evenly over the bins of their steps.

    Args:
      runs: from ``rollout``, in ``env``.
      env: the environment.
      edges: first step of each bin, and the end of the last [bins + 1].
      most: pairs of a bin.
      rng: draws them.
    """
    places, lengths = _places(runs, env), runs.alive.values.sum(1)
    episode = rng.integers(len(lengths), size=_CANDIDATES)
    # Later moments are drawn evenly on a logarithmic scale, so that near goals are as frequent as far ones.
    later = np.floor(np.exp(rng.uniform(0, np.log(lengths[episode] + 1)))).astype(int)
    time = np.floor(rng.random(_CANDIDATES) * (lengths[episode] + 1 - later)).astype(int)
    goal = places[episode, time + later]
    steps = _arrivals(places, episode, time, goal, later, env.goal_distance)
    fit = np.flatnonzero(steps > 0)
    bins = np.digitize(steps[fit], edges)
    chosen = np.concatenate([fit[bins == number][:most] for number in range(1, len(edges))])
    return Pairs(episode[chosen], time[chosen], goal[chosen], steps[chosen])


def commanded(runs: xr.Dataset) -> Pairs:
    """Each moment of an episode that reaches its commanded goal, before it does, with that goal."""
    success = runs.success.values
    arrival = np.where(success.any(1), success.argmax(1), -1)  # the step that arrives
    before = np.arange(success.shape[1]) <= arrival[:, None]
    episode, time = np.nonzero(before)
    return Pairs(episode, time, runs.goal.values[episode], arrival[episode] + 1 - time)


def _places(runs: xr.Dataset, env: GoalEnv) -> np.ndarray:
    """Achieved goals at every moment [episode, time + 1, goal]; the first one before the first step."""
    first = runs.state.values[:, :1, list(env.goal_indices)]
    return np.concatenate([first, runs.achieved.values], axis=1)


def _arrivals(
    places: np.ndarray, episode: np.ndarray, time: np.ndarray, goal: np.ndarray, later: np.ndarray, radius: float
) -> np.ndarray:
    """Steps [N] from each moment to the first one within ``radius`` of its goal, which is at most ``later`` away."""
    moments = np.arange(places.shape[1])
    steps = np.empty(len(episode), int)
    rows = max(1, _AT_ONCE // len(moments))
    for begin in range(0, len(episode), rows):
        part = slice(begin, begin + rows)
        near = np.linalg.norm(places[episode[part]] - goal[part, None], axis=-1) < radius
        near |= moments == (time + later)[part, None]  # the goal itself, whatever rounding says
        near &= moments >= time[part, None]
        steps[part] = near.argmax(1) - time[part]
    return steps
