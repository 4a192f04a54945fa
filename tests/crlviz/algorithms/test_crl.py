"""The losses against loops, and an update against three optax steps."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crlviz.algorithms import registry
from crlviz.algorithms.batches import Batch
from crlviz.algorithms.contrastive_losses import contrastive_loss
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.energies import ENERGIES, pairwise_logits
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic

info_nce = partial(contrastive_loss, "forward")

STATE, ACTION, GOAL, BATCH = 4, 2, 2, 6


@pytest.fixture(scope="module")
def crl() -> CRL:
    shape = NetworkConfig(4, 8)
    config = CRLConfig(learning_rate=1e-2, temperature_learning_rate=3e-2, initial_temperature=0.5)
    return CRL(config, Actor(shape, STATE + GOAL, ACTION), Critic(shape, STATE, ACTION, GOAL))


@pytest.fixture(scope="module")
def learner(crl):
    return jax.jit(crl.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(BATCH, n)).astype(np.float32) for n in (STATE, ACTION, GOAL))


def _naive(logits: np.ndarray, penalty: float) -> tuple[float, dict[str, float]]:
    count = len(logits)
    loss, hits, positive, negative = 0.0, 0, [], []
    for i in range(count):
        total = sum(np.exp(logits[i, j]) for j in range(count))
        shifted = sum(np.exp(logits[i, j] + 1e-6) for j in range(count))
        loss -= (logits[i, i] - np.log(total)) / count
        loss += penalty * np.log(shifted) ** 2 / count
        hits += all(logits[i, i] > logits[i, j] for j in range(count) if j != i)
        positive.append(logits[i, i])
        negative += [logits[i, j] for j in range(count) if j != i]
    return loss, {
        "accuracy": hits / count,
        "logits_positive": np.mean(positive),
        "logits_negative": np.mean(negative),
    }


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 1.0]), st.floats(0.1, 20))
def test_info_nce_against_a_loop(seed, penalty, scale):
    logits = -np.abs(np.random.default_rng(seed).normal(size=(5, 5))) * scale
    loss, detail = jax.jit(info_nce)(logits.astype(np.float32), penalty)
    expected, metrics = _naive(logits, penalty)
    assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert detail.keys() == metrics.keys()
    for name, value in metrics.items():
        assert float(detail[name]) == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_rows_are_state_actions_and_columns_are_goals():
    """The loss is forward InfoNCE: a goal near every row raises the loss of the rows. The transposed loss differs."""
    logits = jnp.array([[-1.0, 0.0, -3.0], [-2.0, 0.0, -3.0], [-2.0, 0.0, -1.0]])
    assert float(info_nce(logits, 0.0)[0]) == pytest.approx(_naive(np.asarray(logits, float), 0.0)[0], rel=1e-5)
    assert float(info_nce(logits, 0.0)[0]) != pytest.approx(float(info_nce(logits.T, 0.0)[0]), rel=1e-2)
    phi, psi = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(pairwise_logits(phi, psi), [[0, -4], [-5, -3]], rtol=1e-6)


def test_perfect_embeddings_have_accuracy_1():
    phi = 30.0 * np.eye(8, dtype=np.float32)
    loss, detail = jax.jit(lambda phi: info_nce(pairwise_logits(phi, phi), 0.0))(phi)
    assert float(detail["accuracy"]) == 1
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(detail["logits_positive"]) == 0
    assert float(detail["logits_negative"]) == pytest.approx(-30 * 2**0.5)
    gradient = jax.jit(jax.grad(lambda phi: info_nce(pairwise_logits(phi, 30.0 * jnp.eye(8)), 0.1)[0]))(phi)
    assert np.isfinite(gradient).all()


def test_gradients_of_info_nce_against_finite_differences():
    logits = np.random.default_rng(0).normal(size=(4, 4))
    gradient = np.asarray(jax.jit(jax.grad(lambda x: info_nce(x, 0.1)[0]))(logits.astype(np.float32)))
    for i, j in np.ndindex(4, 4):
        step = np.zeros((4, 4))
        step[i, j] = 1e-5
        slope = (_naive(logits + step, 0.1)[0] - _naive(logits - step, 0.1)[0]) / 2e-5
        assert float(gradient[i, j]) == pytest.approx(slope, abs=1e-4)


def test_a_learner_starts_at_the_given_temperature(learner):
    assert float(jnp.exp(learner.log_alpha)) == pytest.approx(0.5)


def test_an_update_is_three_steps_from_the_old_parameters(crl, learner, batch):
    state, action, goal = batch
    key = jax.random.key(3)
    optimizers = {"network": optax.adam(1e-2), "alpha": optax.adam(3e-2)}

    @jax.jit
    def both(learner):
        ours, metrics = crl.update(learner, key, Batch(*batch))

        noise = jax.random.normal(key, action.shape)
        alpha = jnp.exp(learner.log_alpha)
        observation = jnp.concatenate([state, goal], -1)

        def actor_loss(params):
            a, log_prob = crl.actor.sample(params, observation, noise)
            embeddings = crl.critic.phi(learner.critic, state, a), crl.critic.psi(learner.critic, goal)
            return jnp.mean(alpha * log_prob + jnp.linalg.norm(embeddings[0] - embeddings[1], axis=-1))

        def critic_loss(params):
            phi, psi = crl.critic.phi(params, state, action), crl.critic.psi(params, goal)
            return info_nce(-jnp.linalg.norm(phi[:, None] - psi[None], axis=-1), 0.1)[0]

        log_prob = crl.actor.sample(learner.actor, observation, noise)[1]

        def alpha_loss(log_alpha):
            return jnp.mean(jnp.exp(log_alpha) * (-log_prob + 0.5 * ACTION))

        def step(optimizer, loss, old, state):
            updates, _ = optimizers[optimizer].update(jax.grad(loss)(old), state, old)
            return optax.apply_updates(old, updates)

        expected = {
            "actor": step("network", actor_loss, learner.actor, learner.actor_optimizer),
            "critic": step("network", critic_loss, learner.critic, learner.critic_optimizer),
            "log_alpha": step("alpha", alpha_loss, learner.log_alpha, learner.alpha_optimizer),
        }
        losses = actor_loss(learner.actor), critic_loss(learner.critic), alpha_loss(learner.log_alpha)
        return ours, metrics, expected, losses, -log_prob.mean()

    for _ in range(2):  # the second update starts from nonzero moments
        ours, metrics, expected, losses, entropy = both(learner)
        for name, params in expected.items():
            for a, b in zip(jax.tree.leaves(getattr(ours, name)), jax.tree.leaves(params), strict=True):
                # Adam divides by the gradient's size, so it amplifies rounding errors of gradients near zero.
                assert np.median(np.abs(a - b)) < 1e-6
                np.testing.assert_allclose(a, b, atol=2e-3)
        for name, value in zip(("actor_loss", "critic_loss", "alpha_loss"), losses, strict=True):
            assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5)
        assert float(metrics["entropy"]) == pytest.approx(float(entropy), rel=1e-4, abs=1e-5)
        assert float(metrics["alpha"]) == pytest.approx(float(jnp.exp(learner.log_alpha)), rel=1e-5)
        learner = ours


def test_temperature_rises_below_the_target_entropy_and_falls_above_it(crl):
    target = -0.5 * ACTION
    slope = jax.grad(crl.alpha_loss)
    assert float(slope(0.0, jnp.full(4, -(target - 1)))) < 0  # entropy below the target: gradient descent raises alpha
    assert float(slope(0.0, jnp.full(4, -(target + 1)))) > 0


def test_critic_learns_a_batch(crl, learner, batch):
    @jax.jit
    def train(learner):
        keys = jax.random.split(jax.random.key(1), 200)
        return jax.lax.scan(lambda learner, key: crl.update(learner, key, Batch(*batch)), learner, keys)

    _, metrics = train(learner)
    assert float(metrics["accuracy"][-1]) == 1
    assert float(metrics["critic_loss"][-1]) < 0.5 * float(metrics["critic_loss"][0])
    assert all(np.isfinite(value).all() for value in metrics.values())


# ---- the critic's other forms


@pytest.fixture(scope="module")
def other() -> CRL:
    """A CRL with every form that is not the paper's."""
    config = CRLConfig(
        energy="mrn", loss="symmetric", softmax_temperature=0.5, learn_softmax_temperature=True, log_prob="stable"
    )
    return registry.build("crl", config, NetworkConfig(4, 8), NetworkConfig(4, 8), (STATE, ACTION, GOAL), gamma=0.9)


