"""Depth against width, with planted effects."""

import numpy as np
import pytest

from analyses.sweeps import depth_vs_width
from tests.helpers.toys import planted_runs

NOISE = (-0.01, 0.0, 0.01)


def sweep(score, **more):
    """Depth 4, 8, 16 at width 64 and width 128, 256 at depth 4; three seeds around ``score(depth, width)``."""
    rows = []
    for depth, width in ((4, 64), (8, 64), (16, 64), (4, 128), (4, 256)):
        for seed, noise in enumerate(NOISE):
            extra = {name: value(depth, width) for name, value in more.items()}
            rows.append({"depth": depth, "width": width, "seed": seed, "score": score(depth, width) + noise} | extra)
    return planted_runs(*rows)


def by_equal(data):
    return depth_vs_width.compare(data, "success").set_index("equal")


def test_a_gain_from_depth_is_found():
    found = by_equal(sweep(lambda depth, width: 0.3 + 0.1 * np.log2(depth / 4)))
    updates = found.loc["updates"]
    assert (updates.base, updates.depth, updates.width) == pytest.approx((0.3, 0.5, 0.3))
    assert updates.difference == pytest.approx(0.2)
    # The two-sided t quantile at 1 - 0.05 / 3 with 2 degrees of freedom is 7.6488.
    assert updates.low == pytest.approx(0.2 - 7.6488 * 0.01 * np.sqrt(2 / 3), abs=1e-4)
    assert updates.verdict == 1
    assert updates.sentence.startswith(
        "At equal updates, 2 doublings of depth (4 to 16) took success from 0.30 to 0.50, of width (64 to 256) to 0.30"
    )
    assert "deeper is better: depth minus width (+0.20, 95 % interval +0.1" in updates.sentence
    assert updates.sentence.endswith("for all 3 comparisons together).")


def test_a_gain_from_width_is_found():
    found = by_equal(sweep(lambda depth, width: 0.3 + 0.1 * np.log2(width / 64)))
    assert "wider is better: depth minus width (-0.20" in found.loc["updates"].sentence
    assert found.loc["updates"].high < 0


def test_equal_runs_give_no_difference():
    found = by_equal(sweep(lambda depth, width: 0.5))
    assert all("no difference found" in sentence for sentence in found.sentence)
    assert (found.low < 0).all()
    assert (found.high > 0).all()
    assert all("3 seeds would have found 0.09 or more" in sentence for sentence in found.sentence)


def test_a_detectable_difference_beyond_the_largest_possible_is_noted():
    """Seeds 0.2 apart detect differences from 1.8 on, which is impossible for a share; and from 180 steps on."""
    rows = [
        {"depth": d, "width": w, "seed": s, "score": 0.5 + 20 * n}
        for d, w in ((4, 64), (8, 64), (4, 128))
        for s, n in enumerate(NOISE)
    ]
    data = planted_runs(*rows)
    assert all(
        s.endswith("3 seeds vary too much to find any difference).")
        for s in depth_vs_width.compare(data, "success").sentence
    )
    steps = depth_vs_width.compare(data, "time_at_goal").sentence
    assert len(steps)
    assert not any("vary too much" in sentence for sentence in steps)
    short = data.assign_attrs(episode_length=150)  # 180 steps more is impossible in it
    assert all("vary too much" in sentence for sentence in depth_vs_width.compare(short, "time_at_goal").sentence)


def test_equal_parameters_compares_trained_networks_alone():
    """Parameters grow with depth and with width squared, so depth 16 has as many as width 128."""
    scores = {(16, 64): 0.6, (4, 128): 0.5, (4, 256): 0.9}
    found = by_equal(sweep(lambda depth, width: scores.get((depth, width), 0.3)))
    row = found.loc["parameters"]
    assert (row.depth, row.width, row.deep, row.wide) == (
        pytest.approx(0.6), pytest.approx(0.5), "depth 16, width 64", "depth 4, width 128",
    )  # fmt: skip
    assert "At equal parameters (65,536 and 65,536), success is 0.60 when they go into depth (4 to 16)" in row.sentence
    # 5 % fewer count as equal; half as many do not (that would need a width of 90, which was not trained).
    for share, compared in ((0.95, True), (0.5, False)):
        fewer = sweep(
            lambda depth, width: 0.5,
            parameters=lambda depth, width, share=share: depth * width**2 * (share if depth == 16 else 1),
        )
        assert ("parameters" in by_equal(fewer).index) == compared


