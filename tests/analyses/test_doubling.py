"""Depth against width, with effects that were planted."""

import numpy as np
import pytest

from analyses import doubling
from tests.toys import planted_runs

NOISE = (-0.02, 0.0, 0.02)


def sweep(score, **more):
    """Depth 4, 8, 16 at width 64 and width 128, 256 at depth 4; ``score(depth, width)``, three seeds about it."""
    rows = []
    for depth, width in ((4, 64), (8, 64), (16, 64), (4, 128), (4, 256)):
        for seed, noise in enumerate(NOISE):
            extra = {name: value(depth, width) for name, value in more.items()}
            rows.append({"depth": depth, "width": width, "seed": seed, "score": score(depth, width) + noise} | extra)
    return planted_runs(*rows)


def by_equal(data):
    return doubling.compare(data, "success").set_index("equal")


def test_depth_pays():
    found = by_equal(sweep(lambda depth, width: 0.3 + 0.1 * np.log2(depth / 4)))
    updates = found.loc["updates"]
    assert (updates.base, updates.depth, updates.width) == pytest.approx((0.3, 0.5, 0.3))
    assert (updates.gain_depth, updates.gain_width, updates.difference) == pytest.approx((0.2, 0, 0.2))
    assert updates.difference_low > 0.15
    assert updates.sentence.startswith(
        "At equal updates, 2 doublings of depth (4 to 16) took success from 0.30 to 0.50, of width (64 to 256) to 0.30"
    )
    assert "deeper is better (depth minus width +0.20, 95 % interval +0.1" in updates.sentence


def test_width_pays():
    found = by_equal(sweep(lambda depth, width: 0.3 + 0.1 * np.log2(width / 64)))
    assert "wider is better (depth minus width -0.20" in found.loc["updates"].sentence
    assert found.loc["updates"].difference_high < 0


def test_equal_runs_tell_no_difference():
    found = by_equal(sweep(lambda depth, width: 0.5))
    assert all("no difference told" in sentence for sentence in found.sentence)
    assert (found.difference_low < 0).all()
    assert (found.difference_high > 0).all()


def test_equal_parameters_are_read_between_networks():
    """Parameters grow with depth and with width squared, so depth 16 stands beside width 128, which is measured."""
    found = by_equal(sweep(lambda depth, width: {(16, 64): 0.6, (4, 128): 0.5, (4, 256): 0.9}.get((depth, width), 0.3)))
    row = found.loc["parameters"]
    assert (row.depth, row.width) == pytest.approx((0.6, 0.5))
    assert "At equal parameters (65,536), success is 0.60 when they go into depth (4 to 16)" in row.sentence
    # With half as many in depth 16, its partner lies half way, in doublings, from width 64 to width 128.
    fewer = sweep(
        lambda depth, width: {(4, 64): 0.3, (4, 128): 0.5}.get((depth, width), 0.6),
        parameters=lambda depth, width: depth * width**2 / (2 if depth == 16 else 1),
    )
    assert by_equal(fewer).loc["parameters"].width == pytest.approx(0.4)


def test_equal_seconds_can_disagree_with_equal_updates():
    """Deeper is better after as many updates, but takes four times as long and learns in a straight line."""
    seconds = {(16, 64): 40.0}
    found = by_equal(
        sweep(
            lambda depth, width: 0,
            curve=lambda depth, width: np.linspace(0, 1, 11) * (0.8 if depth == 16 else 0.5),
            seconds=lambda depth, width: seconds.get((depth, width), 10.0),
        )
    )
    assert found.loc["updates"].difference == pytest.approx(0.24)  # of the curve's last five: 0.8 of 0.3
    row = found.loc["seconds"]
    assert row.depth == pytest.approx(0.8 * 0.8 / 4)
    assert row.width == pytest.approx(0.5 * 0.8)
    assert row.sentence.startswith("After equal training seconds (10), success is 0.16 at depth 16, 0.40 at width 256")
    assert "and 0.40 at depth 4 with width 64" in row.sentence


def test_the_score_of_a_whole_run_is_its_last_five_evaluations():
    curve = np.random.default_rng(0).uniform(size=17)
    data = planted_runs({"curve": curve, "seconds": 32.0}, evaluations=17)
    np.testing.assert_allclose(doubling.score_at(data, "success", 32.0), curve[-5:].mean())
    # Half the seconds: the five places lie half an evaluation apart, up to the middle of the run.
    places = np.interp(8 - np.arange(5) / 2, np.arange(17), curve)
    np.testing.assert_allclose(doubling.score_at(data, "success", 16.0), places.mean())


def test_one_seed_claims_nothing():
    data = sweep(lambda depth, width: depth / 32)
    found = doubling.compare(data.isel(run=data.seed.values == 0), "success")
    assert all(sentence.endswith("one seed, so this is a picture and no claim.") for sentence in found.sentence)
    assert found.difference_low.isna().all()


def test_lines_must_meet():
    data = sweep(lambda depth, width: 0.5)
    assert doubling.compare(data.isel(run=data.width.values == 64)).empty
    apart = planted_runs(*({"depth": d} for d in (4, 8)), *({"depth": 64, "width": w} for w in (128, 256)))
    assert doubling.compare(apart).empty
