"""What ``crlviz inspect`` prints of a file of trajectories."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from crlviz import envs
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError
from crlviz.escaping import printable
from crlviz.trajectories import files
from crlviz.trajectories.data import Trajectories

_LONGEST = 200  # characters of a fact


class _Summary:
    """What is counted over the blocks of a file."""

    def __init__(self, first: Trajectories):
        self.maze = _maze(first)
        self.indices = list(first.goal_indices or range(min(2, first.state.shape[1])))
        self.threshold = first.made.get("goal_distance") if first.goal is not None and first.goal_indices else None
        self.lengths: list[np.ndarray] = []
        self.low, self.high = np.full(len(self.indices), np.inf), np.full(len(self.indices), -np.inf)
        self.visited: set[tuple[int, ...]] = set()
        self.at_goal = self.reached = 0

    def add(self, block: Trajectories) -> None:
        """Count a block with its rows in memory."""
        achieved = block.state[:, self.indices]
        self.lengths.append(block.lengths)
        self.low, self.high = np.minimum(self.low, achieved.min(0)), np.maximum(self.high, achieved.max(0))
        if self.maze:
            cells = np.unique(self.maze.cell(achieved[:, :2]), axis=0)
            self.visited.update(tuple(map(int, cell)) for cell in cells)
        if isinstance(self.threshold, int | float):
            within = np.linalg.norm(achieved - np.asarray(block.goal), axis=1) < self.threshold
            self.at_goal += int(within.sum())
            self.reached += int(np.logical_or.reduceat(within, block.starts).sum())


def describe(path: Path) -> str:
    """Size, lengths, rows at the goal, coverage, origin and twin of a file, line by line. Reads and checks all of it.

    Raises:
      CrlvizError: there is no such file, or it is damaged.
    """
    summary = None
    for block in files.blocks(path):
        summary = summary or _Summary(block)
        summary.add(block)
        last = block
    assert summary is not None
    lengths = np.concatenate(summary.lengths)
    rows = int(lengths.sum()) + len(lengths)
    arrays = ", ".join(f"{name} {array.shape[1]}" for name, array in last.per_row.items())
    lines = [
        f"trajectories {path}",
        f"environment  {last.env or 'unknown: not recorded in the file'}",
        f"size         {_count(len(lengths), 'trajectory', 'trajectories')}, {int(lengths.sum()):,} transitions, "
        f"{files.size(path) / 1e6:.1f} MB",
        f"lengths      {_spread(lengths)}",
        f"arrays       {arrays}",
    ]
    if summary.threshold is not None:
        lines.append(
            f"at goal      {summary.at_goal / rows:.1%} of the rows within {summary.threshold:g} m of their commanded "
            f"goal; {summary.reached / len(lengths):.1%} of the trajectories get there"
        )
    lines += [f"coverage     {_coverage(summary, last)}", *_origin(last.made)]
    if path.suffix in files.ENDINGS:
        lines.append(f"twin         {_twin(path)}")
    return "\n".join(printable(line) for line in lines)  # a file from elsewhere must not control the terminal


def _twin(path: Path) -> str:
    """Where the held-out trajectories are, or those from which these are held out."""
    if path.stem.endswith("-val") and (whole := path.with_name(path.stem.removesuffix("-val") + path.suffix)).is_file():
        return f"held out from {whole}"
    held_out = files.validation(path)
    return (
        f"{held_out} is held out"
        if held_out
        else (f"none; crlviz record --from {path} --out {path} --validation 0.1 splits one off")
    )


def _maze(trajectories: Trajectories) -> Maze | None:
    """The maze of the environment; None unless the file names it and the indices of a position in the state."""
    if not trajectories.env or len(trajectories.goal_indices or ()) < 2:
        return None
    try:
        return envs.check(trajectories.env, trajectories.made.get("layout"))
    except (UsageError, TypeError, AttributeError):  # from a newer crlviz or another program
        return None


def _coverage(summary: _Summary, last: Trajectories) -> str:
    if summary.maze:
        free = set(map(tuple, summary.maze.free))
        return f"{len(free & summary.visited)} of the maze's {len(free)} free cells visited"
    box = " x ".join(f"{low:.3g} to {high:.3g}" for low, high in zip(summary.low, summary.high, strict=True))
    what = "achieved goals" if last.goal_indices else f"the first {len(summary.indices)} numbers of states"
    return f"{what} in {box}"


def _spread(lengths: np.ndarray) -> str:
    low, high = int(lengths.min()), int(lengths.max())
    return f"{low:,} each" if low == high else f"{low:,} to {high:,}, median {np.median(lengths):,.0f}"


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _origin(made: Mapping[str, Any]) -> Iterator[str]:
    """Lines on what made it."""
    if not made:
        yield "made by      unknown: not recorded in the file"
    sources = made.get("sources")
    for source in sources if isinstance(sources, list) else []:
        yield f"made by      {_words(source)}"
    for name, value in made.items():
        if name not in ("sources", "goal_distance"):  # the distance is printed with the rows at the goal
            yield f"{name:12} {_words(value)}"


def _words(value: Any) -> str:
    """Any JSON value on one line."""
    if isinstance(value, dict):
        text = ", ".join(
            f"{name} {part if isinstance(part, str) else json.dumps(part)}" for name, part in value.items()
        )
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
