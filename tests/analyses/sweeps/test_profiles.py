"""Profiles and probabilities of improvement against brute force and known distributions, and areas under curves."""

import itertools

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from analyses.common.curve_area import area
from analyses.sweeps import profiles, results_table, scaling
from tests.helpers.toys import planted_runs

RNG = np.random.default_rng(0)
ONE = {"a": RNG.random(5), "b": RNG.random(7).round(1)}
OTHER = {"a": RNG.random(6) + 0.2, "b": RNG.random(4).round(1)}


def test_a_profile_counts_runs_above_each_score():
    levels = np.array([0.0, 0.25, 0.5, 0.9])
    value, low, high = profiles.profile(ONE, levels)
    expected = [
        np.mean([sum(score > level for score in scores) / len(scores) for scores in ONE.values()]) for level in levels
    ]
    np.testing.assert_allclose(value, expected)
    assert (low <= value).all()
    assert (value <= high).all()
    assert (np.diff(value) <= 0).all()


def test_the_probability_of_improvement_counts_pairs():
    value, low, high = profiles.improvement(ONE, OTHER)
    by_pairs = []
    for task, scores in ONE.items():
        pairs = list(itertools.product(scores, OTHER[task]))
        by_pairs.append(sum((x > y) + 0.5 * (x == y) for x, y in pairs) / len(pairs))
        # As rliable has it.
        statistic = mannwhitneyu(scores, OTHER[task], alternative="greater").statistic
        assert by_pairs[-1] == pytest.approx(statistic / len(pairs))
    assert value == pytest.approx(np.mean(by_pairs))
    assert low <= value <= high
    assert profiles.improvement(OTHER, ONE)[0] == pytest.approx(1 - value)


def test_the_bootstrap_is_that_of_each_task_alone():
    """Tasks of one score each do not vary, though they differ: their seeds are not mixed."""
    apart = {"easy": np.full(5, 0.9), "hard": np.full(5, 0.1)}
    assert [values.tolist() for values in profiles.profile(apart, np.array([0.5]))] == [[0.5], [0.5], [0.5]]


def test_the_interval_is_about_as_wide_as_the_scores_vary():
    """Of 50 runs, the share above the median: its standard error is that of a coin."""
    _, low, high = profiles.profile({"a": np.arange(50.0)}, np.array([24.5]))
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 50), rel=0.1)


def _swept(seeds, tasks=("here",)):
    return planted_runs(
        *(
            {"depth": depth, "seed": seed, "env": task, "score": 0.04 * depth + 0.03 * seed}
            for depth, seed, task in itertools.product((4, 8, 16), range(seeds), tasks)
        )
    )


def test_profiles_are_drawn_where_there_are_enough_runs():
    assert profiles.scores_by_depth(_swept(9), "success") == {}
    assert profiles.scores_by_depth(planted_runs(*({"seed": seed} for seed in range(20))), "success") == {}
    for data in (_swept(10), _swept(5, ("here", "there"))):
        by_depth = profiles.scores_by_depth(data, "success")
        assert list(by_depth) == [4, 8, 16]
        assert sum(len(scores) for scores in by_depth[4].values()) == 10
        text = str(scaling.plot(data, metric="success").to_dict()).replace("', '", " ")
        assert "A run of depth 16 scores above one of depth 4 with probability" in text
        assert "2,000 bootstrap samples" in text
    assert "bootstrap" not in str(scaling.plot(_swept(3), metric="success").to_dict())


def test_tasks_that_a_depth_lacks_are_left_out():
    data = _swept(10, ("here", "there"))
    data = data.isel(run=~((data.env.values == "there") & (data.depth.values == 8)))
    assert set(profiles.scores_by_depth(data, "time_at_goal")[4]) == {"here"}
    highest = max(
        score.max() for scores in profiles.scores_by_depth(data, "time_at_goal").values() for score in scores.values()
    )
    assert highest == pytest.approx(1)


def test_the_area_under_a_curve():
    data = planted_runs({"curve": np.linspace(0, 1, 11)}, {"curve": [0.0] * 6 + [1.0] * 5, "depth": 8})
    # The second rises within one of ten intervals, the sixth.
    assert area(data, "success").values == pytest.approx([0.5, 0.45])
    uneven = data.assign(env_steps=data.env_steps**2)
    assert area(uneven, "success").values[0] == pytest.approx(
        np.trapezoid(np.linspace(0, 1, 11), np.linspace(0, 1, 11) ** 2)
    )
    short = data.assign(success=data.success.where(data.evaluation < 1))
    assert area(short, "success").values == pytest.approx([0, 0])
    table = results_table.table(data)
    assert table.success_area.tolist() == pytest.approx([0.5, 0.45])
    assert table.time_at_goal_area.tolist() == pytest.approx([50, 45])
    assert "| 0.45 |" in results_table.markdown(table)
