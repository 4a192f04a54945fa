"""False-positive rate and power of comparisons, on distributions that scores of few seeds have."""

import numpy as np
import pytest
from scipy.stats import binom, ttest_ind

from crlviz import statistics

DRAWS = 20_000


def normal(spread, mean=0.0):
    return lambda rng, size: rng.normal(mean, spread, size)


def beta(mean, concentration):
    return lambda rng, size: rng.beta(mean * concentration, (1 - mean) * concentration, size)


def all_or_nothing(share):
    return lambda rng, size: (rng.random(size) < share).astype(float)


SHAPES = {
    "normal": (normal(1), normal(1)),
    "normal, half the spread": (normal(1), normal(2)),
    "normal, five times the spread": (normal(5), normal(1)),
    "skewed": (beta(0.8, 4), beta(0.8, 4)),
    "skewed, a third of the spread": (beta(0.8, 4), beta(0.8, 40)),
    "skewed, three times the spread": (beta(0.8, 40), beta(0.8, 4)),
    "very skewed": (beta(0.9, 3), beta(0.9, 3)),
    "at both ends": (beta(0.5, 1), beta(0.5, 1)),
    "at both ends and in the middle": (beta(0.5, 1), beta(0.5, 20)),
    "half of all seeds learn": (all_or_nothing(0.5), all_or_nothing(0.5)),
    "most seeds learn": (all_or_nothing(0.8), all_or_nothing(0.8)),
}
SEEDS = [(3, 3), (5, 5), (10, 10), (3, 5), (5, 3), (3, 10), (5, 10)]


def rate(shapes, seeds, comparisons=1):
    """How many of DRAWS pairs of groups get a verdict."""
    rng = np.random.default_rng(0)
    low, high = statistics.interval(
        *(shape(rng, (DRAWS, n)) for shape, n in zip(shapes, seeds, strict=True)), comparisons
    )
    return int(((low > 0) | (high < 0)).sum())


@pytest.mark.parametrize("name", SHAPES)
def test_false_positives_are_at_most_5_percent(name):
    """Means are equal, so every claim is false. Chance allows slightly more than 5 % of the draws (binomial, 1e-3)."""
    claimed = {seeds: rate(SHAPES[name], seeds) for seeds in SEEDS}
    assert max(claimed.values()) <= binom.ppf(0.999, DRAWS, 0.05), claimed


@pytest.mark.parametrize("comparisons", [3, 6])
def test_false_positives_over_several_comparisons_are_at_most_5_percent(comparisons):
    """Without all-or-nothing scores: three seeds cannot do it there, as the docstring says."""
    allowed = binom.ppf(0.999, DRAWS, 0.05 / comparisons)
    for name in ("normal", "normal, half the spread", "normal, five times the spread", "skewed", "very skewed"):
        claimed = {seeds: rate(SHAPES[name], seeds, comparisons) for seeds in SEEDS}
        assert max(claimed.values()) <= allowed, (name, claimed)


def test_welchs_test_has_more_false_positives():
    """So the distributions above are hard enough to reveal a bad test."""
    rng = np.random.default_rng(0)
    shape, other = SHAPES["skewed, a third of the spread"]
    result = ttest_ind(shape(rng, (DRAWS, 3)), other(rng, (DRAWS, 10)), axis=1, equal_var=False)
    assert (result.pvalue < 0.05).mean() > 0.1


def test_the_interval_by_hand():
    """Three seeds against five, where the three vary more; t with 2 degrees of freedom at 97.5 % is 4.3027."""
    result = statistics.compare([1.0, 2.0, 6.0], [5.0, 6.0, 6.0, 7.0, 6.0])
    half = 4.3027 * np.sqrt(7) * np.sqrt(2 / 3)
    assert result.difference == pytest.approx(-3)
    assert (result.low, result.high) == (pytest.approx(-3 - half, abs=1e-3), pytest.approx(-3 + half, abs=1e-3))
    wider = statistics.compare([1.0, 2.0, 6.0], [5.0, 6.0, 6.0, 7.0, 6.0], comparisons=3)  # at 1 - 0.05 / 3: 7.6488
    assert wider.high == pytest.approx(-3 + half * 7.6488 / 4.3027, abs=1e-2)