def test_untrained_networks_are_not_interpolated():
    """Depths 4 and 16, widths 64 and 128: width was doubled once and depth twice, so updates are never equal."""
    data = sweep(lambda depth, width: depth / 32)
    shapes = list(zip(data.depth.values.tolist(), data.width.values.tolist(), strict=True))
    found = by_equal(data.isel(run=[shape in {(4, 64), (16, 64), (4, 128)} for shape in shapes]))
    assert found.index.tolist() == ["parameters", "seconds"]
    assert not any("depth 8" in sentence or "(4 to 8)" in sentence for sentence in found.sentence)
    assert set(found.deep) == {"depth 16, width 64"}
    assert set(found.wide) == {"depth 4, width 128"}


def test_runs_of_different_training_length_are_not_compared():
    """The width sweep was trained ten times as long, so the sweeps share no network."""
    rows = [{"depth": d, "seed": s, "score": 0.3, "trained": 1000} for d in (4, 8) for s in range(3)]
    rows += [{"width": w, "seed": s, "score": 0.9, "trained": 10_000} for w in (64, 128) for s in range(3)]
    assert depth_vs_width.compare(planted_runs(*rows), "success").empty
    both = planted_runs(*rows, *({"width": 128, "seed": s, "score": 0.3, "trained": 1000} for s in range(3)))
    assert depth_vs_width.compare(both, "success").iloc[0].width == pytest.approx(0.3)


def test_networks_are_compared_within_a_task():
    """An easy task with only one of the networks does not change the comparison."""
    rows = [
        {"depth": d, "width": w, "seed": s, "score": 0.3 + n}
        for d, w in ((4, 64), (8, 64), (4, 128))
        for s, n in enumerate(NOISE)
    ]
    easy = [{"env": "easy", "width": 128, "seed": s, "score": 1.0} for s in range(3)]
    alone, found = (depth_vs_width.compare(planted_runs(*part), "success") for part in (rows, [*rows, *easy]))
    assert found.difference.tolist() == pytest.approx(alone.difference.tolist())
    assert set(found.env) == {"here"}
    assert all(sentence.startswith("here: ") for sentence in found.sentence)
    twice = depth_vs_width.compare(planted_runs(*rows, *(row | {"env": "there"} for row in rows)), "success")
    assert twice.env.tolist() == ["here"] * 2 + ["there"] * 2
    assert all("for all 4 comparisons together" in sentence for sentence in twice.sentence)


def test_equal_seconds_can_disagree_with_equal_updates():
    """Deeper is better at equal updates but four times slower, with linear learning curves."""
    seconds = {(16, 64): 40.0}
    found = by_equal(
        sweep(
            lambda depth, width: 0,
            curve=lambda depth, width: np.linspace(0, 1, 11) * (0.8 if depth == 16 else 0.5),
            seconds=lambda depth, width: seconds.get((depth, width), 10.0),
        )
    )
    assert found.loc["updates"].difference == pytest.approx(
        0.24
    )  # the last five evaluations of a line average 0.8: 0.8 * (0.8 - 0.5)
    row = found.loc["seconds"]
    assert row.depth == pytest.approx(0.8 * 0.8 / 4)
    assert row.width == pytest.approx(0.5 * 0.8)
    assert row.sentence.startswith(
        "After equal training seconds (10), read off the learning curves, success is 0.16 at depth 16, 0.40 at"
    )
    assert "and 0.40 at depth 4 with width 64" in row.sentence


def test_seconds_are_not_compared_between_different_numbers_of_seeds_at_once():
    data = sweep(lambda depth, width: 0.5, together=lambda depth, width: 5 if depth == 16 else 1)
    assert by_equal(data).index.tolist() == ["updates", "parameters"]


def test_the_score_of_a_whole_run_is_its_last_five_evaluations():
    curve = np.random.default_rng(0).uniform(size=17)
    data = planted_runs({"curve": curve, "seconds": 32.0}, evaluations=17)
    np.testing.assert_allclose(depth_vs_width.score_at(data, "success", 32.0), curve[-5:].mean())
    # Half the seconds: the five points are half an evaluation apart and end in the middle of the run.
    points = np.interp(8 - np.arange(5) / 2, np.arange(17), curve)
    np.testing.assert_allclose(depth_vs_width.score_at(data, "success", 16.0), points.mean())


def test_one_seed_claims_nothing():
    data = sweep(lambda depth, width: depth / 32)
    found = depth_vs_width.compare(data.isel(run=data.seed.values == 0), "success")
    assert all(sentence.endswith("one seed, so this is a picture and no claim.") for sentence in found.sentence)
    assert found.low.isna().all()
    assert (found.verdict == 0).all()


def test_lines_must_share_a_network():
    data = sweep(lambda depth, width: 0.5)
    assert depth_vs_width.compare(data.isel(run=data.width.values == 64)).empty
    disjoint = planted_runs(*({"depth": d} for d in (4, 8)), *({"depth": 64, "width": w} for w in (128, 256)))
    assert depth_vs_width.compare(disjoint).empty
