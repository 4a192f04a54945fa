"""Data-parallel training over several devices: which arrays are sharded and which are replicated.

Environments, their part of the buffer and the rows of every batch are sharded evenly; networks, optimizers and random
keys are replicated. The training functions do not change: they declare the shardings of their arrays, and jax's
partitioner splits the programs and inserts the collectives. So InfoNCE uses the goals of the whole batch as negatives,
and each gradient covers the whole batch. Results equal the results on one device up to the order of summation.

The number of devices is not a setting of the run: a run resumes on any number of devices.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crlviz.errors import UsageError

_AXIS = "data"


@dataclass(frozen=True)
class Devices:
    """The devices that train a run, including those of other processes.

    Attributes:
      mesh: mesh of several devices. None: one device, where every method leaves programs and arrays unchanged.
    """

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        """Number of devices."""
        return self.mesh.size if self.mesh else 1

    def sharding(self, axis: int | None = None) -> Any:
        """Sharding of an array that is split along ``axis``, or replicated if that is None. None for one device."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, _AXIS))

    def shard_rows(self, tree: Any) -> Any:
        """Inside jit: shard arrays [rows, ...] by rows; unchanged if their number does not divide evenly."""
        if self.mesh is None or any(leaf.shape[0] % self.count for leaf in jax.tree.leaves(tree)):
            return tree
        return jax.lax.with_sharding_constraint(tree, self.sharding(0))

    def replicate(self, tree: Any) -> Any:
        """Inside jit: replicate arrays on all devices."""
        return tree if self.mesh is None else jax.lax.with_sharding_constraint(tree, self.sharding())

    def per_device(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Inside jit: have each device apply a row-wise function of arrays [rows, ...] to its own rows.

        The partitioner could do most of this, but it inserts communication inside some physics steps.
        """
        if self.mesh is None:
            return function
        rows = PartitionSpec(_AXIS)
        return jax.shard_map(function, mesh=self.mesh, in_specs=rows, out_specs=rows, check_vma=False)

    def device_put(self, value: np.ndarray, sharding: NamedSharding | None) -> jax.Array:
        """Copy a host array to the devices with a sharding of ``Devices.sharding``. Do not change the array afterwards.

        With several processes each has the same array and puts the shards of its own devices.
        """
        if sharding is None:
            return jnp.array(value)  # jax's own copy, which training may donate
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    def device_put_keys(self, keys: jax.Array) -> jax.Array:
        """Random keys, replicated on all devices."""
        if self.mesh is None:
            return keys
        return jax.random.wrap_key_data(self.device_put(np.asarray(jax.random.key_data(keys)), self.sharding()))

    def check(self, num_envs: int, batch_size: int) -> None:
        """Check that the devices can share the environments and the rows of a batch evenly.

        Raises:
          UsageError: one of the two is not a multiple of the number of devices.
        """
        for name, value in {"num_envs": num_envs, "batch_size": batch_size}.items():
            if value % self.count:
                raise UsageError(
                    f"{name} is {value}, which {self.count} devices cannot share evenly; give a multiple of "
                    f"{self.count}, or other --devices"
                )


ONE = Devices()


def select(count: str) -> Devices:
    """The devices that ``--devices`` selects.

    Args:
      count: a number of devices as text, or ``all`` for those of every process.

    Raises:
      UsageError: not a positive number, or more than there are.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        widen()
    available = jax.devices()
    if count != "all" and not (count.isdecimal() and int(count)):
        raise UsageError(f"--devices takes a number from 1 on, or all, not {count!r}")
    wanted = len(available) if count == "all" else int(count)
    if wanted > len(available):
        sentence = f"--devices {wanted}: jax finds {len(available)} here ({available[0].device_kind})"
        if available[0].platform == "cpu":
            sentence += f"; to try several on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        raise UsageError(sentence)
    return Devices(Mesh(np.array(available[:wanted]), (_AXIS,)) if wanted > 1 else None)


def widen() -> None:
    """Give jax's CPU devices more threads than cores for their collectives. Call it before jax starts.

    A program's collectives may start in a different order on each device. With only one thread for each device they can
    deadlock, each waiting for a collective that another has not started.
    """
    os.environ.setdefault("NPROC", "64")


def gathered(leaf: jax.Array) -> jax.Array:
    """The array in a form that this process can read in full: replicated first if it is sharded over processes."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return jax.jit(_identity, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)  # type: ignore[attr-defined]


def _identity(leaf: jax.Array) -> jax.Array:
    return leaf
