"""At which depth does an ability appear? The largest jump in time at goal that chance does not explain."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_SEEDS = 3  # two that agree by chance would seem not to vary


@dataclass(frozen=True)
class Critical:
    """A critical depth, or why there is none.

    Attributes:
      depth: the first depth after the jump; None: none found.
      before: the depth before it.
      jump: steps at the goal gained there, mean over seeds and episodes.
      low, high: its 95 % interval, corrected for the number of places looked at.
      share: of bootstrap samples, how many have their largest jump at the same place.
      sentence: the same in words.
    """

    sentence: str
    depth: int | None = None
    before: int | None = None
    jump: float = np.nan
    low: float = np.nan
    high: float = np.nan
    share: float = np.nan


def find(scores: Mapping[int, Sequence[np.ndarray]], *, seed: int = 0) -> Critical:
    """The critical depth.

    Between each two neighbouring depths, the jump is the difference of the means over seeds of their episodes' means.
    Its interval is Welch's, which is wide enough for as few as three seeds (the percentile bootstrap is not), at
    1 - 0.05 / (places looked at), Bonferroni's correction. A jump is significant where its interval lies above zero;
    the critical depth is behind the largest of those. How sure its place is: seeds, and episodes of each, are drawn
    anew with replacement, and the share of those samples whose largest jump is there is told.

    Args:
      scores: depth to times at goal in steps, an array of episodes [E] a seed.
      seed: of the bootstrap.
    """
    depths = sorted(scores)
    if len(depths) < 2:
        return Critical("Critical depth: none found, for there is one depth only.")
    if min(len(scores[depth]) for depth in depths) < _SEEDS:
        return Critical(f"Critical depth: none found, for fewer than {_SEEDS} seeds a depth give no interval to trust.")
    means = {depth: np.array([np.mean(episodes) for episodes in scores[depth]]) for depth in depths}
    places = list(itertools.pairwise(depths))
    confidence = 1 - 0.05 / len(places)
    intervals = [_welch(means[before], means[after], confidence) for before, after in places]
    jumps = np.array([means[after].mean() - means[before].mean() for before, after in places])
    significant = [k for k, (low, _) in enumerate(intervals) if low > 0]
    if not significant:
        return Critical("Critical depth: none found; no jump between neighbouring depths is beyond chance.")
    best = max(significant, key=lambda k: jumps[k])
    (before, after), (low, high) = places[best], intervals[best]
    share = float(np.mean(_largest(scores, depths, np.random.default_rng(seed)) == best))
    return Critical(
        f"Critical depth: {after}; from depth {before} time at goal grows by {jumps[best]:.3g} steps "
        f"({low:.3g} to {high:.3g}), the largest jump in {share:.0%} of resamples.",
        after, before, float(jumps[best]), low, high, share,
    )  # fmt: skip


def _welch(a: np.ndarray, b: np.ndarray, confidence: float) -> tuple[float, float]:
    """Interval of the mean of b [M] minus that of a [N]; of one point where neither varies."""
    from scipy.stats import ttest_ind

    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return float(b[0] - a[0]), float(b[0] - a[0])
    interval = ttest_ind(b, a, equal_var=False).confidence_interval(confidence)
    return float(interval.low), float(interval.high)


def _largest(scores: Mapping[int, Sequence[np.ndarray]], depths: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Which place has the largest jump in each bootstrap sample: [samples]."""
    means = np.zeros((len(depths), _RESAMPLES))
    for row, depth in zip(means, depths, strict=True):
        # Resampled episodes' means of each seed, [seeds, samples], of which seeds are drawn.
        of_seed = np.stack([rng.choice(e, (_RESAMPLES, len(e))).mean(1) for e in map(np.asarray, scores[depth])])
        drawn = rng.integers(len(of_seed), size=(len(of_seed), _RESAMPLES))
        row[:] = of_seed[drawn, np.arange(_RESAMPLES)].mean(0)
    return np.diff(means, axis=0).argmax(0)


__all__ = ["Critical", "find"]