@pytest.fixture(scope="module")
def other_learner(other):
    return jax.jit(other.init)(jax.random.key(0))


@pytest.mark.slow
def test_logits_are_the_energy_over_the_softmax_temperature(other, other_learner, batch):
    fixed = replace(other, config=replace(other.config, learn_softmax_temperature=False))
    rows = Batch(*batch)
    energies = ENERGIES["mrn"].of_pairs(
        other.embed({"critic": other_learner.critic}, *batch[:2]),
        other.embed_goal({"critic": other_learner.critic}, batch[2]),
    )
    expected = contrastive_loss("symmetric", energies / 0.5, 0.1)[0]
    for crl in (other, fixed):
        _, metrics = jax.jit(crl.gradients)(other_learner, jax.random.key(1), rows)
        assert float(metrics["critic_loss"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_the_learned_temperature_descends_its_loss(other, other_learner, batch):
    """Its gradient against the slope of the loss by the temperature itself."""
    rows = Batch(*batch)
    (_, gradients, _), _ = jax.jit(other.gradients)(other_learner, jax.random.key(1), rows)

    def loss(log_scale):
        return other.critic_loss({**other_learner.critic, "log_scale": log_scale}, *batch)[0]

    start = other_learner.critic["log_scale"]
    assert float(jnp.exp(-start)) == pytest.approx(0.5)
    slope = (loss(start + 1e-2) - loss(start - 1e-2)) / 2e-2
    assert float(gradients["log_scale"]) == pytest.approx(float(slope), rel=1e-2)
    after, _ = jax.jit(other.update)(other_learner, jax.random.key(1), rows)
    assert np.sign(after.critic["log_scale"] - start) == -np.sign(slope)


def test_q_is_the_energy_and_says_so(other, other_learner, batch):
    params = other.networks(other_learner)
    q = other.q(params, *batch)
    expected = ENERGIES["mrn"].of_rows(other.embed(params, *batch[:2]), other.embed_goal(params, batch[2]))
    np.testing.assert_allclose(q, expected, rtol=1e-6)
    assert other.q_meaning.title == "Q(s, a, g) = -MRN(phi(s, a), psi(g))"


@pytest.mark.slow
def test_one_launch_for_all_networks_gives_the_same_losses(other, other_learner, batch):
    """The path of the fused kernels, here without kernels."""
    noise = jax.random.normal(jax.random.key(2), batch[1].shape)
    arguments = other_learner, jnp.float32(0.7), Batch(*batch), noise
    plain, joint = jax.jit(other._losses)(*arguments), jax.jit(other._joint_losses)(*arguments)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(joint), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"energy": "euclid"}, "crl.energy 'euclid' is unknown; take norm, l2, l1, dot, cosine, mrn or iqe"),
        ({"loss": "infonce"}, "crl.loss 'infonce' is unknown; take forward, backward,"),
        ({"log_prob": "brax"}, "crl.log_prob 'brax' is unknown; take paper or stable"),
        ({"softmax_temperature": 0.0}, "crl.softmax_temperature is 0.0; it must be positive and finite"),
    ],
)
def test_an_unknown_form_is_refused(settings, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        CRLConfig(**settings)
