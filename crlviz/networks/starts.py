"""Initial parameters of networks, by the setting ``start`` of their config."""

import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.networks.config import LAYERS_PER_BLOCK, STARTS, NetworkConfig
from crlviz.networks.sphere import project

# Quiet heads of an actor, at any depth: means near 0 and standard deviations near 0.85 before the tanh.
QUIET_KERNELS, QUIET_LOG_STD = 0.1, 0.4

Params = Mapping[str, Any]


def initial(config: NetworkConfig, key: jax.Array, shapes: Any) -> Params:
    """Initial parameters of a network, or of several by name; the heads of an actor may begin quiet (``quiet_heads``).

    Kernels are uniform within +-1 / sqrt(fan-in), in an MLP within sqrt(3) times that; scales are 1, biases 0. With
    ``sphere``, kernels are projected. Then ``start`` changes the outputs of the blocks. All kernels are cut from one
    random draw; the modules' own ``init`` draws each kernel, which takes XLA twice as long to compile.

    Args:
      config: of all these networks.
      key: random key.
      shapes: of one network (``residual.shapes_of``), or of several, by name; with any leading axes.
    """
    leaves, tree = jax.tree.flatten_with_path(shapes)
    kernels = [leaf.shape for path, leaf in leaves if path[-1].key == "kernel"]
    *offsets, count = accumulate((math.prod(shape[:-2]) for shape in kernels), initial=0)
    size = max(shape[-2] for shape in kernels), max(shape[-1] for shape in kernels)
    draws = jax.lax.map(lambda key: jax.random.uniform(key, size, minval=-1, maxval=1), jax.random.split(key, count))
    offset = iter(offsets)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key != "kernel":
            return jnp.full(leaf.shape, path[-1].key == "scale", leaf.dtype)
        *blocks, inputs, units = leaf.shape
        first = next(offset)
        kernel = draws[first : first + math.prod(blocks), :inputs, :units]
        return kernel.reshape(leaf.shape) / math.sqrt(inputs / (3 if config.kind == "mlp" else 1))

    params = jax.tree.unflatten(tree, [fill(*leaf) for leaf in leaves])
    params = project(params) if config.sphere else params
    if "stem" in params:
        return _with_blocks(config, params)
    return {name: _with_blocks(config, part) for name, part in params.items()}


def _with_blocks(config: NetworkConfig, params: Params) -> Params:
    """A network's parameters with each block's output divided by the number of blocks, or zero, if it begins so."""
    blocks = STARTS[config.start].blocks
    # Kernels of a sphere cannot be divided: the first update would undo it.
    if blocks == "drawn" or "blocks" not in params or (config.sphere and not config.layer_norm):
        return params
    last = f"layer_{LAYERS_PER_BLOCK - 1}"
    # The LayerNorm undoes any scale before it. Without one the output is about proportional to the kernel.
    layer, (module, name) = params["blocks"][last], ("norm", "scale") if config.layer_norm else ("dense", "kernel")
    begun = layer[module][name] / config.blocks if blocks == "divided" else jnp.zeros_like(layer[module][name])
    return {**params, "blocks": {**params["blocks"], last: {**layer, module: {**layer[module], name: begun}}}}


def quiet_heads(config: NetworkConfig, params: Params) -> Params:
    """An actor's parameters with small kernels of its heads and a wide standard deviation, if it begins so.

    Args:
      params: of a network. ``head_0`` gives means; ``head_1``, if there is one, gives log standard deviations.
    """
    if not STARTS[config.start].quiet_heads:
        return params
    heads = {
        name: {**params[name], "kernel": QUIET_KERNELS * params[name]["kernel"]}
        for name in ("head_0", "head_1")
        if name in params
    }
    if "head_1" in heads:
        heads["head_1"]["bias"] = params["head_1"]["bias"] + QUIET_LOG_STD
    return {**params, **heads}
