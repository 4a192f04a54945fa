"""Runs on data sets: from the command to the checkpoint, with and without an environment, whole or in blocks."""

import dataclasses

import numpy as np
import pytest

import crlviz as package
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.recorded import file, pushed
from tests.torture.runs import differences
from training import config as configs
from training import dataset_presets, trainer
from training.config import from_options
from training.dataset_config import DatasetConfig
from training.run import recorded_data

TINY = ["actor.width=8", "critic.width=8", "updates=3", "batch_size=16", "gradient_steps=12", "evaluations=2"]
SCORES = ("success", "time_at_goal", "success_easy", "distance", "episode_steps", "env_steps", "env_steps_per_second")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A file of 24 trajectories; OGBench names it a maze's."""
    return file(tmp_path_factory.mktemp("data") / "pointmaze-tiny-v0.npz")


def config_of(data, algorithm="crl", env="", settings=(), name=""):
    dataset = recorded_data.describe(data)
    dataset = dataclasses.replace(dataset, name=name or dataset.name)
    return from_options(env, "smoke", {"algorithm": algorithm}, [*TINY, *settings], dataset=dataset)


@pytest.fixture(
    scope="module", params=[pytest.param(n, marks=pytest.mark.slow) for n in ("crl", "gcbc", "qrl", "gciql")]
)
def run(request, data, tmp_path_factory):
    """A finished run without an environment."""
    out = tmp_path_factory.mktemp("runs") / request.param
    return trainer.train(config_of(data, request.param), out, progress=False)


def test_columns_of_held_out_rows_and_empty_ones(run):
    rows = RunDirectory(run).read_metrics()
    assert [metrics_table.number(row) for row in rows] == [0, 6, 12]
    assert {rows[-1][name] for name in SCORES} == {""}
    held = {name: float(value) for name, value in rows[-1].items() if name.startswith("held_out")}
    assert {"held_out_actor_loss", "held_out_action_error"} <= set(held)
    assert np.isfinite(list(held.values())).all()
    assert RunDirectory(run).finished()
    assert RunDirectory(run).checkpoint_steps() == [6, 12]


def test_the_action_error_is_that_of_the_agent_on_held_out_rows(run, data):
    """Held out is every twentieth trajectory; toward goals that are uniform over its rest the mean is enumerable."""
    agent = package.load(run)
    whole, squares, weights = pushed([12] * 24), [], []
    first = whole.starts[19]
    for index in range(12):
        x = (np.arange(4_000) + 0.5) / 4_000
        goals = np.round(x * min(index + 1, 12) + (1 - x) * 12).astype(int)
        for goal, count in zip(*np.unique(goals, return_counts=True), strict=True):
            state = whole.state[first + index]
            action = agent.act(np.concatenate([state, whole.state[first + goal][:2]]))
            squares.append(np.mean((np.asarray(action) - whole.action[first + index]) ** 2))
            weights.append(count)
    expected = np.sqrt(np.average(squares, weights=weights))
    assert float(RunDirectory(run).read_metrics()[-1]["held_out_action_error"]) == pytest.approx(expected, rel=0.08)


def test_a_killed_run_resumes_bit_for_bit(run, data, tmp_path, at_step):
    def die():
        raise MemoryError("as if killed")

    at_step(3, die)
    again = tmp_path / "again"
    with pytest.raises(MemoryError):
        trainer.train(configs.read_run(run), again, progress=False)
    trainer.resume(again, progress=False)
    assert differences(again, run) == []


def test_it_trains_longer(run, tmp_path, crlviz):
    import shutil

    longer = shutil.copytree(run, tmp_path / "longer")
    code, _, err = crlviz("train", "--resume", longer, "--gradient-steps", 18)
    assert code == 0, err
    assert RunDirectory(longer).checkpoint_steps() == [6, 12, 18]
    code, _, err = crlviz("train", "--resume", longer, "--env-steps", 18)
    assert code == 2
    assert "is its gradient_steps; env_steps cannot change it" in err


def test_an_agent_without_an_environment_acts_and_says_what_it_lacks(run, crlviz):
    agent = package.load(run)
    assert agent.act(np.zeros((3, 6))).shape == (3, 2)
    assert agent.facts["env"] == "pointmaze-tiny-v0"
    assert "12 updates on a data set" in repr(agent)
    with pytest.raises(UsageError, match="was trained on a data set of pointmaze-tiny-v0 without an environment"):
        _ = agent.env
    code, out, _ = crlviz("ls", run)
    assert code == 0
    assert "pointmaze-tiny-v0" in out
    assert "finished" in out
    code, out, _ = crlviz("inspect", run)
    assert code == 0
    assert "12 updates on a data set" in out
    code, _, err = crlviz("heatmap", run, "--out", run / "map.html")
    assert code == 2
    assert err.count("\n") == 1
    assert "without an environment" in err


