"""Choose between the fused path of the networks (``crlviz.networks.fused_trunk``) and the plain one.

Only a test on the GPU shows whether it runs the kernels, and how fast. So before a run compiles its programs, it
compares the outputs and gradients of its networks, and the time, on both paths. A resumed run takes the same path as
before if the kind of device is the same.
"""

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.algorithms import registry
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import apply
from crlviz.precision import within
from training.config import TrainConfig
from training.run.building import build
from training.sharding import ONE, Devices

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

# Largest difference of the outputs, and of the gradients of actor and encoders, from the plain path's, relative to
# their norm. Rounding errors grow through a network, and those of the plain path are as large.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
_WIDEST = 1_024  # a row of a wider layer does not fit the registers
TRITON = "jax.experimental.pallas.triton"
_SECONDS = 0.5  # of timing, for each path


@dataclass(frozen=True)
class Choice:
    """What a run uses.

    Attributes:
      trunk: the kernels; None: the plain path.
      why: the reason, as a sentence; empty where there was nothing to choose.
    """

    trunk: "FusedTrunk | None" = None
    why: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """For config.json: ``used`` and ``why``."""
        return {"used": self.trunk is not None, "why": self.why}


def choose(config: TrainConfig, devices: Devices = ONE) -> Choice:
    """Choose for a config; its setting ``fused`` demands a path or leaves the choice open.

    Raises:
      UsageError: the setting asks for kernels that do not support this config, do not run on this device or do not
        agree with the plain path; or an error of ``building.build``.
    """
    on_cpu = _on_cpu()
    if config.fused == "off" or (config.fused == "auto" and on_cpu):
        return Choice()
    reason = "the kernels run on NVIDIA GPUs, and this is a CPU" if on_cpu else unserved(config, devices)
    if not reason:
        try:
            return _tried(config)
        except _Unfit as error:
            reason = str(error)
    if config.fused == "on":
        raise UsageError(f"fused=on: {reason}; take fused=auto")
    return Choice(None, f"plain path: {reason}")


def again(config: TrainConfig, content: Mapping[str, Any], devices: Devices = ONE) -> Choice:
    """The choice for a resumed run: its last one, unless the device has changed.

    Args:
      config: the run's config.
      content: its config.json. A run from before there was this choice used the plain path.
      devices: those that train the run.

    Raises:
      UsageError: an error of ``choose``.
    """
    last = [content, *content.get("resumed", [])][-1]
    if last.get("device") != jax.devices()[0].device_kind:
        return choose(config, devices)
    record = last.get("fused", {"used": False, "why": ""})
    if record["used"] and (reason := unserved(config, devices)):
        return Choice(None, f"plain path: {reason}")
    return Choice(_kernels(config) if record["used"] else None, record["why"])


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def expected(config: TrainConfig) -> Choice:
    """The choice for a plan made without a GPU; the run itself checks the kernels and may refuse them."""
    reason = "fused=off" if config.fused == "off" else unserved(config)
    if reason:
        return Choice(None, f"plain path: {reason}")
    return Choice(_kernels(config), "fused path, if the check at the start of a run finds that it agrees and is faster")


def unserved(config: TrainConfig, devices: Devices = ONE) -> str:
    """Why the kernels do not support a config; empty if they do."""
    if importlib.util.find_spec(TRITON) is None:
        return f"jax {jax.__version__} has no {TRITON}, which the kernels are written in"
    if not registry.of(config.algorithm).fused:
        return f"the fused path does not support the networks of {config.algorithm}"
    if not config.own.fused:
        return "the fused path supports only one critic and the actor loss sac"
    if config.dataset.path or config.teacher.path:
        return "the fused path supports only runs that learn from their own buffer"
    if devices.count > 1:
        return "the fused path runs on one device"
    if max(config.actor.width, config.critic.width) > _WIDEST:
        return f"the fused path supports a width of at most {_WIDEST:,}"
    for name, network in {"actor": config.actor, "critic": config.critic}.items():
        if reason := _unserved_network(network):
            return f"the fused path does not support {name} networks with {reason}"
    return ""


