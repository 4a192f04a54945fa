"""Cloning: the loss against a density of scipy, and a policy that is recovered from its actions."""

import jax
import numpy as np
import pytest
from scipy.stats import norm as normal

from crlviz.algorithms.batches import Batch, Rows, Sizes
from crlviz.algorithms.gcbc import GCBC, GCBCConfig
from crlviz.algorithms.gcsl import GCSL, GCSLConfig
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig

SIZES, SHAPE = Sizes(4, 2, 2), NetworkConfig(2, 16, kind="mlp", layer_norm=False)


@pytest.fixture(scope="module")
def gcbc():
    return GCBC.create(GCBCConfig(learning_rate=1e-2), SHAPE, SHAPE, SIZES, gamma=0.97)


def _batch(count, seed=0):
    rng = np.random.default_rng(seed)
    state, goal, noise = (rng.normal(size=(count, n)).astype(np.float32) for n in (4, 2, 2))
    # The actor to find: means of half the goal, standard deviation 0.3.
    return Batch(state, np.tanh(0.5 * goal + 0.3 * noise), goal)


def test_the_loss_is_minus_the_log_density(gcbc):
    """By the change of variables from tanh(x), x normal; actions at a stop have a finite density too."""
    batch = _batch(40)
    batch.action[:4] = [[-1, 1], [1, 0], [0.999, -0.9999], [0, 0]]
    actor = jax.jit(gcbc.init)(jax.random.key(0)).actor

    @jax.jit
    def computed(actor):
        noise = np.random.default_rng(1).normal(size=batch.action.shape)
        both = jax.value_and_grad(gcbc.actor_loss, has_aux=True)(actor, batch, noise)
        return both, gcbc.actor.distribution(actor, np.concatenate([batch.state, batch.goal], -1))

    ((loss, _), gradient), (mean, log_std) = computed(actor)
    limit = 1 - 1e-6
    clipped = np.clip(batch.action, -np.float32(limit), np.float32(limit)).astype(float)
    density = normal.logpdf(np.arctanh(clipped), mean, np.exp(log_std)) - np.log(1 - clipped**2)
    assert float(loss) == pytest.approx(-density.sum(-1).mean(), rel=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_it_recovers_a_policy_from_its_actions(gcbc):
    @jax.jit
    def trained(learner, batch):
        def update(learner, key):
            return gcbc.update(learner, key, batch)

        return jax.lax.scan(update, learner, jax.random.split(jax.random.key(1), 400))

    learner, metrics = trained(jax.jit(gcbc.init)(jax.random.key(0)), _batch(512))
    other = _batch(256, seed=1)
    observation = np.concatenate([other.state, other.goal], -1)
    mean, log_std = gcbc.actor.distribution(learner.actor, observation)
    assert np.abs(mean - 0.5 * other.goal).mean() < 0.1
    assert np.exp(log_std).mean() == pytest.approx(0.3, abs=0.08)
    np.testing.assert_allclose(gcbc.act({"actor": learner.actor}, observation), np.tanh(mean), rtol=1e-5)
    # The entropy of tanh(x): that of x, and the mean of log(1 - a^2).
    slope = np.log(1 - other.action.astype(float) ** 2).sum(-1).mean()
    assert float(metrics["entropy"][-1]) == pytest.approx(2 * normal(scale=0.3).entropy() + slope, abs=0.3)


def test_goals(gcbc):
    assert gcbc.rows == Rows("future", 0.97)
    assert GCSL.create(GCSLConfig(), SHAPE, SHAPE, SIZES, gamma=0.97).rows == Rows("future", 1.0)
    assert gcbc.sizes == SIZES


@pytest.mark.parametrize("kind", [GCBCConfig, GCSLConfig])
def test_a_wrong_setting(kind):
    with pytest.raises(UsageError, match=r"gc(bc|sl).learning_rate is 0; it must be positive"):
        kind(learning_rate=0)
