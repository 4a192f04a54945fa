"""How networks begin: the paper's start changes with depth, the others less or not at all.

Numbers of the paper's start are compared with a separate measurement on a swimmer's inputs: at width 64, 4 % of sampled
actions lie beyond 0.99 at depth 4 and half at depth 64, and phi is 5.7 and 27 from psi.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from scipy.integrate import quad
from scipy.stats import norm as normal

import crlviz
from crlviz.algorithms.batches import Batch
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.errors import UsageError
from crlviz.interchange import inspection, model_card
from crlviz.networks.config import STARTS, NetworkConfig
from crlviz.networks.policies import DeterministicActor, GaussianActor, SoftplusActor
from crlviz.networks.residual import Actor, Critic, ResidualNetwork, contributions, parameter_count, shapes_of
from crlviz.networks.starts import initial
from crlviz.networks.twin_q import TwinQ
from tests.helpers.toys import toy_config, untrained_run

STATE, ACTION, GOAL, ROWS = 7, 3, 2, 1024
SEEDS = 5


def networks(depth, start, width=64):
    config = NetworkConfig(depth, width, start=start)
    return Actor(config, STATE + GOAL, ACTION), Critic(config, STATE, ACTION, GOAL)


@partial(jax.jit, static_argnums=0)
def _inits(networks, keys):
    return jax.vmap(lambda key: tuple(network.init(key) for network in networks))(keys)


@partial(jax.jit, static_argnums=0)
def _measured(networks, params, keys):
    """Measures of networks with these parameters, mean over the seeds."""
    actor, critic = networks

    def one(params, key):
        keys = jax.random.split(key, 3)
        state, goal, noise = (
            jax.random.normal(key, (ROWS, size)) for key, size in zip(keys, (STATE, GOAL, ACTION), strict=True)
        )
        action, log_prob = actor.sample(params[0], jnp.concatenate([state, goal], -1), noise)
        phi, psi = critic.phi(params[1], state, action), critic.psi(params[1], goal)
        return {
            "saturation": (abs(action) > 0.99).mean(),
            "entropy": -log_prob.mean(),
            "distance": jnp.linalg.norm(phi - psi, axis=-1).mean(),
            "spread": jnp.linalg.norm(phi - phi.mean(0), axis=-1).mean(),
        }

    return jax.tree.map(jnp.mean, jax.vmap(one)(params, keys))


def measured(start, depth):
    keys = jax.random.split(jax.random.key(depth), SEEDS)
    # Measured as networks of the paper's start, so that both starts share a program.
    return _measured(networks(depth, "paper"), _inits(networks(depth, start), keys), keys)


@pytest.mark.slow
def test_the_papers_start_saturates_with_depth():
    shallow, deep = measured("paper", 4), measured("paper", 64)
    assert 0.02 < shallow["saturation"] < 0.08
    assert 0.25 < deep["saturation"] < 0.75
    assert shallow["entropy"] - deep["entropy"] > 5
    assert shallow["distance"] == pytest.approx(5.7, rel=0.15)
    assert deep["distance"] == pytest.approx(27, rel=0.2)


@pytest.mark.parametrize("depth", [4, 64, pytest.param(256, marks=pytest.mark.slow)])
def test_a_quiet_start_is_the_same_at_every_depth(depth):
    # The entropy of tanh of a normal variable, by the change of variables.
    deviation = np.exp(-5 + 3.5 * (np.tanh(0.4) + 1))
    slope = quad(lambda x: normal.pdf(x, scale=deviation) * np.log(1 - np.tanh(x) ** 2), -8, 8)[0]
    found = measured("quiet", depth)
    assert found["entropy"] == pytest.approx(ACTION * (normal(scale=deviation).entropy() + slope), abs=0.15)
    assert found["saturation"] < 0.01
    assert 3 < found["distance"] < 7
    assert 2 < found["spread"] < 4


# For each start: by what the last layer of each of 4 blocks is multiplied, and whether an actor's heads are quiet.
CHANGES = {
    "paper": (1, False),
    "quiet": (1 / 4, True),
    "zero": (0, False),
    "zero_quiet_heads": (0, True),
    "norm": (1, False),
    "norm_quiet_heads": (1, True),
    "norm_quiet": (1 / 4, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("layer_norm", [True, False])
def test_what_each_start_changes(layer_norm):
    """Quiet heads: kernels by 0.1, and the bias of the log standard deviations. No start has parameters of its own."""
    begun = {}
    for start in STARTS:
        config = NetworkConfig(16, 8, layer_norm, start=start)
        key = jax.random.key(0)
        actor, critic = Actor(config, STATE + GOAL, ACTION).init(key), Critic(config, STATE, ACTION, GOAL).init(key)
        begun[start] = flatten_dict({"actor": actor, **critic}, sep="/")
    last = "blocks/layer_3/" + ("norm/scale" if layer_norm else "dense/kernel")
    for start, (factor, quiet_heads) in CHANGES.items():
        factors = {f"{part}/{last}": factor for part in ("actor", "phi", "psi")}
        factors |= {"actor/head_0/kernel": 0.1, "actor/head_1/kernel": 0.1} if quiet_heads else {}
        assert begun[start].keys() == begun["paper"].keys()
        for name, paper in begun["paper"].items():
            bias = quiet_heads and name == "actor/head_1/bias"
            expected = 0.4 * np.ones(ACTION) if bias else factors.get(name, 1) * paper
            np.testing.assert_allclose(begun[start][name], expected, rtol=1e-6, err_msg=f"{start}, {name}")
    assert begun.keys() == CHANGES.keys()


@pytest.mark.slow
def test_all_policies_have_quiet_heads_and_q_networks_have_none():
    """By the largest kernel of a head, which is drawn within 1 / sqrt(8)."""
    config, key = NetworkConfig(4, 8, start="zero_quiet_heads"), jax.random.key(0)
    for actor in (Actor, SoftplusActor, DeterministicActor, GaussianActor):
        assert abs(actor(config, 5, 2).init(key)["head_0"]["kernel"]).max() < 0.1 / np.sqrt(8)
    twins = TwinQ(config, 3, 2, 2).init(key)
    assert twins["blocks"]["layer_3"]["norm"]["scale"].shape == (2, 1, 8)
    assert not twins["blocks"]["layer_3"]["norm"]["scale"].any()
    assert abs(twins["head_0"]["kernel"]).max() > 0.1 / np.sqrt(8)


@pytest.mark.slow
def test_blocks_that_begin_at_zero_add_nothing_and_can_learn():
    """Outputs are those of stem and heads alone, whatever the depth; and the gradient moves the blocks."""
    network = ResidualNetwork(NetworkConfig(64, 8, start="zero"), (3,))
    params = initial(network.config, jax.random.key(0), shapes_of(network, 5))
    x = np.random.default_rng(0).normal(size=(10, 5))
    y = x @ np.asarray(params["stem"]["dense"]["kernel"], np.float64)
    y = (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True)
    expected = y / (1 + np.exp(-y)) @ np.asarray(params["head_0"]["kernel"], np.float64)
    np.testing.assert_allclose(network.apply({"params": params}, x.astype(np.float32))[0], expected, atol=1e-5)
    gradient = jax.grad(lambda params: network.apply({"params": params}, x.astype(np.float32))[0].sum())(params)
    assert (abs(gradient["blocks"]["layer_3"]["norm"]["scale"]).max(-1) > 1e-6).all()  # in each of the 16 blocks
    assert contributions(network.config, params, x.astype(np.float32)).tolist() == [[0] * 10] * 16


@pytest.mark.parametrize(
    ("config", "inputs"),
    [
        (NetworkConfig(8, 8, start="norm"), 5),
        (NetworkConfig(2, 8, tail=2, start="norm"), 5),
        (NetworkConfig(2, 8, kind="mlp", activation="relu", layer_norm=False, start="norm"), 5),
    ],
    ids=["blocks", "tail", "MLP"],
)
def test_the_norm_before_the_heads(config, inputs):
    """Against numpy, on what enters the heads of the same network without it; the heads copy what they get."""
    normed, plain = (ResidualNetwork(one, (8,)) for one in (config, dataclasses.replace(config, start="paper")))
    params = initial(config, jax.random.key(0), shapes_of(normed, inputs))
    assert parameter_count(params) == parameter_count(shapes_of(plain, inputs))
    params = {**params, "head_0": {"kernel": jnp.eye(8), "bias": jnp.zeros(8)}}
    x = np.random.default_rng(0).normal(size=(10, inputs)).astype(np.float32)
    entering, got = (np.asarray(network.apply({"params": params}, x)[0], np.float64) for network in (plain, normed))
    expected = (entering - entering.mean(-1, keepdims=True)) / np.sqrt(entering.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"depth": 2, "kind": "mlp"}, "an MLP has no blocks"),
        ({"residual": False}, "without skip connections"),
        ({"activation": "relu"}, "relu has no gradient at zero"),
        ({"layer_norm": False, "sphere": True}, "kernels on the unit sphere cannot begin at zero"),
    ],
)
def test_what_cannot_begin_at_zero(shape, why):
    for start in ("zero", "zero_quiet_heads"):
        with pytest.raises(UsageError, match=f"^start {start}: {why}.*; take quiet$"):
            NetworkConfig(**shape, start=start)
    NetworkConfig(**shape, start="quiet")


@pytest.mark.slow
def test_a_checkpoint_carries_the_norm(tmp_path):
    """Loaded from disk, the agent acts as its networks do with the norm, and inspection says so."""
    config = toy_config(actor__start="norm_quiet_heads", critic__start="norm")
    run = untrained_run(tmp_path / "run", config)
    agent = crlviz.load(run)
    assert agent.actor.config.norm_before_heads
    x = np.random.default_rng(0).normal(size=(5, agent.env.observation_size)).astype(np.float32)
    expected, other = (
        Actor(NetworkConfig(4, 8, start=start), x.shape[1], 2).mean_action(agent.params["actor"], x)
        for start in ("norm", "paper")
    )
    np.testing.assert_allclose(agent.act(x), expected, atol=1e-6)
    assert abs(expected - other).max() > 1e-3
    lines = inspection.describe(run)
    assert "swish, LayerNorm before the heads, begun norm_quiet_heads" in lines
    assert "swish, LayerNorm before the heads, begun norm\n" in lines
    assert model_card.write(agent, tmp_path / "agent.safetensors").count("LayerNorm before the heads") == 2


def test_networks_without_a_block_begin_quiet_too():
    config = NetworkConfig(2, 8, tail=2, start="quiet")
    assert Actor(config, 6, 2).init(jax.random.key(0))["head_1"]["bias"].tolist() == pytest.approx([0.4, 0.4])
    Critic(config, 4, 2, 2).init(jax.random.key(0))


def test_an_unknown_start():
    with pytest.raises(UsageError, match="start 'loud' is unknown; take paper, quiet, zero, "):
        NetworkConfig(start="loud")


@pytest.mark.slow
def test_depth_1024_can_learn_from_other_starts():
    """From the paper's start all actions are at their stops, where the actor has no gradient; its loss is hundreds."""
    rng = np.random.default_rng(0)
    sizes = STATE, ACTION, GOAL
    batch = Batch(*(np.clip(rng.normal(size=(16, size)), -0.9, 0.9).astype(np.float32) for size in sizes))
    update = jax.jit(CRL(CRLConfig(), *networks(1024, "paper", 16)).update)
    metrics = {}
    for start in ("paper", "quiet", "zero_quiet_heads"):
        learner = jax.jit(CRL(CRLConfig(), *networks(1024, start, 16)).init)(jax.random.key(0))
        metrics[start] = [update(learner, jax.random.key(1), batch)[1]]
        learner = update(learner, jax.random.key(1), batch)[0]
        metrics[start].append(update(learner, jax.random.key(2), batch)[1])
    for paper, *others in zip(*metrics.values(), strict=True):
        for other in others:
            assert paper["critic_loss"] > 1000 > 20 > other["critic_loss"]
            assert paper["entropy"] < -20 < 1 < other["entropy"]
            assert other["actor_gradient"] > 0.1
