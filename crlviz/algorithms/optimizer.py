"""One Adam step for all parameters of a network, and the norm of its gradient."""

from typing import Any

import jax
import jax.numpy as jnp


def adam(rate: float, gradient: Any, state: Any, params: Any, skip: jax.Array | bool) -> tuple[Any, Any]:
    """Parameters and state after a step of ``optax.adam(rate)``; the old ones where they shall ``stay``.

    By hand, because here the parameters follow from the very moments that are kept: XLA then changes every array in
    place, where else it copies moments first, since the parameters' step would read what is written over.
    """
    first, second, epsilon = 0.9, 0.999, 1e-8
    old, *rest = state
    count = jnp.where(skip, old.count, old.count + 1)
    # Means that began at zero are too small by these.
    scales = [1 - decay ** (old.count + 1) for decay in (first, second)]

    def mean(old: jax.Array, slope: jax.Array) -> jax.Array:
        return jnp.where(skip, old, first * old + (1 - first) * slope)

    def square(old: jax.Array, slope: jax.Array) -> jax.Array:
        # Not slope**2: the gradient's norm has that too, and what two need is written to memory.
        return jnp.where(skip, old, second * old + (1 - second) * slope * slope)

    def moved(old: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
        return jnp.where(skip, old, old - rate * (mean / scales[0]) / (jnp.sqrt(square / scales[1]) + epsilon))

    mu, nu = jax.tree.map(mean, old.mu, gradient), jax.tree.map(square, old.nu, gradient)
    return jax.tree.map(moved, params, mu, nu), (old._replace(count=count, mu=mu, nu=nu), *rest)


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all numbers in a tree of arrays; finite only if they are."""
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
