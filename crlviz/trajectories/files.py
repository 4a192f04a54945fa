"""Read and write trajectories. The format follows from the file extension, the ``minari:`` prefix or the directory."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.checked_json import errors_reading
from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import minari_files, netcdf, npz, seal
from crlviz.trajectories.data import Trajectories

_FORMATS: dict[str, ModuleType] = {".nc": netcdf, ".npz": npz}
ENDINGS = tuple(_FORMATS)
_MINARI = f"{minari_files.PREFIX}NAME-v0"
_ROWS = 1 << 16  # of a block


def read(path: str | Path) -> Trajectories:
    """Read trajectories: OGBench's ``.npz``, crlviz's ``.nc``, ``minari:NAME-v0`` or a directory of Minari.

    No code from the file is executed.

    The rows are in memory if they take at most half of what is free. Otherwise they are mapped from an ``.npz`` that is
    not compressed, or are netCDF variables. Every number is checked, so a file is read through once.

    Raises:
      UsageError: a name with another ending.
      CrlvizError: there is no such file; or it is damaged, of other contents, or too large and compressed.
    """
    path, kind = _known(path)
    return kind.read(path)


def blocks(path: str | Path, rows: int = _ROWS) -> Iterator[Trajectories]:
    """Read whole trajectories in order, about ``rows`` rows at a time, in memory.

    Files may have any size. Compressed files larger than memory, which ``read`` refuses, are read too.

    Raises:
      UsageError, CrlvizError: as ``read``; also later than at the first block.
    """
    path, kind = _known(path)
    yield from kind.blocks(path, rows)


def write(path: str | Path, trajectories: Trajectories | Iterable[Trajectories]) -> None:
    """Write a file atomically: ``.npz``, which OGBench reads too, ``.nc``, or ``minari:NAME-v0``.

    Args:
      path: of the file.
      trajectories: at once, or in blocks of whole trajectories that have the same arrays; the file's ``env``,
        ``made`` and ``goal_indices`` are those of the first block.

    Raises:
      UsageError: a name with another ending, or in no directory.
      CrlvizError: it cannot be written.
    """
    path = Path(path)
    check_writable(path)
    kind = _format(path)
    parts = trajectories.blocks(_ROWS) if isinstance(trajectories, Trajectories) else trajectories
    if kind is minari_files:
        kind.write(path, parts)
        return
    with atomic_files.temporary_file(path) as temporary:
        kind.write(temporary, parts)
        seal.append(temporary)


def are(path: str | Path) -> bool:
    """Whether a name is that of a file of trajectories, or of a data set of Minari."""
    path = Path(path)
    return path.suffix in _FORMATS or minari_files.is_name(path) or (path / "data" / "metadata.json").is_file()


def checked(path: str | Path) -> Path:
    """Read a whole file, block by block, for its faults; returns its path. Raises as ``read``."""
    for _ in blocks(path):
        pass
    return Path(path)


def size(path: str | Path) -> int:
    """Bytes of a file, or of the files in a data set's directory."""
    path = Path(path)
    if path.suffix in _FORMATS:
        return path.stat().st_size
    return sum(file.stat().st_size for file in minari_files.folder(path).rglob("*"))


def check_writable(path: str | Path) -> None:
    """Check that ``write`` can write there, before anything is computed.

    Raises:
      UsageError, CrlvizError: as ``write``.
    """
    path = Path(path)
    if minari_files.is_name(path):
        minari_files.check_writable(path)
    elif path.suffix in _FORMATS:
        atomic_files.check_writable(path)
    else:
        raise UsageError(
            f"{path}: trajectories are written to a name that ends in {' or '.join(ENDINGS)}, or to {_MINARI}"
        )


def validation(path: str | Path) -> Path | None:
    """The file of held-out trajectories beside a file, as OGBench names it: ``NAME-val.npz``; None: there is none."""
    path = Path(path)
    return twin if path.suffix in _FORMATS and (twin := _twin(path)).is_file() else None


def check_split(path: str | Path, share: float, count: int | None) -> None:
    """Check that ``split`` can be done, before the file is made. ``count``: of trajectories; None: not known yet.

    Raises:
      UsageError: the file has a twin already; or the share leaves either file without a trajectory.
    """
    twin = _twin(Path(path))
    if twin.exists():
        raise UsageError(f"{twin} exists already")
    if count is not None and not 0 < round(share * count) < count:
        raise UsageError(f"a share of {share:g} of {count:,} trajectories leaves one of the two files without any")


def split(path: str | Path, share: float, seed: int = 0) -> Path:
    """Write a share of a file's trajectories, drawn at random, to its twin ``NAME-val``, and the others in its place.

    Returns:
      The path of the twin.

    Raises:
      UsageError: as ``check_split``.
      CrlvizError: a file cannot be read or written.
    """
    path = Path(path)
    count = sum(len(block.ends) for block in blocks(path))
    check_split(path, share, count)
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(seed).permutation(count)[: round(share * count)]] = True
    twin = _twin(path)
    write(twin, _those(path, chosen))
    write(path, _those(path, ~chosen))
    return twin


def _those(path: Path, chosen: np.ndarray) -> Iterator[Trajectories]:
    """The chosen trajectories of a file, in blocks."""
    first = 0
    for block in blocks(path):
        mine = np.flatnonzero(chosen[first : first + len(block.ends)])
        first += len(block.ends)
        if len(mine):
            yield block.only(mine)


def _twin(path: Path) -> Path:
    if path.suffix not in _FORMATS:
        raise UsageError(f"{path}: only files that end in {' or '.join(ENDINGS)} have a twin")
    return path.with_name(f"{path.stem}-val{path.suffix}")


def _format(path: Path) -> ModuleType:
    """The module of a format, by the name."""
    if path.suffix in _FORMATS:
        return _FORMATS[path.suffix]
    if minari_files.is_name(path) or path.is_dir():
        return minari_files
    raise UsageError(f"{path}: a file of trajectories ends in {' or '.join(ENDINGS)}, or it is {_MINARI}")


def _known(path: str | Path) -> tuple[Path, Any]:
    """The path of an existing file or data set, and the module of its format."""
    path = Path(path)
    kind = _format(path)
    if kind is not minari_files:
        with errors_reading(path):
            path.stat()
        if not path.is_file():
            raise CrlvizError(f"{path} is not a file")
    return path, kind
