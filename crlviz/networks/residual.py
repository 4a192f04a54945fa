"""The paper's residual networks, scanned over their blocks so that program size does not grow with depth.

A network is a stem (Dense -> LayerNorm -> Swish), then N residual blocks of four (Dense, LayerNorm, Swish) with the
block's input added after the last activation, then Dense heads. Depth is 4N, the number of Dense layers inside blocks
(paper section 3). Networks of JaxGCRL, the benchmark that the paper builds on, may have a tail of up to three plain
layers after the last block; these count toward the depth too. The benchmark's other learners have plain MLPs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crlviz.errors import UsageError
from crlviz.networks.fused_layers import Precision, dense_norm_swish
from crlviz.networks.sphere import project
from crlviz.networks.squashing import log_slope
from crlviz.precision import EXACT, exact

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

LAYERS_PER_BLOCK = 4
EMBEDDING = 64
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
_ACTIVATIONS = {"swish": nn.swish, "relu": nn.relu}
KINDS = ("residual", "mlp")
STARTS = ("paper", "quiet")
# The quiet start of an actor's heads, at any depth: means near 0 and standard deviations near 0.85 before the tanh.
QUIET_KERNELS, QUIET_LOG_STD = 0.1, 0.4

Params = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of one trunk.

    Attributes:
      depth: Dense layers inside residual blocks (a multiple of 4), plus those of the tail; of an MLP all hidden layers.
      width: units of each layer.
      layer_norm: apply LayerNorm before each activation (ablated in paper figure 16).
      activation: ``swish`` or ``relu`` (paper figure 16).
      residual: add each block's input to its output (ablated in paper figure 5).
      tail: plain layers after the last block; nonzero only in networks imported from JaxGCRL.
      remat: save only the blocks' inputs for the backward pass and recompute the rest: less memory for more time, equal
        numbers up to rounding.
      start: the initial parameters, ``paper`` or ``quiet``. In the paper's networks the sum of the blocks grows with
        depth and nothing normalizes it before the heads, so deep actors begin saturated, and deep phi and psi far
        apart. A quiet start divides what each block adds by the number of blocks; and an actor begins with means near
        0 and a wide standard deviation. A training changes these parameters like all others.
      kind: ``residual``, or ``mlp``: a plain chain of layers, whose kernels begin uniform within sqrt(3 / fan-in), as
        in JaxGCRL's SAC and TD3. Theirs have depth 2, width 256, relu and no LayerNorm.
      sphere: keep the kernels on the unit sphere (``crlviz.networks.sphere``), for paper table 2 with ``layer_norm``
        off. A quiet start then leaves kernels in blocks as they are.

    Raises:
      UsageError: a value is out of range.
    """

    depth: int = 4
    width: int = 256
    layer_norm: bool = True
    activation: str = "swish"
    residual: bool = True
    tail: int = 0
    remat: bool = False
    start: str = "paper"
    kind: str = "residual"
    sphere: bool = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UsageError(f"kind {self.kind!r} is unknown; take {' or '.join(KINDS)}")
        if self.width < 1:
            raise UsageError(f"width {self.width}: a layer needs at least one unit")
        if self.activation not in _ACTIVATIONS:
            raise UsageError(f"activation {self.activation!r} is unknown; take {' or '.join(_ACTIVATIONS)}")
        if self.start not in STARTS:
            raise UsageError(f"start {self.start!r} is unknown; take {' or '.join(STARTS)}")
        if self.kind == "mlp":
            self._check_mlp()
        else:
            self._check_blocks()

    def _check_mlp(self) -> None:
        if self.depth < 1:
            raise UsageError(f"depth {self.depth}: an MLP has at least one hidden layer")
        if self.tail or not self.residual:
            raise UsageError("an MLP has neither tail nor skip connections; leave tail and residual as they are")

    def _check_blocks(self) -> None:
        if not 0 <= self.tail < LAYERS_PER_BLOCK:
            raise UsageError(f"tail {self.tail}: a tail has 0 to 3 layers, because four layers make a block")
        in_blocks = self.depth - self.tail
        if in_blocks < LAYERS_PER_BLOCK * (not self.tail) or in_blocks % LAYERS_PER_BLOCK:
            below = max(LAYERS_PER_BLOCK, self.depth - self.depth % LAYERS_PER_BLOCK)
            near = f"{below} or {below + LAYERS_PER_BLOCK}" if self.depth > LAYERS_PER_BLOCK else str(below)
            raise UsageError(f"depth {self.depth} is not a positive multiple of 4 (a block has 4 layers); take {near}")

    @property
    def blocks(self) -> int:
        """Number of residual blocks."""
        return self.depth // LAYERS_PER_BLOCK if self.kind == "residual" else 0

    @property
    def ablation(self) -> str:
        """How it differs from the paper's network: ``full network``, or for example ``no residual, relu``."""
        other = ["MLP"] * (self.kind == "mlp") + ["no residual"] * (not self.residual)
        other += ["no LayerNorm"] * (not self.layer_norm) + [self.activation] * (self.activation != "swish")
        return ", ".join(other + ["hyperspherical"] * self.sphere) or "full network"


class Layer(nn.Module):
    """Dense -> LayerNorm -> activation. ``precision`` is that of the Dense layer; None: the current default."""

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
        return tuple(nn.Dense(size, precision=EXACT, name=f"head_{index}")(x) for index, size in enumerate(self.heads))


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
            hidden[index] = y
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


def initial(config: NetworkConfig, key: jax.Array, shapes: Any) -> Params:
    """Initial parameters: kernels uniform within +-1 / sqrt(fan-in), of an MLP sqrt(3) times that; scales 1, biases 0.

    Kernels of a ``sphere`` are projected. The modules' own ``init`` has a random draw per kernel, which takes XLA twice
    as long to compile as this single draw from which all kernels are cut.
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
    return project(params) if config.sphere else params


def quiet(config: NetworkConfig, params: Params) -> Params:
    """The parameters with each block's output divided by the number of blocks, so that their sum does not grow."""
    if "blocks" not in params or (config.sphere and not config.layer_norm):
        return params
    last = f"layer_{LAYERS_PER_BLOCK - 1}"
    # The LayerNorm undoes any scale before it. Without one the output is about proportional to the kernel.
    layer, (module, name) = params["blocks"][last], ("norm", "scale") if config.layer_norm else ("dense", "kernel")
    scaled = layer[module][name] / config.blocks
    return {**params, "blocks": {**params["blocks"], last: {**layer, module: {**layer[module], name: scaled}}}}


@dataclass(frozen=True)
class Actor:
    """A tanh-Gaussian policy that maps observations [..., state + goal] to actions [..., action] in (-1, 1).

    ``trunk`` is that of ``apply``, ``log_prob`` the form of ``squashing.log_slope``.
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
        params = initial(self.config, key, self.shapes)
        if self.config.start == "paper":
            return params
        kernels = [QUIET_KERNELS * params[head]["kernel"] for head in ("head_0", "head_1")]
        heads = {
            "head_0": {**params["head_0"], "kernel": kernels[0]},
            "head_1": {"kernel": kernels[1], "bias": params["head_1"]["bias"] + QUIET_LOG_STD},
        }
        return {**quiet(self.config, params), **heads}

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
    """The encoders phi(s, a) and psi(g) of a contrastive critic. ``trunk`` is that of ``apply``.

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
        params = initial(self.config, key, self.shapes)
        if self.config.start == "paper":
            return params
        return {name: quiet(self.config, part) for name, part in params.items()}

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
    without_skip = replace(config, residual=False)

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