def test_blocks_come_anew_from_the_file_and_a_resumed_run_draws_the_same(data, tmp_path, at_step):
    lengths = [5, 9, 12, 7] * 6
    file(tmp_path / "data.npz", lengths)
    config = config_of(tmp_path / "data.npz", settings=["dataset.block_rows=40"])
    source = recorded_data.source(config.dataset)
    count, rows = recorded_data.block_of(source.trained, config.dataset, None)
    assert (count, rows) == (3, 39)
    whole, seen = pushed(lengths), set()
    for step in range(30):
        block = source.block(step, count, rows)
        starts = [0, *(block.ends[:-1] + 1)]
        assert block.state.shape == (39, 4)
        for first, last in zip(starts, block.ends, strict=True):
            numbers = [n for n in range(24) if np.array_equal(whole.state[whole.starts[n]], block.state[first])]
            assert len(numbers) == 1
            np.testing.assert_array_equal(
                whole.state[whole.starts[numbers[0]] : whole.ends[numbers[0]] + 1], block.state[first : last + 1]
            )
            seen |= set(numbers)
    assert seen == set(range(24)) - {19}
    first = trainer.train(config, tmp_path / "run", progress=False)
    at_step(3, lambda: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        trainer.train(config, tmp_path / "again", progress=False)
    trainer.resume(tmp_path / "again", progress=False)
    assert differences(tmp_path / "again", first) == []


def test_the_val_file_is_held_out_and_a_changed_file_is_refused(data, tmp_path):
    path = file(tmp_path / "walk.npz")
    config = recorded_data.describe(path)
    assert len(recorded_data.source(config).trained.chosen) == 23
    file(tmp_path / "walk-val.npz", [3, 4], seed=1)
    source = recorded_data.source(config)
    assert len(source.trained.chosen) == 24
    np.testing.assert_array_equal(source.held().state, pushed([3, 4], 1).state)
    file(path, [12] * 25)
    with pytest.raises(CrlvizError, match=r"walk\.npz has changed since this run began"):
        recorded_data.source(config)


@pytest.mark.slow
def test_the_command_evaluates_in_an_environment_beside_it(data, tmp_path, crlviz):
    settings = [word for setting in [*TINY, "eval_episodes=4", "episode_length=20"] for word in ("--set", setting)]
    common = ["train", "--dataset", data, "--preset", "smoke", *settings]
    code, _, err = crlviz(*common, "--env", "point_u_maze", "--seed", "0-1", "--out", tmp_path / "run")
    assert code == 0, err
    assert "288 rows" not in err
    rows = RunDirectory(tmp_path / "run" / "seed0").read_metrics()
    assert all(rows[-1][name] for name in ("success", "held_out_accuracy"))
    assert rows[-1]["env_steps"] == ""
    other = RunDirectory(tmp_path / "run" / "seed1").read_metrics()
    assert rows[-1]["actor_loss"] != other[-1]["actor_loss"]
    code, _, err = crlviz(*common, "ant_u_maze", "--out", tmp_path / "ant")
    assert code == 2
    assert "has states of 4 numbers" in err


def test_an_algorithm_that_cannot_learn_from_data_is_refused(data, crlviz, tmp_path):
    code, _, err = crlviz("train", "--dataset", data, "--algorithm", "sac", "--out", tmp_path / "sac")
    assert (code, err) == (2, "Error: sac does not learn from a data set; take crl, gcsl, gcbc, qrl, gciql\n")
    code, _, err = crlviz("train", "point_u_maze", "--algorithm", "qrl", "--out", tmp_path / "qrl")
    assert (code, err) == (2, "Error: qrl learns from a data set only: give --dataset FILE\n")
    with pytest.raises(UsageError, match=r"dataset.actor_goals is '1/2'; take the shares"):
        config_of(data, settings=["dataset.actor_goals=1/2"])


@pytest.mark.parametrize(
    ("name", "algorithm", "expected"),
    [
        ("pointmaze-medium-navigate-v0", "crl", {"crl.bc_weight": 0.03, "crl.actor_loss": "ddpgbc", "crl.critics": 2}),
        (
            "antmaze-giant-stitch-v0",
            "qrl",
            {"qrl.bc_weight": 0.003, "gamma": 0.995, "dataset.actor_goals": "0/0.5/0.5"},
        ),
        ("antmaze-large-explore-v0", "gciql", {"gciql.bc_weight": 0.01, "dataset.actor_goals": "0/0/1"}),
        ("humanoidmaze-medium-stitch-v0", "crl", {"crl.bc_weight": 0.1, "gamma": 0.995}),
        ("cube-single-noisy-v0", "gciql", {"gciql.bc_weight": 0.03}),
        ("scene-play-v0", "qrl", {"qrl.bc_weight": 0.3}),
        ("powderworld-easy-play-v0", "crl", {"crl.actor_loss": "awr", "crl.bc_weight": 3.0}),
        ("point_big_maze", "crl", {"crl.bc_weight": 0.03}),
    ],
)
def test_published_settings_follow_from_the_name(name, algorithm, expected):
    found = dataset_presets.settings(DatasetConfig(name=name), algorithm, "paper")
    assert {key: found[key] for key in expected} == expected
    if algorithm != "crl":
        assert "gamma" in expected or "gamma" not in found
