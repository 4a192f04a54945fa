"""Weights on the unit sphere, against a loop over the units of every hidden layer."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic
from crlviz.networks.sphere import project


def _lengths(params) -> dict[str, np.ndarray]:
    """For each kernel the Euclidean length of every unit's weights."""
    return {
        path: np.array([[np.sqrt(np.sum(unit.astype(float) ** 2)) for unit in layer.T] for layer in stack])
        for path, kernel in flatten_dict(params, sep="/").items()
        if path.endswith("kernel")
        for stack in [np.asarray(kernel).reshape(-1, *kernel.shape[-2:])]
    }


@pytest.mark.parametrize("config", [NetworkConfig(8, 6), NetworkConfig(3, 6, kind="mlp")])
def test_hidden_units_get_length_1_and_nothing_else_changes(config):
    params = jax.jit(Critic(config, 3, 2, 2).init)(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases are no longer 0
    projected = jax.jit(project)(params)
    before, after = flatten_dict(params, sep="/"), flatten_dict(projected, sep="/")
    assert before.keys() == after.keys()
    for path, lengths in _lengths(projected).items():
        if "head" in path:
            continue
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)
        # Only the length changed, not the direction.
        ratio = np.asarray(before[path]) / np.asarray(after[path])
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[..., :1, :], ratio.shape), rtol=1e-5)
    free = [path for path in before if "head" in path or not path.endswith("kernel")]
    assert len(free) > len(before) / 2
    for path in free:
        np.testing.assert_array_equal(before[path], after[path])


def test_a_skipped_step_changes_no_bit():
    params = jax.jit(Actor(NetworkConfig(4, 6), 5, 2).init)(jax.random.key(0))
    for a, b in zip(jax.tree.leaves(jax.jit(project)(params, True)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_unit_without_weights_stays_finite():
    params = {"stem": {"dense": {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}}
    np.testing.assert_array_equal(project(params)["stem"]["dense"]["kernel"], 0)


@pytest.mark.parametrize("start", ["paper", "quiet", "norm_quiet"])
def test_a_training_starts_on_the_sphere(start):
    """Also a quiet one, whose smaller kernels without LayerNorm the first step would undo."""
    config = NetworkConfig(8, 6, layer_norm=False, sphere=True, start=start)
    params = jax.jit(Actor(config, 5, 2).init)(jax.random.key(0))
    for path, lengths in _lengths(params).items():
        if "head" not in path:
            np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_labels_name_it():
    assert NetworkConfig(layer_norm=False, sphere=True).ablation == "no LayerNorm, hyperspherical"
    assert NetworkConfig().ablation == "full network"
