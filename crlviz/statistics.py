"""Do two groups of seeds differ? The one place where that is decided, for every sentence and mark that says so."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

ERROR = 0.05  # how often, at most, what does not differ may be said to, over all comparisons of a page
FEWEST = 3  # seeds; two that agree by chance would seem not to vary
_POWER = 0.8
_LEAST_SPREAD = 0.05  # of the difference
_ROUNDING = 1e-6  # of the largest score


@dataclass(frozen=True)
class Comparison:
    """Whether group a scores more than group b.

    Attributes:
      difference: the mean of a minus that of b, in the scores' unit.
      low, high: its 95 % interval, widened for the number of comparisons; NaN with fewer than three seeds a group.
      verdict: +1 where the interval lies above zero, -1 where it lies below, else 0.
      detectable: the smallest difference that as many seeds, with so much spread, would find four times in five; 0
        where nothing varies, and infinite where it is larger than scores can differ.
      seeds: of the smaller group.
      comparisons: that the interval allows for.
    """

    difference: float
    low: float
    high: float
    verdict: int
    detectable: float
    seeds: int
    comparisons: int

    def words(self, above: str, below: str, form: str = ".2f") -> str:
        """The verdict as the end of a sentence, without its stop.

        Args:
          above: what is said where a scores more, such as "deeper is better".
          below: what is said where b does.
          form: of the numbers, a format specification without a sign.
        """
        if self.seeds < FEWEST:
            seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
            return f"{seeds}, so this is a picture and no claim"
        if math.isnan(self.low):
            return "a score is missing, so no claim"
        together = f" for all {self.comparisons} comparisons together" if self.comparisons > 1 else ""
        interval = f"{self.difference:+{form}}, 95 % interval {self.low:+{form}} to {self.high:+{form}}{together}"
        if self.verdict:
            return f"{above if self.verdict > 0 else below} ({interval})"
        power = f"; {self.seeds} seeds would have found {self.detectable:{form}} or more" if self.detectable else ""
        if math.isinf(self.detectable):
            power = f"; {self.seeds} seeds vary too much to find any difference"
        return f"no difference told ({interval}{power})"


def compare(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    comparisons: int = 1,
    largest: float = math.inf,
) -> Comparison:
    """Whether the mean score of a differs from that of b, by a t interval that few seeds do not make too short.

    Welch's interval is too short where few seeds vary unequally, or where one group's seeds happen to agree: at three
    seeds it claims a difference of nothing up to three times as often as it says. So both groups are taken to vary as
    much as the one that varies more, and to be as few seeds as the smaller one. And the standard deviation is at least
    a twentieth of the difference: seeds that agree to the last digit are seldom so equal as they look; and equal scores
    that differ by rounding are equal.

    Of no difference, at most 5 % are claimed: for normal scores of any spreads and numbers; for skewed ones that both
    groups have alike, all-or-nothing ones too; and for skewed ones in [0, 1] whose spreads differ threefold, such as
    Beta of mean 0.8. No test of few seeds holds for every shape, nor does this. Where one group has a long tail that
    its seeds seldom show (Beta of mean 0.9, concentration 3 against 30) it claims 4 to 8 %. And where each seed learns
    or does not, by the toss of a coin, three seeds a group differ by chance once in 32 times, however many comparisons
    are allowed for.

    Args:
      a: a score a seed [N].
      b: those of the other group [M].
      comparisons: how many such verdicts the page gives; the interval's level is 1 - 0.05 / comparisons (Bonferroni).
      largest: by how much two scores can differ, as 1 where they are shares.

    Returns:
      The comparison. With fewer than three seeds in a group, or a score that is not finite, its verdict is 0 and
      ``low``, ``high`` and ``detectable`` are NaN.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    seeds = min(len(a), len(b))
    difference = float(a.mean() - b.mean()) if seeds else math.nan
    if seeds < FEWEST or not math.isfinite(difference):
        return Comparison(difference, math.nan, math.nan, 0, math.nan, seeds, comparisons)
    low, high = map(float, interval(a, b, comparisons))
    spread = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
    varies = spread > _ROUNDING * max(abs(a).max(), abs(b).max())
    found = spread * _detectable(len(a), len(b), comparisons) if varies else 0.0
    found = found if found <= largest else math.inf
    return Comparison(difference, low, high, int(low > 0) - int(high < 0), found, seeds, comparisons)


def interval(a: np.ndarray, b: np.ndarray, comparisons: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The interval of ``compare`` (low and high [...]) of many pairs of groups at once: a [..., N] and b [..., M]."""
    n, m = a.shape[-1], b.shape[-1]
    difference = a.mean(-1) - b.mean(-1)
    rounding = _ROUNDING * np.maximum(abs(a).max(-1), abs(b).max(-1))
    spread = np.maximum(a.std(-1, ddof=1), b.std(-1, ddof=1))
    spread = np.maximum(np.maximum(spread, rounding), _LEAST_SPREAD * abs(difference))
    half = _halves(min(n, m), comparisons) * spread
    return difference - half, difference + half


@cache
def _halves(seeds: int, comparisons: int) -> float:
    """Half an interval's length, in standard deviations of the scores, with so many seeds in the smaller group."""
    from scipy.stats import t

    return float(t.ppf(1 - ERROR / comparisons / 2, seeds - 1)) * math.sqrt(2 / seeds)


@cache
def _detectable(n: int, m: int, comparisons: int) -> float:
    """The difference, in standard deviations of normal scores, that n against m seeds find four times in five."""
    rng = np.random.default_rng(0)
    spread = np.sqrt(np.maximum(*(rng.chisquare(k - 1, 20_000) / (k - 1) for k in (n, m))))
    # Found where the observed difference, which is normal about the true one, exceeds half the interval.
    missed = math.sqrt(1 / n + 1 / m) * rng.normal(size=len(spread))
    return float(np.quantile(_halves(min(n, m), comparisons) * spread - missed, _POWER))


__all__ = ["ERROR", "FEWEST", "Comparison", "compare", "interval"]
