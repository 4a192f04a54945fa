"""How networks begin: the paper's start changes with depth, the quiet one does not.

Numbers of the paper's start are compared with a separate measurement on a swimmer's inputs: at width 64, 4 % of sampled
actions lie beyond 0.99 at depth 4 and half at depth 64, and phi is 5.7 and 27 from psi.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from scipy.integrate import quad
from scipy.stats import norm as normal

from crlviz.algorithms.base import Batch
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.errors import UsageError
from crlviz.networks.residual import STARTS, Actor, Critic, NetworkConfig

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


@pytest.mark.parametrize("layer_norm", [True, False])
def test_what_a_quiet_start_changes(layer_norm):
    """The actor's heads by 0.1, the bias of its log standard deviations, and the last layer of each of the 4 blocks."""
    begun = {}
    for start in STARTS:
        config = NetworkConfig(16, 8, layer_norm, start=start)
        key = jax.random.key(0)
        actor, critic = Actor(config, STATE + GOAL, ACTION).init(key), Critic(config, STATE, ACTION, GOAL).init(key)
        begun[start] = flatten_dict({"actor": actor, **critic}, sep="/")
    last = "blocks/layer_3/" + ("norm/scale" if layer_norm else "dense/kernel")
    factors = {f"{part}/{last}": 1 / 4 for part in ("actor", "phi", "psi")}
    factors |= {"actor/head_0/kernel": 0.1, "actor/head_1/kernel": 0.1}
    for name, paper in begun["paper"].items():
        expected = 0.4 * np.ones(ACTION) if name == "actor/head_1/bias" else factors.get(name, 1) * paper
        np.testing.assert_allclose(begun["quiet"][name], expected, rtol=1e-6, err_msg=name)


def test_networks_without_a_block_begin_quiet_too():
    config = NetworkConfig(2, 8, tail=2, start="quiet")
    assert Actor(config, 6, 2).init(jax.random.key(0))["head_1"]["bias"].tolist() == pytest.approx([0.4, 0.4])
    Critic(config, 4, 2, 2).init(jax.random.key(0))


def test_an_unknown_start():
    with pytest.raises(UsageError, match="start 'loud' is unknown; take paper or quiet"):
        NetworkConfig(start="loud")


@pytest.mark.slow
def test_depth_1024_can_learn_from_a_quiet_start():
    """From the paper's start all actions are at their stops, where the actor has no gradient; its loss is hundreds."""
    rng = np.random.default_rng(0)
    sizes = STATE, ACTION, GOAL
    batch = Batch(*(np.clip(rng.normal(size=(16, size)), -0.9, 0.9).astype(np.float32) for size in sizes))
    update = jax.jit(CRL(CRLConfig(), *networks(1024, "paper", 16)).update)
    metrics = {}
    for start in STARTS:
        learner = jax.jit(CRL(CRLConfig(), *networks(1024, start, 16)).init)(jax.random.key(0))
        metrics[start] = [update(learner, jax.random.key(1), batch)[1]]
        learner = update(learner, jax.random.key(1), batch)[0]
        metrics[start].append(update(learner, jax.random.key(2), batch)[1])
    for paper, quiet in zip(metrics["paper"], metrics["quiet"], strict=True):
        assert paper["critic_loss"] > 1000 > 20 > quiet["critic_loss"]
        assert paper["entropy"] < -20 < 1 < quiet["entropy"]
        assert quiet["actor_gradient"] > 0.1
