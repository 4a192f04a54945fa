"""``crlviz export``: write an agent's networks as safetensors or ONNX, for use without crlviz.

The ONNX graph is built node by node from the parameters. A residual network needs only a few operators, while
exporters that trace JAX depend on about forty packages.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jax
import numpy as np

from crlviz import __version__
from crlviz.algorithms.base import HasEmbeddings
from crlviz.checkpoints import atomic_files
from crlviz.errors import CrlvizError, UsageError
from crlviz.interchange import model_card
from crlviz.networks.config import LAYERS_PER_BLOCK, NetworkConfig
from crlviz.networks.residual import LOG_STD_MAX, LOG_STD_MIN

if TYPE_CHECKING:
    from crlviz.agent import Agent

_OPSET = 17  # the first with LayerNormalization
_IR_VERSION = 8  # released with that opset; older runtimes read it too
_EPSILON = 1e-6  # of LayerNorm, flax's default
_MAX_BYTES = (1 << 31) - (1 << 20)  # limit of a protocol buffers file


@click.command()
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .safetensors or .onnx file.")
@click.option("--card", is_flag=True, help="Write a model card beside it: README.md, as the Hugging Face hub shows it.")
def command(checkpoint: Path, out: Path, card: bool) -> None:
    """Write an agent's actor, phi and psi for use without crlviz.

    NAME.safetensors holds all three. NAME.onnx is the actor, beside it NAME.phi.onnx and NAME.psi.onnx.

    \b
    Example: crlviz export runs/d16 --out agent.onnx
             crlviz export runs/d16 --out d16/agent.safetensors --card
    """
    from crlviz.agent import load

    _check(out, card)
    for path in export(load(checkpoint), out, card=card):
        click.echo(f"wrote {path}")


def export(agent: "Agent", out: str | Path, *, card: bool = False) -> list[Path]:
    """Write an agent's networks as one safetensors file or three ONNX files.

    A safetensors file holds every array under its path (``actor/stem/dense/kernel`` [in, out],
    ``phi/blocks/layer_2/norm/scale`` [depth / 4, width], ``psi/head_0/bias`` [64]); the header's metadata names
    the format, crlviz's version, the configuration (JSON), the environment steps trained and the sizes of state, goal
    and action.

    An ONNX file holds one network, for any number of rows N:

    - ``NAME.onnx``: ``observation`` [N, state + goal] to ``action`` (in (-1, 1)), and ``mean`` and ``log_std``
      before the tanh, all [N, action];
    - ``NAME.phi.onnx``: ``state`` [N, state] and ``action`` [N, action] to ``phi`` [N, 64];
    - ``NAME.psi.onnx``: ``goal`` [N, goal] to ``psi`` [N, 64].

    With ``card`` a README.md beside them tells what the agent is, its scores, and how to load it (``model_card``).

    Returns:
      The paths of the files written.

    Raises:
      UsageError: another ending, no such directory, the onnx package is not installed, ONNX of an algorithm without
        phi and psi, or another README.md where the card belongs.
      CrlvizError: a network is too large for ONNX.
    """
    out = Path(out)
    _check(out, card)
    contents = {out: _safetensors(agent)} if out.suffix == ".safetensors" else _onnx(agent, out)
    if card:
        contents[model_card.path_beside(out)] = model_card.write(agent, out).encode()
    for path, data in contents.items():
        atomic_files.write(path, data)
    return list(contents)


def _check(out: Path, card: bool) -> None:
    if out.suffix not in (".safetensors", ".onnx"):
        raise UsageError(f"cannot tell the format of {out}; end it in .safetensors or .onnx")
    atomic_files.check_writable(out)
    if card:
        model_card.path_beside(out)


def _facts(agent: "Agent") -> dict[str, str]:
    return {
        "format": "crlviz agent 1",
        "crlviz": __version__,
        "config": json.dumps(agent.config),
        "env_steps": str(agent.env_steps),
        "sizes": json.dumps(
            {"state": agent.env.state_dim, "goal": agent.env.goal_dim, "action": agent.env.action_size}
        ),
    }


def _safetensors(agent: "Agent") -> bytes:
    import safetensors.numpy
    from flax.traverse_util import flatten_dict

    tree = dict(agent.params)
    if isinstance(agent.algorithm, HasEmbeddings):
        tree |= tree.pop("critic")  # phi and psi under their own names
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}
    return safetensors.numpy.save(arrays, metadata=_facts(agent))


def _onnx(agent: "Agent", out: Path) -> dict[Path, bytes]:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UsageError("ONNX needs a package that is not installed: pip install 'crlviz[onnx]'") from None
    agent.having(HasEmbeddings)
    env, actor, critic = agent.env, agent.params["actor"], agent.params["critic"]
    state, action, goal = ("state", env.state_dim), ("action", env.action_size), ("goal", env.goal_dim)

    policy = _Graph(actor, agent.actor.config, [("observation", env.observation_size)])
    mean, raw = policy.network("observation")
    policy.output("action", policy.node("Tanh", mean), env.action_size)
    policy.output("mean", mean, env.action_size)
    # log_std = low + (high - low) / 2 * (tanh(raw) + 1)
    half = (LOG_STD_MAX - LOG_STD_MIN) / 2
    scaled = policy.node("Mul", policy.node("Tanh", raw), policy.constant(half))
    policy.output("log_std", policy.node("Add", scaled, policy.constant(LOG_STD_MIN + half)), env.action_size)

    phi = _Graph(critic["phi"], agent.critic.config, [state, action])
    (embedding,) = phi.network(phi.node("Concat", "state", "action", axis=-1))
    phi.output("phi", embedding, phi.width_of("head_0"))
    psi = _Graph(critic["psi"], agent.critic.config, [goal])
    (embedding,) = psi.network("goal")
    psi.output("psi", embedding, psi.width_of("head_0"))
    return {
        out: policy.file(_facts(agent)),
        out.with_suffix(".phi.onnx"): phi.file(_facts(agent)),
        out.with_suffix(".psi.onnx"): psi.file(_facts(agent)),
    }


class _Graph:
    """Builder of an ONNX graph. Values are referred to by the name of the node output that gives them."""

    def __init__(self, params: Any, config: NetworkConfig, inputs: list[tuple[str, int]]):
        self._params, self._config = params, config
        self._inputs = [_rows(name, size) for name, size in inputs]
        self._outputs: list[Any] = []
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._names = (f"v{index}" for index in itertools.count())

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; returns the name of its output."""
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, [name := next(self._names)], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Add a float32 constant; returns its name."""
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name := next(self._names)))
        return name

    def output(self, name: str, value: str, size: int) -> None:
        """Add a graph output [N, size] that gives ``value`` under ``name``."""
        from onnx import helper

        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(_rows(name, size))

    def network(self, x: str) -> list[str]:
        """Add the network applied to ``x``; returns the name of each head's output."""
        layers = self._layers()
        x = self._layer(x, next(layers))
        for _ in range(self._config.blocks):
            y = x
            for _ in range(LAYERS_PER_BLOCK):
                y = self._layer(y, next(layers))
            x = self.node("Add", x, y) if self._config.residual else y
        for layer in layers:
            x = self._layer(x, layer)
        if self._config.norm_before_heads:
            one, zero = (self.constant(np.full(self._config.width, value)) for value in (1, 0))
            x = self.node("LayerNormalization", x, one, zero, axis=-1, epsilon=_EPSILON)
        heads = sorted(name for name in self._params if name.startswith("head_"))
        return [self._dense(x, self._params[name]) for name in heads]

    def width_of(self, head: str) -> int:
        return self._params[head]["bias"].shape[0]

    def file(self, facts: dict[str, str]) -> bytes:
        """The graph as the bytes of an ONNX file, with ``facts`` as its metadata.

        Raises:
          CrlvizError: the graph is larger than 2 GiB.
        """
        import onnx
        from onnx import helper

        if sum(len(constant.raw_data) for constant in self._constants) > _MAX_BYTES:
            raise CrlvizError("an ONNX file holds at most 2 GiB and this network is larger; export to .safetensors")
        graph = helper.make_graph(self._nodes, "crlviz", self._inputs, self._outputs, self._constants)
        versions = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=_IR_VERSION, producer_name="crlviz")
        helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def _layers(self) -> Iterator[Any]:
        """Parameters of each layer in order, unstacked from the scanned blocks."""
        yield self._params["stem"]
        for block in range(self._config.blocks):
            for index in range(LAYERS_PER_BLOCK):
                yield jax.tree.map(lambda leaf, b=block: leaf[b], self._params["blocks"][f"layer_{index}"])
        for index in range(self._config.depth - 1 if "hidden" in self._params else 0):
            yield jax.tree.map(lambda leaf, i=index: leaf[i], self._params["hidden"]["layer"])
        for index in range(self._config.tail):
            yield self._params[f"tail_{index}"]

    def _dense(self, x: str, params: Any) -> str:
        return self.node("Gemm", x, self.constant(params["kernel"]), self.constant(params["bias"]))

    def _layer(self, x: str, params: Any) -> str:
        x = self._dense(x, params["dense"])
        if self._config.layer_norm:
            scale, bias = (self.constant(params["norm"][name]) for name in ("scale", "bias"))
            x = self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)
        if self._config.activation == "relu":
            return self.node("Relu", x)
        return self.node("Mul", x, self.node("Sigmoid", x))


def _rows(name: str, size: int) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])
