"""Curves, scores and costs of runs with metrics written by hand."""

import numpy as np
import pandas as pd
import pytest

from analyses.common import runs
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import (
    assert_described,
    change_config,
    plant_curve,
    planted_run,
    planted_runs,
    toy_config,
    untrained_run,
)


@pytest.fixture(scope="module")
def four_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    paths = []
    for depth, seed, level in ((4, 0, 0.2), (4, 1, 0.3), (8, 0, 0.7), (8, 1, 0.8)):
        changes = {"actor__depth": depth, "critic__depth": depth, "seed": seed}
        path = planted_run(folder / f"d{depth}s{seed}", [0, 1, *[level] * 5], depth, **changes)
        paths.append(path)
    return paths


def test_scores_costs_and_groups(four_runs):
    data = runs.compute(four_runs)
    np.testing.assert_allclose(data.score_success, [0.2, 0.3, 0.7, 0.8])
    np.testing.assert_allclose(data.score_time_at_goal, [4, 6, 14, 16])
    assert data.group.values.tolist() == ["depth 4", "depth 4", "depth 8", "depth 8"]
    # Stem, 4 or 8 hidden layers, heads; observations of 6, phi's inputs 6, psi's 2; width 8.
    layer = 8 * 8 + 8 + 16
    stem = {n: n * 8 + 8 + 16 for n in (6, 2)}
    for row, depth in ((0, 4), (2, 8)):
        expected = 2 * stem[6] + stem[2] + 3 * depth * layer + 2 * (8 * 2 + 2) + 2 * (8 * 64 + 64)
        assert data.parameters[row] == expected


def test_table_has_a_row_for_each_group(four_runs):
    table = runs.table(runs.compute(four_runs), "success").set_index("group")
    assert table.score["depth 4"] == pytest.approx(0.25)
    assert table.scores["depth 8"] == pytest.approx([0.7, 0.8])
    assert table.gradient_steps["depth 4"] == 60
    assert table.seconds["depth 8"] == 48


def test_seeds_trained_at_once_are_noted(four_runs, tmp_path):
    """As train --seed 0-4 makes them: a directory of runs, here inside another directory."""
    for seed in (0, 1):
        path = untrained_run(tmp_path / "both" / f"seed{seed}", toy_config(seed=seed))
        change_config(path, lambda content: content.update(together=[0, 1]))
        plant_curve(path, [0, 0.5], seconds=1)
    assert runs.find([tmp_path]) == runs.find([tmp_path / "both"]) == [tmp_path / "both" / f"seed{n}" for n in (0, 1)]
    data = runs.compute(runs.find([tmp_path]))
    assert data.together.values.tolist() == [2, 2]
    assert runs.shares(data) == "For seeds that a GPU trained at once, seconds are each seed's share, one of 2."
    assert runs.shares(runs.compute(four_runs)) == ""
    mixed = planted_runs({"together": 5}, {"depth": 8})
    assert "here 1 or 5 trained at once, so seconds do not compare" in runs.shares(mixed)


def test_runs_of_unequal_length(four_runs, tmp_path):
    short = untrained_run(tmp_path / "short", toy_config(seed=5))
    plant_curve(short, [0, 0.5], seconds=1)
    data = runs.compute([four_runs[0], short])
    assert data.score_success[1] == pytest.approx(0.25)  # with fewer than five evaluations, the mean of all
    assert np.isnan(data.success[1, 2:]).all()


def test_every_variable_has_units_and_a_name(four_runs):
    data = runs.compute(four_runs)
    assert_described(data)
    assert data.attrs["checkpoints"].count("\n") == 3


def test_flops_are_read_from_config_and_are_nan_for_an_older_run(toy_run, four_runs):
    assert np.isnan(runs.compute(four_runs).flops_per_update).all()
    assert (
        runs.compute([toy_run]).flops_per_update.item()
        == RunDirectory(toy_run).read_config()["cost"]["flops_per_update"]
    )


