"""Importing recorded runs of the paper's code, and runs of JaxGCRL that are written here as its code writes them."""

import dataclasses
import pickle
import shutil
import sys
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import datasets
from crlviz.checkpoints.checkpoint import open_checkpoint
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.interchange import inspection, paper_format
from crlviz.interchange.importing import import_runs
from crlviz.networks.residual import distance
from training.config import TrainConfig

ANT, BIG, HUMANOID = "a_ant_u4_maze_d8_w64", "b_ant_big_maze_d4_w32", "c_humanoid_d16_w32"
RUNS = {
    ANT: "ant_u4_maze_1000_20261121-000617",
    BIG: "ant_big_maze_1000_20261121-001006",
    HUMANOID: "humanoid_1000_20261121-001321",
}


# One is enough to see an error.
@pytest.fixture(scope="module", params=[ANT, *(pytest.param(name, marks=pytest.mark.slow) for name in (BIG, HUMANOID))])
def imported(request, data, tmp_path_factory, optimized):
    """A recorded run, imported, and the outputs that the paper's code gave for it."""
    (run,) = import_runs([data / "runs" / RUNS[request.param]], tmp_path_factory.mktemp("imported") / "run")
    with np.load(data / "networks" / request.param / "golden.npz") as golden:
        return request.param, run, dict(golden)


