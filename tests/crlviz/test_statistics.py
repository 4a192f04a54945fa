"""The interquartile mean and its interval, against their definitions."""

import numpy as np

from crlviz import statistics


def test_middle_half():
    assert statistics.interquartile_mean([0, 10, 11, 100]) == 10.5
    assert statistics.interquartile_mean([1, 2, 6]) == 3


def test_interval_is_the_bootstraps():
    scores = np.random.default_rng(0).normal(size=12)
    rng = np.random.default_rng(1)
    resamples = np.sort(rng.choice(scores, (20_000, 12)), axis=1)[:, 3:9].mean(axis=1)
    np.testing.assert_allclose(statistics.interval(scores), np.percentile(resamples, [2.5, 97.5]), atol=0.03)


def test_one_score_has_no_interval():
    assert statistics.interval([0.5]) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = [low <= 0 <= high for low, high in (statistics.interval(rng.normal(size=20)) for _ in range(100))]
    assert 0.85 < np.mean(covered) < 1