def test_find(four_runs, tmp_path):
    folder = four_runs[0].parent
    (folder / "logs").mkdir(exist_ok=True)
    assert runs.find([folder]) == sorted(four_runs)
    assert runs.find([*folder.iterdir()]) == sorted(four_runs)  # as a shell wildcard gives them, logs included
    for name in ("d16", "d4"):
        (tmp_path / name / "checkpoints" / "100").mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").touch()
    (tmp_path / ".d8-half.part").mkdir()
    (tmp_path / ".d8-half.part" / "config.json").touch()
    assert [path.name for path in runs.find([tmp_path])] == ["begun", "d4", "d16"]
    with pytest.raises(CrlvizError, match="there is no "):
        runs.find([tmp_path, tmp_path / "nothing"])
    with pytest.raises(CrlvizError, match="is not a run directory"):
        runs.find([tmp_path / "d4" / "checkpoints"])


def test_a_bad_run_among_many_is_left_out(four_runs, tmp_path):
    """A run without checkpoints, an imported run without learning curve, a damaged run, and a file instead of a run."""
    begun = untrained_run(tmp_path / "begun", toy_config(), steps=())
    imported = untrained_run(tmp_path / "imported", toy_config())
    damaged = untrained_run(tmp_path / "damaged", toy_config())
    (damaged / "config.json").write_text("{}")
    (tmp_path / "table.md").touch()
    with pytest.warns(UserWarning, match="left out") as warned:
        data = runs.collect([*tmp_path.iterdir(), *four_runs])
    assert data.sizes["run"] == 4
    messages = sorted(str(warning.message) for warning in warned)
    reasons = [
        "begun holds no checkpoint yet",
        "is not a file of crlviz",
        "imported has no metrics.csv",
        "table.md is no",
    ]
    for reason, message in zip(reasons, messages, strict=True):
        assert reason in message
        assert message.startswith("left out: ")
    with pytest.raises(CrlvizError, match="begun holds no checkpoint yet"):
        runs.collect([begun, imported])


def test_a_run_given_twice_is_rejected(four_runs):
    with pytest.raises(UsageError, match="do not differ in any setting, seed or steps"):
        runs.compute([*four_runs, four_runs[0]])


def test_runs_with_other_settings_form_groups(tmp_path):
    paths = []
    for gamma in (0.9, 0.99):
        paths.append(untrained_run(tmp_path / str(gamma), toy_config(gamma=gamma)))
        plant_curve(paths[-1], [0, 1], seconds=1)
    assert runs.compute(paths).group.values.tolist() == ["gamma 0.9", "gamma 0.99"]


def test_ablations_name_the_network(tmp_path):
    paths = []
    for changes in ({}, {"actor__residual": "false", "critic__residual": "false"}, {"critic__activation": "relu"}):
        paths.append(untrained_run(tmp_path / str(len(paths)), toy_config(**changes)))
        plant_curve(paths[-1], [0, 1], seconds=1)
    names = ["full network", "no residual", "critic relu, actor full network"]
    assert runs.compute(paths).network.values.tolist() == names


def test_vary_takes_the_largest_sweep_of_each_task():
    data = planted_runs(
        *({"depth": depth, "width": 64} for depth in (4, 8, 16)),
        *({"depth": depth, "width": 32} for depth in (4, 8)),
        {"depth": 32, "batch_size": 128},
        {"depth": 32, "actor_depth": 4},
        *({"depth": depth, "network": "no residual"} for depth in (4, 8, 16)),
        *({"depth": depth, "width": 32, "env": "there"} for depth in (4, 8)),
    )
    part = runs.vary(data, "depth")
    found = list(zip(part.env.values.tolist(), part.depth.values.tolist(), part.width.values.tolist(), strict=True))
    assert found == [("here", 4, 64), ("here", 8, 64), ("here", 16, 64), ("there", 4, 32), ("there", 8, 32)]
    assert runs.relabel(part, "depth", "width").group.values[0] == "depth 4, width 64"
    assert runs.relabel(part.isel(run=[0]), "depth").group.values[0] == "depth 4"


