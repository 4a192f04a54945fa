"""Planted jumps must be found, flat lines must not."""

import numpy as np
import pytest
from scipy.stats import t

from analyses import critical


def _scores(means, rng, seeds=3, spread=3.0, noise=10.0, episodes=64):
    """Depths 4, 8, ... with these means; seeds differ by ``spread``, episodes by ``noise``."""
    return {
        4 * 2**k: [rng.normal(mean + spread * rng.normal(), noise, episodes) for _ in range(seeds)]
        for k, mean in enumerate(means)
    }


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_planted_jump_is_found_where_it_is(place):
    means = np.where(np.arange(4) < place, 10, 60)
    found = critical.find(_scores(means, np.random.default_rng(place)))
    assert (found.before, found.depth) == (4 * 2 ** (place - 1), 4 * 2**place)
    assert found.low < 50 < found.high
    assert found.share > 0.99
    assert f"Critical depth: {found.depth};" in found.sentence


def test_the_larger_of_two_jumps():
    found = critical.find(_scores([0, 40, 40, 140], np.random.default_rng(0)))
    assert found.depth == 32


@pytest.mark.parametrize("seeds", [3, 5])
def test_flat_lines_have_none(seeds):
    """At most one flat line in twenty may look like a jump; chance allows 28 of 300 (binomial, 1e-3)."""
    rng = np.random.default_rng(1)
    found = [critical.find(_scores([30] * 5, rng, seeds, noise=5, episodes=8)).depth for _ in range(300)]
    assert sum(depth is not None for depth in found) <= 28


def test_a_falling_line_has_none():
    assert critical.find(_scores([90, 60, 30], np.random.default_rng(0))).depth is None


def test_the_interval_is_welchs_by_hand():
    scores = {4: [np.array([1.0, 3.0]), np.array([4.0]), np.array([3.0])], 8: [np.array([20.0]), np.array([24.0])]}
    found = critical.find(scores)
    a, b = np.array([2.0, 4.0, 3.0]), np.array([20.0, 24.0])
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 2
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 1)
    half = t.ppf(0.975, freedom) * np.sqrt(va + vb)
    interval = critical._welch(a, b, 0.95)
    np.testing.assert_allclose(interval, (19 - half, 19 + half))
    assert (found.depth is not None) == (19 - half > 0)


def test_no_variation_at_all():
    found = critical.find({4: [np.zeros(3)] * 3, 8: [np.full(3, 7.0)] * 3, 16: [np.full(3, 7.0)] * 3})
    assert (found.depth, found.jump, found.low, found.high, found.share) == (8, 7, 7, 7, 1)
    assert critical.find({4: [np.zeros(3)] * 3, 8: [np.zeros(3)] * 3}).depth is None


def test_what_one_seed_or_one_depth_cannot_say():
    assert "one seed a depth" in critical.find({4: [np.zeros(9)], 8: [np.ones(9)]}).sentence
    assert "one depth only" in critical.find({4: [np.zeros(9), np.ones(9)]}).sentence
