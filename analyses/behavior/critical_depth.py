"""At which depth does an ability appear? At the largest jump in time at goal that chance does not explain."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crlviz import statistics


@dataclass(frozen=True)
class Critical:
    """A critical depth, or the reason why none was found.

    Attributes:
      sentence: the result in words.
      depth: the first depth after the jump; None if there is no such jump.
      before: the last depth before the jump.
      jump: increase in time at goal across the jump, in steps; mean over seeds and episodes.
      low, high: 95 % interval of ``jump``, corrected for the number of pairs of depths compared.
      detectable: without a critical depth, the jump in steps that these seeds would have detected at any depth;
        infinite if that is more than an episode has; None if there were too few seeds or depths to test, or if all
        seeds are equal.
    """

    sentence: str
    depth: int | None = None
    before: int | None = None
    jump: float = np.nan
    low: float = np.nan
    high: float = np.nan
    detectable: float | None = None


def find(scores: Mapping[int, Sequence[np.ndarray]], longest: float = np.inf) -> Critical:
    """Find the critical depth: the depth after the largest significant jump between neighboring depths.

    A seed's score is the mean over its episodes; a jump is the difference between the mean scores of two neighboring
    depths. It is significant if ``statistics.compare`` says so, corrected for the number of pairs of depths. The
    largest significant jump is not tested against the other significant jumps; the sentence names them.

    Args:
      scores: for each depth, an array of times at goal [episodes], in steps, for each seed.
      longest: steps of an episode, more than which no jump can be.
    """
    depths = sorted(scores)
    if len(depths) < 2:
        return Critical("Critical depth: none found, because there is one depth only.")
    fewest = min(len(scores[depth]) for depth in depths)
    if fewest < statistics.FEWEST:
        return Critical(
            f"Critical depth: none found; fewer than {statistics.FEWEST} seeds per depth give no reliable interval."
        )
    means = {depth: [float(np.mean(episodes)) for episodes in scores[depth]] for depth in depths}
    pairs = list(itertools.pairwise(depths))
    jumps = {pair: statistics.compare(means[pair[1]], means[pair[0]], len(pairs), longest) for pair in pairs}
    up = sorted((pair for pair in pairs if jumps[pair].verdict > 0), key=lambda pair: -jumps[pair].difference)
    if not up:
        needed = max((jump.detectable for jump in jumps.values()), default=0.0)
        power = f" ({fewest} seeds would have found one of {needed:.3g} steps anywhere)" if needed else ""
        if np.isinf(needed):
            power = f" ({fewest} seeds vary too much to find any)"
        return Critical(
            f"Critical depth: none found; no jump between neighboring depths is beyond chance{power}.",
            detectable=needed or None,
        )
    (before, after), jump = up[0], jumps[up[0]]
    others = f"; it also jumps at {', '.join(str(depth) for _, depth in sorted(up[1:]))}" if up[1:] else ""
    corrected = f", for all {len(pairs)} places together" if len(pairs) > 1 else ""
    return Critical(
        f"Critical depth: {after}; from depth {before} time at goal grows by {jump.difference:.3g} steps "
        f"(95 % interval {jump.low:.3g} to {jump.high:.3g}{corrected}){others}.",
        after, before, jump.difference, jump.low, jump.high,
    )  # fmt: skip


__all__ = ["Critical", "find"]