def test_stalled_seconds_are_not_counted(tmp_path):
    """Ten intervals of 1 s, one of which took 100 s: 10 s count, 99 s are reported as stalled."""
    run = planted_run(tmp_path / "run", [0, *[0.5] * 10])
    slow = planted_run(tmp_path / "slow", [0, *[0.5] * 10], seconds=2.0, seed=1)
    table = pd.read_csv(run / "metrics.csv")
    table.loc[table.index > 4, "train_seconds"] += 99
    table.to_csv(run / "metrics.csv", index=False)
    data = runs.compute([run, slow])
    assert data.train_seconds.values[0] == pytest.approx(np.arange(11))
    assert data.train_seconds.values[1] == pytest.approx(2.0 * np.arange(11))  # constant slow speed is not a stall
    assert data.stalled_seconds.values.tolist() == pytest.approx([99, 0])
    assert runs.stalls(data).startswith("One run stalled, for 99 s in all, which are not counted")
    assert runs.stalls(runs.compute([slow])) == ""


def test_a_longer_interval_of_more_updates_is_no_stall():
    table = pd.DataFrame({"gradient_steps": [0, 10, 20, 30, 130], "env_steps": [0, 1, 2, 3, 13]})
    seconds, stalled = runs.clock(table.assign(train_seconds=[0.0, 1, 2, 3, 13]))
    assert (seconds.tolist(), stalled) == ([0, 1, 2, 3, 13], 0)
    seconds, stalled = runs.clock(table.assign(train_seconds=[0.0, 1, 2, 3, 53]))
    assert (seconds.tolist(), stalled) == ([0, 1, 2, 3, 13], 40)


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", "env_steps,success,time_at_goal\n"])
def test_no_metrics(four_runs, tmp_path, content):
    run = untrained_run(tmp_path / "run", toy_config())
    if content is not None:
        (run / "metrics.csv").write_text(content)
    with pytest.raises(CrlvizError, match=r"metrics\.csv"):
        runs.compute([run])


def test_algorithms_are_groups_in_the_registrys_order(tmp_path):
    """Settings that follow from the algorithm name no group; what they were stands in the note."""
    kinds = [
        {"algorithm": "gcbc"},
        {"algorithm": "sac+her", "sac__discount": 0.9},
        {"gamma": 0.5},
        {"algorithm": "gcsl"},
    ]
    for number, kind in enumerate(kinds):
        plant_curve(untrained_run(tmp_path / str(number), toy_config(**kind)), [0, number / 10])
    data = runs.collect([tmp_path])
    assert data.group.values.tolist() == data.algorithm.values.tolist() == ["crl", "sac+her", "gcsl", "gcbc"]
    assert set(data.others.values.tolist()) == {""}
    note = data.attrs["settings"]
    assert "crl: gamma 0.5, " in note
    assert "sac+her: gamma 0.99, " in note
    assert "discount 0.9" in note
    assert "gcbc: gamma 0.99, learning rate 0.0003." in note
    # Two discounts of one algorithm are two groups, also beside others.
    other = untrained_run(tmp_path / "other", toy_config(algorithm="sac+her", sac__discount=0.99))
    plant_curve(other, [0, 1])
    groups = runs.collect([tmp_path]).group.values.tolist()
    assert {"sac+her, sac.discount 0.9", "sac+her, sac.discount 0.99"} < set(groups)


def test_vary_prefers_the_registrys_first_algorithm_among_equals():
    rows = [{"algorithm": name, "depth": depth} for name in ("gcbc", "crl", "cmd") for depth in (4, 8)]
    assert set(runs.vary(planted_runs(*rows), "depth").algorithm.values.tolist()) == {"crl"}
    rows.append({"algorithm": "gcbc", "depth": 16})
    assert set(runs.vary(planted_runs(*rows), "depth").algorithm.values.tolist()) == {"gcbc"}
    assert runs.vary(planted_runs(*rows), "depth", "algorithm").sizes["run"] == 7


def test_what_differs_between_tasks_alone_names_no_group(tmp_path):
    """Two tasks have settings of their own; their networks are the same groups, so that they compare over tasks."""
    for env, batch in (("point_u_maze", 8), ("point_u2_maze", 16)):
        for depth in (4, 8):
            shape = {"actor__depth": depth, "critic__depth": depth}
            planted_run(tmp_path / f"{env}{depth}", [0, 1], env=env, batch_size=batch, **shape)
    assert runs.collect([tmp_path]).group.values.tolist() == ["depth 4", "depth 8"] * 2
