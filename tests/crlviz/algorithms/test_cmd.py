"""CMD-1 against its definition in numpy: one encoder, actions of the next row, MRN, backward InfoNCE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms import registry
from crlviz.algorithms.batches import Batch, Sizes
from crlviz.algorithms.cmd import CMDConfig
from crlviz.algorithms.contrastive_losses import contrastive_loss
from crlviz.algorithms.energies import MRN_GROUPS
from crlviz.networks.config import NetworkConfig

STATE, ACTION, GOAL, ROWS = 4, 2, 2, 5


@pytest.fixture(scope="module")
def cmd():
    network = NetworkConfig(4, 8)
    config = CMDConfig(learning_rate=1e-2)
    return registry.build("cmd", config, network, network, Sizes(STATE, ACTION, GOAL), gamma=0.9)


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    state, goal_state = rng.normal(size=(2, ROWS, STATE)).astype(np.float32)
    action, goal_action = np.tanh(rng.normal(size=(2, ROWS, ACTION))).astype(np.float32)
    return Batch(state, action, goal_state[:, :GOAL], goal_state=goal_state, goal_action=goal_action)


def _distance(x: np.ndarray, y: np.ndarray) -> float:
    """The mean over groups of the largest (x - y)+ of their first half plus the length of their second half."""
    of_groups = []
    for difference in np.split(x - y, MRN_GROUPS):
        one_way, both_ways = np.split(difference, 2)
        of_groups.append(max(0.0, one_way.max()) + np.sqrt(np.sum(both_ways**2)))
    return float(np.mean(of_groups))


@pytest.mark.slow
def test_losses_are_their_definitions(cmd, batch):
    learner = jax.jit(cmd.init)(jax.random.key(0))
    assert learner.critic.keys() == {"phi"}
    key = jax.random.key(1)
    _, metrics = jax.jit(cmd.gradients)(learner, key, batch)

    embed = jax.jit(cmd.critic.phi)
    other = np.roll(batch.goal_action, 1, axis=0)  # row i has the action of row i - 1
    assert not np.allclose(other, batch.goal_action)
    here = np.asarray(embed(learner.critic, batch.state, batch.action), float)
    there = np.asarray(embed(learner.critic, batch.goal_state, other), float)
    f = np.array([[-_distance(x, y) for y in there] for x in here])
    loss = np.mean([np.log(np.sum(np.exp(f[:, j]))) - f[j, j] for j in range(ROWS)])
    loss += 0.1 * np.mean([np.log(np.sum(np.exp(row))) ** 2 for row in f])
    assert float(metrics["critic_loss"]) == pytest.approx(loss, rel=1e-4)

    noise = jax.random.normal(key, batch.action.shape)
    observation = np.concatenate([batch.state, batch.goal], axis=-1)
    action, log_prob = jax.jit(cmd.actor.sample)(learner.actor, observation, noise)
    own = np.asarray(embed(learner.critic, batch.state, action), float)
    ways = [_distance(x, y) for x, y in zip(own, there, strict=True)]
    assert float(metrics["actor_loss"]) == pytest.approx(float(np.mean(np.asarray(log_prob) + ways)), rel=1e-4)


@pytest.mark.slow
def test_it_learns_which_future_belongs_to_which_state(cmd, batch):
    @jax.jit
    def train(learner):
        keys = jax.random.split(jax.random.key(1), 200)
        return jax.lax.scan(lambda learner, key: cmd.update(learner, key, batch), learner, keys)

    _, metrics = train(jax.jit(cmd.init)(jax.random.key(0)))
    assert float(metrics["accuracy"][-1]) == 1
    assert float(metrics["critic_loss"][-1]) < 0.5 * float(metrics["critic_loss"][0])


def test_a_potential_of_the_goal_would_change_nothing(cmd, batch):
    """The original's forward loss has f = c(goal) - d; backward InfoNCE, without the penalty, does not see c."""
    phi, psi = np.random.default_rng(1).normal(size=(2, ROWS, 64)).astype(np.float32)
    potential = jnp.linspace(-3, 3, ROWS)

    def loss(potential):
        return contrastive_loss("backward", cmd.energy.of_pairs(phi, psi) + potential, 0.0)[0]

    assert float(loss(potential)) == pytest.approx(float(loss(0 * potential)), rel=1e-5)
