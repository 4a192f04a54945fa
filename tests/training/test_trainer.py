"""Training a config into a run directory: counts, reproducibility, refusals, and that training learns."""

import csv
import json
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import envs
from crlviz.algorithms.crl import CRL
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.rollouts import evaluate
from tests.helpers.shared_programs import shared
from tests.helpers.toys import toy_config
from training import config as configs
from training import trainer
from training.run import building, compiled, programs, saved_state
from training.schedule import schedule

TIMES = {"wall_seconds", "train_seconds", "env_steps_per_second", "updates_per_second"}


def _metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _parameters(run: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(crlviz.load(run).params)]


def test_metrics_are_complete_and_increase(toy_run):
    rows, config = _metrics(toy_run), toy_config()
    assert tuple(rows[0]) == metrics_table.columns(CRL.columns())
    plan = schedule(config)
    assert len(rows) == plan.epochs + 1 == 3
    assert [int(row["env_steps"]) for row in rows] == [120, 200, 280]
    assert [int(row["gradient_steps"]) for row in rows] == [0, 6, 12]
    for name in ("wall_seconds", "train_seconds"):
        assert np.all(np.diff([float(row[name]) for row in rows]) > 0)
    for row in rows[1:]:
        assert all(np.isfinite(float(value)) for value in row.values())
        assert float(row["wall_seconds"]) >= float(row["train_seconds"])
        # 80 environment steps and 6 updates an epoch.
        assert float(row["env_steps_per_second"]) == pytest.approx(float(row["updates_per_second"]) * 80 / 6, rel=1e-3)
    for row in rows:
        assert 0 <= float(row["success"]) <= float(row["success_easy"]) <= 1
        assert 0 <= float(row["time_at_goal"]) <= float(row["episode_steps"]) == 20
    assert rows[0]["critic_loss"] == ""  # nothing was learned yet


def test_the_run_directory_records_its_provenance(toy_run):
    config = json.loads((toy_run / "config.json").read_text())
    assert config["algorithm"] == "crl"
    assert config["command"] == ["crlviz", "train"]
    assert config["versions"]["jax"] == jax.__version__
    assert config["versions"]["crlviz"] == crlviz.__version__
    assert config["config"] == json.loads(json.dumps(configs.content(toy_config())["config"]))
    assert RunDirectory(toy_run).checkpoint_steps() == [200, 280]
    assert sorted(p.name for p in toy_run.iterdir()) == [".lock", "checkpoints", "config.json", "metrics.csv", "state"]
    agent = crlviz.load(toy_run)
    assert (agent.env_steps, agent.gradient_steps) == (280, 12)


