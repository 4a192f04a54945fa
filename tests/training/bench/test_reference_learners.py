"""The plain implementations of SAC, TD3 and cloning compute the same updates as crlviz."""

import jax
import numpy as np
import pytest

from crlviz.algorithms import registry
from crlviz.algorithms.batches import Batch, Sizes
from crlviz.interchange.paper_format import from_paper_layout
from crlviz.networks.config import NetworkConfig
from training.bench.reference_learners import REFERENCES

SIZES, COUNT = Sizes(4, 2, 3), 6
RATES = {"learning_rate": 1e-3}


def _batch(seed):
    rng = np.random.default_rng(seed)
    state, action, goal, next_state = (rng.normal(size=(COUNT, n)).astype(np.float32) for n in (4, 2, 3, 4))
    reward, discount = np.float32([0, 1, 0, 1, 0, 0]), np.float32([1, 1, 0, 1, 0, 1])
    return Batch(state, np.tanh(action), goal, next_state, reward, discount, np.float32([0, 0, 0, 0, 1, 0]))


def _ours(name, heads, part):
    """The reference's parameters of a part of a learner, in our layout; two networks are stacked."""
    if not isinstance(part, tuple):
        return from_paper_layout(part, heads)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(from_paper_layout(each, 1) for each in part))


def test_every_learner_has_a_reference():
    assert {"sac", "sac+her", "td3", "td3+her", "gcsl", "gcbc"} <= set(REFERENCES) <= set(registry.NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "td3", "gcbc"])
def test_updates_equal_ours(name):
    config, shape = registry.of(name).Config(**RATES), NetworkConfig(4, 8)
    ours = registry.build(name, config, shape, shape, SIZES, gamma=0.99)
    reference = REFERENCES[name](config, shape, SIZES)
    heads = len(ours.actor.network.heads)
    theirs = jax.jit(reference.init)(jax.random.key(0))
    parts = [part for part in ("actor", "critic", "target_actor", "target") if hasattr(theirs, part)]

    def converted():
        return {part: _ours(name, heads, jax.device_get(getattr(theirs, part))) for part in parts}

    learner = jax.jit(ours.init)(jax.random.key(1)).replace(**converted())
    start, update, plain = converted(), jax.jit(ours.update), jax.jit(reference.update)
    for index in range(3):
        key, batch = jax.random.key(index), _batch(index)
        learner, metrics = update(learner, key, batch)
        theirs, losses = plain(theirs, key, batch)
        for loss, value in losses.items():
            assert float(metrics[loss]) == pytest.approx(float(value), rel=1e-3, abs=1e-4), loss
    for part, expected in converted().items():
        moved = jax.tree.leaves(jax.tree.map(np.subtract, expected, start[part]))
        found = jax.tree.leaves(jax.tree.map(np.subtract, dict(getattr(learner, part)), expected))
        # Adam makes full steps of gradients that are rounding alone, so few numbers may differ.
        assert np.median(np.abs(np.concatenate([leaf.ravel() for leaf in found]))) < 1e-6
        assert np.mean(np.abs(np.concatenate([leaf.ravel() for leaf in found])) > 1e-4) < 0.02
        assert max(np.abs(leaf).max() for leaf in moved) > 1e-6
