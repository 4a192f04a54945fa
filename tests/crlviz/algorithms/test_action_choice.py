"""Actions chosen by a critic, with a policy and a critic whose answers are known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms import action_choice
from crlviz.algorithms.base import HasQ
from crlviz.algorithms.batches import Sizes
from crlviz.errors import UsageError


@dataclass(frozen=True)
class Known(HasQ):
    """A standard normal policy around the state, and the best action is the goal."""

    name = "known"
    sizes = Sizes(2, 2, 2)
    q_meaning = None

    def act(self, params, observation, key=None):
        mean = observation[..., :2]
        return mean if key is None else mean + jax.random.normal(key, mean.shape)

    def q(self, params, state, action, goal):
        return -jnp.sum((action - goal) ** 2, -1)


def _act(text, observation, key, batch=()):
    rule = action_choice.read(text)
    return np.asarray(jax.jit(lambda o, k: rule.act(Known(), {}, o, k))(observation, key))


def test_mean_and_sample_are_those_of_the_algorithm():
    observation, key = jnp.arange(12.0).reshape(3, 4), jax.random.key(1)
    np.testing.assert_array_equal(_act("mean", observation, key), observation[:, :2])
    np.testing.assert_array_equal(_act("sample", observation, key), Known().act({}, observation, key))


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)])
def test_the_best_of_k_has_the_highest_q_of_the_samples_that_were_drawn(batch):
    observation = jnp.zeros((*batch, 4)).at[..., 2:].set(1.0)
    key = jax.random.key(3)
    drawn = [Known().act({}, observation, key) for key in jax.random.split(jax.random.split(key)[1], 16)]
    chosen = _act("best-of-16", observation, key)
    assert chosen.shape == (*batch, 2)
    for place in np.ndindex(*batch):
        errors = [float(jnp.sum((action[place] - 1) ** 2)) for action in drawn]
        np.testing.assert_allclose(chosen[place], drawn[int(np.argmin(errors))][place], rtol=1e-6)


def test_softmax_draws_by_q_over_tau():
    """Of two samples a and b, a is drawn with probability sigmoid((Q_a - Q_b) / tau)."""
    observation, tau = jnp.array([0.0, 0.0, 0.5, 0.0]), 0.7
    keys = jax.random.split(jax.random.key(0), 20_000)
    rule = action_choice.read(f"softmax-2:{tau}")

    @jax.jit
    @jax.vmap
    def one(key):
        drawn = jnp.stack([Known().act({}, observation, k) for k in jax.random.split(jax.random.split(key)[1], 2)])
        q = Known().q({}, None, drawn, observation[2:])
        return (rule.act(Known(), {}, observation, key) == drawn[0]).all(), jax.nn.sigmoid((q[0] - q[1]) / tau)

    first, probability = map(np.asarray, one(keys))
    assert first.mean() == pytest.approx(probability.mean(), abs=0.015)
    likely = probability > 0.9
    assert first[likely].mean() == pytest.approx(probability[likely].mean(), abs=0.02)
    assert action_choice.read("softmax-16").temperature == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "'best' is not a way to choose actions; take mean, sample, best-of-K"),
        ("best-of-1", "best-of-1: a choice needs at least 2 samples"),
        ("softmax-0", "softmax-0: a choice needs at least 2 samples"),
        ("softmax-4:0", "softmax-4:0: the temperature must be positive and finite"),
        ("softmax-4:e", "softmax-4:e: e is not a number"),
        ("best-of-4:2", "'best-of-4:2' is not a way to choose actions"),
    ],
)
def test_a_wrong_rule_is_refused(text, message):
    with pytest.raises(UsageError) as error:
        action_choice.read(text)
    assert str(error.value).startswith(message)


def test_a_rule_that_needs_a_critic_is_refused_without_one():
    class Cloning:
        name = "gcbc"

    action_choice.read("sample").check(Cloning, "runs/a")
    action_choice.read("best-of-4").check(Known, "runs/a")
    with pytest.raises(UsageError, match=r"runs/a: best-of-4 chooses by Q, which the algorithm gcbc does not have"):
        action_choice.read("best-of-4").check(Cloning, "runs/a")