def _unserved_network(network: NetworkConfig) -> str:
    if network.ablation != "full network":
        return network.ablation
    return "a tail" if network.tail else "remat" if network.remat else ""


class _Unfit(Exception):
    """The kernels do not run here, or do not agree."""


def _kernels(config: TrainConfig) -> "FusedTrunk":
    from crlviz.networks.fused_trunk import FusedTrunk

    return FusedTrunk(config.precision)


def _tried(config: TrainConfig) -> Choice:
    """Compare both paths."""
    kernels = _kernels(config)
    plain, reference = _measured(config, None)
    try:
        fused, ours = _measured(config, kernels)
    except Exception as error:  # whatever a compiler or driver does not like
        lines = str(error).strip().splitlines() or [""]
        raise _Unfit(f"the fused path does not run here ({type(error).__name__}: {lines[0][:200]})") from error
    difference = max(map(_difference, ours, reference))
    if not difference <= TOLERANCE[config.precision]:  # NaN is a failure too
        raise _Unfit(f"the fused path's numbers differ from those of the plain path by {difference:.1g} of their norm")
    times = f"forward and backward {1e3 * fused:.2f} ms, plain {1e3 * plain:.2f} ms"
    if fused > plain and config.fused == "auto":
        return Choice(None, f"plain path: faster here than the fused path ({times})")
    return Choice(kernels, f"fused path: {times}; results differ by {difference:.1g} of their norm")


def _measured(config: TrainConfig, trunk: "FusedTrunk | None") -> tuple[float, Any]:
    """Shortest seconds of a pass through all networks and back, and its results.

    The networks are new and their inputs random. The results are the outputs of actor and encoders, and the gradients
    of their randomly weighted sum with respect to all parameters. Gradients of the losses are unsuitable: for saturated
    actions of a deep actor, log(1 - a^2) magnifies float32 rounding to 1 % of the gradient's norm on either path.
    """
    algorithm: Any = build(config, trunk=trunk).algorithm
    actor, critic = algorithm.actor, algorithm.critic
    params = jax.jit(lambda key: (actor.init(key), critic.init(key)))(jax.random.key(config.seed))
    # With numpy: jax would compile this.
    draw = np.random.default_rng(config.seed).standard_normal
    sizes = actor.observation_size, critic.state_size + critic.action_size, critic.goal_size
    inputs = [jnp.asarray(draw((config.batch_size, size), np.float32)) for size in sizes]
    weights = [
        [jnp.asarray(draw((config.batch_size, size), np.float32)) for size in network.heads]
        for network in (actor.network, critic.network, critic.network)
    ]

    def weighted(params: Any, inputs: Any, weights: Any) -> Any:
        shapes, parts = (actor.network, critic.network, critic.network), (params[0], params[1]["phi"], params[1]["psi"])
        outputs = apply(trunk, list(zip(shapes, parts, inputs, strict=True)))
        return sum(map(jnp.vdot, jax.tree.leaves(outputs), jax.tree.leaves(weights))), outputs

    def both_ways(*arguments: Any) -> Any:
        with within(config.precision):
            (_, outputs), gradients = jax.value_and_grad(weighted, has_aux=True)(*arguments)
        return outputs, *gradients

    program = jax.jit(both_ways).lower(params, inputs, weights).compile()
    result = jax.block_until_ready(program(params, inputs, weights))
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(program(params, inputs, weights))
        times.append(time.perf_counter() - start)
    return min(times), jax.device_get(result)


def _difference(ours: Any, theirs: Any) -> float:
    """Norm of the difference of two trees of arrays, relative to that of the second."""

    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(tree))))

    return norm(jax.tree.map(np.subtract, ours, theirs)) / norm(theirs)
