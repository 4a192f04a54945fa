"""Several algorithms over depth: each is compared with itself, at equal updates and at equal seconds."""

import numpy as np
import pytest
from scipy.stats import binom

from analyses.common import runs
from analyses.sweeps import algorithm_panels, by_algorithm, depth_vs_width, efficiency, levels, scaling
from crlviz import statistics
from crlviz.charts import depth_color
from tests.helpers.toys import planted_runs

LEARNERS = ("crl", "sac+her", "td3+her", "gcsl", "gcbc")


def grid(scores, seeds=3, **more):
    """Runs with a final score for each (algorithm, depth), a little apart for each seed; 10 s at depth 4."""
    return planted_runs(
        *(
            {"algorithm": name, "depth": depth, "seed": seed, "score": score + seed / 100, "seconds": 2.5 * depth}
            | more
            for (name, depth), score in scores.items()
            for seed in range(seeds)
        )
    )


MIXED = {
    ("crl", 4): 0.2,
    ("crl", 16): 0.8,
    ("sac+her", 4): 0.8,
    ("sac+her", 16): 0.8,
    ("gcbc", 4): 0.7,
    ("gcbc", 16): 0.3,
}


def test_each_algorithm_is_compared_with_itself():
    rows = by_algorithm.gains(grid(MIXED), "success", ("updates",)).set_index("algorithm")
    assert rows.verdict.to_dict() == {"crl": 1, "sac+her": 0, "gcbc": -1}
    for name, row in rows.iterrows():
        deep, shallow = (np.array([MIXED[name, depth] + seed / 100 for seed in range(3)]) for depth in (16, 4))
        expected = statistics.compare(deep, shallow, 3, 1.0)
        assert (row.difference, row.low, row.high) == pytest.approx((expected.difference, expected.low, expected.high))
    sentence = by_algorithm.gains_claim(rows.reset_index())
    assert sentence == "Deeper is better for crl; no difference found for sac+her; shallower is better for gcbc"
    assert scaling.claim(grid(MIXED), "success") == sentence


def test_the_sentence_names_a_task_where_an_algorithms_verdicts_differ():
    both = planted_runs(
        *(
            {"env": env, "algorithm": name, "depth": depth, "seed": seed, "score": score + seed / 100}
            for env in ("one", "two")
            for (name, depth), score in (MIXED | {("crl", 16): {"one": 0.8, "two": 0.2}[env]}).items()
            for seed in range(3)
        )
    )
    assert by_algorithm.gains_claim(by_algorithm.gains(both, "success", ("updates",))) == (
        "Deeper is better for crl (one); no difference found for sac+her and crl (two); shallower is better for gcbc"
    )
    alike = grid({(name, depth): 0.5 for name in LEARNERS for depth in (4, 16)})
    assert scaling.claim(alike, "success") == "No difference found for any algorithm"


def test_equal_seconds_cut_the_slower_network():
    """Scores grow linearly in time, so a network that is cut to a quarter of its time has a quarter of each score."""
    rows = [
        {
            "depth": depth,
            "algorithm": name,
            "seed": seed,
            "curve": np.linspace(0, top + seed / 50, 11),
            "seconds": 2.5 * depth,
        }
        for name in ("crl", "gcbc")
        for depth, top in ((4, 0.5), (16, 0.8))
        for seed in range(3)
    ]
    found = by_algorithm.gains(planted_runs(*rows), "success").set_index(["algorithm", "equal"])
    row = found.loc["crl", "seconds"]
    # A score is the mean of the last five of ten evaluations, which is at 0.8 of the run on average.
    assert (row.before, row.after, row.seconds) == pytest.approx((0.8 * 0.52, 0.8 * 0.82 / 4, 10))
    assert found.loc["crl", "updates"].after == pytest.approx(0.8 * 0.82)
    assert row.verdict == -1
    shared = planted_runs(*(run | {"together": 1 if run["depth"] == 4 else 3} for run in rows))
    assert set(by_algorithm.gains(shared, "success").equal) == {"updates"}


def test_algorithms_are_never_pooled():
    """Depth 4 of one algorithm and depth 16 of another do not form a sweep over depth, and their widths no line."""
    apart = grid({("crl", 4): 0.1, ("sac", 16): 0.9})
    assert not len(by_algorithm.gains(apart))
    assert "better" not in scaling.claim(apart)
    assert set(scaling.panels(apart)) == {"algorithm_curves"}
    deep = [
        {"algorithm": "crl", "depth": depth, "seed": seed, "score": depth / 20} for depth in (4, 8) for seed in range(3)
    ]
    wide = [
        {"algorithm": "sac", "width": width, "seed": seed, "score": width / 200}
        for width in (64, 128)
        for seed in range(3)
    ]
    assert not len(depth_vs_width.compare(planted_runs(*deep, *wide)))
    both = [run | {"algorithm": name} for run in (*deep, *wide) for name in ("crl", "sac")]
    unique = {tuple(sorted(run.items())): run for run in both}
    compared = depth_vs_width.compare(planted_runs(*unique.values()), "success")
    assert set(zip(compared.algorithm, compared.equal, strict=True)) >= {("crl", "updates"), ("sac", "updates")}
    assert compared.sentence.str.startswith(("crl: ", "sac: ")).all()
    assert "2 of 2 pairs of task and algorithm" in depth_vs_width.claim(compared)


