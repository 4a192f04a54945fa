"""What a file of trajectories must hold, in any format."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crlviz.errors import CrlvizError
from crlviz.escaping import printable

_LARGEST_ACTION = 2.0  # actions are in [-1, 1]; a little more may be unclipped noise, more is another scale
_ASSUMED = 4 << 30  # bytes of free memory where no system call tells
_BLOCK = 1 << 24  # bytes that are checked at once


@contextlib.contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Turn any error of a library that reads a damaged file into a CrlvizError of one sentence.

    The libraries (zipfile, zlib, numpy, netCDF, HDF5) document no complete list of what they raise.
    """
    try:
        yield
    except CrlvizError:
        raise
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {printable(error.strerror or error)}") from None
    except MemoryError:
        raise CrlvizError(f"{path} cannot be read: its arrays do not fit in memory") from None
    except Exception as error:
        reason = printable(error)[:200] or type(error).__name__
        raise CrlvizError(f"{path} is damaged: {reason}") from None


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an error of a library that writes a file into an OSError: they raise a RuntimeError on a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{printable(error)[:100]}; is the disk full?") from None


def check_shapes(path: Path, arrays: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Check dtypes and shapes of the row arrays.

    Args:
      path: of the file, for messages.
      arrays: by name, as in ``Trajectories.per_row``; anything with ``shape`` and ``dtype``.
      names: name of each in the file.

    Raises:
      CrlvizError: an array is not [rows, numbers] of floats, or the arrays differ in length.
    """
    for name, array in arrays.items():
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
        if len(shape) > 2:
            raise CrlvizError(
                f"{path}: {names[name]} have shape {shape}, as images have; only [rows, numbers] are read"
            )
        if len(shape) != 2 or not shape[1]:
            raise CrlvizError(f"{path} is damaged: {names[name]} have shape {shape} instead of [rows, numbers]")
        if dtype.kind != "f" or dtype.itemsize not in (4, 8):
            raise CrlvizError(f"{path}: {names[name]} are {dtype.name}; only float32 and float64 are read")
    lengths = {names[name]: array.shape[0] for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise CrlvizError(f"{path} is damaged: its arrays differ in their number of rows: {listed}")


def check_ends(path: Path, ends: np.ndarray, rows: int) -> None:
    """Check the last rows of trajectories.

    Raises:
      CrlvizError: no trajectory, one without a transition, or rows that belong to none.
    """
    if not len(ends):
        raise CrlvizError(f"{path} is damaged: no row is marked as the end of a trajectory")
    if ends[-1] != rows - 1:
        raise CrlvizError(f"{path} is damaged: its last row, {rows - 1:,}, does not end a trajectory; rows are missing")
    if np.any(short := np.diff(ends, prepend=-1) < 2):
        row = int(ends[short.argmax()])
        raise CrlvizError(f"{path} is damaged: the trajectory that ends at row {row:,} has no transition")


def check_values(path: Path, arrays: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Check that numbers are finite and actions in range, a block at a time.

    Raises:
      CrlvizError: a number is not finite, or an action is far outside [-1, 1].
    """
    for name, array in arrays.items():
        step = max(1, _BLOCK // (4 * array.shape[1]))
        for first in range(0, array.shape[0], step):
            block = np.asarray(array[first : first + step])
            limit = _LARGEST_ACTION if name == "action" else np.inf
            # True for NaN too. An infinite number is not below infinity.
            bad = ~(np.abs(block) <= limit) if name == "action" else ~np.isfinite(block)
            if bad.any():
                row, column = np.argwhere(bad)[0]
                value = block[row, column]
                what = "is far outside [-1, 1]" if np.isfinite(value) else "is not finite"
                raise CrlvizError(f"{path}: {names[name]} hold {value:g} at row {first + row:,}, which {what}")


def free_memory() -> int:
    """Bytes of memory that are free or can be freed."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(AttributeError, ValueError):  # systems that tell only how much there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return _ASSUMED


def fits(size: int) -> bool:
    """Whether arrays of this size in bytes may be loaded: they take at most half of the free memory."""
    return size <= free_memory() // 2
