"""The paper's residual networks, scanned over their blocks so that program size does not grow with depth.

A network is a stem (Dense -> LayerNorm -> Swish), then N residual blocks of four (Dense, LayerNorm, Swish) with the
block's input added after the last activation, then Dense heads. Depth is 4N, the number of Dense layers inside blocks
(paper section 3). Networks of JaxGCRL, the benchmark that the paper builds on, may have a tail of up to three plain
layers after the last block; these count toward the depth too. The benchmark's other learners have plain MLPs. With some
values of the setting ``start`` a LayerNorm stands before the heads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crlviz.networks.config import LAYERS_PER_BLOCK, NetworkConfig
from crlviz.networks.fused_layers import EPSILON, Precision, dense_norm_swish
from crlviz.networks.squashing import log_slope
from crlviz.networks.starts import Params, initial, quiet_heads
from crlviz.precision import EXACT, exact

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

EMBEDDING = 64
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
_ACTIVATIONS = {"swish": nn.swish, "relu": nn.relu}


class Layer(nn.Module):
    """Dense -> LayerNorm -> activation. ``precision`` applies to the Dense layer; None: the current default."""

    config: NetworkConfig
    precision: Precision = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(self.config.width, precision=self.precision, name="dense")(x)
        if self.config.layer_norm:
            x = nn.LayerNorm(name="norm")(x)
        return _ACTIVATIONS[self.config.activation](x)


def _layers(
    module: nn.Module, config: NetworkConfig, x: jax.Array, names: Sequence[str], precision: Precision = None
) -> jax.Array:
    """Apply the module's layers of these names in order."""
    if config.layer_norm and config.activation == "swish" and names and not module.is_initializing():
        return dense_norm_swish([module.variables["params"][name] for name in names], x, precision)
    for name in names:
        x = Layer(config, precision, name=name)(x)
    return x


class Block(nn.Module):
    """A residual block: four layers, and the skip connection. A scan body, hence the unused second argument."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        y = _layers(self, self.config, x, [f"layer_{index}" for index in range(LAYERS_PER_BLOCK)])
        return x + y if self.config.residual else y, None


class Hidden(nn.Module):
    """A hidden layer of an MLP, as a scan body."""

    config: NetworkConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return _layers(self, self.config, x, ["layer"]), None


class ResidualNetwork(nn.Module):
    """Maps inputs [..., n] to a tuple of outputs, one [..., size] per head; an MLP has ``Hidden`` layers for blocks."""

    config: NetworkConfig
    heads: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        x = _layers(self, self.config, x, ["stem"], EXACT)
        body: Any = Block
        name, count = "blocks", self.config.blocks
        if self.config.kind == "mlp":
            body, name, count = Hidden, "hidden", self.config.depth - 1
        if count:
            body = nn.remat(body, prevent_cse=False) if self.config.remat else body
            scanned = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=count)
            x, _ = scanned(self.config, name=name)(x, None)
        x = _layers(self, self.config, x, [f"tail_{index}" for index in range(self.config.tail)])
        x = _normalized(x) if self.config.norm_before_heads else x
        return tuple(nn.Dense(size, precision=EXACT, name=f"head_{index}")(x) for index, size in enumerate(self.heads))


def _normalized(x: jax.Array) -> jax.Array:
    """LayerNorm without parameters, over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + EPSILON)


def apply(
    trunk: "FusedTrunk | None", networks: Sequence[tuple[ResidualNetwork, Params, jax.Array]]
) -> list[tuple[jax.Array, ...]]:
    """Outputs of several networks, one tuple of heads [..., size] for each.

    Args:
      trunk: runs the residual blocks as a GPU kernel, those of networks of equal shape in one launch. None: the plain
        path, which serves every ``NetworkConfig``.
      networks: for each the network, its parameters and its inputs [..., n].
    """
    if trunk is None:
        return [network.apply({"params": params}, x) for network, params, x in networks]  # type: ignore[misc]
    hidden = [
        jnp.matmul(x.reshape(-1, x.shape[-1]), params["stem"]["dense"]["kernel"], precision=EXACT)
        for _, params, x in networks
    ]
    for config in dict.fromkeys(network.config for network, *_ in networks):
        same = [index for index, (network, *_) in enumerate(networks) if network.config == config]
        outputs = trunk([(networks[index][1]["stem"], networks[index][1]["blocks"], hidden[index]) for index in same])
        for index, y in zip(same, outputs, strict=True):
            hidden[index] = _normalized(y) if config.norm_before_heads else y
    return [
        tuple(_head(params[f"head_{index}"], y).reshape(*x.shape[:-1], -1) for index in range(len(network.heads)))
        for (network, params, x), y in zip(networks, hidden, strict=True)
    ]


def _head(params: Params, y: jax.Array) -> jax.Array:
    return jnp.matmul(y, params["kernel"], precision=EXACT) + params["bias"]


