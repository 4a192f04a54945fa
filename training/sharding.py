"""Which devices train a run together, and what of it does each one hold?

Environments, their part of replay and the rows of every batch are shared out evenly; networks, optimizers and random
keys are whole on each. The functions of a run skip what they are: it is said where arrays lie, and jax's partitioner
splits the programs accordingly and adds what devices must tell each other, so InfoNCE has the goals of the whole batch
as its negatives and a gradient is that of the whole batch. The numbers are those of one device but for the order in
which sums are added up.

How many devices there are is the machine's affair, not a setting of the run: a run goes on with any number of them.
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
    """Devices that train together, those of other processes included.

    Attributes:
      mesh: of several; None: one device, where every function here leaves programs and arrays as they are.
    """

    mesh: Mesh | None = None

    @property
    def count(self) -> int:
        return self.mesh.size if self.mesh else 1

    def sharding(self, axis: int | None = None) -> Any:
        """The sharding of an array that is shared out along an axis, or whole on each device; None of one device."""
        if self.mesh is None:
            return None
        return NamedSharding(self.mesh, PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, _AXIS))

    def shard_rows(self, tree: Any) -> Any:
        """Inside a program: arrays [rows, ...] with their rows shared out, where these divide evenly."""
        if self.mesh is None or any(leaf.shape[0] % self.count for leaf in jax.tree.leaves(tree)):
            return tree
        return jax.lax.with_sharding_constraint(tree, self.sharding(0))

    def replicate(self, tree: Any) -> Any:
        """Inside a program: arrays that each device needs whole."""
        return tree if self.mesh is None else jax.lax.with_sharding_constraint(tree, self.sharding())

    def per_device(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Inside a program: a function of arrays [rows, ...] that does each row by itself, done by each device for its
        own rows. The partitioner would see to most of that, but has devices talk in the midst of some physics.
        """
        if self.mesh is None:
            return function
        rows = PartitionSpec(_AXIS)
        return jax.shard_map(function, mesh=self.mesh, in_specs=rows, out_specs=rows, check_vma=False)

    def device_put(self, value: np.ndarray, place: NamedSharding | None) -> jax.Array:
        """An array of the host's, which nobody changes from here on, on the devices, as ``sharding`` says.

        Of several processes each has the same array and puts what its own devices hold.
        """
        if place is None:
            return jnp.array(value)  # a copy of jax's own, which training may write in
        return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

    def device_put_keys(self, keys: jax.Array) -> jax.Array:
        """Random keys, whole on each device."""
        if self.mesh is None:
            return keys
        return jax.random.wrap_key_data(self.device_put(np.asarray(jax.random.key_data(keys)), self.sharding()))

    def check(self, num_envs: int, batch_size: int) -> None:
        """Whether so many environments and rows of a batch can be shared out.

        Raises:
          UsageError: they do not divide evenly.
        """
        for name, value in {"num_envs": num_envs, "batch_size": batch_size}.items():
            if value % self.count:
                raise UsageError(
                    f"{name} is {value}, which {self.count} devices cannot share evenly; give a multiple of "
                    f"{self.count}, or other --devices"
                )


ONE = Devices()


def chosen(count: str) -> Devices:
    """The devices of ``--devices``.

    Args:
      count: how many of those there are, or ``all``: those of every process.

    Raises:
      UsageError: no such number, or more than there are.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        widen()
    found = jax.devices()
    if count != "all" and not (count.isdecimal() and int(count)):
        raise UsageError(f"--devices takes a number from 1 on, or all, not {count!r}")
    wanted = len(found) if count == "all" else int(count)
    if wanted > len(found):
        sentence = f"--devices {wanted}: jax finds {len(found)} here ({found[0].device_kind})"
        if found[0].platform == "cpu":
            sentence += f"; to try several on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        raise UsageError(sentence)
    return Devices(Mesh(np.array(found[:wanted]), (_AXIS,)) if wanted > 1 else None)


def widen() -> None:
    """Have jax's CPU devices wait for each other in more threads than there are cores; jax reads it when it starts.

    Of several things that devices tell each other in a program, each begins with whichever comes first. With a thread
    for each device they can all wait for ever, each for what another has not begun.
    """
    os.environ.setdefault("NPROC", "64")


def gathered(leaf: jax.Array) -> jax.Array:
    """An array whose whole this process can read: of one shared out over processes, a copy whole on each device."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return jax.jit(_same, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)  # type: ignore[attr-defined]


def _same(leaf: jax.Array) -> jax.Array:
    return leaf
