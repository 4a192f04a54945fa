"""Trajectories of one environment, as arrays of rows."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PER_ROW = ("state", "action", "goal", "qpos", "qvel")


class Rows(Protocol):
    """What holds rows: a numpy array, a memory map, or a netCDF variable. A slice of it is in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, rows: Any) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Trajectories of one environment.

    A trajectory of L transitions has L + 1 rows, as in OGBench. The last row holds the state after the last transition
    and an action that is not used. The row arrays are float32. In files that do not fit in memory they are memory maps
    or netCDF variables: slice them (``state[a:b]``).

    Attributes:
      state: [N, state].
      action: [N, action], each number in [-1, 1].
      ends: [K] int64, index of the last row of each trajectory, ascending; the last one is N - 1.
      goal: [N, goal] commanded goal of the row, or None.
      qpos, qvel: [N, nq] and [N, nv] joint positions and velocities of the physics, or None.
      goal_indices: indices in the state that are a goal; None: unknown, then a goal is a whole state.
      env: id of the environment, or "".
      made: what made them: checkpoints, policy, noise, seed, versions.
      source: path of the file.
    """

    state: Rows
    action: Rows
    ends: np.ndarray
    goal: Rows | None = None
    qpos: Rows | None = None
    qvel: Rows | None = None
    goal_indices: tuple[int, ...] | None = None
    env: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)
    source: Path = Path()

    @property
    def rows(self) -> int:
        """Number of rows N."""
        return self.state.shape[0]

    @property
    def starts(self) -> np.ndarray:
        """Index [K] of the first row of each trajectory."""
        return np.concatenate([[0], self.ends[:-1] + 1]).astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Number [K] of transitions of each trajectory."""
        return self.ends - self.starts

    @property
    def per_row(self) -> dict[str, Rows]:
        """The arrays with a row for each row, by name; those that are None are left out."""
        return {name: array for name in PER_ROW if (array := getattr(self, name)) is not None}

    def part(self, first: int, last: int) -> "Trajectories":
        """The trajectories ``first`` to ``last - 1``, with their rows in memory; at least one."""
        begin, end = self.starts[first], self.ends[last - 1] + 1
        arrays: dict[str, Any] = {name: np.asarray(array[begin:end]) for name, array in self.per_row.items()}
        return replace(self, ends=self.ends[first:last] - begin, **arrays)

    def only(self, chosen: np.ndarray) -> "Trajectories":
        """The trajectories with these indices [M], in this order; all rows are read into memory."""
        starts, lengths = self.starts[chosen], self.lengths[chosen]
        rows = np.concatenate(
            [np.arange(start, start + length + 1) for start, length in zip(starts, lengths, strict=True)]
        )
        arrays: dict[str, Any] = {name: np.asarray(array[:])[rows] for name, array in self.per_row.items()}
        return replace(self, ends=np.cumsum(lengths + 1) - 1, **arrays)

    def blocks(self, rows: int) -> Iterator["Trajectories"]:
        """Whole trajectories in order, about ``rows`` rows at a time, with their rows in memory."""
        first = 0
        for last in block_ends(self.ends, rows):
            yield self.part(first, last)
            first = last


def block_ends(ends: np.ndarray, rows: int) -> list[int]:
    """Cut trajectories into blocks of about ``rows`` rows: the number of trajectories up to the end of each block."""
    return [int(number) for number in np.flatnonzero(np.diff(ends // rows, append=-1)) + 1]


def header(trajectories: Trajectories) -> str:
    """Environment, goal indices and origin as a JSON text, for files."""
    indices = None if trajectories.goal_indices is None else list(trajectories.goal_indices)
    return json.dumps({"env": trajectories.env, "goal_indices": indices, "made": dict(trajectories.made)})


def read_header(text: str | bytes) -> dict[str, Any]:
    """Fields of ``Trajectories`` from the text of ``header``.

    Raises:
      ValueError: it is not such a text.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or not {"env", "goal_indices", "made"} <= set(content):
        raise ValueError("its header lacks env, goal_indices or made")
    env, indices, made = content["env"], content["goal_indices"], content["made"]
    if not isinstance(env, str) or not isinstance(made, dict):
        raise ValueError("env is not a text, or made is not a table")
    known = isinstance(indices, list) and all(type(index) is int and index >= 0 for index in indices)
    if indices is not None and not known:
        raise ValueError("goal_indices are not whole numbers")
    return {"env": env, "made": made, "goal_indices": tuple(indices) if indices is not None else None}
