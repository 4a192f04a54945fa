"""Test whether two groups of seeds differ. Every claim in a sentence or a chart comes from here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

ERROR = 0.05  # false-positive rate over all comparisons of a page
FEWEST = 3  # seeds per group; two seeds that agree by chance would seem not to vary
_POWER = 0.8
_LEAST_SPREAD = 0.05  # share of the difference
_ROUNDING = 1e-6  # share of the largest score


@dataclass(frozen=True)
class Comparison:
    """The difference between the mean scores of groups a and b, and whether it is significant.

    Attributes:
      difference: mean of a minus mean of b, in the unit of the scores.
      low, high: its 95 % interval, widened for the number of comparisons; NaN with fewer than three seeds in a group.
      verdict: +1 if the interval lies above zero, -1 if below, else 0.
      detectable: the smallest difference that this many seeds with this spread would find with a power of 80 %; 0 if
        the scores do not vary, infinite if it is larger than scores can differ.
      seeds: size of the smaller group.
      comparisons: number of comparisons that the interval is corrected for.
    """

    difference: float
    low: float
    high: float
    verdict: int
    detectable: float
    seeds: int
    comparisons: int

    def words(self, above: str, below: str, form: str = ".2f") -> str:
        """The verdict as the end of a sentence, without the full stop.

        Args:
          above: text if a scores higher, such as "deeper is better".
          below: text if b scores higher.
          form: format specification of the numbers, without a sign.
        """
        if self.seeds < FEWEST:
            seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
            return f"{seeds}, so this is a picture and no claim"
        if math.isnan(self.low):
            return "a score is missing, so no claim"
        joint = f" for all {self.comparisons} comparisons together" if self.comparisons > 1 else ""
        interval = f"{self.difference:+{form}}, 95 % interval {self.low:+{form}} to {self.high:+{form}}{joint}"
        if self.verdict:
            return f"{above if self.verdict > 0 else below} ({interval})"
        power = f"; {self.seeds} seeds would have found {self.detectable:{form}} or more" if self.detectable else ""
        if math.isinf(self.detectable):
            power = f"; {self.seeds} seeds vary too much to find any difference"
        return f"no difference found ({interval}{power})"

    def brief(self, above: str, below: str) -> str:
        """The verdict in a few words, for a label in a picture; arguments as for ``words``."""
        if self.seeds < FEWEST:
            return "one seed: no claim" if self.seeds == 1 else f"{self.seeds} seeds: no claim"
        if math.isnan(self.low):
            return "a score is missing"
        return {1: above, -1: below, 0: "no difference found"}[self.verdict]


def compare(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    comparisons: int = 1,
    largest: float = math.inf,
) -> Comparison:
    """Test whether the mean scores of a and b differ, by a t interval that is wide enough for few seeds.

    Welch's interval is too short if few seeds have unequal spreads, or if the seeds of one group happen to agree: with
    three seeds its false-positive rate is up to three times the nominal one. So both groups are given the larger of
    the two standard deviations and the smaller of the two sizes. The standard deviation is at least a twentieth of the
    difference, because seeds that agree to the last digit seldom vary that little. Scores that differ only by rounding
    count as equal.

    The false-positive rate is at most 5 % in three cases: for normal scores of any spreads and sizes; for skewed
    scores, including all-or-nothing scores, if both groups have the same distribution; and for skewed scores in [0, 1],
    such as Beta of mean 0.8, if the spreads differ by a factor of three. No test of few seeds holds for every
    distribution. If one group has a long tail that its seeds seldom show (Beta of mean 0.9, concentration 3 against
    30), the rate is 4 to 8 %. If each seed succeeds or fails like the toss of a coin, two groups of three seeds differ
    by chance once in 32 times, for any number of comparisons.

    Args:
      a: scores of one group, one per seed [N].
      b: scores of the other group [M].
      comparisons: number of verdicts on the page; the interval's level is 1 - 0.05 / comparisons (Bonferroni).
      largest: the largest possible difference of two scores, for example 1 for shares.

    Returns:
      The comparison. With fewer than three seeds in a group, or a score that is not finite, the verdict is 0, and
      ``low``, ``high`` and ``detectable`` are NaN.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    seeds = min(len(a), len(b))
    difference = float(a.mean() - b.mean()) if seeds else math.nan
    if seeds < FEWEST or not math.isfinite(difference):
        return Comparison(difference, math.nan, math.nan, 0, math.nan, seeds, comparisons)
    low, high = (float(np.clip(end, -largest, largest)) for end in interval(a, b, comparisons))
    spread = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
    varies = spread > _ROUNDING * max(abs(a).max(), abs(b).max())
    detectable = spread * detectable_difference(len(a), len(b), comparisons) if varies else 0.0
    detectable = detectable if detectable <= largest else math.inf
    return Comparison(difference, low, high, int(low > 0) - int(high < 0), detectable, seeds, comparisons)


def interval(a: np.ndarray, b: np.ndarray, comparisons: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The interval of ``compare``, low and high [...], for many pairs of groups a [..., N] and b [..., M]."""
    n, m = a.shape[-1], b.shape[-1]
    difference = a.mean(-1) - b.mean(-1)
    rounding = _ROUNDING * np.maximum(abs(a).max(-1), abs(b).max(-1))
    spread = np.maximum(a.std(-1, ddof=1), b.std(-1, ddof=1))
    spread = np.maximum(np.maximum(spread, rounding), _LEAST_SPREAD * abs(difference))
    half = _half_width(min(n, m), comparisons) * spread
    return difference - half, difference + half


@cache
def _half_width(seeds: int, comparisons: int) -> float:
    """Half the width of an interval, in standard deviations of the scores; ``seeds`` is the smaller group's size."""
    from scipy.stats import t

    return float(t.ppf(1 - ERROR / comparisons / 2, seeds - 1)) * math.sqrt(2 / seeds)


@cache
def detectable_difference(n: int, m: int, comparisons: int) -> float:
    """The difference, in standard deviations of normal scores, that n against m seeds find with a power of 80 %."""
    rng = np.random.default_rng(0)
    spread = np.sqrt(np.maximum(*(rng.chisquare(k - 1, 20_000) / (k - 1) for k in (n, m))))
    # A difference is found if the observed one, normal about the true one, exceeds half the interval's width.
    noise = math.sqrt(1 / n + 1 / m) * rng.normal(size=len(spread))
    return float(np.quantile(_half_width(min(n, m), comparisons) * spread - noise, _POWER))


__all__ = ["ERROR", "FEWEST", "Comparison", "compare", "interval"]
