"""The data set of a run: which rows are trained on, which are held out, and which are on the device.

The held-out trajectories are those of the file ``NAME-val.npz`` beside ``NAME.npz``, as in OGBench. If that file is
missing, every twentieth trajectory of the file itself is held out.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from crlviz import envs
from crlviz.checkpoints import checked_arrays, checked_json
from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import files
from crlviz.trajectories.data import Trajectories
from training.dataset_config import DatasetConfig
from training.loop.recorded import Recorded

_EACH = 20  # one of this many trajectories is held out
_HELD_ROWS = 200_000  # held-out rows that are scored, at most


@dataclass(frozen=True, eq=False)
class Part:
    """Trajectories of a file that are read as they are needed.

    Attributes:
      whole: the file's.
      chosen: numbers of those that belong to the part, ascending.
    """

    whole: Trajectories
    chosen: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Rows of each trajectory of the part."""
        return self.whole.lengths[self.chosen] + 1

    @property
    def row_bytes(self) -> int:
        """Bytes of a row on the device."""
        return 4 * (self.whole.state.shape[1] + self.whole.action.shape[1])

    def read(self, which: Sequence[int] | np.ndarray, rows: int | None = None) -> Recorded:
        """Trajectories of the part by their places in ``chosen``, padded with zeros to a number of rows."""
        numbers, starts = self.chosen[np.asarray(which)], self.whole.starts
        ends = np.cumsum(self.whole.lengths[numbers] + 1) - 1
        count = rows or int(ends[-1]) + 1
        state, action = (
            np.zeros((count, array.shape[1]), np.float32) for array in (self.whole.state, self.whole.action)
        )
        for number, end in zip(numbers, ends, strict=True):
            first, last = int(starts[number]), int(self.whole.ends[number]) + 1
            place = slice(int(end) + 1 - (last - first), int(end) + 1)
            state[place], action[place] = self.whole.state[first:last], self.whole.action[first:last]
        arrays: tuple[Any, ...] = state, action, ends.astype(np.int32)
        return Recorded(*arrays)


@dataclass(frozen=True)
class Source:
    """The parts of a data set that are trained on and held out."""

    trained: Part
    held_out: Part

    def held(self) -> Recorded:
        """The held-out trajectories, or as many as have 200,000 rows."""
        fit = max(1, int(np.searchsorted(np.cumsum(self.held_out.lengths), _HELD_ROWS, side="right")))
        return self.held_out.read(np.arange(min(fit, len(self.held_out.chosen))))

    def block(self, step: int, trajectories: int, rows: int) -> Recorded:
        """Trajectories for a training step, drawn anew without replacement, padded to ``rows``."""
        drawn = np.random.default_rng([step, 1]).permutation(len(self.trained.chosen))[:trajectories]
        return self.trained.read(np.sort(drawn), rows)


def describe(path: str | Path) -> DatasetConfig:
    """The settings that follow from a file; its goal is the whole state unless the file says otherwise.

    Raises:
      CrlvizError: it cannot be read.
    """
    path = Path(path)
    of = files.read(path)
    size = of.state.shape[1]
    indices = tuple(range(size)) if of.goal_indices is None else tuple(map(int, of.goal_indices))
    return DatasetConfig(
        path=str(path),
        sha256=_digest(path, _stamp(path)),
        rows=of.rows,
        trajectories=len(of.ends),
        name=of.env or path.stem,
        random=_random(of.made),
        state=size,
        action=of.action.shape[1],
        goal_indices=indices,
    )


def _random(made: Mapping[str, Any]) -> bool:
    """Whether a file says that all its actions are random."""
    sources = made.get("sources")
    if not isinstance(sources, list) or not sources:
        return False
    return all(isinstance(each, Mapping) and each.get("policy") == "random" for each in sources)


def found(path: Path, env: str | None) -> tuple[DatasetConfig, str]:
    """The settings of a file, and the environment of the evaluations; empty: there is none.

    Args:
      path: the file.
      env: environment id; None: the one that made the file, if it is known here.

    Raises:
      CrlvizError: the file cannot be read.
      UsageError: there is no such environment.
    """
    config = describe(path)
    if env is None:
        try:
            envs.check(config.name)
        except UsageError:
            return config, ""
        env = config.name
    body = envs.env_class(env)
    indices: Any = getattr(body, "goal_indices", None)
    return (replace(config, goal_indices=tuple(indices)) if indices else config), env


def source(config: DatasetConfig) -> Source:
    """The parts of the data set of a run.

    Raises:
      CrlvizError: its file cannot be read, or is another one than when the run began.
      UsageError: there is nothing to hold out.
    """
    path = Path(config.path)
    whole = files.read(path)
    if _digest(path, _stamp(path)) != config.sha256:
        raise CrlvizError(f"{path} has changed since this run began: its SHA-256 differs")
    numbers = np.arange(len(whole.ends))
    if twin := files.validation(path):
        held = files.read(twin)
        if (held.state.shape[1], held.action.shape[1]) != (config.state, config.action):
            raise CrlvizError(f"{twin} has states or actions of other lengths than {path}")
        return Source(Part(whole, numbers), Part(held, np.arange(len(held.ends))))
    if len(numbers) < 2:
        raise UsageError(f"{path} holds one trajectory; at least two are needed, because one is held out")
    out = numbers % _EACH == _EACH - 1 if len(numbers) >= _EACH else numbers == len(numbers) - 1
    return Source(Part(whole, numbers[~out]), Part(whole, numbers[out]))


def block_of(part: Part, config: DatasetConfig, limit: int | None) -> tuple[int, int] | None:
    """Trajectories and rows of a block; None if all rows are on the device at once.

    Args:
      part: what is trained on.
      config: the settings.
      limit: bytes of the device's memory; None: this machine's.

    Raises:
      UsageError: not even one trajectory fits.
    """
    memory = limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lengths = part.lengths
    rows = config.block_rows
    if not rows and lengths.sum() * part.row_bytes <= memory / 2:
        return None
    rows = rows or int(memory / 4 / part.row_bytes)
    if rows >= lengths.sum():
        return None
    count = int(rows // lengths.max())
    if not count:
        raise UsageError(
            f"dataset.block_rows: a trajectory has up to {lengths.max():,} rows, more than the {rows:,} rows of a "
            "block on the device"
        )
    return count, count * int(lengths.max())


def _stamp(path: Path) -> tuple[int, int]:
    """The size and modification time of a path, used to detect changes."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _digest(path: Path, stamp: tuple[int, int]) -> str:
    """The SHA-256 of a file, or of all files of a directory. It is cached for as long as the stamp does not change."""
    if not path.is_dir():
        return checked_arrays.digest(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    parts = {each.relative_to(path).as_posix(): checked_arrays.digest(each) for each in files}
    return checked_json.digest(parts)
