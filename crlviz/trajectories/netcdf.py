"""crlviz's own files of trajectories: netCDF, which xarray and other programs read too.

A checksum at the file's end is compared first (``seal``), because the netCDF library can crash on a damaged file.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crlviz.errors import CrlvizError
from crlviz.trajectories import checks, seal
from crlviz.trajectories.data import PER_ROW, Trajectories, header, read_header

if TYPE_CHECKING:
    import netCDF4

_NAMES = {name: name for name in PER_ROW}
_MEANINGS = {
    "state": ("state of the row", "mixed"),
    "action": ("action taken in this state; that of a trajectory's last row is not used", "1"),
    "goal": ("commanded goal", "m"),
    "qpos": ("joint positions", "mixed"),
    "qvel": ("joint velocities", "mixed"),
}
_CHUNK = 1 << 16  # bytes that are read from disk at once


def read(path: Path) -> Trajectories:
    """Read a file: in memory if it takes at most half of what is free, otherwise as netCDF variables, to be sliced.

    Raises:
      CrlvizError: it is damaged, or not of this format.
    """
    import netCDF4

    with checks.one_sentence(path):
        if not seal.check(path):
            raise CrlvizError(
                f"{path} is not a file of trajectories that crlviz wrote, or was changed since: it does not end in "
                "their checksum"
            )
        file = netCDF4.Dataset(path, "r")
        try:
            trajectories = _read(path, file)
        except BaseException:
            file.close()  # the library crashes if a file left open is replaced by another and opened again
            raise
        if isinstance(trajectories.state, np.ndarray):
            file.close()
        return trajectories


def _read(path: Path, file: "netCDF4.Dataset") -> Trajectories:
    """The contents of an open file, checked."""
    file.set_auto_maskandscale(False)
    missing = {"state", "action", "ends"} - set(file.variables)
    if missing or "trajectories" not in file.ncattrs():
        raise CrlvizError(f"{path} is not a file of trajectories: it has no {min(missing, default='header')}")
    arrays: dict[str, Any] = {name: file.variables[name] for name in PER_ROW if name in file.variables}
    checks.check_shapes(path, arrays, _NAMES)
    ends = np.asarray(file.variables["ends"][:], np.int64)
    checks.check_ends(path, ends, arrays["state"].shape[0])
    facts = read_header(file.getncattr("trajectories"))
    if checks.fits(4 * sum(math.prod(array.shape) for array in arrays.values())):
        arrays = {name: np.asarray(array[:], np.float32) for name, array in arrays.items()}
    checks.check_values(path, arrays, _NAMES)
    return Trajectories(ends=ends, source=path, **arrays, **facts)


def blocks(path: Path, rows: int) -> Iterator[Trajectories]:
    """Read whole trajectories in order, about ``rows`` rows at a time. Raises as ``read``."""
    yield from read(path).blocks(rows)


def write(path: Path, blocks: Iterable[Trajectories]) -> None:
    """Write a new file of blocks of whole trajectories, which are not all in memory at once.

    Raises:
      OSError: no space, or no permission.
    """
    import netCDF4

    rows, count = 0, 0
    with checks.disk_errors():
        file = netCDF4.Dataset(path, "w", clobber=False)
    try:
        for block in blocks:
            with checks.disk_errors():
                if not rows:
                    _define(file, block)
                for name, array in block.per_row.items():
                    file.variables[name][rows : rows + block.rows] = np.asarray(array)
                file.variables["ends"][count : count + len(block.ends)] = rows + block.ends
            rows, count = rows + block.rows, count + len(block.ends)
    finally:
        with checks.disk_errors():
            file.close()


def _define(file: "netCDF4.Dataset", block: Trajectories) -> None:
    """Define dimensions, variables and attributes."""
    file.setncattr("trajectories", header(block))
    file.setncattr("env", block.env)
    file.createDimension("row", None)
    file.createDimension("trajectory", None)
    ends = file.createVariable("ends", "i8", ("trajectory",), chunksizes=(1024,))
    ends.setncatts({"long_name": "index of the last row of the trajectory", "units": "1"})
    for name, array in block.per_row.items():
        width = array.shape[1]
        file.createDimension(f"{name}_index", width)
        chunks = (max(1, _CHUNK // (4 * width)), width)
        variable = file.createVariable(name, "f4", ("row", f"{name}_index"), chunksizes=chunks, fill_value=False)
        long_name, units = _MEANINGS[name]
        variable.setncatts({"long_name": long_name, "units": units})
