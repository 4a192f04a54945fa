"""Losses of learners from data sets, against their formulas in numpy on the outputs of the networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms import registry
from crlviz.algorithms.batches import Sizes, shapes
from crlviz.algorithms.qrl import union_lengths
from crlviz.networks.config import NetworkConfig

SIZES, COUNT, SHAPE = Sizes(4, 2, 3), 6, NetworkConfig(1, 8, kind="mlp")
GAUSSIAN = 0.5 * np.log(2 * np.pi)


def _built(name, **settings):
    """An algorithm, a learner and a batch of a data set."""
    algorithm = registry.build(name, registry.of(name).Config(**settings), SHAPE, SHAPE, SIZES, gamma=0.9)
    rng = np.random.default_rng(1)
    wanted = shapes(algorithm.recorded, SIZES, COUNT)
    batch = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), wanted)
    batch = batch.replace(action=np.tanh(batch.action))
    if batch.reward is not None:
        here = np.array([1, 0, 0, 1, 0, 0], np.float32)
        batch = batch.replace(reward=here - 1, discount=1 - here)
    return algorithm, jax.jit(algorithm.init)(jax.random.key(0)), batch


def _metrics(algorithm, learner, batch):
    gradients, metrics = jax.jit(algorithm.gradients)(learner, jax.random.key(1), batch)
    return gradients, {name: float(value) for name, value in metrics.items()}


def _log_prob(algorithm, learner, batch, goal):
    mean = algorithm.actor.mean(learner.actor, np.concatenate([batch.state, goal], -1))
    return np.sum(-0.5 * (batch.action - np.asarray(mean)) ** 2 - GAUSSIAN, -1), np.clip(mean, -1, 1)


def _logits(critic, params, batch, action):
    """Of two critics, [2, B, B], by dot products."""
    phi, psi = critic.phi(params, batch.state, action), critic.psi(params, batch.goal)
    return np.einsum("kid,kjd->kij", phi, psi)


def _binary(logits):
    """The mean over all pairs of minus the log-likelihood of the identity."""
    right = np.broadcast_to(np.eye(COUNT), logits.shape)
    probability = 1 / (1 + np.exp(-logits))
    return -np.mean(right * np.log(probability) + (1 - right) * np.log(1 - probability))


CRL = {"critics": 2, "loss": "binary", "energy": "dot", "softmax_temperature": 8.0, "logsumexp_penalty": 0.0}


@pytest.mark.parametrize("actor_loss", ["ddpgbc", "awr"])
def test_crl_is_ogbenchs_by_its_settings(actor_loss):
    algorithm, learner, batch = _built("crl", actor_loss=actor_loss, bc_weight=0.7, policy="gaussian", **CRL)
    _, found = _metrics(algorithm, learner, batch)
    of_critic = _binary(_logits(algorithm.critic, learner.critic, batch, batch.action) / 8)
    log_prob, own = _log_prob(algorithm, learner, batch, batch.actor_goal)
    toward = batch.replace(goal=batch.actor_goal)
    if actor_loss == "ddpgbc":
        q = np.diagonal(_logits(algorithm.critic, learner.critic, toward, own).min(0))
        expected = -q.mean() / np.abs(q).mean() - 0.7 * log_prob.mean()
    else:
        value, none = algorithm.value_critic, batch.action[:, :0]
        of_critic += _binary(_logits(value, learner.value, batch, none) / 8)
        q = np.diagonal(_logits(algorithm.critic, learner.critic, toward, batch.action).min(0))
        v = np.diagonal(_logits(value, learner.value, toward, none).min(0))
        expected = -np.mean(np.minimum(np.exp(0.7 * (q - v)), 100) * log_prob)
    assert found["critic_loss"] == pytest.approx(of_critic, rel=1e-4)
    assert found["actor_loss"] == pytest.approx(expected, rel=1e-4)
    assert not {"alpha", "alpha_loss", "entropy"} & set(found)  # it has no temperature


def test_offline_crl_with_the_papers_actor_takes_the_actors_own_goals():
    algorithm, learner, batch = _built("crl")
    _, found = _metrics(algorithm, learner, batch)
    noise = jax.random.normal(jax.random.key(1), batch.action.shape)
    observation = np.concatenate([batch.state, batch.actor_goal], -1)
    action, log_prob = algorithm.actor.sample(learner.actor, observation, noise)
    q = algorithm.q(algorithm.networks(learner), batch.state, action, batch.actor_goal)
    assert found["actor_loss"] == pytest.approx(float(np.mean(log_prob - q)), rel=1e-4)


def test_gcbc_with_a_fixed_deviation_is_half_the_squared_error():
    algorithm, learner, batch = _built("gcbc", policy="gaussian")
    _, found = _metrics(algorithm, learner, batch)
    assert found["actor_loss"] == pytest.approx(-_log_prob(algorithm, learner, batch, batch.goal)[0].mean(), rel=1e-5)


@pytest.mark.parametrize("actor_loss", ["ddpgbc", "awr"])
def test_gciql(actor_loss):
    algorithm, learner, batch = _built("gciql", actor_loss=actor_loss, bc_weight=0.4, expectile=0.8)
    learner = learner.replace(target=jax.tree.map(lambda leaf: leaf + 0.05, learner.target))
    gradients, found = _metrics(algorithm, learner, batch)

    def twin(params, action, goal):
        return np.asarray(algorithm.critic.values(params, batch.state, action, goal))

    def value(state, goal):
        return np.asarray(algorithm.value.of(learner.value, np.concatenate([state, goal], -1)))

    u = twin(learner.target, batch.action, batch.goal).min(0) - value(batch.state, batch.goal)
    assert found["value_loss"] == pytest.approx(np.mean(np.abs(0.8 - (u < 0)) * u**2), rel=1e-4)
    y = batch.reward + 0.9 * batch.discount * value(batch.next_state, batch.goal)
    q = twin(learner.critic, batch.action, batch.goal)
    assert found["critic_loss"] == pytest.approx(((q - y) ** 2).sum(0).mean(), rel=1e-4)
    log_prob, own = _log_prob(algorithm, learner, batch, batch.actor_goal)
    if actor_loss == "ddpgbc":
        q = twin(learner.critic, own, batch.actor_goal).min(0)
        expected = -q.mean() / np.abs(q).mean() - 0.4 * log_prob.mean()
    else:
        q = twin(learner.target, batch.action, batch.actor_goal).min(0)
        advantage = q - value(batch.state, batch.actor_goal)
        expected = -np.mean(np.minimum(np.exp(0.4 * advantage), 100) * log_prob)
    assert found["actor_loss"] == pytest.approx(expected, rel=1e-4)
    after = jax.jit(algorithm.step)(learner, gradients)
    for old, new, target in zip(*map(jax.tree.leaves, (learner.target, after.critic, after.target)), strict=True):
        np.testing.assert_allclose(target, 0.995 * old + 0.005 * new, rtol=1e-5, atol=1e-7)


def _union(x, y):
    """The length of a union of intervals [x_k, max(x_k, y_k)], by walking over their ends."""
    total, reached = 0.0, -np.inf
    for left, right in sorted(zip(x, np.maximum(x, y), strict=True)):
        total += max(0.0, right - max(left, reached))
        reached = max(reached, right)
    return total


def _lengths(x, y):
    """Of the unions of each group of 8 numbers, [B, groups]."""
    pairs = zip(x.reshape(-1, 8), y.reshape(-1, 8), strict=True)
    return np.array([_union(*pair) for pair in pairs]).reshape(len(x), -1)


def _distance(x, y, weight):
    lengths = _lengths(x, y)
    share = 1 / (1 + np.exp(-weight))
    return share * lengths.mean(-1) + (1 - share) * lengths.max(-1)


def test_lengths_of_unions_also_where_intervals_touch():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (2, 40, 16)).astype(np.float32)  # many begin at the same place
    np.testing.assert_array_equal(union_lengths(x, y), _lengths(x, y))


def test_qrl():
    algorithm, learner, batch = _built("qrl", bc_weight=0.4, initial_lambda=1.5, latent=16)
    learner = learner.replace(critic={**learner.critic, "weight": jnp.asarray(0.3)})
    (_, _, of_lambda), found = _metrics(algorithm, learner, batch)

    def phi(state):
        return np.asarray(algorithm.critic.phi(learner.critic, state))

    def after(embedding, action):
        return np.asarray(algorithm.critic.after(learner.critic, embedding, action))

    z, following = phi(batch.state), phi(batch.next_state)
    far, near = _distance(z, phi(batch.goal_state), 0.3), _distance(z, following, 0.3)
    apart = np.mean(100 * np.log1p(np.exp(5 - far / 100)))
    excess = np.mean(np.maximum(near - 1, 0) ** 2)
    assert found["critic_loss"] == pytest.approx(apart + 1.5 * excess + 1.5 * (0.05 - excess), rel=1e-4)
    assert float(of_lambda) == pytest.approx(1.5 * (0.05 - excess), rel=1e-3)
    predicted = after(z, batch.action)
    both = _distance(following, predicted, 0.3) + _distance(predicted, following, 0.3)
    assert found["dynamics_loss"] == pytest.approx(both.mean() / 2, rel=1e-4)
    log_prob, own = _log_prob(algorithm, learner, batch, batch.actor_goal)
    q = -_distance(after(z, own), phi(batch.actor_goal_state), 0.3)
    assert found["actor_loss"] == pytest.approx(-q.mean() / np.abs(q).mean() - 0.4 * log_prob.mean(), rel=1e-4)
