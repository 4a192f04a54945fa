"""At which depth does an ability appear? The largest jump in time at goal that chance does not explain."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crlviz import statistics


@dataclass(frozen=True)
class Critical:
    """A critical depth, or why there is none.

    Attributes:
      sentence: it in words.
      depth: the first depth after the jump; None: none found.
      before: the depth before it.
      jump: steps at the goal gained there, mean over seeds and episodes.
      low, high: its 95 % interval, corrected for the number of places looked at.
    """

    sentence: str
    depth: int | None = None
    before: int | None = None
    jump: float = np.nan
    low: float = np.nan
    high: float = np.nan


def find(scores: Mapping[int, Sequence[np.ndarray]]) -> Critical:
    """The critical depth: behind the largest jump among those between neighboring depths that are beyond chance.

    A jump is the difference of the means over seeds of their episodes' means, and beyond chance where
    ``statistics.compare`` says so, for as many comparisons as there are places to look at. That the largest is larger
    than the others that are beyond chance is not tested; the sentence names those.

    Args:
      scores: depth to times at goal in steps, an array of episodes [E] a seed.
    """
    depths = sorted(scores)
    if len(depths) < 2:
        return Critical("Critical depth: none found, for there is one depth only.")
    fewest = min(len(scores[depth]) for depth in depths)
    if fewest < statistics.FEWEST:
        return Critical(
            f"Critical depth: none found, for fewer than {statistics.FEWEST} seeds a depth give no interval to trust."
        )
    means = {depth: [float(np.mean(episodes)) for episodes in scores[depth]] for depth in depths}
    places = list(itertools.pairwise(depths))
    jumps = {place: statistics.compare(means[place[1]], means[place[0]], len(places)) for place in places}
    up = sorted((place for place in places if jumps[place].verdict > 0), key=lambda place: -jumps[place].difference)
    if not up:
        needed = max((jump.detectable for jump in jumps.values()), default=0.0)
        power = f" ({fewest} seeds would have found one of {needed:.3g} steps anywhere)" if needed else ""
        return Critical(f"Critical depth: none found; no jump between neighboring depths is beyond chance{power}.")
    (before, after), jump = up[0], jumps[up[0]]
    others = f"; it also jumps at {', '.join(str(depth) for _, depth in sorted(up[1:]))}" if up[1:] else ""
    together = f", for all {len(places)} places together" if len(places) > 1 else ""
    return Critical(
        f"Critical depth: {after}; from depth {before} time at goal grows by {jump.difference:.3g} steps "
        f"(95 % interval {jump.low:.3g} to {jump.high:.3g}{together}){others}.",
        after, before, jump.difference, jump.low, jump.high,
    )  # fmt: skip


__all__ = ["Critical", "find"]
