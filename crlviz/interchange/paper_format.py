"""Read settings and parameters that the paper's code or JaxGCRL saved, in the terms of crlviz.

Both save each checkpoint as a tuple of dicts of arrays (temperature, actor, critic), and the settings as args.pkl.
They use the same layer names. JaxGCRL allows any number of layers; the paper's code has complete residual blocks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from crlviz.errors import CrlvizError
from crlviz.interchange import restricted_pickle
from crlviz.networks.config import LAYERS_PER_BLOCK
from crlviz.networks.residual import EMBEDDING

PAPER, JAXGCRL = "the paper's code", "JaxGCRL"
_MAX_SETTINGS = 1 << 20  # bytes
_MAX_PARAMETERS = 4 << 30  # bytes

# Setting in crlviz to (name, type) in each code. JaxGCRL's come from its run config and its agent.
_NAMES = {
    PAPER: {
        "env": ("env_id", str), "eval_env": ("eval_env_id", str), "seed": ("seed", int),
        "learning_rate": ("actor_lr", float), "temperature_learning_rate": ("alpha_lr", float),
        "logsumexp_penalty": ("logsumexp_penalty_coeff", float),
        "num_envs": ("num_envs", int), "unroll": ("unroll_length", int), "batch_size": ("batch_size", int),
        "gamma": ("gamma", float), "replay_steps": ("max_replay_size", int), "window": ("episode_length", int),
        "env_steps": ("total_env_steps", int), "evaluations": ("num_epochs", int),
        "eval_episodes": ("num_eval_envs", int), "episode_length": ("episode_length", int),
    },
    JAXGCRL: {
        "env": ("env", str), "eval_env": ("eval_env", str), "seed": ("seed", int),
        "learning_rate": ("policy_lr", float), "temperature_learning_rate": ("alpha_lr", float),
        "logsumexp_penalty": ("logsumexp_penalty_coeff", float),
        "num_envs": ("num_envs", int), "unroll": ("unroll_length", int), "batch_size": ("batch_size", int),
        "gamma": ("discounting", float), "replay_steps": ("max_replay_size", int), "window": ("episode_length", int),
        "env_steps": ("total_env_steps", int), "evaluations": ("num_evals", int),
        "eval_episodes": ("num_eval_envs", int), "episode_length": ("episode_length", int),
    },
}  # fmt: skip
_CRL_SETTINGS = ("learning_rate", "temperature_learning_rate", "logsumexp_penalty")


@dataclass(frozen=True)
class Settings:
    """Contents of an args.pkl.

    Attributes:
      path: the file.
      code: ``PAPER`` or ``JAXGCRL``.
      config: the fields of crlviz's config that it gives; the networks' shapes come from the parameters instead.
      args: every setting under its original name.
    """

    path: Path
    code: str
    config: Mapping[str, Any]
    args: Mapping[str, Any]

    @property
    def activation(self) -> str:
        return "relu" if self.args.get("use_relu") else "swish"

    def residual(self, depth: int) -> bool:
        """Whether a network of this depth has residual connections.

        Raises:
          CrlvizError: its skip connections are not around blocks of four layers.
        """
        if self.code == PAPER:
            return True
        every = _take(self, "skip_connections", int)
        if every and every != LAYERS_PER_BLOCK and every <= depth:
            raise CrlvizError(
                f"{self.path} has skip connections every {every} layers; crlviz's networks have them every "
                f"{LAYERS_PER_BLOCK} or not at all"
            )
        return every == LAYERS_PER_BLOCK

    def last_step(self) -> int:
        """Environment steps at the end of training, as both codes count them: the prefill, then complete epochs."""
        prefill, per_step, epochs = self._prefill(), self._steps_per_unroll(), self.config["evaluations"]
        remaining = self.config["env_steps"] - _take(self, "min_replay_size", int) * self.config["num_envs"]
        return prefill + remaining // (epochs * per_step) * epochs * per_step

    def gradient_steps(self, env_steps: int) -> int | None:
        """Updates after this many environment steps; None if the settings do not determine them."""
        training_steps, remainder = divmod(env_steps - self._prefill(), self._steps_per_unroll())
        if self.code != PAPER or remainder or training_steps < 0:
            return None
        return training_steps * self.config["updates"]

    def _steps_per_unroll(self) -> int:
        """Environment steps of one training step, in all environments together."""
        return self.config["num_envs"] * self.config["unroll"]

    def _prefill(self) -> int:
        """Environment steps before the first update."""
        return math.ceil(_take(self, "min_replay_size", int) / self.config["unroll"]) * self._steps_per_unroll()


class Sizes(NamedTuple):
    """Dimensions of state, goal and action."""

    state: int
    goal: int
    action: int


class Shape(NamedTuple):
    """The fields of NetworkConfig that a trunk's arrays determine."""

    depth: int
    width: int
    layer_norm: bool
    tail: int


