"""What students keep of their teachers: the claim from planted scores, and measures of agents against formulas."""

import dataclasses
import re

import numpy as np
import pytest
import xarray as xr

import crlviz as library
from analyses import distillation
from analyses.behavior.naming import NAMES
from crlviz import charts, datasets
from crlviz.errors import UsageError
from tests.helpers.toys import assert_described, toy_config, untrained_run
from training.teacher import Teacher


def _planted(scores: dict[str, list[float]]) -> xr.Dataset:
    """Three teachers of success .8, .7 and .9, and students of depth 4 by width, with these successes."""
    rows = [("", f"runs/t{seed}/checkpoints/9", 16, 32, score) for seed, score in enumerate((0.8, 0.7, 0.9))]
    for width, values in scores.items():
        rows += [(f"runs/t{seed}", f"runs/s{width}{seed}", 4, int(width), each) for seed, each in enumerate(values)]
    names = ["teacher", "source", "network_depth", "network_width", "success"]
    data = {name: ("checkpoint", list(column)) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    for name in ("time_at_goal", "parameters", "flops", "actions_per_second"):
        data[name] = ("checkpoint", [1000.0 * row[2] * row[4] for row in rows])
    share = np.zeros((len(rows), len(NAMES)))
    share[:, -1] = 1.0
    data["share"] = (("checkpoint", "behavior"), share)
    dataset = xr.Dataset(data, coords={"behavior": NAMES}, attrs={"env": "here", "differing": ""})
    return dataset.set_coords("source")


def test_the_title_says_what_was_kept_and_whether_it_is_enough():
    said = distillation.claim(_planted({"32": [0.4, 0.35, 0.45], "64": [0.8, 0.7, 0.91]}))
    enough, less = said.split("; ")
    assert less.startswith("depth 4, width 32 keeps 50 % of its teacher's success (less than 90 %: 95 % interval ")
    assert enough.startswith("Depth 4, width 64 keeps 100 % of its teacher's success (at least 90 %: 95 % interval ")
    open_ = distillation.claim(_planted({"64": [0.9, 0.3, 0.95]}))
    assert "keeps 90 % of its teacher's success (90 % is not decided: 95 % interval 0 % to" in open_
    assert distillation.claim(_planted({"64": [0.4, 0.4]})) == "Depth 4, width 64 keeps 53 % of its teacher's success"


def test_each_student_is_compared_with_its_own_teacher():
    """Differences from .9 of the own teacher are all .08, .07, .09 and vary little; from others' they would not."""
    share, compared = distillation.kept(distillation.table(_planted({"64": [0.8, 0.7, 0.9]})))["student 4 x 64"]
    assert share == pytest.approx(1)
    assert compared.difference == pytest.approx(0.08)
    assert compared.verdict == 1


@pytest.fixture(scope="module")
def dataset(toy_run, tmp_path_factory):
    config = dataclasses.replace(toy_config(actor__width=12, critic__width=12), teacher=Teacher(str(toy_run), 4))
    run = untrained_run(tmp_path_factory.mktemp("students") / "run", config)
    return distillation.compute([library.load(run)], episodes=4)


def test_measures(dataset, toy_agent):
    assert_described(dataset)
    rows = distillation.table(dataset).set_index("group")
    assert list(rows.index) == ["teacher 4 x 8", "student 4 x 12"]
    for width, group in ((8, "teacher 4 x 8"), (12, "student 4 x 12")):
        # Six inputs, four layers, and two outputs for each of two actions.
        assert rows.flops[group] == 2 * (6 * width + 4 * width**2 + width * 2 * 2)
        assert rows.actions_per_second[group] > 0
    runs = library.rollout(toy_agent, 4, seed=0)
    assert rows.success["teacher 4 x 8"] == runs.success.any("time").mean()
    np.testing.assert_allclose(dataset.share.sum("behavior"), 1)
    assert {"q", "geodesic"} <= set(dataset)  # it is a maze


def test_the_picture_is_drawn_from_the_file_alone(dataset, tmp_path):
    datasets.save(dataset, tmp_path / "kept.nc")
    with xr.open_dataset(tmp_path / "kept.nc") as read:
        again = _texts(read.load())
    assert again == _texts(dataset)
    assert {"student 4 x 12", "goals reached (share)", "FLOPs of an action"} < set(again)
    for group in ("teacher 4 x 8", "student 4 x 12"):
        assert again.count(group) == 6 + 1  # on the axis of each panel, and above its map


def _texts(dataset: xr.Dataset) -> list[str]:
    """All texts of the picture, numbers included."""
    return re.findall(r">([^<>]+)</text>", charts.render(distillation.plot(dataset), ".svg").decode())


def test_an_agent_without_a_teacher(toy_agent):
    with pytest.raises(UsageError, match="is not a student of crlviz distill"):
        distillation.compute([toy_agent])
