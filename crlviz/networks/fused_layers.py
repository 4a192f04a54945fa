"""Dense -> LayerNorm -> Swish, several in a row: the part of a network where training spends its time.

The gradient is written by hand. Automatic differentiation keeps seven arrays of a layer's size for the way back and
passes over them as often; here it is one, what LayerNorm makes of the layer, from which the rest is quickly had again.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.precision import EXACT

EPSILON = 1e-6  # flax's, which the paper's networks have

Layers = Sequence[Mapping[str, Mapping[str, jax.Array]]]
Precision = jax.lax.Precision | None


def dense_norm_swish(layers: Layers, x: jax.Array, precision: Precision = None) -> jax.Array:
    """Inputs [..., n] through layers, each with ``dense`` (kernel [n, m], bias [m]) and ``norm`` (scale, bias [m]).

    ``precision`` is that of products with kernels and of these products' gradient; None: the surrounding one.
    """
    return _dense_norm_swish(precision, tuple(layers), x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense_norm_swish(precision: Precision, layers: Layers, x: jax.Array) -> jax.Array:
    return _run(precision, layers, x)[0]


def _run(precision: Precision, layers: Layers, x: jax.Array) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:
    """What comes out, and of each layer what LayerNorm makes of it before its scale, and 1 / deviation."""
    kept = []
    for layer in layers:
        y = jnp.matmul(x, layer["dense"]["kernel"], precision=precision) + layer["dense"]["bias"]
        y -= y.mean(-1, keepdims=True)
        inverse = jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + EPSILON)
        normal = y * inverse
        kept.append((normal, inverse))
        z, gate = _gate(layer, normal)
        x = z * gate
    return x, kept


def _gate(layer: Mapping[str, Mapping[str, jax.Array]], normal: jax.Array) -> tuple[jax.Array, jax.Array]:
    z = normal * layer["norm"]["scale"] + layer["norm"]["bias"]
    return z, jax.nn.sigmoid(z)


def _forward(precision: Precision, layers: Any, x: Any) -> tuple[jax.Array, Any]:
    # Values come with word on whether their gradient is wanted. The actor's step goes through phi only to the action,
    # and the first layer's inputs are data: what nobody wants is neither kept nor computed.
    def marked(leaf: Any) -> bool:
        return hasattr(leaf, "perturbed")

    learned = any(leaf.perturbed for leaf in jax.tree.leaves(layers, is_leaf=marked))
    values = jax.tree.map(lambda leaf: leaf.value, layers, is_leaf=marked)
    y, kept = _run(precision, values, x.value)
    return y, (values, x.value if learned else None, kept, () if x.perturbed else None)


def _backward(precision: Precision, residuals: Any, slope: Any) -> tuple[Any, Any]:
    layers, inputs, kept, onward = residuals
    gates = [_gate(layer, normal) for layer, (normal, _) in zip(layers, kept, strict=True)]
    slopes = []
    for index in reversed(range(len(layers))):
        kernel, scale = layers[index]["dense"]["kernel"], layers[index]["norm"]["scale"]
        (normal, inverse), (z, gate) = kept[index], gates[index]
        of_z = slope * (gate * (1 + z * (1 - gate)))
        by_normal = of_z * normal
        # Sums over a row are products with a vector: one pass where a sum of a product would be two.
        mean, along = (jnp.matmul(of, scale / scale.size, precision=EXACT)[:, None] for of in (of_z, by_normal))
        of_y = inverse * (of_z * scale - mean - normal * along)
        if inputs is not None:
            x = gates[index - 1][0] * gates[index - 1][1] if index else inputs
            dense = {"kernel": jnp.matmul(x.T, of_y, precision=precision), "bias": of_y.sum(0)}
            slopes.append({"dense": dense, "norm": {"scale": by_normal.sum(0), "bias": of_z.sum(0)}})
        slope = jnp.matmul(of_y, kernel.T, precision=precision) if index or onward is not None else None
    return tuple(reversed(slopes)) or None, slope


_dense_norm_swish.defvjp(_forward, _backward, symbolic_zeros=True)
