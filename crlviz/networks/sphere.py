"""Hyperspherical normalization: weights on the unit sphere, instead of LayerNorm (paper table 2).

After each step of the optimizer every column of a kernel [inputs, units], the weights of one unit, is divided by its
Euclidean length. This is SimBa-v2's (Lee et al. 2025, "Hyperspherical normalization for scalable deep reinforcement
learning") and all that the paper says of its ablation. The rest of SimBa-v2 (learned scalers, inputs and residual
stream of length 1, learned interpolation for the skip connection) is not part of it here. Biases and the heads stay
free: heads must reach outputs of any size. With LayerNorm the same projection is called "normalize and project" (Lyle
et al. 2024).
"""

from typing import Any

import jax
import jax.numpy as jnp


def project(params: Any, skip: jax.Array | bool = False) -> Any:
    """The parameters with unit columns in the kernels of all hidden layers; unchanged where ``skip`` is true.

    Args:
      params: of a ``ResidualNetwork``, or a tree of several.
      skip: scalar.
    """

    def own(path: Any, leaf: jax.Array) -> jax.Array:
        if [key.key for key in path[-2:]] != ["dense", "kernel"]:
            return leaf
        length = jnp.linalg.norm(leaf, axis=-2, keepdims=True)
        return jnp.where(skip, leaf, leaf / jnp.maximum(length, 1e-8))

    return jax.tree.map_with_path(own, params)
