"""The layers of one or several networks as one GPU kernel, forward and backward.

Dense, LayerNorm and Swish treat each row of a batch alone. So one program of the kernel takes a few rows through all
blocks, and the weights stream through it; the plain path launches thirty kernels for each block. Networks of equal
shape share a launch: their programs run side by side. After the backward kernel one batched product for each network
gives the gradients of its weights.

The kernels are written in Pallas for Triton, and run on NVIDIA GPUs; ``interpret`` runs them on any device, slowly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from crlviz.networks.fused_layers import EPSILON

LAYERS = 4  # in a block

# For each network the parameters of its stem, of its stacked blocks, and inputs.
Networks = Sequence[tuple[Mapping[str, Any], Mapping[str, Any], jax.Array]]

# Products of a kernel and of the weights' gradients, for each value of the setting ``precision``.
_IN_KERNEL = {
    "float32": lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "tf32": lax.DotAlgorithmPreset.TF32_TF32_F32,
    "bfloat16": lax.DotAlgorithmPreset.DEFAULT,
}
_BATCHED = {"float32": lax.Precision.HIGHEST, "tf32": lax.Precision.HIGH, "bfloat16": lax.Precision.DEFAULT}


@dataclass(frozen=True)
class FusedTrunk:
    """How to run the kernels.

    Attributes:
      precision: of the products: float32, tf32 or bfloat16, all with sums in float32.
      rows: rows of a batch that one program takes; a power of 2, at least 16.
      warps: warps of a program.
      shared_memory: bytes for slices of weights that are loaded ahead. Every card since Ampere has the default,
        and on an H200 it was the fastest of 40,000 to 220,000 at every precision.
      interpret: run the kernels as ordinary jax operations, on any device.
    """

    precision: str
    rows: int = 16
    warps: int = 8
    shared_memory: int = 95_000
    interpret: bool = False

    @property
    def stored(self) -> Any:
        """Type in which operands of products are stored."""
        return jnp.bfloat16 if self.precision == "bfloat16" else jnp.float32

    @property
    def transposes(self) -> bool:
        """Whether the forward kernel reads transposed weights.

        Tensor cores take 4-byte numbers from shared memory fast only along the rows that a product contracts.
        """
        return self.stored == jnp.float32

    def slices(self, width: int) -> tuple[int, int]:
        """Rows of a weight matrix [width, width] that are loaded at once, and how many such slices are under way."""
        size = jnp.dtype(self.stored).itemsize
        unpipelined = self.precision == "float32"  # one more slice, which is split into two factors
        rows = min(width, 128 // size)
        while rows > 16 and (2 + unpipelined) * rows * (width + self.rows) * size > self.shared_memory:
            rows //= 2
        fitting = self.shared_memory // (rows * (width + self.rows) * size) - unpipelined
        return rows, max(1, min(width // rows, fitting))

    def __call__(self, networks: Networks) -> list[jax.Array]:
        """Apply the stem and the blocks of networks of equal shape, in one launch.

        Args:
          networks: for each the parameters of its stem and of its blocks, and the product [rows, width] of its inputs
            with the stem's kernel. Their layers have LayerNorm and Swish, their blocks skip connections.

        Returns:
          The outputs [rows, width] of the last blocks.
        """
        rows, width = networks[0][-1].shape
        # Zero weights beyond the width keep it zero through all layers, and rows beyond the batch have no gradient.
        beyond = max(16, 1 << (width - 1).bit_length()) - width, -rows % self.rows

        def pad(leaf: jax.Array, axes: int) -> jax.Array:
            """Zeros at the end of the last axes."""
            return jnp.pad(leaf, [(0, 0)] * (leaf.ndim - axes) + [(0, beyond[0])] * axes)

        def padded(layer: Mapping[str, Any]) -> tuple[jax.Array, ...]:
            kernel, *vectors = _leaves(layer)
            return pad(kernel, 2), *(pad(vector, 1) for vector in vectors)

        arguments = []
        for stem, blocks, y in networks:
            vectors = tuple(pad(vector, 1) for vector in _leaves(stem)[1:])
            layers = tuple(padded(blocks[f"layer_{index}"]) for index in range(LAYERS))
            arguments.append((vectors, layers, jnp.pad(y, [(0, beyond[1]), (0, beyond[0])])))
        return [y[:rows, :width] for y in _apply(self, width, tuple(arguments))]


def _leaves(layer: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    """Kernel, bias, scale and shift of a layer; of the same layer in all blocks, stacked."""
    return layer["dense"]["kernel"], layer["dense"]["bias"], layer["norm"]["scale"], layer["norm"]["bias"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(how: FusedTrunk, width: int, networks: Any) -> list[jax.Array]:
    return [y for y, *_ in _forward(how, width, networks, keep="")]


def _apply_forward(how: FusedTrunk, width: int, networks: Any) -> tuple[list[jax.Array], Any]:
    def is_argument(leaf: Any) -> bool:
        return hasattr(leaf, "perturbed")

    # As in ``fused_layers``: no gradient of weights is computed where none is asked for.
    weights = [layers for _, layers, _ in networks]
    learned = any(leaf.perturbed for leaf in jax.tree.leaves(weights, is_leaf=is_argument))
    networks = jax.tree.map(lambda leaf: leaf.value, networks, is_leaf=is_argument)
    results = _forward(how, width, networks, keep="all" if learned else "normal")
    saved = [
        (network, inputs if learned else None, normal, inverse)
        for network, (_, inputs, normal, inverse) in zip(networks, results, strict=True)
    ]
    return [y for y, *_ in results], saved


def _apply_backward(how: FusedTrunk, width: int, saved: Any, gradients: Any) -> tuple[Any]:
    # A result that nothing depends on has a symbolic zero for a gradient, not an array.
    of = [g if isinstance(g, jax.Array) else jnp.zeros(g.shape, g.dtype) for g in gradients]
    learned = saved[0][1] is not None
    results = _backward(how, width, of, saved, learned=learned)
    networks = []
    for (_, inputs, _, _), (of_x, of_y, sums) in zip(saved, results, strict=True):
        weights = _weight_gradients(how, inputs, of_y, sums) if learned else ((None,) * 3, ((None,) * 4,) * LAYERS)
        networks.append((*weights, of_x))
    return (tuple(networks),)


_apply.defvjp(_apply_forward, _apply_backward, symbolic_zeros=True)


def _weight_gradients(how: FusedTrunk, inputs: jax.Array, of_y: jax.Array, sums: jax.Array) -> Any:
    """Gradients of the stem's vectors, and of the layers' kernels and vectors, from results of the two kernels."""
    kernels = jnp.einsum(
        "blri,blro->blio", inputs, of_y, precision=_BATCHED[how.precision], preferred_element_type=jnp.float32
    )
    vectors = sums.sum(2)
    stem, rest = vectors[:, 0], vectors[:, 1:].reshape(3, *kernels.shape[:2], -1)
    return tuple(stem), tuple((kernels[:, layer], *rest[:, :, layer]) for layer in range(LAYERS))


def _forward(how: FusedTrunk, width: int, networks: Any, keep: str) -> Any:
    """Outputs of the networks' last blocks, and what the backward pass needs.

    Args:
      how, width: see ``FusedTrunk``; the width without padding.
      networks: for each the stem's vectors, the layers and the stem's product [rows, padded width].
      keep: ``all``; ``normal``, which the gradient of the inputs needs; or nothing.

    Returns:
      For each network: outputs [rows, padded width]; inputs of each layer [blocks, 4, rows, padded width] (a scratch
      array unless all is kept); the normalized values, of that shape, and 1 / standard deviation [blocks, 4, rows]
      (None unless kept).
    """
    _, layers, x = networks[0]
    blocks, (rows, padded) = layers[0][0].shape[0], x.shape
    shape, kept = jax.ShapeDtypeStruct, (blocks, LAYERS) if keep == "all" else (1, 2)
    normal = shape((blocks, LAYERS, rows, padded), jnp.float32), shape((blocks, LAYERS, rows), jnp.float32)
    result = shape(x.shape, x.dtype), shape((*kept, rows, padded), how.stored), *(normal if keep else (None, None))

    def body(program: Any, network: Any, result: Any) -> None:
        (stem, layers, x_ref), (y_ref, inputs, normals, inverses) = network, result
        part = pl.ds(program * how.rows, how.rows)

        def block(index: Any, x: jax.Array) -> jax.Array:
            y = x
            for layer, (kernel, bias, scale, shift) in enumerate(layers):
                # Two scratch arrays take turns, so that no warp overwrites what another still reads.
                place = (index, layer) if keep == "all" else (0, layer % 2)
                vectors = bias[index, :], scale[index, :], shift[index, :]  # loaded while the product is computed
                y = _product(how, (inputs, (*place, part)), y, (kernel, index), transposed=how.transposes)
                normal, inverse = _normalize(y + vectors[0][None], width)
                if keep:
                    normals[index, layer, part, :] = normal
                    inverses[index, layer, part] = inverse
                z, gate = _gate(normal, *vectors[1:])
                y = z * gate
            return x + y

        bias, scale, shift = (vector[...] for vector in stem)
        z, gate = _gate(_normalize(x_ref[part, :] + bias[None], width)[0], scale, shift)
        y_ref[part, :] = lax.fori_loop(0, blocks, block, z * gate)

    networks = [(stem, _stored(how, layers, transposed=how.transposes), x) for stem, layers, x in networks]
    return _launch(how, "trunk_forward", padded, body, rows // how.rows, networks, [result] * len(networks))


def _backward(how: FusedTrunk, width: int, of: Any, saved: Any, *, learned: bool) -> Any:
    """Gradients of the networks' inputs, and what the gradients of their weights need.

    Args:
      how, width: see ``FusedTrunk``; the width without padding.
      of: gradients [rows, padded width] of the outputs.
      saved: for each network its arguments, and what ``_forward`` kept.
      learned: whether gradients of the weights will be computed.

    Returns:
      For each network: the gradient of the stem's product [rows, padded width]; gradients of the layers' products
      [blocks, 4, rows, padded width] (a scratch array unless ``learned``); and for each program its sums over rows that
      make up the gradients of biases, scales and shifts of the stem and of all layers, [3, 1 + 4 blocks, programs,
      padded width] (None unless ``learned``).
    """
    blocks, (rows, padded), programs = saved[0][0][1][0][0].shape[0], of[0].shape, of[0].shape[0] // how.rows
    shape, kept = jax.ShapeDtypeStruct, (blocks, LAYERS) if learned else (1, 2)
    sums = shape((3, 1 + LAYERS * blocks, programs, padded), jnp.float32) if learned else None
    result = shape((rows, padded), jnp.float32), shape((*kept, rows, padded), how.stored), sums

    def body(program: Any, network: Any, result: Any) -> None:
        (g_ref, (stem, layers, x_ref), normals, inverses), (of_x, of_ys, sums) = network, result
        part = pl.ds(program * how.rows, how.rows)

        def through_norm(g: jax.Array, *layer: jax.Array, number: Any) -> jax.Array:
            """The gradient of what LayerNorm normalizes, from that of Swish's result; ``number`` of the layer."""
            gradients = _through_norm(width, g, *layer)
            if learned:
                for which, values in enumerate(gradients):
                    sums[which, number, program, :] = values.sum(0)
            return gradients[0]

        def load(index: Any, layer: int) -> tuple[jax.Array, ...]:
            _, _, scale, shift = layers[layer]
            return normals[index, layer, part, :], inverses[index, layer, part], scale[index, :], shift[index, :]

        def block(turn: Any, carry: Any) -> Any:
            (skip, loaded), index = carry, blocks - 1 - turn
            g = skip
            for layer in reversed(range(LAYERS)):
                of_y = through_norm(g, *loaded, number=1 + LAYERS * index + layer)
                # The next layer's values are loaded while the product is computed.
                loaded = load(index, layer - 1) if layer else load(jnp.maximum(index - 1, 0), LAYERS - 1)
                place = (index, layer) if learned else (0, layer % 2)
                g = _product(how, (of_ys, (*place, part)), of_y, (layers[layer][0], index), transposed=True)
            return skip + g, loaded

        g, _ = lax.fori_loop(0, blocks, block, (g_ref[part, :], load(blocks - 1, LAYERS - 1)))
        bias, scale, shift = (vector[...] for vector in stem)
        of_x[part, :] = through_norm(g, *_normalize(x_ref[part, :] + bias[None], width), scale, shift, number=0)

    networks = [
        (g, (stem, _stored(how, layers), x), normal, inverse)
        for g, ((stem, layers, x), _, normal, inverse) in zip(of, saved, strict=True)
    ]
    # A layer's normalized values are not needed once its gradient is known, which may then take their place in memory.
    alias = (lambda network, result: (network[2], result[1])) if learned and how.stored == jnp.float32 else None
    return _launch(how, "trunk_backward", padded, body, programs, networks, [result] * len(networks), alias)


