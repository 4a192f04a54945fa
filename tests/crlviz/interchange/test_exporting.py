"""Exported networks, run by another runtime and compared with the agent."""

import dataclasses
import json
import sys

import jax
import numpy as np
import onnxruntime
import pytest
import safetensors

import crlviz
from crlviz.errors import UsageError
from crlviz.interchange.exporting import export
from crlviz.networks.config import NetworkConfig
from tests.helpers.toys import toy_config, untrained_run


def _agent(folder, **changes):
    return crlviz.load(untrained_run(folder / "run", dataclasses.replace(toy_config(), **changes)))


def _run(path, **inputs):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"actor": NetworkConfig(64, 32), "critic": NetworkConfig(64, 32)}, marks=pytest.mark.slow),
        {"actor": NetworkConfig(4, 8, False, "relu"), "critic": NetworkConfig(8, 8, residual=False)},
        pytest.param(
            {"actor": NetworkConfig(7, 8, tail=3), "critic": NetworkConfig(2, 8, tail=2)}, marks=pytest.mark.slow
        ),
        {"actor": NetworkConfig(4, 8, start="norm_quiet"), "critic": NetworkConfig(2, 8, tail=2, start="norm")},
        {"actor": NetworkConfig(3, 8, kind="mlp"), "critic": NetworkConfig(1, 8, kind="mlp", layer_norm=False)},
    ],
    ids=["depth 64", "ablations", "tails", "norms before the heads", "MLPs"],
)
def test_onnx_gives_the_same_outputs(tmp_path, changes):
    agent = _agent(tmp_path, **changes)
    files = export(agent, tmp_path / "agent.onnx")
    assert [path.name for path in files] == ["agent.onnx", "agent.phi.onnx", "agent.psi.onnx"]
    rng = np.random.default_rng(0)
    for rows in (1, 50):
        state, action, goal = (rng.normal(size=(rows, size)).astype(np.float32) for size in (4, 2, 2))
        observation = np.concatenate([state, goal], -1)
        out = _run(files[0], observation=observation)
        out |= _run(files[1], state=state, action=action) | _run(files[2], goal=goal)
        mean, log_std = agent.actor.distribution(agent.params["actor"], observation)
        expected = {"action": agent.act(observation), "mean": mean, "log_std": log_std}
        expected |= {"phi": agent.embed(state, action), "psi": agent.embed_goal(goal)}
        assert out.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(out[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_safetensors_hold_every_array_and_the_config(tmp_path):
    agent = _agent(tmp_path, actor=NetworkConfig(8, 8))
    (path,) = export(agent, tmp_path / "agent.safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        facts, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert json.loads(facts["config"]) == agent.config
    assert json.loads(facts["sizes"]) == {"state": 4, "goal": 2, "action": 2}
    np.testing.assert_array_equal(
        arrays["actor/blocks/layer_2/dense/kernel"], agent.params["actor"]["blocks"]["layer_2"]["dense"]["kernel"]
    )
    np.testing.assert_array_equal(arrays["psi/head_0/bias"], agent.params["critic"]["psi"]["head_0"]["bias"])
    assert sum(a.size for a in arrays.values()) == sum(a.size for a in jax.tree.leaves(agent.params))


def test_user_errors(tmp_path, toy_agent, monkeypatch):
    for out, words in (("agent.pt", "end it in .safetensors or .onnx"), ("no/agent.onnx", "there is no directory")):
        with pytest.raises(UsageError, match=words):
            export(toy_agent, tmp_path / out)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'crlviz\[onnx\]'"):
        export(toy_agent, tmp_path / "agent.onnx")
    assert not list(tmp_path.iterdir())
