"""The reference implementation computes the same updates and samples as crlviz."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from crlviz.algorithms.batches import Batch
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.interchange.paper_format import from_paper_layout
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic
from training.bench import reference
from training.loop.buffer import Transitions

SIZES, BATCH = (4, 2, 3), 6
STATE, ACTION, GOAL = SIZES


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_losses_and_updates_equal_those_of_crl():
    shape = NetworkConfig(8, 16)
    ours = CRL(CRLConfig(), Actor(shape, STATE + GOAL, ACTION), Critic(shape, STATE, ACTION, GOAL))
    reference_crl = reference.ReferenceCRL(CRLConfig(), shape, SIZES)

    def convert(actor, critic):
        """Convert the parameters of the reference, which has the paper's layout, to crlviz's layout."""
        encoders = {name: from_paper_layout(tree, 1) for name, tree in critic.items()}
        return from_paper_layout(actor, 2), encoders

    rng = np.random.default_rng(0)
    batch = Batch(*(rng.normal(size=(BATCH, size)).astype(np.float32) for size in SIZES))
    learner = jax.jit(reference_crl.init)(jax.random.key(0))
    actor, critic = convert(learner.actor, learner.critic)
    start = jax.jit(ours.init)(jax.random.key(1)).replace(actor=actor, critic=critic)
    key = jax.random.key(2)
    expected_learner, losses = jax.jit(reference_crl.update)(learner, key, batch)
    updated, metrics = jax.jit(ours.update)(start, key, batch)
    for name, value in losses.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    # Adam's first step is the learning rate times the sign of the gradient, so a gradient near zero may go either way.
    expected = convert(expected_learner.actor, expected_learner.critic)
    for a, b, before in zip(
        *map(jax.tree.leaves, ((updated.actor, updated.critic), expected, (actor, critic))), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=7e-4)
        assert np.median(np.abs(a - b)) < 1e-6
        assert np.median(np.abs(np.asarray(b) - before)) > 1e-4
    assert float(updated.log_alpha) == pytest.approx(float(expected_learner.log_alpha), abs=1e-6)


def test_hindsight_goals_follow_the_geometric_distribution():
    """In a window with two episodes, a goal k steps later in the same episode has probability ~ gamma^k."""
    trajectory = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    length, gamma, draws = len(trajectory), 0.7, 20_000
    time = jnp.arange(length, dtype=jnp.float32)[:, None]
    rows = Transitions(state=time, action=time, achieved=time + 1, trajectory=jnp.asarray(trajectory))
    keys = jax.random.split(jax.random.key(0), draws)
    kept, goals = jax.jit(jax.vmap(reference.relabel, in_axes=(None, 0, None)), static_argnums=2)(rows, keys, gamma)
    assert kept.state.shape == (draws, length - 1, 1)
    goals = np.asarray(goals[..., 0], int)
    for step in (0, 2, 5):
        # Step j starts at the goal achieved by step j - 1, so the goals of a row are the later steps of its episode.
        later = np.flatnonzero((trajectory == trajectory[step]) & (np.arange(length) > step))
        weight = gamma ** (later - step)
        counts = np.bincount(goals[:, step], minlength=length + 1)[later]
        assert counts.sum() == pytest.approx(draws, rel=1e-3)
        assert chisquare(counts, counts.sum() * weight / weight.sum()).pvalue > 1e-3


def test_batches_contain_every_row_at_most_once():
    environments, capacity, window, batch_size = 3, 20, 8, 5
    label = jnp.arange(capacity * environments, dtype=jnp.float32).reshape(capacity, environments, 1)
    rows = Transitions(label, label, label, jnp.zeros((capacity, environments), int))
    starts = jnp.array([0, 5, 11])
    sampled, goals = reference.sample(rows, starts, jax.random.key(0), window, 0.9, batch_size)
    assert sampled.state.shape == goals.shape == (4, batch_size, 1)  # 21 rows, one of them dropped
    seen = np.asarray(sampled.state, int).ravel()
    allowed = {(start + t) * environments + e for e, start in enumerate(starts.tolist()) for t in range(window - 1)}
    assert len(set(seen)) == 20
    assert set(seen) <= allowed
    np.testing.assert_array_equal(np.asarray(goals, int).ravel() % environments, seen % environments)
