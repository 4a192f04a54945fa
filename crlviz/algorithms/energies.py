"""Energies f(phi, psi) of a contrastive critic: how near an embedding of a state-action is to that of a goal.

Higher is nearer. Each energy has two forms. Of rows, [..., d] and [..., d] -> [...], it is Q and the actor's objective.
Of all pairs, [B, d] and [B, d] -> [B, B] with state-actions as rows and goals as columns, it gives the logits of the
critic's loss. With x = phi and y = psi:

    norm      -||x - y||                                       of the paper
    l2        -||x - y||^2
    l1        -sum |x - y|
    dot       sum x y
    cosine    sum x y / (||x|| ||y||)
    mrn       -mean over groups of (max of (x - y)+ over their first half + ||x - y|| of their second half)
    iqe       -(mean + max over groups of the length of the union of the intervals [x_k, max(x_k, y_k)]) / 2

The first four and cosine are the choices of JaxGCRL, the benchmark that the paper builds on (l1 of an older version).
JaxGCRL divides cosine by the norms of the whole arrays of a batch, and adds a small number under the root in norm and
mrn. Here cosine is computed for each pair, and norm adds no such number. -mrn and -iqe are quasimetrics: they obey the
triangle inequality and need not be symmetric (Liu et al. 2023, "Metric residual networks"; Wang and Isola 2022,
"Improved representation of asymmetrical distances with interval quasimetric embeddings"). The original iqe learns the
weights of mean and max, which are a half each here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from crlviz.networks.residual import distance
from crlviz.precision import EXACT

MRN_GROUPS = 16  # JaxGCRL's; of 4 numbers each for embeddings of 64
IQE_GROUP = 8  # numbers in a group
_COLUMNS = 16  # goals whose logits are computed at once


@dataclass(frozen=True)
class Energy:
    """An energy.

    Attributes:
      of_rows: maps embeddings [..., d] and [..., d] to f [...].
      of_pairs: maps embeddings phi [B, d] and psi [B, d] to f [B, B]; row i is that of phi_i.
      formula: of Q, for titles and axes.
      quasimetric: whether -f is one: zero between equal points, never negative, and with the triangle inequality.
    """

    of_rows: Callable[[jax.Array, jax.Array], jax.Array]
    of_pairs: Callable[[jax.Array, jax.Array], jax.Array]
    formula: str
    quasimetric: bool = False


@jax.custom_vjp
def pairwise_logits(phi: jax.Array, psi: jax.Array) -> jax.Array:
    """Logits -||phi_i - psi_j|| [B, B] of state-actions phi [B, d] (rows) and goals psi [B, d] (columns).

    Needs no array [B, B, d]: squared differences are summed feature by feature, and the gradient is two matrix
    products.
    """

    def add(total, feature):
        return total + (feature[0][:, None] - feature[1]) ** 2, None

    zeros = jnp.zeros((phi.shape[0], psi.shape[0]), phi.dtype)
    return -jnp.sqrt(jax.lax.scan(add, zeros, (phi.T, psi.T), unroll=16)[0])


def _logits_forward(phi: jax.Array, psi: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    logits = pairwise_logits(phi, psi)
    return logits, (phi, psi, logits)


def _logits_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    phi, psi, logits = saved
    positive = logits < 0  # a positive distance; where points coincide the gradient is zero, as in ``distance``
    weight = jnp.where(positive, gradient / jnp.where(positive, logits, 1.0), 0.0)
    # Only differences matter, and differences of smaller numbers have smaller rounding errors.
    center = psi.mean(0)
    phi, psi = phi - center, psi - center
    # The subtraction below cancels nearly all digits, so the products need full precision.
    of_psi, of_phi = jnp.matmul(weight, psi, precision=EXACT), jnp.matmul(weight.T, phi, precision=EXACT)
    return weight.sum(1)[:, None] * phi - of_psi, weight.sum(0)[:, None] * psi - of_phi


pairwise_logits.defvjp(_logits_forward, _logits_backward)


def _negative_distance(x: jax.Array, y: jax.Array) -> jax.Array:
    return -distance(x, y)


def _l2(x: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.sum((x - y) ** 2, axis=-1)


def _l1(x: jax.Array, y: jax.Array) -> jax.Array:
    return -jnp.sum(jnp.abs(x - y), axis=-1)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.sum(x * y, axis=-1)


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    return _dot(_unit(x), _unit(y))


def _unit(x: jax.Array) -> jax.Array:
    """Rows of length 1. The small number keeps the gradient finite for rows of zeros."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y.T, precision=EXACT)


def _mrn(x: jax.Array, y: jax.Array) -> jax.Array:
    difference = (x - y).reshape(*jnp.broadcast_shapes(x.shape, y.shape)[:-1], MRN_GROUPS, -1)
    one_way, both_ways = jnp.split(difference, 2, axis=-1)
    of_groups = jax.nn.relu(one_way).max(-1) + distance(both_ways, jnp.zeros_like(both_ways))
    return -of_groups.mean(-1)


def _iqe(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = (z.reshape(*z.shape[:-1], -1, IQE_GROUP) for z in jnp.broadcast_arrays(x, y))
    order = jnp.argsort(x, axis=-1)
    left, right = (jnp.take_along_axis(z, order, axis=-1) for z in (x, jnp.maximum(x, y)))
    # Of each interval count what lies beyond all intervals that begin before it.
    reached = jax.lax.cummax(right, axis=right.ndim - 1)
    begin = jnp.concatenate([left[..., :1], jnp.maximum(left[..., 1:], reached[..., :-1])], axis=-1)
    lengths = jax.nn.relu(right - begin).sum(-1)
    return -0.5 * (lengths.mean(-1) + lengths.max(-1))


def _by_columns(of_rows: Callable[[jax.Array, jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The energy of all pairs from that of rows, a few columns at a time, so that no array [B, B, d] is kept.

    It loops over columns, because sharded batches are sharded by rows.
    """

    def of_pairs(phi: jax.Array, psi: jax.Array) -> jax.Array:
        column = jax.checkpoint(lambda goal: of_rows(phi, goal))
        return jax.lax.map(column, psi, batch_size=_COLUMNS).T

    return of_pairs


ENERGIES = {
    "norm": Energy(_negative_distance, pairwise_logits, "-||phi(s, a) - psi(g)||", quasimetric=True),
    "l2": Energy(_l2, lambda x, y: -(pairwise_logits(x, y) ** 2), "-||phi(s, a) - psi(g)||^2"),
    "l1": Energy(_l1, _by_columns(_l1), "-sum |phi(s, a) - psi(g)|", quasimetric=True),
    "dot": Energy(_dot, _products, "phi(s, a) . psi(g)"),
    "cosine": Energy(_cosine, lambda x, y: _products(_unit(x), _unit(y)), "cos(phi(s, a), psi(g))"),
    "mrn": Energy(_mrn, _by_columns(_mrn), "-MRN(phi(s, a), psi(g))", quasimetric=True),
    "iqe": Energy(_iqe, _by_columns(_iqe), "-IQE(phi(s, a), psi(g))", quasimetric=True),
}