@dataclass(frozen=True)
class Parameters:
    """A checkpoint of either code, in the parameter layout of crlviz.

    Attributes:
      path: the file.
      actor, critic: trees of arrays.
      log_alpha: logarithm of the temperature, [].
      sizes: dimensions of the environment.
      actor_shape, critic_shape: shapes of the networks.
    """

    path: Path
    actor: Mapping[str, Any]
    critic: Mapping[str, Any]
    log_alpha: np.ndarray
    sizes: Sizes
    actor_shape: Shape
    critic_shape: Shape

    @property
    def shapes(self) -> tuple[Sizes, Shape, Shape]:
        """Everything that must be equal among the checkpoints of one run."""
        return self.sizes, self.actor_shape, self.critic_shape

    @property
    def code(self) -> str:
        """The code that saved the networks, ``PAPER`` or ``JAXGCRL``; ``PAPER`` if both could have."""
        shapes = (self.actor_shape, self.critic_shape)
        return PAPER if all(shape.layer_norm and not shape.tail for shape in shapes) else JAXGCRL


def read_settings(path: Path) -> Settings:
    """Read an args.pkl of either code.

    Raises:
      CrlvizError: the file is damaged, holds more than settings, or comes from neither code.
    """
    content = restricted_pickle.read(path, _MAX_SETTINGS)
    code, args = PAPER, content
    if isinstance(content, dict) and {"run", "agent"} <= content.keys():
        code, args = JAXGCRL, {}
        for part in (content["run"], content["agent"]):
            args |= part if isinstance(part, dict) else {}
    if not isinstance(args, dict) or _NAMES[code]["env"][0] not in args:
        raise CrlvizError(f"{path} does not hold the settings of {PAPER} or of {JAXGCRL}")
    plain = {name: value for name, value in args.items() if _is_plain(value) and not name.startswith("wandb")}
    raw = Settings(path, code, {}, plain)
    values = {ours: _take(raw, theirs, kind) for ours, (theirs, kind) in _NAMES[code].items()}
    config = {name: value for name, value in values.items() if name not in _CRL_SETTINGS}
    entropy = _take(raw, "entropy_param", float) if code == PAPER else 0.5
    config["crl"] = {name: values[name] for name in _CRL_SETTINGS}
    config["crl"] |= {"initial_temperature": 1.0, "entropy_per_dimension": -entropy}
    config["redraw_goals"] = False
    for name in ("num_envs", "unroll", "batch_size", "evaluations"):
        if config[name] < 1:
            raise CrlvizError(f"{path} is damaged: {_NAMES[code][name][0]} is {config[name]}")
    if code == PAPER:
        batches = config["num_envs"] * (config["episode_length"] - 1) // config["batch_size"]
        config["updates"] = min(batches, _take(raw, "num_sgd_batches_per_training_step", int))
    elif plain.get("energy_fn", "norm") != "norm":
        raise CrlvizError(f"{path} has the energy function {plain['energy_fn']!r}; crlviz has only 'norm'")
    return Settings(path, code, config, plain)


def read_parameters(path: Path) -> Parameters:
    """Read a step_*.pkl or final.pkl of either code.

    Raises:
      CrlvizError: the file is damaged, holds more than arrays, or holds networks that crlviz does not support.
    """
    content = restricted_pickle.read(path, _MAX_PARAMETERS)
    try:
        alpha, actor, critic = content
        log_alpha = np.asarray(alpha["log_alpha"], np.float32).reshape(())
        trees = (actor["params"], critic["sa_encoder"]["params"], critic["g_encoder"]["params"])
    except (TypeError, ValueError, KeyError, IndexError):
        raise CrlvizError(f"{path} does not hold a temperature, an actor and a critic's two encoders") from None
    parts = [
        _Layers(path, name, tree, heads)
        for name, tree, heads in zip(("actor", "sa_encoder", "g_encoder"), trees, (2, 1, 1), strict=True)
    ]
    # A pickle can reference one array many times; our files would store a copy for each.
    if sum(part.bytes for part in parts) > path.stat().st_size:
        raise CrlvizError(f"{path} is damaged: it uses arrays more than once")
    policy, phi, psi = parts
    action, goal = policy.outputs[0], psi.inputs
    sizes = Sizes(policy.inputs - goal, goal, action)
    heads = [action] * 2
    if policy.outputs != heads or phi.inputs != sizes.state + action or phi.shape != psi.shape or sizes.state < 1:
        raise CrlvizError(f"{path} is damaged: its networks do not fit each other")
    if phi.outputs + psi.outputs != [EMBEDDING] * 2:
        raise CrlvizError(f"{path} has embeddings of {phi.outputs[0]} numbers; crlviz's have {EMBEDDING}")
    if not all(part.finite for part in parts) or not np.isfinite(log_alpha):
        raise CrlvizError(f"{path} holds numbers that are not finite: training diverged; import an earlier step")
    critic = {"phi": phi.tree(), "psi": psi.tree()}
    return Parameters(path, policy.tree(), critic, log_alpha, sizes, policy.shape, phi.shape)