@cache
def shapes_of(network: ResidualNetwork, inputs: int) -> Any:
    """Shapes of a network's parameters, for inputs [..., inputs]; cached, as tracing is slow: not to be changed."""
    key, x = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((inputs,), jnp.float32)
    return jax.eval_shape(network.init, key, x)["params"]


@dataclass(frozen=True)
class Actor:
    """A tanh-Gaussian policy that maps observations [..., state + goal] to actions [..., action] in (-1, 1).

    ``trunk`` is as in ``apply``; ``log_prob`` is the form of ``squashing.log_slope``.
    """

    config: NetworkConfig
    observation_size: int
    action_size: int
    trunk: "FusedTrunk | None" = None
    log_prob: str = "paper"

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (self.action_size, self.action_size))

    @property
    def shapes(self) -> Any:
        """Shapes of the parameters that ``init`` returns; nothing is computed."""
        return shapes_of(self.network, self.observation_size)

    def init(self, key: jax.Array) -> Params:
        """Initial parameters."""
        return quiet_heads(self.config, initial(self.config, key, self.shapes))

    def distribution(self, params: Params, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation [..., action] before the tanh."""
        return self.distribution_of(*apply(self.trunk, [(self.network, params, observation)])[0])

    def distribution_of(self, mean: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation [..., action] from the network's two outputs [..., action]."""
        return mean, LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(raw) + 1)

    def mean_action(self, params: Params, observation: jax.Array) -> jax.Array:
        """The deterministic action [..., action]."""
        return jnp.tanh(self.distribution(params, observation)[0])

    def sample(self, params: Params, observation: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Actions [..., action] from standard normal noise [..., action], and their log probabilities [...]."""
        return self.sample_of(*self.distribution(params, observation), noise)

    def sample_of(self, mean: jax.Array, log_std: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``sample`` from a ``distribution`` [..., action]."""
        raw = mean + jnp.exp(log_std) * noise
        action = jnp.tanh(raw)
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_slope(raw, action, self.log_prob)
        return action, log_prob.sum(-1)

    def act(self, params: Params, observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action]: deterministic, or sampled with a key."""
        if key is None:
            return self.mean_action(params, observation)
        noise = jax.random.normal(key, (*observation.shape[:-1], self.action_size))
        return self.sample(params, observation, noise)[0]


@dataclass(frozen=True)
class Critic:
    """The encoders phi(s, a) and psi(g) of a contrastive critic. ``trunk`` is as in ``apply``.

    Of two critics, parameters and embeddings have a leading axis [2]; ``trunk`` is then None.
    """

    config: NetworkConfig
    state_size: int
    action_size: int
    goal_size: int
    trunk: "FusedTrunk | None" = None
    critics: int = 1

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (EMBEDDING,))

    @property
    def shapes(self) -> Any:
        """Shapes of the parameters that ``init`` returns; nothing is computed."""
        inputs = {"phi": self.state_size + self.action_size, "psi": self.goal_size}
        shapes = {name: shapes_of(self.network, size) for name, size in inputs.items()}
        several = () if self.critics == 1 else (self.critics,)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*several, *leaf.shape), leaf.dtype), shapes)

    def init(self, key: jax.Array) -> Params:
        """Initial parameters."""
        return initial(self.config, key, self.shapes)

    def phi(self, params: Params, state: jax.Array, action: jax.Array) -> jax.Array:
        """Embeddings [..., 64] of states [..., state] with actions [..., action]."""
        return self._embedded(params["phi"], jnp.concatenate([state, action], axis=-1))

    def psi(self, params: Params, goal: jax.Array) -> jax.Array:
        """Embeddings [..., 64] of goals [..., goal]."""
        return self._embedded(params["psi"], goal)

    def _embedded(self, params: Params, x: jax.Array) -> jax.Array:
        if self.critics == 1:
            return apply(self.trunk, [(self.network, params, x)])[0][0]
        return jax.vmap(lambda params: apply(None, [(self.network, params, x)])[0][0])(params)


def contributions(config: NetworkConfig, params: Params, x: jax.Array) -> jax.Array:
    """L2 norms of the terms that residual blocks add to their inputs: [blocks, ...] for inputs x [..., n].

    Separate from the forward pass of ``ResidualNetwork``, so that training does not pay for it (paper figure 17).
    """
    if "blocks" not in params:  # a network of JaxGCRL with fewer than four layers
        return jnp.zeros((0, *x.shape[:-1]))
    # Use start="paper": the other starts reject some networks, and a block's outputs do not depend on it.
    without_skip = replace(config, residual=False, start="paper")

    def block(x, params):
        y, _ = Block(without_skip).apply({"params": params}, x, None)
        return x + y if config.residual else y, jnp.linalg.norm(y, axis=-1)

    with exact():
        stem: Any = Layer(config).apply({"params": params["stem"]}, x)
        return jax.lax.scan(block, stem, params["blocks"])[1]


def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Euclidean distance over the last axis; where points coincide its gradient is zero, not NaN."""
    squared = jnp.sum((a - b) ** 2, axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def parameter_count(params: Any) -> int:
    """Number of scalars in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
