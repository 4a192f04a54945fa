"""Fused layers and their hand-written gradient, against flax layers and automatic differentiation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.networks.config import NetworkConfig
from crlviz.networks.fused_layers import dense_norm_swish
from crlviz.networks.residual import Layer

WIDTH, INPUTS, ROWS = 6, 5, 7


@pytest.fixture(scope="module")
def layers():
    """Parameters of three layers, away from their initial values."""
    rng = np.random.default_rng(0)
    sizes = [INPUTS, WIDTH, WIDTH]
    return [
        {
            "dense": {"kernel": rng.normal(size=(size, WIDTH)), "bias": rng.normal(size=WIDTH)},
            "norm": {"scale": rng.uniform(0.5, 2, WIDTH), "bias": rng.normal(size=WIDTH)},
        }
        for size in sizes
    ]


def plain(layers, x):
    for params in layers:
        x = Layer(NetworkConfig(4, WIDTH)).apply({"params": params}, x)
    return x


def close(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(ROWS,), (2, 3), ()])
def test_outputs_agree(layers, shape):
    x = np.random.default_rng(1).normal(size=(*shape, INPUTS)).astype(np.float32)
    assert dense_norm_swish(layers, x).shape == (*shape, WIDTH)
    close(jax.jit(dense_norm_swish)(layers, x), jax.jit(plain)(layers, x))


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)], ids=["weights", "inputs", "both"])
def test_gradients_agree(layers, wanted):
    rng = np.random.default_rng(2)
    x, weight = rng.normal(size=(ROWS, INPUTS)).astype(np.float32), rng.normal(size=(ROWS, WIDTH)).astype(np.float32)

    def gradient(function):
        return jax.jit(jax.grad(lambda layers, x: (function(layers, x) * weight).sum(), argnums=wanted))(layers, x)

    close(gradient(dense_norm_swish), gradient(plain))


def test_gradients_under_vmap_and_checkpoint(layers):
    """vmap trains several seeds together, checkpoint saves memory."""
    x = np.random.default_rng(3).normal(size=(2, ROWS, INPUTS)).astype(np.float32)
    pair = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), layers)

    def gradients(function):
        return jax.jit(jax.vmap(jax.grad(lambda layers, x: (function(layers, x) ** 2).sum())))(pair, x)

    close(gradients(jax.checkpoint(dense_norm_swish)), gradients(plain))


def test_unneeded_gradients_are_not_computed(layers):
    """The actor's update needs phi's gradient by the action only: no products for phi's weights."""
    x = np.ones((ROWS, INPUTS), np.float32)

    def products(wanted):
        gradient = jax.grad(lambda layers, x: dense_norm_swish(layers, x).sum(), argnums=wanted)
        return str(jax.make_jaxpr(gradient)(layers, x)).count("dot_general")

    everything, weights, inputs = products((0, 1)), products(0), products(1)
    assert everything - weights == 1  # the first layer's inputs
    assert everything - inputs == 3  # three kernels