def _through_norm(
    width: int, g: jax.Array, normal: jax.Array, inverse: jax.Array, scale: jax.Array, shift: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients [rows, padded width] of what LayerNorm normalizes, of its scale in each row, and of its shift."""
    z, gate = _gate(normal, scale, shift)
    of_z = g * (gate * (1 + z * (1 - gate)))
    by_normal = of_z * normal
    mean, along = ((each * scale[None]).sum(1)[:, None] / width for each in (of_z, by_normal))
    return inverse[:, None] * (of_z * scale[None] - mean - normal * along), by_normal, of_z


def _normalize(y: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Rows of mean 0 and variance 1, zero beyond the width, and 1 / standard deviation [rows]."""
    y = y - (y.sum(1) / width)[:, None]
    if y.shape[1] > width:
        y = jnp.where(lax.broadcasted_iota(jnp.int32, y.shape, 1) < width, y, 0.0)
    inverse = lax.rsqrt((y * y).sum(1) / width + EPSILON)
    return y * inverse[:, None], inverse


def _gate(normal: jax.Array, scale: jax.Array, shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The argument of Swish, and its sigmoid."""
    z = normal * scale[None] + shift[None]
    return z, 1 / (1 + jnp.exp(-z))


def _stored(how: FusedTrunk, layers: Any, *, transposed: bool = False) -> Any:
    """Layers with kernels in the type of the products, and transposed."""
    kernels = [kernel.astype(how.stored) for kernel, *_ in layers]
    return tuple(
        (kernel.swapaxes(1, 2) if transposed else kernel, *vectors)
        for kernel, (_, *vectors) in zip(kernels, layers, strict=True)
    )


def _product(how: FusedTrunk, memory: Any, x: jax.Array, weights: Any, *, transposed: bool = False) -> jax.Array:
    """The product of x [rows, n] with weights [n, n], or with their transpose; leaves x in ``memory``.

    ``memory`` and ``weights`` are each an array and the place in it.

    A program's registers hold neither the kernel nor parts of x that a loop could select. So x goes through memory, and
    slices of both are loaded ahead of their product.
    """
    (array, place), (kernel, block) = memory, weights
    array[(*place, slice(None))] = x.astype(how.stored)
    if not how.interpret:
        triton.debug_barrier()  # each warp reads what the others wrote
    precision = lax.Precision.HIGHEST if how.interpret else _IN_KERNEL[how.precision]
    size, _ = how.slices(x.shape[1])

    def add(turn: Any, total: jax.Array) -> jax.Array:
        some = pl.ds(turn * size, size)
        weights = kernel[block, :, some] if transposed else kernel[block, some, :]
        contracted = (((1,), (1 if transposed else 0,)), ((), ()))
        product = lax.dot_general(
            array[(*place, some)], weights, contracted, precision=precision, preferred_element_type=jnp.float32
        )
        return total + product

    return lax.fori_loop(0, x.shape[1] // size, add, jnp.zeros(x.shape, jnp.float32))


def _launch(
    how: FusedTrunk,
    name: str,
    width: int,
    body: Callable[[Any, Any, Any], None],
    programs: int,
    networks: Any,
    results: Any,
    alias: Callable[[Any, Any], tuple[Any, Any]] | None = None,
) -> Any:
    """Run a kernel with a number of programs for each network; returns arrays of the shapes ``results``.

    Args:
      how: see ``FusedTrunk``.
      name: of the kernel.
      width: the padded width.
      body: what a program does, given its number, and references to its network's arrays and results.
      programs: number of programs for each network.
      networks: arrays of each network.
      results: shapes of each network's results.
      alias: selects an array of a network and the result that takes its place in memory.
    """
    (leaves, tree), (shapes, result_tree) = jax.tree.flatten(networks), jax.tree.flatten(results)

    def kernel(*refs: Any) -> None:
        ins, outs = jax.tree.unflatten(tree, refs[: len(leaves)]), jax.tree.unflatten(result_tree, refs[len(leaves) :])
        index = pl.program_id(0)
        choices = [partial(body, index % programs, *own) for own in zip(ins, outs, strict=True)]
        lax.switch(index // programs, choices)

    places = range(len(leaves)), range(len(shapes))
    numbered = jax.tree.unflatten(tree, places[0]), jax.tree.unflatten(result_tree, places[1])
    call = pl.pallas_call(
        kernel,
        out_shape=shapes,
        grid=(len(networks) * programs,),
        input_output_aliases=dict(map(alias, *numbered)) if alias else {},
        interpret=how.interpret,
        # Triton counts the slice of the current product too.
        compiler_params=None if how.interpret else triton.CompilerParams(how.warps, how.slices(width)[1] + 1),
        name=name,
    )
    return jax.tree.unflatten(result_tree, call(*leaves))
