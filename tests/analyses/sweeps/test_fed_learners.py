"""Figure 8 from planted runs: learners of two depths with collectors of two depths."""

import pytest

from analyses.sweeps import fed_learners, scaling
from crlviz.errors import CrlvizError
from tests.helpers.toys import planted_runs


def _planted(deep: float, shallow: float):
    """Learners of depth 16 score ``deep`` or ``shallow`` by their collector, all others .1; and the collectors."""
    rows = []
    for collector, score in ((4, shallow), (16, deep)):
        for seed in range(3):
            rows.append({"depth": collector, "seed": seed, "score": 0.9, "others": "collector_depth 0"})
            for depth in (4, 16):
                own = score if depth == 16 else 0.1
                fed = f"collector_depth {collector}"
                rows.append({"depth": depth, "seed": seed, "score": own + 0.01 * seed, "others": fed})
    dataset = planted_runs(*rows)
    depths = [int(text.split()[1]) for text in dataset.others.values]
    return dataset.assign_coords(collector_depth=("run", depths, {"units": "1", "long_name": "planted"}))


def _panels(chart: dict) -> list[dict]:
    """The panels of a chart: what has a title and layers."""
    inner = [each for name in ("hconcat", "vconcat", "concat") for each in chart.get(name, [])]
    return [chart] if "layer" in chart and "title" in chart else [panel for each in inner for panel in _panels(each)]


def test_the_title_says_which_data_a_deep_learner_needs():
    assert fed_learners.claim(_planted(0.8, 0.1)) == (
        "No difference between data found for learners of depth 4; a deeper collector's data are better for learners "
        "of depth 16; no difference between learners found for data of depth 4; a deeper learner is better for data of "
        "depth 16"
    )
    assert fed_learners.claim(_planted(0.8, 0.8)) == (
        "No difference between data found for learners of depth 4 and 16; a deeper learner is better for data of depth "
        "4 and 16"
    )


def test_a_panel_for_each_collector_shows_its_learners_alone():
    dataset = _planted(0.8, 0.1)
    parts = fed_learners.panels(dataset)
    assert list(parts) == [("here", 4), ("here", 16)]
    assert [sorted(part.depth.values.tolist()) for part in parts.values()] == [[4] * 3 + [16] * 3] * 2
    assert all(part.score_success.max() < 0.9 for part in parts.values())
    titles = [" ".join(panel["title"]["text"]).strip() for panel in _panels(fed_learners.plot(dataset).to_dict())]
    assert titles[1] == "Data of depth 16: depth 16 stays at its goal for 81 steps, against 11 (depth 4)"


def test_a_collector_does_not_enter_the_comparison_of_depths():
    """Runs that act are another group than learners: a sweep over depth holds one kind."""
    part = scaling.vary(_planted(0.8, 0.1), "depth")
    assert len(set(part.collector_depth.values.tolist())) == 1


def test_without_learners_it_says_so():
    with pytest.raises(CrlvizError, match="no runs here are learners of two depths"):
        fed_learners.plot(planted_runs({"depth": 4}, {"depth": 16}))
