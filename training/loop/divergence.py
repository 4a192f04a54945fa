"""Detection of divergence inside the jitted training step, update by update."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.algorithms.optimizer import norm
from crlviz.errors import CrlvizError

ACTOR_LIMIT = 512  # at greater depth the paper saw the actor diverge; it used an actor of 512 with encoders of 1,024


class Divergence(struct.PyTreeNode):
    """The first bad update.

    Attributes:
      found: whether there was one.
      update: its number within the training step, from 0.
      quantity: index of the bad quantity in ``watched``.
      value: value of that quantity.
    """

    found: jax.Array
    update: jax.Array
    quantity: jax.Array
    value: jax.Array


def watched(losses: Sequence[str]) -> tuple[str, ...]:
    """The watched quantities for an algorithm's ``losses``: if several are bad in one update, the first is reported."""
    return (*losses, "parameter_norm")


def none() -> Divergence:
    """No divergence."""
    return Divergence(jnp.array(False), jnp.zeros((), int), jnp.zeros((), int), jnp.zeros(()))


def watch(
    before: Divergence,
    update: jax.Array,
    metrics: Mapping[str, jax.Array],
    params: Any,
    losses: Sequence[str],
    bound: float,
    *,
    grouped: bool = False,
) -> Divergence:
    """Check one update. Returns the first divergence so far, this update's included.

    Args:
      before: result for the updates before this one.
      update: number of this update.
      metrics: its losses and gradient norms, by name. A loss that its settings leave out is not there.
      params: all parameters, before or after the update.
      losses: as ``Algorithm.losses``.
      bound: absolute loss above which an update counts as diverged.
      grouped: see ``optimizer.norm``.
    """
    values = jnp.stack([*(metrics.get(name, jnp.zeros(())) for name in losses), norm(params, grouped=grouped)])
    bounded = np.array([*(not name.endswith("_gradient") for name in losses), False])
    bad = ~jnp.isfinite(values)
    bad |= (jnp.abs(values) > bound) & bounded
    first = jnp.argmax(bad)
    now = Divergence(bad.any(), update, first, values[first])
    return jax.tree.map(lambda old, new: jnp.where(before.found, old, new), before, now)


class DivergenceError(CrlvizError):
    """Training diverged: a number is not finite, or a loss exceeds its bound."""


def divergence_error(
    first: Divergence, losses: Sequence[str], updates_before: int, actor_depth: int
) -> DivergenceError:
    """An error that names the update, the quantity and its value, and the paper's remedy for a deep actor.

    Args:
      first: the divergence of a training step.
      losses: as ``Algorithm.losses``.
      updates_before: updates of the run before that training step.
      actor_depth: depth of the trained actor.
    """
    name = watched(losses)[int(first.quantity)]
    sentence = f"{name} became {float(first.value):.6g} in update {updates_before + int(first.update) + 1:,}"
    if name.startswith("actor") and actor_depth > ACTOR_LIMIT:
        sentence += (
            f" (the actor has depth {actor_depth:,}; the paper saw this too and kept the actor shallower than the "
            f"encoders: --actor-depth {ACTOR_LIMIT}; or start quiet: --set actor.start=quiet --set critic.start=quiet)"
        )
    return DivergenceError(sentence)
