"""The Adam step for all parameters of a network, and the norm of a gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from crlviz.networks.config import NetworkConfig
from crlviz.networks.sphere import project

_LARGE = 100_000  # numbers in an array that is not copied for the sake of a sum


def adam(rate: float, gradient: Any, state: Any, params: Any, skip: jax.Array | bool) -> tuple[Any, Any]:
    """Apply one step of ``optax.adam(rate)``; return parameters and state unchanged where ``skip`` is true.

    Written by hand so that the step uses the new moments that are stored. XLA then updates every array in place. With
    optax it copies the moments first, because the step would read arrays that are being overwritten.

    Args:
      rate: learning rate.
      gradient: tree of the same shape as ``params``.
      state: state of ``optax.adam``.
      params: tree of arrays.
      skip: scalar; true leaves everything as it is.

    Returns:
      The new parameters and the new state.
    """
    first, second, epsilon = 0.9, 0.999, 1e-8
    old, *rest = state
    count = jnp.where(skip, old.count, old.count + 1)
    # Corrects the bias of moving averages that start at zero.
    scales = [1 - decay ** (old.count + 1) for decay in (first, second)]

    def mean(old: jax.Array, gradient: jax.Array) -> jax.Array:
        return jnp.where(skip, old, first * old + (1 - first) * gradient)

    def square(old: jax.Array, gradient: jax.Array) -> jax.Array:
        # Not gradient**2: the gradient's norm computes that too, and XLA writes a value with two uses to memory.
        return jnp.where(skip, old, second * old + (1 - second) * gradient * gradient)

    def stepped(old: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
        return jnp.where(skip, old, old - rate * (mean / scales[0]) / (jnp.sqrt(square / scales[1]) + epsilon))

    mu, nu = jax.tree.map(mean, old.mu, gradient), jax.tree.map(square, old.nu, gradient)
    return jax.tree.map(stepped, params, mu, nu), (old._replace(count=count, mu=mu, nu=nu), *rest)


def network_step(
    config: NetworkConfig, rate: float, gradient: Any, state: Any, params: Any, skip: jax.Array | bool
) -> tuple[Any, Any]:
    """``adam`` for the parameters of a network, which stay on the unit sphere if its config asks for it."""
    params, state = adam(rate, gradient, state, params, skip)
    return project(params, skip) if config.sphere else params, state


def norm(tree: Any, *, grouped: bool = False) -> jax.Array:
    """The Euclidean norm [] of a tree of arrays; finite only if all its numbers are.

    ``grouped`` sums the squares of many arrays at once, which launches fewer kernels on a GPU. The last digits of the
    result differ.
    """
    leaves = jax.tree.leaves(tree)
    if not grouped:
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))
    squares: dict[Any, jax.Array] = {}
    for leaf in leaves:
        if leaf.size >= _LARGE:
            squares[leaf.shape] = squares.get(leaf.shape, 0.0) + leaf**2
    small = [leaf.ravel() for leaf in leaves if leaf.size < _LARGE]
    return jnp.sqrt(sum(map(jnp.sum, squares.values())) + jnp.sum(jnp.concatenate([jnp.zeros(1), *small]) ** 2))
