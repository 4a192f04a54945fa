"""Plain MLPs, against loops in numpy."""

import jax
import numpy as np
import pytest

from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.policies import DeterministicActor, SoftplusActor
from crlviz.networks.residual import contributions
from crlviz.networks.twin_q import TwinQ

STATE, ACTION, GOAL, ROWS = 4, 2, 3, 5


def _mlp(config, params, x):
    """The heads' outputs, layer by layer in float64."""

    def layer(x, params):
        x = x @ np.asarray(params["dense"]["kernel"], float) + np.asarray(params["dense"]["bias"], float)
        if config.layer_norm:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])
        return np.maximum(x, 0) if config.activation == "relu" else x / (1 + np.exp(-x))

    x = layer(np.asarray(x, float), params["stem"])
    for index in range(config.depth - 1):
        x = layer(x, jax.tree.map(lambda leaf, i=index: leaf[i], params["hidden"]["layer"]))
    heads = [params[name] for name in sorted(params) if name.startswith("head")]
    return [x @ np.asarray(head["kernel"], float) + np.asarray(head["bias"], float) for head in heads]


def _random(shapes):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(scale=0.4, size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
    "config",
    [
        NetworkConfig(1, 6, layer_norm=False, activation="relu", kind="mlp"),
        NetworkConfig(2, 6, layer_norm=False, activation="relu", kind="mlp"),
        NetworkConfig(3, 6, activation="relu", kind="mlp", remat=True),
    ],
    ids=lambda config: f"depth {config.depth}, {config.ablation}",
)
def test_an_mlp_against_numpy(config):
    rng = np.random.default_rng(0)
    state, action, goal = (rng.normal(size=(ROWS, size)).astype(np.float32) for size in (STATE, ACTION, GOAL))
    observation = np.concatenate([state, goal], -1)
    actor, tanh = SoftplusActor(config, STATE + GOAL, ACTION), DeterministicActor(config, STATE + GOAL, ACTION)
    critic = TwinQ(config, STATE, ACTION, GOAL)

    @jax.jit
    def outputs(params):
        of_actor, of_tanh, of_critic = params
        return (
            actor.distribution(of_actor, observation),
            tanh.mean_action(of_tanh, observation),
            critic.values(of_critic, state, action, goal),
            critic.q(of_critic, state, action, goal),
            contributions(config, of_tanh, observation),
        )

    params = _random((actor.shapes, tanh.shapes, critic.shapes))
    (mean, log_std), deterministic, values, q, terms = outputs(params)
    expected = _mlp(config, params[0], observation)
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(mean, expected[0], **near)
    np.testing.assert_allclose(np.exp(log_std), np.log1p(np.exp(expected[1])) + 1e-3, **near)
    np.testing.assert_allclose(deterministic, np.tanh(_mlp(config, params[1], observation)[0]), **near)
    twins = [
        _mlp(config, jax.tree.map(lambda leaf, k=k: leaf[k], params[2]), np.concatenate([state, goal, action], -1))
        for k in range(2)
    ]
    np.testing.assert_allclose(values, [twin[0][:, 0] for twin in twins], **near)
    np.testing.assert_array_equal(q, np.minimum(*values))
    assert terms.shape == (0, ROWS)  # it has no blocks


def test_kernels_begin_as_lecun_uniform_and_twins_differ():
    config = NetworkConfig(3, 64, layer_norm=False, activation="relu", kind="mlp")
    params = jax.jit(TwinQ(config, 40, 12, 12).init)(jax.random.key(0))
    kernels = {"stem": params["stem"]["dense"]["kernel"], "hidden": params["hidden"]["layer"]["dense"]["kernel"]}
    assert {name: kernel.shape for name, kernel in kernels.items()} == {"stem": (2, 64, 64), "hidden": (2, 2, 64, 64)}
    for kernel in kernels.values():
        assert np.abs(kernel).max() == pytest.approx(np.sqrt(3 / 64), rel=0.01)
        assert kernel.std() == pytest.approx(1 / 8, rel=0.02)
        assert np.abs(kernel[0] - kernel[1]).mean() > 0.05


def test_a_residual_twin_begins_as_one_of_its_kind_alone():
    """Within 1 / sqrt(fan-in), and a quiet one with each block's last scales divided by the number of blocks."""
    config = NetworkConfig(16, 8, start="quiet")
    params = jax.jit(TwinQ(config, STATE, ACTION, GOAL).init)(jax.random.key(0))
    assert np.abs(params["blocks"]["layer_0"]["dense"]["kernel"]).max() == pytest.approx(1 / np.sqrt(8), rel=0.02)
    np.testing.assert_array_equal(params["blocks"]["layer_3"]["norm"]["scale"], np.full((2, 4, 8), 0.25))
    np.testing.assert_array_equal(params["blocks"]["layer_2"]["norm"]["scale"], np.ones((2, 4, 8)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "cnn"}, "kind 'cnn' is unknown; take residual or mlp"),
        ({"kind": "mlp", "depth": 0}, "depth 0: an MLP has at least one hidden layer"),
        ({"kind": "mlp", "residual": False}, "neither tail nor skip connections"),
        ({"kind": "mlp", "tail": 1}, "neither tail nor skip connections"),
    ],
)
def test_a_wrong_shape(changes, words):
    with pytest.raises(UsageError, match=words):
        NetworkConfig(**changes)


def test_its_label():
    assert NetworkConfig(2, kind="mlp", layer_norm=False, activation="relu").ablation == "MLP, no LayerNorm, relu"
