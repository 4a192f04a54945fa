"""What do the files of the paper's code, and of JaxGCRL, hold? Their settings and parameters in our terms.

Both save a tuple of dicts of arrays (temperature, actor, critic) a checkpoint, and the settings as args.pkl. They name
layers alike; JaxGCRL has as many plain layers as one likes, where the paper's code has whole blocks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crlviz.errors import CrlvizError
from crlviz.interchange import restricted_pickle
from crlviz.networks.residual import EMBEDDING, LAYERS_PER_BLOCK, from_paper_layout

PAPER, JAXGCRL = "the paper's code", "JaxGCRL"
_MOST_SETTINGS = 1 << 20  # bytes
_MOST_PARAMETERS = 4 << 30

# Our settings, and what each code calls them. JaxGCRL's are of its run and of its agent.
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
_OF_CRL = ("learning_rate", "temperature_learning_rate", "logsumexp_penalty")


@dataclass(frozen=True)
class Settings:
    """An args.pkl.

    Attributes:
      path: the file.
      code: which code's.
      config: what it says of the fields of our config; the networks' shapes are in the parameters.
      args: every setting as it was named there.
    """

    path: Path
    code: str
    config: Mapping[str, Any]
    args: Mapping[str, Any]

    @property
    def activation(self) -> str:
        return "relu" if self.args.get("use_relu") else "swish"

    def residual(self, depth: int) -> bool:
        """Whether a network of that depth adds each block's input to its output.

        Raises:
          CrlvizError: it adds them elsewhere than around blocks of four layers.
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
        """Environment steps at the end, as both codes count them: unrolls before learning, and whole epochs of them."""
        ahead, each, count = self._ahead(), self._each(), self.config["evaluations"]
        left = self.config["env_steps"] - _take(self, "min_replay_size", int) * self.config["num_envs"]
        return ahead + left // (count * each) * count * each

    def gradient_steps(self, env_steps: int) -> int | None:
        """Updates by then; None where the settings do not tell."""
        steps, rest = divmod(env_steps - self._ahead(), self._each())
        if self.code != PAPER or rest or steps < 0:
            return None
        return steps * self.config["updates"]

    def _each(self) -> int:
        return self.config["num_envs"] * self.config["unroll"]

    def _ahead(self) -> int:
        return math.ceil(_take(self, "min_replay_size", int) / self.config["unroll"]) * self._each()


class Sizes(NamedTuple):
    """Numbers in a state, a goal and an action."""

    state: int
    goal: int
    action: int


class Shape(NamedTuple):
    """What a trunk's arrays tell of our NetworkConfig."""

    depth: int
    width: int
    layer_norm: bool
    tail: int