@pytest.mark.slow
def test_at_most_one_page_in_twenty_claims_a_gain_that_is_none():
    rng, false = np.random.default_rng(0), 0
    data = grid({(name, depth): 0.5 for name in LEARNERS for depth in (4, 16)})
    for _ in range(200):
        drawn = data.assign(score_success=data.score_success.copy(data=rng.beta(4, 1, data.sizes["run"])))
        rows = by_algorithm.gains(drawn, "success", ("updates",))
        assert len(rows) == 5
        false += (rows.verdict != 0).any()
        assert ("better" in by_algorithm.gains_claim(rows)) == (rows.verdict != 0).any()
    assert false <= binom.ppf(0.999, 200, 0.05)


def test_the_first_algorithm_against_the_others():
    text = by_algorithm.against_first(grid(MIXED), "success")
    assert text == "At depth 16, crl is above gcbc, no difference found between crl and sac+her"
    assert "one seed: no claim" in by_algorithm.against_first(grid(MIXED, seeds=1), "success")


def test_seconds_and_when_the_others_are_passed():
    data = grid(MIXED)
    seconds = by_algorithm.hours(data).set_index(["algorithm", "depth"]).seconds
    assert seconds.to_dict() == {(name, depth): 2.5 * depth for name, depth in MIXED}
    curve = np.linspace(0, 1, 11)
    rows = [
        {"depth": 16, "seed": seed, "curve": curve * top, "seconds": 100} for seed, top in enumerate((1, 0.5, 0.75))
    ]
    rows += [{"algorithm": "sac", "depth": 4, "seed": seed, "score": 0.5, "seconds": 30} for seed in range(3)]
    (row,) = by_algorithm.passes(planted_runs(*rows), "success").itertuples()
    assert (row.algorithm, row.depth, row.score, row.whole, row.first_depth) == ("sac", 4, 0.5, 30, 16)
    # The curves pass 0.5 after 60 and 70 of 100 s; the second only ever equals it.
    np.testing.assert_allclose(row.values, [60, np.nan, 70])
    assert (row.passed, row.seeds) == (2, 3)


def test_pictures_have_a_panel_for_each_algorithm_and_a_color_for_each_depth():
    data = grid(MIXED).assign_attrs(settings="Settings: crl: gamma 0.99.")
    panels = scaling.panels(data, "success")
    assert set(panels) == {"curves", "depth", "algorithm_curves", "algorithms"}
    for name in ("algorithm_curves", "algorithms"):
        drawn = panels[name].to_dict()
        assert [panel["title"]["text"] for panel in drawn["hconcat"]] == ["crl", "sac+her", "gcbc"]
        assert str([depth_color(4), depth_color(16)]) in str(drawn)
    verdicts = [panel["title"]["subtitle"] for panel in panels["algorithms"].to_dict()["hconcat"]]
    assert verdicts == [["deeper is better"], ["no difference found"], ["shallower is better"]]
    assert "crl: " in str(panels["depth"].to_dict()["title"]["text"])
    assert "gamma 0.99" in str(scaling.plot(data, metric="success").to_dict()["usermeta"])
    text = str(efficiency.plot(runs.relabel(data, "algorithm", "depth"), metric="success").to_dict())
    assert "At equal updates: Deeper is better for crl" in text
    assert "side by side" in str(algorithm_panels.hours(data).to_dict())
    assert "final success 71 %; 3 of 3 seeds pass" in str(algorithm_panels.passing(data, "success").to_dict())


def test_steps_until_a_level():
    curve = np.linspace(0, 1, 11)  # time at goal is 100 times that
    hyper = {"network": "no LayerNorm, hyperspherical", "depth": 16}
    rows = [{"depth": 16, "seed": seed, "curve": curve * top} for seed, top in enumerate((1.0, 0.5))]
    rows += [hyper | {"seed": 0, "curve": np.minimum(2 * curve, 1)}, {"network": "relu", "depth": 16, "curve": curve}]
    data = planted_runs(*rows)
    table = levels.reached(data, (20, 60)).set_index(["network", "level"])
    assert table.loc[("LayerNorm", 20)]["values"] == pytest.approx([200, 400])
    np.testing.assert_allclose(table.loc[("LayerNorm", 60)]["values"], [600, np.nan])
    assert table.loc[("hyperspherical", 60)]["values"] == pytest.approx([300])
    assert table.loc[("LayerNorm", 60)].passed == 1
    assert "1 of 2 seeds" in str(levels.plot(data, 100).to_dict())
