"""OGBench's files of trajectories: numpy's ``.npz`` with observations, actions and terminals.

Nothing is unpickled. Each member is checked by the zip file's checksum of it.
"""

import contextlib
import math
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from crlviz.errors import CrlvizError
from crlviz.trajectories import checks, seal
from crlviz.trajectories.data import Trajectories, block_ends, header, read_header

# Names in the file. "goals" and "crlviz", a JSON text, are crlviz's; other readers ignore them.
NAMES = {"state": "observations", "action": "actions", "goal": "goals", "qpos": "qpos", "qvel": "qvel"}
_TERMINALS, _FACTS = "terminals", "crlviz"
_MOST_FACTS = 1 << 20  # bytes
_PIECE = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class _Member:
    """An array in the zip file: a stream of its bytes, which begins at the first row."""

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype
    compressed: bool
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return self.dtype.itemsize * math.prod(self.shape)

    def take(self, rows: int) -> np.ndarray:
        """The next rows [rows, ...]; float64 becomes float32. The last ones check the member's checksum."""
        size = self.dtype.itemsize * math.prod((rows, *self.shape[1:]))
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            piece = self.stream.read(min(_PIECE, size - done))
            if not piece:
                raise ValueError(f"{self.name} end early")
            view[done : done + len(piece)] = piece
            done += len(piece)
        array = np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
        return array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array


def read(path: Path) -> Trajectories:
    """Read a file: in memory if it takes at most half of what is free, otherwise as memory maps.

    Raises:
      CrlvizError: it is damaged, not of this format, or compressed and too large for memory.
    """
    with _opened(path) as (members, ends, facts):
        size = sum(member.size for member in members.values())
        compressed = any(member.compressed for member in members.values())
        arrays: dict[str, Any]
        if checks.fits(size):
            arrays = {name: member.take(member.shape[0]) for name, member in members.items()}
        elif compressed or any(member.dtype != np.float32 for member in members.values()):
            why = "is compressed" if compressed else "holds numbers of 8 bytes"
            raise CrlvizError(
                f"{path} {why} and takes {size / 2**30:.1f} GiB, more than half of the free memory; convert it "
                f"once with: crlviz record --from {path} --out {path.with_suffix('.nc')}"
            )
        else:
            for member in members.values():  # reading to the end compares the checksum
                while member.stream.read(_PIECE):
                    pass
            arrays = {
                name: np.memmap(path, np.float32, "r", member.offset, member.shape) for name, member in members.items()
            }
        checks.check_values(path, arrays, NAMES)
        return Trajectories(ends=ends, source=path, **arrays, **facts)


def blocks(path: Path, rows: int) -> Iterator[Trajectories]:
    """Read whole trajectories in order, about ``rows`` rows at a time; also from a file larger than memory.

    Raises:
      CrlvizError: as ``read``.
    """
    with _opened(path) as (members, ends, facts):
        begin = 0
        for last in block_ends(ends, rows):
            count = int(ends[last - 1]) + 1 - begin
            arrays: dict[str, Any] = {name: member.take(count) for name, member in members.items()}
            checks.check_values(path, arrays, NAMES)
            own = ends[(ends >= begin) & (ends < begin + count)] - begin
            yield Trajectories(ends=own, source=path, **arrays, **facts)
            begin += count