@dataclass(frozen=True)
class Parameters:
    """A checkpoint of theirs, in our layout.

    Attributes:
      path: the file.
      actor, critic: trees of arrays.
      log_alpha: logarithm of the temperature.
      sizes: of the environment.
      actor_shape, critic_shape: of the networks.
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
        """What the checkpoints of one run have in common."""
        return self.sizes, self.actor_shape, self.critic_shape

    @property
    def code(self) -> str:
        """Which code's networks these are; those that both could make are the paper's."""
        shapes = (self.actor_shape, self.critic_shape)
        return PAPER if all(shape.layer_norm and not shape.tail for shape in shapes) else JAXGCRL


def read_settings(path: Path) -> Settings:
    """An args.pkl of either code.

    Raises:
      CrlvizError: it is damaged, asks for more than settings, or is of neither code.
    """
    content = restricted_pickle.read(path, _MOST_SETTINGS)
    code, args = PAPER, content
    if isinstance(content, dict) and {"run", "agent"} <= content.keys():
        code, args = JAXGCRL, {}
        for part in (content["run"], content["agent"]):
            args |= part if isinstance(part, dict) else {}
    if not isinstance(args, dict) or _NAMES[code]["env"][0] not in args:
        raise CrlvizError(f"{path} does not hold the settings of {PAPER} or of {JAXGCRL}")
    plain = {name: value for name, value in args.items() if _plain(value) and not name.startswith("wandb")}
    raw = Settings(path, code, {}, plain)
    values = {ours: _take(raw, theirs, kind) for ours, (theirs, kind) in _NAMES[code].items()}
    config = {name: value for name, value in values.items() if name not in _OF_CRL}
    entropy = _take(raw, "entropy_param", float) if code == PAPER else 0.5
    config["crl"] = {name: values[name] for name in _OF_CRL}
    config["crl"] |= {"initial_temperature": 1.0, "entropy_per_dimension": -entropy}
    config["redraw_goals"] = False
    for name in ("num_envs", "unroll", "batch_size", "evaluations"):
        if config[name] < 1:
            raise CrlvizError(f"{path} is damaged: {_NAMES[code][name][0]} is {config[name]}")
    if code == PAPER:
        batches = config["num_envs"] * (config["episode_length"] - 1) // config["batch_size"]
        config["updates"] = min(batches, _take(raw, "num_sgd_batches_per_training_step", int))
    elif plain.get("energy_fn", "norm") != "norm":
        raise CrlvizError(f"{path} has the critic {plain['energy_fn']!r}; crlviz's is minus the distance, 'norm'")
    return Settings(path, code, config, plain)


def read_parameters(path: Path) -> Parameters:
    """A step_*.pkl or final.pkl of either code.

    Raises:
      CrlvizError: it is damaged, asks for more than arrays, or does not hold such networks.
    """
    content = restricted_pickle.read(path, _MOST_PARAMETERS)
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
    # An array may stand in many places of a pickle at the cost of one; written out, each would take its room.
    if sum(part.bytes for part in parts) > path.stat().st_size:
        raise CrlvizError(f"{path} is damaged: it uses arrays more than once")
    own, phi, psi = parts
    action, goal = own.outputs[0], psi.inputs
    sizes = Sizes(own.inputs - goal, goal, action)
    if own.outputs != [action] * 2 or phi.inputs != sizes.state + action or phi.shape != psi.shape or sizes.state < 1:
        raise CrlvizError(f"{path} is damaged: its networks do not fit each other")
    if phi.outputs + psi.outputs != [EMBEDDING] * 2:
        raise CrlvizError(f"{path} has embeddings of {phi.outputs[0]} numbers; crlviz's have {EMBEDDING}")
    if not all(part.finite for part in parts) or not np.isfinite(log_alpha):
        raise CrlvizError(f"{path} holds numbers that are not finite: that training blew up; import the steps before")
    critic = {"phi": phi.tree(), "psi": psi.tree()}
    return Parameters(path, own.tree(), critic, log_alpha, sizes, own.shape, phi.shape)


class _Layers:
    """One network as they name it, checked: ``Dense_0`` .. of fitting shapes, a LayerNorm after each, or none."""

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
            raise CrlvizError(f"{path} is damaged: its {name} is no network of Dense and LayerNorm layers") from None
        self.shape = Shape(count - 1, width, norms > 0, (count - 1) % LAYERS_PER_BLOCK)
        self.bytes = sum(value.nbytes for value in arrays)
        self._arrays = arrays

    @property
    def finite(self) -> bool:
        return all(np.isfinite(value).all() for value in self._arrays)

    def tree(self) -> dict[str, Any]:
        plain = {
            layer: {leaf: np.asarray(value, np.float32) for leaf, value in leaves.items()}
            for layer, leaves in self._layers.items()
        }
        return from_paper_layout(plain, self._heads)


def _plain(value: Any) -> bool:
    """Whether JSON can hold a setting: no containers, no infinities, nothing of absurd length."""
    if isinstance(value, str):
        return len(value) < 200
    return value is None or (isinstance(value, (int, float)) and abs(value) < 1e15)


def _take(settings: Settings, name: str, kind: Callable[[Any], Any]) -> Any:
    """A setting, if it is of the kind that it should be."""
    value = settings.args.get(name)
    if kind is str and value is None:  # no other environment for evaluation
        return ""
    if kind is str and isinstance(value, str):
        return value
    if kind is not str and isinstance(value, (int, float)) and kind(value) == value:
        return kind(value)
    raise CrlvizError(
        f"{settings.path} is damaged: {name} is not a {'text' if kind is str else 'number'} that it can be"
    )