def test_the_verdict_is_the_side_of_zero_on_which_the_interval_lies():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(300):
        a, b = rng.normal(rng.normal(0, 5), 1, 5), rng.normal(0, 1, rng.integers(3, 9))
        result = statistics.compare(a, b, comparisons=int(rng.integers(1, 4)))
        assert result.low < result.difference == pytest.approx(a.mean() - b.mean())
        assert result.difference < result.high
        assert (result.verdict > 0, result.verdict < 0) == (result.low > 0, result.high < 0)
        opposite = statistics.compare(b, a, comparisons=result.comparisons)
        assert (opposite.verdict, opposite.low) == (-result.verdict, pytest.approx(-result.high))
        seen.add(result.verdict)
    assert seen == {-1, 0, 1}


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("comparisons", [1, 3])
def test_a_detectable_difference_is_found_with_a_power_of_80_percent(seeds, comparisons):
    spread = 0.1
    many = np.random.default_rng(2).normal(0, spread, 10_000)
    # compare estimates it from the seeds' spread; 10,000 seeds give the true one.
    effect = statistics.compare(many, many).detectable / statistics.detectable_difference(10_000, 10_000, 1)
    effect *= statistics.detectable_difference(seeds, seeds, comparisons)
    assert rate((normal(spread, effect), normal(spread)), (seeds, seeds), comparisons) / DRAWS == pytest.approx(
        0.8, abs=0.02
    )


def test_the_detectable_difference_uses_the_pooled_spread():
    result = statistics.compare([0.4, 0.5, 0.6], [0.4, 0.5, 0.6])
    assert result.detectable == pytest.approx(0.1 * statistics.detectable_difference(3, 3, 1))
    assert 0.5 < result.detectable < 0.6  # 5.4 standard deviations
    assert f"3 seeds would have found {result.detectable:.2f} or more" in result.words("deeper", "wider")


def test_no_detectable_difference_beyond_the_largest_possible():
    """Shares of 0, 0.5 and 1 have a standard deviation of 0.5. Three seeds find 5.4 times that; the largest is 1."""
    scores = [0.0, 0.5, 1.0]
    assert 2.6 < statistics.compare(scores, scores).detectable < 2.8
    shares = statistics.compare(scores, scores, largest=1)
    assert shares.detectable == np.inf
    assert shares.words("deeper", "wider").endswith("; 3 seeds vary too much to find any difference)")
    assert "would have found" not in shares.words("deeper", "wider")
    agree = statistics.compare([0.4, 0.5, 0.6], [0.4, 0.5, 0.6], largest=1)
    assert "3 seeds would have found 0.5" in agree.words("deeper", "wider")


def test_seeds_that_do_not_vary():
    same = statistics.compare([1.0] * 3, [1.0] * 3)
    assert (same.verdict, same.difference) == (0, 0)
    assert same.low <= 0 <= same.high
    assert "would have found" not in same.words("deeper", "wider")
    assert statistics.compare([0.0] * 3, [0.0] * 3).verdict == 0
    assert statistics.compare([0.3] * 3, [0.1 + 0.2] * 3).verdict == 0  # they differ by rounding
    # Different scores without any spread: a difference, with an interval of positive width.
    different = statistics.compare([1.0] * 3, [0.0] * 3)
    assert different.verdict == 1
    assert 0 < different.low < 0.9
    assert statistics.compare([1.0] * 3, [0.0] * 3, comparisons=1000).verdict == 0


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (2, 9), (9, 1)])
def test_fewer_than_three_seeds_have_no_verdict(seeds):
    result = statistics.compare(np.linspace(0.9, 1, seeds[0]), np.linspace(0, 0.1, seeds[1]))
    assert result.verdict == 0
    assert np.isnan([result.low, result.high, result.detectable]).all()
    assert result.difference > 0.8
    assert result.words("deeper", "wider").endswith("so this is a picture and no claim")


def test_a_missing_score_claims_nothing():
    result = statistics.compare([0.9, np.nan, 0.9], [0.1, 0.1, 0.2])
    assert result.verdict == 0
    assert np.isnan(result.low)
    assert result.words("deeper", "wider") == "a score is missing, so no claim"


def test_words():
    result = statistics.compare([0.8, 0.81, 0.82], [0.1, 0.11, 0.12], comparisons=3)
    assert result.words("deeper", "wider").startswith("deeper (+0.70, 95 % interval +0.")
    assert result.words("deeper", "wider").endswith("for all 3 comparisons together)")
    assert statistics.compare([0.1, 0.11, 0.12], [0.8, 0.81, 0.82]).words("deeper", "wider").startswith("wider (-0.70")


def test_an_interval_ends_where_scores_cannot_differ_more():
    free, shares = (statistics.compare([0.9, 0.1, 0.5], [0.0, 1.0, 0.6], 3, largest) for largest in (np.inf, 1.0))
    assert (free.low, free.high) < (-1, 1) < (free.high, free.high)
    assert (shares.low, shares.high, shares.verdict) == (-1, 1, free.verdict)
