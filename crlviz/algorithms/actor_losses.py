"""Losses of an actor that learns from a data set and must stay near the data's actions (OGBench).

    DDPG+BC   -mean of Q(s, pi(s, g), g) / mean of |Q|  -  weight * mean of log pi(a | s, g)
    AWR       -mean of min(exp(weight * A), 100) * log pi(a | s, g)

a: the data set's action; the divisor and A carry no gradient.
"""

import jax
import jax.numpy as jnp

LOSSES = ("ddpgbc", "awr")
_LARGEST = 100.0


def ddpg_bc(q: jax.Array, log_prob: jax.Array, weight: float) -> jax.Array:
    """The loss [] for Q [B] of the policy's own actions and log probabilities [B] of the data set's."""
    scale = jax.lax.stop_gradient(jnp.abs(q).mean() + 1e-6)
    return -q.mean() / scale - weight * log_prob.mean()


def awr(advantage: jax.Array, log_prob: jax.Array, weight: float) -> jax.Array:
    """The loss [] for advantages [B] and log probabilities [B] of the data set's actions."""
    factor = jnp.minimum(jnp.exp(weight * jax.lax.stop_gradient(advantage)), _LARGEST)
    return -jnp.mean(factor * log_prob)
