"""Curves, scores and costs of runs, against metrics written by hand."""

import csv

import numpy as np
import pytest

from analyses import efficiency, runs, scaling
from crlviz.errors import CrlvizError
from tests.toys import toy_config, untrained_run
from training.trainer import METRICS


def write_metrics(run, success, seconds):
    with open(run / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, METRICS)
        table.writeheader()
        for index, value in enumerate(success):
            table.writerow(
                {
                    "env_steps": 100 * index,
                    "gradient_steps": 10 * index,
                    "train_seconds": seconds * index,
                    "success": value,
                    "time_at_goal": 20 * value,
                }
            )


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    paths = []
    for depth, seed, level in ((4, 0, 0.2), (4, 1, 0.3), (8, 0, 0.7), (8, 1, 0.8)):
        config = toy_config(actor__depth=depth, critic__depth=depth, seed=seed)
        path = untrained_run(folder / f"d{depth}s{seed}", config)
        write_metrics(path, [0, 1, *[level] * 5], seconds=depth)
        paths.append(path)
    return paths


def test_scores_costs_and_groups(four_runs):
    data = runs.compute(four_runs)
    np.testing.assert_allclose(data.score, [0.2, 0.3, 0.7, 0.8])
    np.testing.assert_allclose(data.score_time_at_goal, [4, 6, 14, 16])
    assert data.group.values.tolist() == ["depth 4", "depth 4", "depth 8", "depth 8"]
    # Stem, 4 or 8 hidden layers, heads; observations of 6, phi's inputs 6, psi's 2; width 8.
    layer = 8 * 8 + 8 + 16
    stem = {n: n * 8 + 8 + 16 for n in (6, 2)}
    for row, depth in ((0, 4), (2, 8)):
        expected = 2 * stem[6] + stem[2] + 3 * depth * layer + 2 * (8 * 2 + 2) + 2 * (8 * 64 + 64)
        assert data.parameters[row] == expected


def test_efficiency_table(four_runs):
    table = efficiency.table(runs.compute(four_runs)).set_index("group")
    assert table.score["depth 4"] == pytest.approx(0.25)
    assert table.low["depth 8"] == pytest.approx(0.7)
    assert table.high["depth 8"] == pytest.approx(0.8)
    assert table.updates["depth 4"] == 60
    assert table.seconds["depth 8"] == 48


def test_runs_of_unequal_length(four_runs, tmp_path):
    short = untrained_run(tmp_path / "short", toy_config(seed=5))
    write_metrics(short, [0, 0.5], seconds=1)
    data = runs.compute([four_runs[0], short])
    assert data.score[1] == pytest.approx(0.25)  # of fewer than five evaluations, all
    assert np.isnan(data.success[1, 2:]).all()


def test_pictures_say_how_many_seeds(four_runs):
    data = runs.compute(four_runs)
    assert "2 seeds" in str(scaling.plot(data).to_dict())
    assert "2 seeds" in str(efficiency.plot(data).to_dict())
    one = data.isel(run=[0, 2])
    assert "one seed, so no interval" in str(scaling.plot(one).to_dict())
    assert "One seed, so no interval" in str(efficiency.plot(one).to_dict())


def test_a_depth_has_its_colour_in_every_picture(four_runs):
    from crlviz.charts import depth_colour

    data = runs.compute(four_runs)
    for picture in (scaling.plot(data), efficiency.plot(data)):
        assert str([depth_colour(4), depth_colour(8)]) in str(picture.to_dict())


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", "env_steps,success,time_at_goal\n"])
def test_no_metrics(four_runs, tmp_path, content):
    run = untrained_run(tmp_path / "run", toy_config())
    if content is not None:
        (run / "metrics.csv").write_text(content)
    with pytest.raises(CrlvizError, match=r"metrics\.csv"):
        runs.compute([run])
