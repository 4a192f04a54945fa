"""The change of a density by tanh, which turns a Gaussian into a policy on (-1, 1).

Where u is Gaussian and a = tanh(u), log p(a) = log p(u) - log(1 - a^2), summed over dimensions.
"""

import math

import jax
import jax.numpy as jnp

LOG_PROBS = ("paper", "stable")


def log_slope(raw: jax.Array, action: jax.Array, form: str) -> jax.Array:
    """log(1 - tanh(raw)^2) [...] of raw actions [...].

    Args:
      raw: u.
      action: tanh(u).
      form: ``paper``: log(1 - a^2 + 1e-6), as in the paper's code. Near saturation 1 - a^2 loses its digits, beyond
        |u| = 8 the 1e-6 is most of the sum, and farther out 1 - a^2 and the gradient are 0. ``stable``:
        2 (log 2 - u - softplus(-2u)), exact to rounding at every u, with the gradient -2 tanh(u).
    """
    if form == "paper":
        return jnp.log(1 - action**2 + 1e-6)
    return 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))
