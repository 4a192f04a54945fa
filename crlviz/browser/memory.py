"""Tensors of a program in JavaScript: the addresses of their elements in two heaps, one of float32, one of int32.

An operation that only moves elements (slice, transpose, broadcast, a gather with known indices) is a change of
addresses at emission. It costs nothing when the program runs.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CONSTANTS = 1 << 30  # addresses of constants begin here until the size of the workspace, which they follow, is known


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor that is known only when the program runs.

    Attributes:
      dtype: float32, or a whole number or bool, which the heap of int32 holds.
      index: addresses of its elements, an array of the tensor's shape.
      base: what is added to the addresses, a Value [] or of the tensor's shape (a gather); None: nothing is added.
      extent: all addresses that a Value with a base may read.
    """

    dtype: np.dtype
    index: np.ndarray
    base: "Value | None" = None
    extent: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.index.shape

    @property
    def heap(self) -> str:
        return heap_of(self.dtype)

    @property
    def touched(self) -> np.ndarray:
        """Addresses that reading it may read."""
        return self.index.ravel() if self.extent is None else self.extent

    @property
    def scattered(self) -> bool:
        """Whether each element has a base of its own."""
        return self.base is not None and self.base.shape != ()

    def moved(self, index: np.ndarray) -> "Value":
        """The Value of elements at other addresses of the same tensor; not for a scattered one."""
        return Value(self.dtype, index, self.base, self.extent)


Tensor = Value | np.ndarray  # an array is a constant


def heap_of(dtype: Any) -> str:
    """``F`` for float32, ``I`` for whole numbers and bool."""
    return "F" if np.dtype(dtype).kind == "f" else "I"


def strides_of(index: np.ndarray) -> tuple[int, ...] | None:
    """Strides [dims] of addresses: an element's address is the first address plus strides * indices; None: not strided.

    The stride of a dimension of length 1 is 0.
    """
    if not index.size:
        return (0,) * index.ndim
    first = index.flat[0]
    origin = (0,) * index.ndim
    strides = tuple(
        int(index[(*origin[:d], 1, *origin[d + 1 :])] - first) if index.shape[d] > 1 else 0 for d in range(index.ndim)
    )
    expected = np.full(index.shape, first, np.int64)
    for d, stride in enumerate(strides):
        expected += stride * np.arange(index.shape[d]).reshape(-1, *(1,) * (index.ndim - d - 1))
    return strides if np.array_equal(expected, index) else None


@dataclass
class Memory:
    """The two heaps: sizes of their workspaces, and their constants."""

    sizes: dict[str, int] = field(default_factory=lambda: {"F": 0, "I": 0})
    constants: dict[str, list[np.ndarray]] = field(default_factory=lambda: {"F": [], "I": []})
    _counts: dict[str, int] = field(default_factory=lambda: {"F": 0, "I": 0})
    _known: dict[tuple[str, bytes], int] = field(default_factory=dict)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Value:
        """A new Value with its elements in order in the workspace."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape))
        start = self.sizes[heap_of(dtype)]
        self.sizes[heap_of(dtype)] += size
        return Value(dtype, np.arange(start, start + size, dtype=np.int32).reshape(shape))

    def constant(self, array: np.ndarray) -> Value:
        """The Value of a constant; equal ones are kept once."""
        start = self._place(heap_of(array.dtype), array)
        addresses = np.arange(start, start + array.size, dtype=np.int32)
        return Value(array.dtype, CONSTANTS + addresses.reshape(array.shape))

    def _place(self, heap: str, array: np.ndarray) -> int:
        stored = np.ascontiguousarray(array, np.float32 if heap == "F" else _whole(array.dtype)).ravel()
        if heap == "I":
            stored = stored.view(np.int32)
        key = heap, hashlib.sha256(stored.tobytes()).digest()
        if key not in self._known:
            self._known[key] = self._counts[heap]
            self.constants[heap].append(stored)
            self._counts[heap] += stored.size
        return self._known[key]

    def table(self, offsets: np.ndarray) -> int:
        """The final address in the heap of int32 of a table of offsets. All of the workspace must be allocated."""
        return self.sizes["I"] + self._place("I", offsets.astype(np.int32))

    def final(self, heap: str, index: np.ndarray) -> np.ndarray:
        """Addresses when the program runs."""
        return np.where(index >= CONSTANTS, index - CONSTANTS + self.sizes[heap], index).astype(np.int64)


def _whole(dtype: np.dtype) -> Any:
    return np.uint32 if dtype == np.uint32 else np.int32
