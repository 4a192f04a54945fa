"""Choose between the fused path of the networks (``crlviz.networks.fused_trunk``) and the plain one.

Whether a GPU runs the kernels, and how fast, shows only on that GPU. So a run checks them before it compiles its
programs: gradients of one batch against those of the plain path, and the time of both. A resumed run takes what it took
before, on the same kind of device.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.errors import UsageError
from crlviz.networks.residual import NetworkConfig
from crlviz.precision import within
from training.config import TrainConfig
from training.run.compiled import build
from training.sharding import ONE, Devices

if TYPE_CHECKING:
    from crlviz.algorithms.crl import CRL
    from crlviz.networks.fused_trunk import FusedTrunk

# Largest difference of all gradients from the plain path's, relative to their norm. Rounding errors grow through a
# network, and those of the plain path are as large.
TOLERANCE = {"float32": 1e-3, "tf32": 5e-2, "bfloat16": 3e-1}
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
    """Choose for a config, whose setting ``fused`` asks for a path or leaves the choice open.

    Raises:
      UsageError: the setting asks for kernels that cannot serve this config, or do not run or agree on this device; or
        an error of ``compiled.build``.
    """
    on_cpu = jax.default_backend() == "cpu"
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
      content: its config.json. A run of before there was a choice used the plain path.
      devices: those that train the run.

    Raises:
      UsageError: an error of ``choose``.
    """
    last = [content, *content.get("resumed", [])][-1]
    if last.get("device") != jax.devices()[0].device_kind:
        return choose(config, devices)
    record = last.get("fused", {"used": False, "why": ""})
    return Choice(_kernels(config) if record["used"] else None, record["why"])


def expected(config: TrainConfig) -> Choice:
    """What a run on a GPU will try, for a plan made without one: there it checks the kernels and may refuse them."""
    reason = "fused=off" if config.fused == "off" else unserved(config)
    if reason:
        return Choice(None, f"plain path: {reason}")
    return Choice(_kernels(config), "fused path, if the check at the start of a run finds that it agrees and is faster")


def unserved(config: TrainConfig, devices: Devices = ONE) -> str:
    """Why the kernels cannot serve a config; empty if they can."""
    if devices.count > 1:
        return "the fused path runs on one device"
    for name, network in {"actor": config.actor, "critic": config.critic}.items():
        if reason := _unserved_network(network):
            return f"the fused path does not serve {name} networks with {reason}"
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
    """Compare both paths on a batch, with new networks."""
    plain = build(config).algorithm
    key = jax.random.key(config.seed)
    learner = jax.jit(plain.init)(key)
    sizes = plain.critic.state_size, plain.critic.action_size, plain.critic.goal_size
    # With numpy: jax would compile this.
    draw = np.random.default_rng(config.seed).standard_normal
    batch = [jnp.asarray(draw((config.batch_size, size), np.float32)) for size in sizes]
    reference, plain_seconds = _measured(config, plain, learner, key, batch)
    try:
        kernels = _kernels(config)
        gradients, seconds = _measured(config, build(config, trunk=kernels).algorithm, learner, key, batch)
    except Exception as error:  # whatever a compiler or driver does not like
        lines = str(error).strip().splitlines() or [""]
        raise _Unfit(f"the fused path does not run here ({type(error).__name__}: {lines[0][:200]})") from error
    difference = _difference(gradients, reference)
    if not difference <= TOLERANCE[config.precision]:  # NaN is no agreement
        raise _Unfit(
            f"gradients of the fused path differ from those of the plain path by {difference:.1g} of their norm"
        )
    times = f"fused {1e3 * seconds:.2f} ms, plain {1e3 * plain_seconds:.2f} ms for the gradients of a batch"
    if seconds > plain_seconds and config.fused == "auto":
        return Choice(None, f"plain path, which is faster: {times}")
    return Choice(kernels, f"fused path: {times}, differing by {difference:.1g} of their norm")


def _measured(config: TrainConfig, algorithm: "CRL", learner: Any, key: jax.Array, batch: Any) -> tuple[Any, float]:
    """The gradients of a batch, and the shortest seconds that they took."""

    def gradients(*arguments: Any) -> Any:
        with within(config.precision):
            return algorithm.gradients(*arguments)[0]

    compiled = jax.jit(gradients).lower(learner, key, *batch).compile()
    result = jax.block_until_ready(compiled(learner, key, *batch))
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(compiled(learner, key, *batch))
        times.append(time.perf_counter() - start)
    return result, min(times)


def _difference(ours: Any, theirs: Any) -> float:
    """Norm of the difference of two trees of arrays, relative to the second's, whichever network it is largest for."""

    def norm(tree: Any) -> float:
        return float(np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in jax.tree.leaves(tree))))

    pairs = zip(*(jax.device_get(tree) for tree in (ours, theirs)), strict=True)
    return max(norm(jax.tree.map(np.subtract, mine, other)) / (norm(other) or 1.0) for mine, other in pairs)
