"""Planted jumps must be found; flat lines must give none."""

import re

import numpy as np
import pytest

from analyses.behavior import critical_depth
from crlviz import statistics


def _scores(means, rng, seeds=3, spread=3.0, noise=10.0, episodes=64):
    """Scores at depths 4, 8, ... with these means; standard deviations: ``spread`` of seeds, ``noise`` of episodes."""
    return {
        4 * 2**k: [rng.normal(mean + spread * rng.normal(), noise, episodes) for _ in range(seeds)]
        for k, mean in enumerate(means)
    }


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_planted_jump_is_found_at_its_depth(place):
    means = np.where(np.arange(4) < place, 10, 60)
    found = critical_depth.find(_scores(means, np.random.default_rng(place)))
    assert (found.before, found.depth) == (4 * 2 ** (place - 1), 4 * 2**place)
    assert found.low < 50 < found.high
    assert f"Critical depth: {found.depth};" in found.sentence


def test_the_larger_of_two_jumps_is_the_critical_depth():
    found = critical_depth.find(_scores([0, 40, 40, 140], np.random.default_rng(0)))
    assert found.depth == 32


@pytest.mark.parametrize("seeds", [3, 5])
def test_flat_lines_have_no_critical_depth(seeds):
    """The false-positive rate is at most 5 %: at most 28 of 300 lines (0.999 quantile of the binomial)."""
    rng = np.random.default_rng(1)
    found = [critical_depth.find(_scores([30] * 5, rng, seeds, noise=5, episodes=8)).depth for _ in range(300)]
    assert sum(depth is not None for depth in found) <= 28


def test_a_falling_line_has_no_critical_depth():
    assert critical_depth.find(_scores([90, 60, 30], np.random.default_rng(0))).depth is None


def test_flat_lines_with_unequal_spreads_have_no_critical_depth():
    """All depths have one mean, one has five times the spread: at most 28 of 300, as above."""
    rng = np.random.default_rng(3)

    def line():
        return {depth: [rng.normal(30, spread, 1) for _ in range(3)] for depth, spread in ((4, 1), (8, 5), (16, 1))}

    assert sum(critical_depth.find(line()).depth is not None for _ in range(300)) <= 28


def test_the_interval_is_that_of_compare_corrected_for_all_pairs():
    """With unequal numbers of episodes and seeds: a seed's score is its mean over episodes."""
    scores = {
        4: [np.array([1.0, 3.0]), np.array([4.0]), np.array([3.0])],
        8: [np.array([x]) for x in (44.0, 45.0, 43.0, 44.0)],
        16: [np.array([x]) for x in (44.0, 45.0, 43.0)],
    }
    found, compared = critical_depth.find(scores), statistics.compare([44, 45, 43, 44], [2, 4, 3], comparisons=2)
    assert (found.depth, found.low, found.high) == (8, compared.low, compared.high)
    assert "for all 2 places together" in found.sentence


def test_other_significant_jumps_are_named():
    found = critical_depth.find(_scores([0, 40, 40, 140], np.random.default_rng(0), spread=1))
    assert found.depth == 32
    assert "it also jumps at 8" in found.sentence


def test_the_sentence_gives_the_detectable_jump():
    found = critical_depth.find(_scores([30, 30], np.random.default_rng(0)))
    assert found.depth is None
    assert re.search(r"3 seeds would have found one of [\d.]+ steps", found.sentence)


def test_seeds_without_variation():
    found = critical_depth.find({4: [np.zeros(3)] * 3, 8: [np.full(3, 7.0)] * 3, 16: [np.full(3, 7.0)] * 3})
    assert (found.depth, found.jump) == (8, 7)
    assert 0 < found.low < 7 < found.high
    assert critical_depth.find({4: [np.zeros(3)] * 3, 8: [np.zeros(3)] * 3}).depth is None


def test_two_seeds_or_one_depth_find_nothing():
    for seeds in (1, 2):
        found = critical_depth.find({4: [np.zeros(9)] * seeds, 8: [np.ones(9)] * 5})
        assert found.depth is None
        assert "fewer than 3 seeds" in found.sentence
    assert "one depth only" in critical_depth.find({4: [np.zeros(9), np.ones(9)]}).sentence


def test_seeds_that_succeed_or_fail_at_random_have_no_critical_depth():
    """At every depth a seed learns with probability 0.3: at most 28 of 300 lines may give a jump, as above."""
    rng = np.random.default_rng(6)

    def seed():
        return rng.normal(50 * (rng.random() < 0.3), 1, 8)

    found = [
        critical_depth.find({depth: [seed() for _ in range(3)] for depth in (4, 8, 16, 32)}).depth for _ in range(300)
    ]
    assert sum(depth is not None for depth in found) <= 28
