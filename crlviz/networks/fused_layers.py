"""A stack of Dense -> LayerNorm -> Swish layers, where training spends most of its time, with a hand-written gradient.

Automatic differentiation stores seven arrays of a layer's size for the backward pass and reads them all. This stores
one, the normalized output of LayerNorm, and recomputes the rest from it at little cost.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.precision import EXACT

EPSILON = 1e-6  # default of flax, used by the paper's networks

Layers = Sequence[Mapping[str, Mapping[str, jax.Array]]]
Precision = jax.lax.Precision | None


def dense_norm_swish(layers: Layers, x: jax.Array, precision: Precision = None) -> jax.Array:
    """Apply layers to inputs [..., n]; returns [..., m].

    Args:
      layers: parameters of each layer: ``dense`` (kernel [n, m], bias [m]) and ``norm`` (scale [m], bias [m]).
      x: inputs [..., n].
      precision: of the products with kernels and of their gradient; None: jax's default in the current context.
    """
    return _dense_norm_swish(precision, tuple(layers), x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_norm_swish(precision: Precision, layers: Layers, x: jax.Array) -> jax.Array:
    return _run(precision, layers, x)[0]


def _run(precision: Precision, layers: Layers, x: jax.Array) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """The output, and for each layer its normalized values before the scale, and 1 / standard deviation."""
    saved = []
    for layer in layers:
        y = jnp.matmul(x, layer["dense"]["kernel"], precision=precision) + layer["dense"]["bias"]
        y -= y.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + EPSILON)
        normal = y * inverse
        saved.append((normal, inverse))
        z, gate = _gate(layer, normal)
        x = z * gate
    return x, saved


def _gate(layer: Mapping[str, Mapping[str, jax.Array]], normal: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = normal * layer["norm"]["scale"] + layer["norm"]["bias"]
    return z, jax.nn.sigmoid(z)


def _forward(precision: Precision, layers: Any, x: Any) -> tuple[jax.Array, Any]:
    # The flag `perturbed` of an argument tells whether its gradient is needed. The actor's update needs phi's gradient
    # by the action only, and the first layer's inputs are data. Gradients that are not needed are not computed.
    def is_argument(leaf: Any) -> bool:
        return hasattr(leaf, "perturbed")

    learned = any(leaf.perturbed for leaf in jax.tree.leaves(layers, is_leaf=is_argument))
    values = jax.tree.map(lambda leaf: leaf.value, layers, is_leaf=is_argument)
    y, saved = _run(precision, values, x.value)
    return y, (values, x.value if learned else None, saved, () if x.perturbed else None)


def _backward(precision: Precision, residuals: Any, gradient: Any) -> tuple[Any, Any]:
    layers, inputs, saved, needs_input_gradient = residuals
    gates = [_gate(layer, normal) for layer, (normal, _) in zip(layers, saved, strict=True)]
    gradients = []
    for index in reversed(range(len(layers))):
        kernel, scale = layers[index]["dense"]["kernel"], layers[index]["norm"]["scale"]
        (normal, inverse), (z, gate) = saved[index], gates[index]
        of_z = gradient * (gate * (1 + z * (1 - gate)))
        by_normal = of_z * normal
        # Row sums as products with a vector take one pass over memory; a product and then a sum would take two.
        mean, along = (jnp.matmul(of, scale / scale.size, precision=EXACT)[:, None] for of in (of_z, by_normal))
        of_y = inverse * (of_z * scale - mean - normal * along)
        if inputs is not None:
            x = gates[index - 1][0] * gates[index - 1][1] if index else inputs
            dense = {"kernel": jnp.matmul(x.T, of_y, precision=precision), "bias": of_y.sum(0)}
            gradients.append({"dense": dense, "norm": {"scale": by_normal.sum(0), "bias": of_z.sum(0)}})
        needed = index or needs_input_gradient is not None
        gradient = jnp.matmul(of_y, kernel.T, precision=precision) if needed else None
    return tuple(reversed(gradients)) or None, gradient


_dense_norm_swish.defvjp(_forward, _backward, symbolic_zeros=True)