def test_outputs_equal_the_recorded_ones(imported):
    _, run, golden = imported
    agent = crlviz.load(run)
    state, action, goal = (golden[name] for name in ("state", "action", "goal"))
    observation = np.concatenate([state, goal], -1)
    mean, log_std = agent.actor.distribution(agent.params["actor"], observation)
    outputs = {
        "phi": agent.embed(state, action),
        "psi": agent.embed_goal(goal),
        "Q": agent.q(state, action, goal),
        "actor_mean": mean,
        "actor_log_std": log_std,
    }
    for name, value in outputs.items():
        np.testing.assert_allclose(value, golden[name], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(agent.act(observation), np.tanh(golden["actor_mean"]), atol=1e-5)
    (log_alpha,) = open_checkpoint(run).read("temperature").values()
    assert log_alpha.item() == float(golden["log_alpha"])


def test_the_config_is_imported(imported):
    name, run, _ = imported
    agent = crlviz.load(run)
    expected = {
        ANT: ("ant_u4_maze", 8, 64, 64, [8000], 360),
        BIG: ("ant_big_maze", 4, 32, 32, [2400, 3200], 240),
        HUMANOID: ("humanoid", 16, 32, 32, [2400], 120),
    }[name]
    facts = agent.facts
    assert (facts["env"], facts["depth"], facts["width"], facts["batch_size"]) == expected[:4]
    assert (facts["seed"], facts["actor_depth"]) == (1000, facts["depth"])
    assert RunDirectory(run).checkpoint_steps() == expected[4]
    assert agent.gradient_steps == expected[5]
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    assert agent.config.keys() == known & agent.config.keys()
    assert not agent.config["redraw_goals"]
    text = inspection.describe(run)
    assert "imported    from the paper's code: step_" in text
    assert "temperature" in text
    assert all(not fault for _, fault in inspection.check(run))


def test_the_environment_is_the_one_trained_in(imported):
    name, run, _ = imported
    agent = crlviz.load(run)
    assert agent.env.dt == pytest.approx({ANT: 0.05, BIG: 0.05, HUMANOID: 0.03}[name])
    if name == ANT:
        assert (agent.env.id, agent.eval_env.id) == ("ant_u4_maze", "ant_u4_maze_eval")
        assert agent.config["env_options"] == {"normalize_quaternion": False}


def test_without_settings_the_directory_name_and_array_shapes_are_used(data, tmp_path):
    source = Path(shutil.copytree(data / "runs" / RUNS[BIG], tmp_path / RUNS[BIG]))
    whole = crlviz.load(import_runs([source], tmp_path / "whole")[0])
    (source / "args.pkl").unlink()
    agent = crlviz.load(import_runs([source], tmp_path / "shapes")[0])
    for name in datasets.FACTS:
        assert agent.facts[name] == (0 if name == "batch_size" else whole.facts[name])
    # Unknown settings are left out, not guessed.
    assert "gamma" in whole.facts
    assert "gamma" not in agent.facts
    assert agent.gradient_steps is None
    for ours, theirs in zip(jax.tree.leaves(agent.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    text = inspection.describe(tmp_path / "shapes")
    assert "unknown updates" in text
    assert "without args.pkl" in text


def test_importing_a_single_file(data, tmp_path):
    step = shutil.copy(data / "runs" / RUNS[HUMANOID] / "step_2400.pkl", tmp_path)
    (run,) = import_runs([Path(step)], tmp_path / "run", env="humanoid_u_maze")
    assert crlviz.load(run).env.id == "humanoid_u_maze"
    with pytest.raises(UsageError, match=r"names no environment; name one with --env: humanoid or humanoid_u_maze"):
        import_runs([Path(step)], tmp_path / "other")
    with pytest.raises(UsageError, match="states of 268, goals of 3 and actions of 17 numbers, ant has"):
        import_runs([Path(step)], tmp_path / "other", env="ant")
    final = shutil.copy(step, tmp_path / "final.pkl")
    with pytest.raises(CrlvizError, match=r"rename it step_<env_steps>\.pkl"):
        import_runs([Path(final)], tmp_path / "other", env="humanoid")
    assert not (tmp_path / "other").exists()


def test_env_steps_of_final_pkl_follow_from_the_settings(data, tmp_path):
    source = Path(shutil.copytree(data / "runs" / RUNS[BIG], tmp_path / "theirs"))
    for step in source.glob("step_*"):
        step.unlink()
    (run,) = import_runs([source], tmp_path / "run")
    assert RunDirectory(run).checkpoint_steps() == [3200]


def test_importing_several_runs(data, tmp_path):
    runs = import_runs([data / "runs" / RUNS[BIG], data / "runs" / RUNS[HUMANOID]], tmp_path / "runs")
    assert [run.name for run in runs] == [RUNS[BIG], RUNS[HUMANOID]]
    with pytest.raises(UsageError, match="exists already"):
        import_runs([data / "runs" / RUNS[BIG]], runs[0])


def test_missing_and_damaged_runs_are_refused(data, tmp_path):
    with pytest.raises(CrlvizError, match="there is no"):
        import_runs([tmp_path / "nowhere"], tmp_path / "run")
    with pytest.raises(CrlvizError, match="holds no step_"):
        import_runs([tmp_path], tmp_path / "run")
    broken = Path(shutil.copytree(data / "runs" / RUNS[BIG], tmp_path / RUNS[BIG]))
    (broken / "step_3200.pkl").write_bytes((broken / "step_3200.pkl").read_bytes()[:5000])
    with pytest.raises(CrlvizError, match=r"step_3200.pkl is damaged"):
        import_runs([broken], tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == [RUNS[BIG]]  # no partial output


def _saved(path: Path, change) -> Path:
    tree = jax.tree.map(np.asarray, _jaxgcrl(3, 1, (4, 2, 2)))
    path.write_bytes(pickle.dumps(change(*tree)))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, b, c: None, "does not hold a temperature"),
        (lambda a, b, c: (a, b), "does not hold a temperature"),
        (lambda a, b, c: ({"log_alpha": np.ones(3)}, b, c), "does not hold a temperature"),
        (lambda a, b, c: (a, {"params": {"Dense_0": 5}}, c), "its actor is not a network"),
        (lambda a, b, c: (a, {"params": {**b["params"], "x": {}}}, c), "its actor is not a network"),
        (lambda a, b, c: (a, c["sa_encoder"], c), "its actor is not a network"),
        (lambda a, b, c: (a, b, {**c, "sa_encoder": c["g_encoder"]}), "do not fit each other|more than once"),
        (lambda a, b, c: (a, b, {"sa_encoder": c["g_encoder"], "g_encoder": c["g_encoder"]}), "more than once"),
        (lambda a, b, c: (a, jax.tree.map(lambda x: x * np.float32("nan"), b), c), "not finite"),
        (lambda a, b, c: (a, jax.tree.map(lambda x: x.astype(int), b), c), "its actor is not a network"),
    ],
)
def test_invalid_networks_are_refused(tmp_path, change, words):
    with pytest.raises(CrlvizError, match=words):
        paper_format.read_parameters(_saved(tmp_path / "step_1.pkl", change))


# ---- JaxGCRL: there is no recorded run, so runs are written here as its code writes them


class Plain(nn.Module):
    """JaxGCRL's network: Dense layers with a skip connection every ``skip`` layers after the first (0: none)."""

    hidden: int
    outputs: tuple[int, ...]
    skip: int
    norm: bool
    width: int = 6

    @nn.compact
    def __call__(self, x):
        for index in range(self.hidden):
            x = nn.Dense(self.width)(x)
            x = nn.swish(nn.LayerNorm()(x) if self.norm else x)
            if self.skip and index == 0:
                skip = x
            if self.skip and index and index % self.skip == 0:
                x = skip = x + skip
        return [nn.Dense(size)(x) for size in self.outputs]


def _jaxgcrl(hidden, skip, sizes):
    """JaxGCRL's checkpoint: temperature, actor, critic. Its actor has no LayerNorm even if the critic has."""
    state, goal, action = sizes
    keys = iter(jax.random.split(jax.random.key(3), 300))

    def init(inputs, outputs, norm):
        params = Plain(hidden, outputs, skip, norm).init(next(keys), jnp.zeros(inputs))
        # Random biases and scales, so that swapped layers change the outputs.
        return jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params)

    critic = {"sa_encoder": init(state + action, (64,), True), "g_encoder": init(goal, (64,), True)}
    return {"log_alpha": jnp.float32(-0.7)}, init(state + goal, (action, action), False), critic