def test_the_same_seed_gives_the_same_run_bit_for_bit(toy_run, tmp_path):
    again = trainer.train(toy_config(), tmp_path, progress=False)  # an empty directory is fine
    for a, b in zip(_parameters(toy_run), _parameters(again), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(_metrics(toy_run), _metrics(again), strict=True):
        assert {k: v for k, v in a.items() if k not in TIMES} == {k: v for k, v in b.items() if k not in TIMES}

    with shared():
        other = trainer.train(toy_config(seed=1), tmp_path / "other", progress=False)
    kernels = [(a, b) for a, b in zip(_parameters(toy_run), _parameters(other), strict=True) if a.ndim > 1]
    assert all((a != b).mean() > 0.9 for a, b in kernels)


@pytest.mark.slow
def test_without_redrawn_goals_each_environment_returns_to_its_first_start(tmp_path):
    """As in the preset ``paper``: 4 environments have 4 starts and 4 goals in the whole run."""
    config = toy_config(redraw_goals=False, episode_length=5)
    run = trainer.train(config, tmp_path / "run", progress=False)
    example = compiled.jitted(loop := building.build(config), loop.env).example
    directory = RunDirectory(run)
    state = saved_state.read([saved_state.verify(directory, directory.newest_state())], example)
    first = np.asarray(state.collector.first.obs[0])
    rows, trajectory = np.asarray(state.replay.rows.state[0]), np.asarray(state.replay.rows.trajectory[0])
    time, environment = np.nonzero(np.diff(trajectory, axis=0) == 1)  # the last steps of episodes
    assert len(time) > 4
    np.testing.assert_array_equal(rows[time + 1, environment], first[environment, : rows.shape[-1]])


def test_evaluation_uses_the_mean_action_and_its_own_environment(tmp_path, monkeypatch):
    seen = []

    def spy(env, policy, key, episodes, length):
        observation = jnp.ones((2, 6))
        actions = [policy(observation, jax.random.key(k)) for k in (0, 1)]
        seen.append((env.id, episodes, length))
        scores = evaluate(env, policy, key, episodes, length)
        return scores | {
            "distance": jnp.abs(actions[0] - actions[1]).max()
        }  # recorded in metrics.csv, where the test reads it

    monkeypatch.setattr(programs, "evaluate", spy)
    run = trainer.train(toy_config(eval_env="point_u_maze_eval"), tmp_path / "run", progress=False)
    assert set(seen) == {("point_u_maze_eval", 6, 20)}
    assert {float(row["distance"]) for row in _metrics(run)} == {0.0}
    agent = crlviz.load(run)
    assert (agent.env.id, agent.eval_env.id) == ("point_u_maze", "point_u_maze_eval")


@pytest.mark.parametrize("kind", ["run", "file"])
def test_an_existing_run_is_refused_before_anything_is_computed(tmp_path, monkeypatch, kind):
    out = tmp_path / "run"
    if kind == "run":
        out.mkdir()
        (out / "config.json").write_text("mine")
    else:
        out.write_text("mine")

    def never(config):
        raise AssertionError("built")

    monkeypatch.setattr(compiled, "build", never)
    with pytest.raises(UsageError, match="exists already") as error:
        trainer.train(toy_config(), out, progress=False)
    assert str(out) in str(error.value)
    assert (out / "config.json" if kind == "run" else out).read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"env": "point_u_mase"}, "point_u_maze"),
        ({"eval_env": "point_u_mase"}, "point_u_maze"),
        ({"batch_size": 1}, "batch_size"),
        ({"env": "point_maze"}, "layout"),
    ],
)
def test_a_wrong_setting_leaves_no_run_behind(tmp_path, changes, word):
    started = time.perf_counter()
    with pytest.raises(UsageError, match=word):
        trainer.train(toy_config(**changes), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert time.perf_counter() - started < 2  # nothing was compiled


@pytest.mark.slow
def test_a_diverged_run_keeps_no_bad_checkpoint(tmp_path):
    """With one update in an epoch, the loss is finite once more after the parameters have already diverged."""
    config = toy_config(crl__learning_rate=1e30, updates=1, evaluations=4)
    run = tmp_path / "run"
    with pytest.raises(CrlvizError, match="became"):
        trainer.train(config, run, progress=False)
    for steps in RunDirectory(run).checkpoint_steps():
        agent = crlviz.load(run / "checkpoints" / str(steps))
        assert np.isfinite(agent.act(np.ones((3, 6), np.float32))).all()
        assert np.isfinite(agent.q(*(np.ones((3, n), np.float32) for n in (4, 2, 2)))).all()
    if not RunDirectory(run).checkpoint_steps():
        with pytest.raises(CrlvizError, match="no checkpoint"):
            crlviz.load(run)


@pytest.mark.slow
def test_it_learns(tmp_path, optimized):
    """Success over all goals of the U maze rises from that of an untrained agent to well above that of random actions.

    Measured: seeds 0 to 2 reach a success of 0.68, 0.67 and 0.60 and a time at goal of 74, 84 and 75 of 150 steps;
    random actions reach 0.24 and 2 steps.
    """
    changes = configs.preset("laptop") | {"env_steps": 768_000, "evaluations": 8}
    config = configs.replace(configs.TrainConfig(env="point_u_maze"), changes)
    rows = _metrics(trainer.train(config, tmp_path / "run", progress=False))

    env = envs.make("point_u_maze")

    def random_policy(observation, key):
        return jax.random.uniform(key, (len(observation), 2), minval=-1, maxval=1)

    chance = jax.jit(lambda key: evaluate(env, random_policy, key, 1000, env.episode_length))(jax.random.key(0))
    untrained, success = float(rows[0]["success"]), np.mean([float(row["success"]) for row in rows[-5:]])
    time_at_goal = np.mean([float(row["time_at_goal"]) for row in rows[-5:]])
    assert untrained < 0.2
    assert float(chance["success"]) < 0.3
    assert float(chance["time_at_goal"]) < 5
    assert success > 0.5
    assert time_at_goal > 50


def test_without_a_terminal_every_evaluation_prints_a_line(tmp_path, capsys):
    with shared():
        trainer.train(toy_config(), tmp_path / "run")
    printed = capsys.readouterr().err.splitlines()
    lines = [re.sub(r"\d+(\.\d+)?(?= updates)|\d\d:\d\d", "_", line) for line in printed]
    assert [line.partition(", success")[0] for line in lines] == [
        "120 of 280 environment steps",
        "200 of 280 environment steps (_ left), _ updates/s",
        "280 of 280 environment steps, _ updates/s",
    ]
    assert all("time at goal" in line for line in lines)
