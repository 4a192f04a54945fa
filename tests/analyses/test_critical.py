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


@pytest.mark.parametrize("top", [5.0, 24.0])
def test_the_interval_is_welchs_by_hand(top):
    """Of unequal episodes and seeds; with one place looked at, at 95 %."""
    scores = {4: [np.array([1.0, 3.0]), np.array([4.0]), np.array([3.0])], 8: [np.array([x]) for x in (4, 5, 3, top)]}
    a, b = np.array([2.0, 4.0, 3.0]), np.array([4, 5, 3, top])
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 4
    half = t.ppf(0.975, (va + vb) ** 2 / (va**2 / 2 + vb**2 / 3)) * np.sqrt(va + vb)
    jump = b.mean() - a.mean()
    np.testing.assert_allclose(critical._welch(a, b, 0.95), (jump - half, jump + half))
    assert jump - half < 0
    assert critical.find(scores).depth is None


def test_no_variation_at_all():
    found = critical.find({4: [np.zeros(3)] * 3, 8: [np.full(3, 7.0)] * 3, 16: [np.full(3, 7.0)] * 3})
    assert (found.depth, found.jump, found.low, found.high, found.share) == (8, 7, 7, 7, 1)
    assert critical.find({4: [np.zeros(3)] * 3, 8: [np.zeros(3)] * 3}).depth is None


def test_what_two_seeds_or_one_depth_cannot_say():
    for seeds in (1, 2):
        found = critical.find({4: [np.zeros(9)] * seeds, 8: [np.ones(9)] * 5})
        assert found.depth is None
        assert "fewer than 3 seeds" in found.sentence
    assert "one depth only" in critical.find({4: [np.zeros(9), np.ones(9)]}).sentence


def test_seeds_that_all_reach_or_all_miss_by_chance():
    """Three in ten seeds learn at any depth: at most one line in twenty may seem to jump (28 of 300 by chance)."""
    rng = np.random.default_rng(6)

    def seed():
        return rng.normal(50 * (rng.random() < 0.3), 1, 8)

    found = [critical.find({depth: [seed() for _ in range(3)] for depth in (4, 8, 16, 32)}).depth for _ in range(300)]
    assert sum(depth is not None for depth in found) <= 28