def write(path: Path, blocks: Iterable[Trajectories]) -> None:
    """Write a new file of blocks of whole trajectories, which are not all in memory at once. Not compressed.

    Raises:
      OSError: no space, or no permission.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    first = None
    with contextlib.ExitStack() as stack:
        parts: dict[str, IO[bytes]] = {}
        for block in blocks:
            terminals = np.zeros(block.rows, np.float32)
            terminals[block.ends] = 1
            arrays = {NAMES[name]: np.asarray(array) for name, array in block.per_row.items()}
            for name, array in (arrays | {_TERMINALS: terminals}).items():
                if first is None:  # a file beside ``path`` for each array, as its number of rows is not known yet
                    parts[name] = stack.enter_context(open(path.with_name(f"{name}.raw"), "w+b"))
                    shapes[name] = (0, *array.shape[1:])
                parts[name].write(np.ascontiguousarray(array, np.float32).data)
                shapes[name] = (shapes[name][0] + len(array), *shapes[name][1:])
            first = first or block
        assert first is not None
        with zipfile.ZipFile(path, "x") as file:
            for name, part in parts.items():
                part.seek(0)
                with _new_member(file, name, shapes[name], "<f4") as member:
                    shutil.copyfileobj(part, member, _PIECE)
            text = header(first).encode()
            with _new_member(file, _FACTS, (len(text),), "|u1") as member:
                member.write(text)


def _new_member(file: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: str) -> IO[bytes]:
    """A member of the zip file to write an array's bytes to; its header is written."""
    member = file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    facts = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, facts)
    return member


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[dict[str, _Member], np.ndarray, dict[str, Any]]]:
    """Open a file: its row arrays, the last rows of its trajectories, and the other fields of ``Trajectories``."""
    with checks.one_sentence(path):
        sealed = seal.check(path)
        with zipfile.ZipFile(path) as file, contextlib.ExitStack() as stack:
            found = [info.filename for info in file.infolist()]
            for info in file.infolist():
                file.open(info).close()  # compares the name in the archive's directory with that of the member
            if len(set(found)) < len(found):
                raise CrlvizError(f"{path} is damaged: it holds two arrays of one name")
            for name in (NAMES["state"], NAMES["action"], _TERMINALS):
                if f"{name}.npy" not in found:
                    raise CrlvizError(f"{path} has no {name}: it is not a file of trajectories, as OGBench's are")
            members = {field: _open(path, file, name, stack) for field, name in NAMES.items() if f"{name}.npy" in found}
            checks.check_shapes(path, members, NAMES)
            rows = members["state"].shape[0]
            ends = _ends(path, _open(path, file, _TERMINALS, stack), rows)
            facts: dict[str, Any] = {}
            if f"{_FACTS}.npy" in found:
                if not sealed:
                    raise CrlvizError(f"{path} was changed since it was written: its checksum is gone")
                facts = _facts(_open(path, file, _FACTS, stack))
            yield members, ends, facts


def _open(path: Path, file: zipfile.ZipFile, name: str, stack: contextlib.ExitStack) -> _Member:
    """Open a member and read its header. The size in the header must equal the number of bytes in the file."""
    info = file.getinfo(f"{name}.npy")
    stream = stack.enter_context(file.open(info))
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise CrlvizError(f"{path} is damaged: {name} have a header of version {version[0]}.{version[1]}")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise CrlvizError(f"{path}: {name} hold Python objects, which could run code; they are not read")
    if fortran and len(shape) > 1:
        raise CrlvizError(f"{path}: {name} are stored by column; only arrays stored by row are read")
    compressed = info.compress_type != zipfile.ZIP_STORED
    begun = stream.tell()
    if dtype.itemsize * math.prod(shape) != info.file_size - begun:
        raise CrlvizError(f"{path} is damaged: {name} do not have the size given in their header")
    # A zip file's own header of a member: 30 bytes, then the name and extra fields whose lengths end it.
    offset = 0
    if not compressed:
        with open(path, "rb") as raw:
            raw.seek(info.header_offset + 26)
            lengths = np.frombuffer(raw.read(4), "<u2")
        offset = info.header_offset + 30 + int(lengths.sum()) + begun
    return _Member(name, stream, tuple(shape), dtype, compressed, offset)


def _ends(path: Path, member: _Member, rows: int) -> np.ndarray:
    """Last rows of trajectories, from the array that is 1 there and 0 elsewhere."""
    if member.shape != (rows,):
        raise CrlvizError(f"{path} is damaged: terminals have shape {member.shape}, observations have {rows:,} rows")
    if member.dtype.kind not in "fbiu" or member.dtype.itemsize > 8:
        raise CrlvizError(f"{path}: terminals are {member.dtype.name}, not numbers")
    values = member.take(rows)
    if not np.all((values == 0) | (values == 1)):
        raise CrlvizError(f"{path} is damaged: terminals must be 0, or 1 on the last row of a trajectory")
    ends = np.flatnonzero(values).astype(np.int64)
    checks.check_ends(path, ends, rows)
    return ends


def _facts(member: _Member) -> dict[str, Any]:
    """Environment, goal indices and origin, from our JSON text."""
    if member.dtype.kind != "u" or member.size > _MOST_FACTS:
        raise ValueError("crlviz is not a text")
    return read_header(member.take(member.shape[0]).tobytes())
