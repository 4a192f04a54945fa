"""When has an update gone wrong? Asked inside the jitted training step, update by update."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.algorithms.optimizer import norm
from crlviz.errors import CrlvizError

# What is watched, the likeliest cause first: where several are bad in one update, the first is named.
LOSSES = ("critic_loss", "actor_loss", "alpha_loss")
WATCHED = (*LOSSES, "critic_gradient", "actor_gradient", "parameter_norm")
ACTOR_LIMIT = 512  # depth beyond which the paper saw the actor explode: encoders of 1,024 got an actor of 512


class Divergence(struct.PyTreeNode):
    """The first bad update.

    Attributes:
      found: whether there was one.
      update: its number among those watched, from 0.
      quantity: index into ``WATCHED``.
      value: what that was.
    """

    found: jax.Array
    update: jax.Array
    quantity: jax.Array
    value: jax.Array


def none() -> Divergence:
    """No trouble so far."""
    return Divergence(jnp.array(False), jnp.zeros((), int), jnp.zeros((), int), jnp.zeros(()))


def watch(
    before: Divergence, update: jax.Array, metrics: Mapping[str, jax.Array], params: Any, bound: float
) -> Divergence:
    """Look at one update.

    Args:
      before: of the updates so far.
      update: number of this one.
      metrics: its losses and gradient norms.
      params: every parameter, before or after it.
      bound: absolute loss that counts as a blow-up.
    """
    values = jnp.stack([*(metrics[name] for name in WATCHED[:-1]), norm(params)])
    bad = ~jnp.isfinite(values)
    bad |= (jnp.abs(values) > bound) & (jnp.arange(len(WATCHED)) < len(LOSSES))
    first = jnp.argmax(bad)
    now = Divergence(bad.any(), update, first, values[first])
    return jax.tree.map(lambda old, new: jnp.where(before.found, old, new), before, now)


class DivergenceError(CrlvizError):
    """An update went wrong: a number is no longer finite, or a loss beyond its bound."""


def divergence_error(trouble: Divergence, first_update: int, actor_depth: int) -> DivergenceError:
    """Which update, which quantity and its value, and what the paper did about it.

    Args:
      trouble: found in a training step.
      first_update: updates of the run before that training step.
      actor_depth: of the actor that was trained.
    """
    name = WATCHED[int(trouble.quantity)]
    sentence = f"{name} became {float(trouble.value):.6g} in update {first_update + int(trouble.update) + 1:,}"
    if name.startswith("actor") and actor_depth > ACTOR_LIMIT:
        sentence += (
            f" (with an actor of depth {actor_depth:,}: the paper saw this too and kept the actor shallower than the "
            f"encoders, --actor-depth {ACTOR_LIMIT})"
        )
    return DivergenceError(sentence)