def _settings(monkeypatch, **changes):
    """JaxGCRL's args.pkl: a dict of objects of two of its classes, replaced here by stand-ins of the same names."""
    run = {"env": "ant_u_maze", "eval_env": None, "seed": 3, "num_envs": 256, "total_env_steps": 10_000_000}
    run |= {"num_evals": 50, "num_eval_envs": 128, "episode_length": 1001, "backend": None, "log_wandb": True}
    agent = {"policy_lr": 3e-4, "alpha_lr": 1e-4, "batch_size": 256, "discounting": 0.97, "unroll_length": 62}
    agent |= {"logsumexp_penalty_coeff": 0.1, "max_replay_size": 10_000, "min_replay_size": 1000, "use_relu": False}
    agent |= {"skip_connections": 4, "energy_fn": "norm", "n_hidden": 2, "h_dim": 6}
    content = {}
    for part, place, name in (("run", "jaxgcrl.utils.config", "RunConfig"), ("agent", "jaxgcrl.agents.crl.crl", "CRL")):
        fields = {"run": run, "agent": agent}[part]
        kind = type(name, (), {"__module__": place})
        for depth in range(1, place.count(".") + 2):
            monkeypatch.setitem(sys.modules, ".".join(place.split(".")[:depth]), types.ModuleType(place))
        setattr(sys.modules[place], name, kind)
        content[part] = kind()
        vars(content[part]).update({key: changes.get(key, value) for key, value in fields.items()})
    return pickle.dumps(content)


@pytest.mark.parametrize(
    ("hidden", "skip"), [(2, 4), (4, 4), (5, 4), (5, 0), pytest.param(11, 4, marks=pytest.mark.slow), (3, 9)]
)
def test_jaxgcrl_gives_the_same_outputs(monkeypatch, tmp_path, hidden, skip):
    sizes = (29, 2, 8)
    saved = _jaxgcrl(hidden, skip, sizes)
    run = tmp_path / "run_mine_s_3"
    (run / "ckpt").mkdir(parents=True)
    (run / "args.pkl").write_bytes(_settings(monkeypatch, skip_connections=skip))
    (run / "ckpt" / "step_512000.pkl").write_bytes(pickle.dumps(saved))
    (run / "ckpt" / "final").write_bytes(pickle.dumps(saved))
    agent = crlviz.load(import_runs([run], tmp_path / "ours")[0])
    assert (agent.facts["depth"], agent.facts["seed"], agent.env_steps) == (hidden - 1, 3, 512_000)
    assert (agent.config["gamma"], agent.config["crl"]["temperature_learning_rate"]) == (0.97, 1e-4)
    assert agent.config["actor"]["layer_norm"] is False

    rng = np.random.default_rng(0)
    state, goal, action = (rng.normal(size=(7, size)).astype(np.float32) for size in sizes)
    phi = Plain(hidden, (64,), skip, True).apply(saved[2]["sa_encoder"], np.concatenate([state, action], -1))[0]
    psi = Plain(hidden, (64,), skip, True).apply(saved[2]["g_encoder"], goal)[0]
    mean, _ = Plain(hidden, (8, 8), skip, False).apply(saved[1], observation := np.concatenate([state, goal], -1))
    np.testing.assert_allclose(agent.embed(state, action), phi, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(agent.q(state, action, goal), -distance(phi, psi), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(agent.act(observation), jnp.tanh(mean), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("hidden", "changes", "words"),
    [
        (5, {"skip_connections": 2}, "skip connections every 2 layers"),
        (2, {"energy_fn": "dot"}, "the energy function 'dot'"),
        (2, {"env": "ant_random_start"}, "'ant_random_start', which crlviz does not have; name one with --env: ant or"),
        (2, {"seed": "3"}, "seed is not a valid number"),
        (2, {"num_envs": 0}, "num_envs is 0"),
    ],
)
def test_unsupported_jaxgcrl_runs_are_refused(monkeypatch, tmp_path, hidden, changes, words):
    (tmp_path / "args.pkl").write_bytes(_settings(monkeypatch, **changes))
    (tmp_path / "step_9.pkl").write_bytes(pickle.dumps(_jaxgcrl(hidden, 4, (29, 2, 8))))
    with pytest.raises(CrlvizError, match=words):
        import_runs([tmp_path], tmp_path / "ours")


def test_jaxgcrl_without_settings(tmp_path):
    (tmp_path / "step_9.pkl").write_bytes(pickle.dumps(_jaxgcrl(5, 4, (29, 2, 8))))
    with pytest.raises(CrlvizError, match=r"put its args.pkl beside it"):
        import_runs([tmp_path], tmp_path / "ours", env="ant")
    (tmp_path / "step_9.pkl").write_bytes(pickle.dumps(_jaxgcrl(4, 4, (29, 2, 8))))
    assert crlviz.load(import_runs([tmp_path], tmp_path / "ours", env="ant")[0]).facts["depth"] == 3
