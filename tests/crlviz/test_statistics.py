"""The interquartile mean and its interval, against their definitions."""

import numpy as np
import pytest

from crlviz import statistics


def test_middle_half():
    assert statistics.interquartile_mean([0, 10, 11, 100]) == 10.5
    assert statistics.interquartile_mean([1, 2, 6]) == 3


def test_interval_is_the_bootstraps():
    scores = np.random.default_rng(0).normal(size=12)
    rng = np.random.default_rng(1)
    resamples = np.sort(rng.choice(scores, (20_000, 12)), axis=1)[:, 3:9].mean(axis=1)
    np.testing.assert_allclose(statistics.interval(scores), np.percentile(resamples, [2.5, 97.5]), atol=0.03)


def brute_force(groups, weights, rng, count=20_000):
    """Resamples a task's seeds apart from the other tasks', one draw at a time."""
    values = np.zeros(count)
    for draw in range(count):
        for weight, tasks in zip(weights, groups, strict=True):
            drawn = np.sort(np.concatenate([rng.choice(seeds, len(seeds)) for seeds in tasks]))
            cut = len(drawn) // 4
            values[draw] += weight * drawn[cut : len(drawn) - cut].mean()
    return np.percentile(values, [2.5, 97.5])


def test_a_contrast_is_stratified_over_tasks():
    rng = np.random.default_rng(3)
    groups = [[rng.normal(0, 1, 4), rng.normal(5, 2, 5)], [rng.normal(1, 1, 3), rng.normal(5, 1, 3)]]
    weights = [1.0, -0.5]
    flat = [np.concatenate(group) for group in groups]
    tasks = [np.repeat(["a", "b"], [len(seeds) for seeds in group]) for group in groups]
    order = rng.permutation(len(flat[0]))  # tasks need not lie together
    flat[0], tasks[0] = flat[0][order], tasks[0][order]
    value, found = statistics.contrast(flat, weights, tasks)
    expected = statistics.interquartile_mean(flat[0]) - 0.5 * statistics.interquartile_mean(flat[1])
    assert value == pytest.approx(expected)
    np.testing.assert_allclose(found, brute_force(groups, weights, rng), atol=0.1)
    pooled = statistics.interval(flat[0])  # blind to tasks it is far wider
    low, high = statistics.interval(flat[0], tasks[0])
    assert high - low < 0.7 * (pooled[1] - pooled[0])


def test_a_task_with_one_seed_has_no_interval():
    assert statistics.interval([0.1, 0.2, 0.9], ["a", "a", "b"]) is None
    assert statistics.contrast([[0.1, 0.2], [0.9]], [1, -1]) == (pytest.approx(-0.75), None)


def test_one_score_has_no_interval():
    assert statistics.interval([0.5]) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    covered = [low <= 0 <= high for low, high in (statistics.interval(rng.normal(size=20)) for _ in range(100))]
    assert 0.85 < np.mean(covered) < 1
