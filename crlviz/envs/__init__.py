"""Environments by name: ``make("point_big_maze")``; the id is the body and the maze it walks in."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crlviz import mazes
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.envs.base import GoalEnv

CUSTOM = "point_maze"
Layout = str | Path | Sequence[str]


def ids() -> list[str]:
    """Every id that ``make`` knows without further options."""
    return [f"point_{name}" for name in mazes.LAYOUTS]


def make(id: str, *, layout: Layout | None = None) -> "GoalEnv":
    """Build the environment of that name.

    Args:
      id: body and maze, for example ``point_u4_maze``, ``point_big_maze_eval``, ``point_u_maze_gen_1f2f3f`` (starts and
        goals 1, 2 or 3 cells apart), or ``point_maze`` with a layout of your own.
      layout: rows of text or a text file, see ``crlviz.mazes.parse``; only with ``point_maze``.

    Raises:
      UsageError: unknown id (the message names the nearest), or a layout that is missing, faulty or not wanted.
    """
    maze = check(id, layout)
    # Imported here: brax takes over a second, and a wrong name should be told at once.
    from crlviz.envs.point import PointMaze

    return PointMaze(id, maze)


def check(id: str, layout: Layout | None = None) -> mazes.Maze:
    """The maze that ``make`` would build for these, without importing what runs it. Raises as ``make`` does."""
    body, _, name = id.partition("_")
    if id == CUSTOM:
        if layout is None:
            raise UsageError(f"{CUSTOM} is for a maze of your own: give its file with --layout")
        return mazes.build(mazes.parse(layout), centred=True)
    if layout is not None:
        raise UsageError(f"{id} has its layout in its name; a layout of your own goes with {CUSTOM}")
    if body != "point" or name.partition("_gen_")[0] not in mazes.LAYOUTS:
        raise _unknown(id)
    return mazes.get(name, centred=True)


def _unknown(id: str) -> UsageError:
    near = difflib.get_close_matches(id, [*ids(), CUSTOM], n=3, cutoff=0.4)
    return UsageError(f"no environment is called {id!r}; nearest: {', '.join(near) or ', '.join(ids())}")


__all__ = ["CUSTOM", "check", "ids", "make"]
