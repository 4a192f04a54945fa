"""Reading and writing of trajectories, by the ending of the file's name."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.checked_json import errors_reading
from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import netcdf, npz, seal
from crlviz.trajectories.data import Trajectories

_FORMATS: dict[str, ModuleType] = {".nc": netcdf, ".npz": npz}
ENDINGS = tuple(_FORMATS)
_ROWS = 1 << 16  # of a block


def read(path: str | Path) -> Trajectories:
    """Read trajectories: ``.npz`` of OGBench or ``.nc`` of ours. Nothing that the file holds is run.

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

    Of files of any size, also of those that ``read`` refuses: compressed and larger than memory.

    Raises:
      UsageError, CrlvizError: as ``read``; also later than at the first block.
    """
    path, kind = _known(path)
    yield from npz.blocks(path, rows) if kind is npz else kind.read(path).blocks(rows)


def write(path: str | Path, trajectories: Trajectories | Iterable[Trajectories]) -> None:
    """Write a file atomically: ``.npz``, which OGBench reads too, or ``.nc``.

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
    with atomic_files.temporary_file(path) as temporary:
        kind.write(temporary, parts)
        seal.append(temporary)


def are(path: str | Path) -> bool:
    """Whether a name is that of a file of trajectories."""
    return Path(path).suffix in _FORMATS


def checked(path: str | Path) -> Path:
    """Read a whole file, block by block, for its faults; returns its path. Raises as ``read``."""
    for _ in blocks(path):
        pass
    return Path(path)


def size(path: str | Path) -> int:
    """Bytes of a file."""
    return Path(path).stat().st_size


def check_writable(path: str | Path) -> None:
    """Check that ``write`` can write there, before anything is computed.

    Raises:
      UsageError, CrlvizError: as ``write``.
    """
    _format(Path(path))
    atomic_files.check_writable(Path(path))


def validation(path: str | Path) -> Path | None:
    """The file of held-out trajectories beside a file, as OGBench names it: ``NAME-val.npz``; None: there is none."""
    twin = _twin(Path(path))
    return twin if twin.is_file() else None


def check_split(path: str | Path, share: float, count: int | None) -> None:
    """Check that ``split`` can be done, before the file is made. ``count`` trajectories; None: not known yet.

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
    return path.with_name(f"{path.stem}-val{path.suffix}")


def _format(path: Path) -> ModuleType:
    if path.suffix not in _FORMATS:
        raise UsageError(f"{path}: a file of trajectories ends in {' or '.join(ENDINGS)}")
    return _FORMATS[path.suffix]


def _known(path: str | Path) -> tuple[Path, Any]:
    """A path of a regular file, and the module of its format."""
    path = Path(path)
    kind = _format(path)
    with errors_reading(path):
        path.stat()
    if not path.is_file():
        raise CrlvizError(f"{path} is not a file")
    return path, kind