class _Layers:
    """One network in flax's automatic names, checked: ``Dense_0``, ``Dense_1``, ... and all or no LayerNorms."""

    def __init__(self, path: Path, name: str, layers: Any, heads: int):
        self._layers, self._heads = layers, heads

        def array(layer: str, leaf: str, *shape: int) -> np.ndarray:
            value = layers[layer][leaf]
            if value.dtype.kind != "f" or value.shape != shape:
                raise ValueError(leaf)
            return value

        try:
            count = sum(layer.startswith("Dense_") for layer in layers) - heads
            norms = len(layers) - count - heads
            width = layers["Dense_0"]["bias"].size
            self.inputs = layers["Dense_0"]["kernel"].shape[0]
            self.outputs = [layers[f"Dense_{count + k}"]["bias"].size for k in range(heads)]
            arrays = []
            for index, size in enumerate([width] * count + self.outputs):
                inputs = width if index else self.inputs
                arrays += [array(f"Dense_{index}", "kernel", inputs, size), array(f"Dense_{index}", "bias", size)]
            for index in range(norms):
                arrays += [array(f"LayerNorm_{index}", leaf, width) for leaf in ("scale", "bias")]
            if norms not in (0, count) or count < 2 or not width or sum(map(len, layers.values())) != len(arrays):
                raise ValueError(name)
        except (TypeError, ValueError, KeyError, AttributeError, IndexError):
            message = f"{path} is damaged: its {name} is not a network of Dense and LayerNorm layers"
            raise CrlvizError(message) from None
        self.shape = Shape(count - 1, width, norms > 0, (count - 1) % LAYERS_PER_BLOCK)
        self.bytes = sum(value.nbytes for value in arrays)
        self._arrays = arrays

    @property
    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return all(np.isfinite(value).all() for value in self._arrays)

    def tree(self) -> dict[str, Any]:
        """The parameters in the layout of crlviz, as float32."""
        layers = {
            layer: {leaf: np.asarray(value, np.float32) for leaf, value in leaves.items()}
            for layer, leaves in self._layers.items()
        }
        return from_paper_layout(layers, self._heads)


def _is_plain(value: Any) -> bool:
    """Whether JSON can hold a setting: no containers, no infinities, no very long text."""
    if isinstance(value, str):
        return len(value) < 200
    return value is None or (isinstance(value, (int, float)) and abs(value) < 1e15)


def _take(settings: Settings, name: str, kind: Callable[[Any], Any]) -> Any:
    """A setting, converted to its type.

    Raises:
      CrlvizError: it is missing or has another type.
    """
    value = settings.args.get(name)
    if kind is str and value is None:  # no separate evaluation environment
        return ""
    if kind is str and isinstance(value, str):
        return value
    if kind is not str and isinstance(value, (int, float)) and kind(value) == value:
        return kind(value)
    raise CrlvizError(f"{settings.path} is damaged: {name} is not {'text' if kind is str else 'a valid number'}")


def from_paper_layout(layers: Mapping[str, Mapping[str, Any]], heads: int) -> dict[str, Any]:
    """Convert the parameters of a network of the paper's code or of JaxGCRL.

    Args:
      layers: ``Dense_0`` .. ``Dense_{n + heads}`` (kernel, bias) and ``LayerNorm_0`` .. ``LayerNorm_n`` (scale, bias),
        where n is the depth; ``LayerNorm_*`` are absent in networks without LayerNorm.
      heads: number of Dense layers at the end that are output heads: 2 for an actor, 1 for an encoder.

    Returns:
      Parameters of a ``ResidualNetwork`` of that depth.
    """
    hidden = sum(name.startswith("Dense_") for name in layers) - heads
    in_blocks = hidden - 1 - (hidden - 1) % LAYERS_PER_BLOCK

    def layer(index: int) -> dict[str, Any]:
        dense = {"dense": dict(layers[f"Dense_{index}"])}
        norm = layers.get(f"LayerNorm_{index}")
        return dense | ({"norm": dict(norm)} if norm else {})

    tree = {"stem": layer(0)}
    blocks = [
        {f"layer_{k}": layer(first + k) for k in range(LAYERS_PER_BLOCK)}
        for first in range(1, in_blocks, LAYERS_PER_BLOCK)
    ]
    if blocks:
        tree["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    tree |= {f"tail_{k}": layer(index) for k, index in enumerate(range(in_blocks + 1, hidden))}
    return tree | {f"head_{k}": dict(layers[f"Dense_{hidden + k}"]) for k in range(heads)}
