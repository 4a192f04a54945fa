"""Mazes: all layouts of the paper's code as data, a parser for custom layouts, and distances inside mazes.

A layout is rows of text: ``#`` wall, ``.`` free, ``r`` start, ``g`` goal, ``b`` the ball's start (a free cell).
Row i lies at x = origin_x + i * cell_size and column j at y = origin_y + j * cell_size, as in the paper's code.
To add a maze, add an entry to ``LAYOUTS``; every body can then walk in it.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crlviz.envs.geodesics import Geodesics
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Names and grids as in the paper's code (ant_maze and humanoid_maze there). "_eval" has only the far goals,
# "_single_eval" only the farthest, "_eval_1f2f3f" the goals 1, 2 or 3 cells along the corridor ("5f6f": 5 or 6).
LAYOUTS: dict[str, str] = {
    "u_maze": "##### #rgg# ###g# #ggg# #####",
    "u_maze_eval": "##### #r..# ###.# #ggg# #####",
    "u_maze_single_eval": "##### #r..# ###.# #g..# #####",
    "u_maze_eval_1f2f3f4f5f": "##### #rgg# ###g# #.gg# #####",
    "u_maze_eval_1f2f3f4f": "##### #rgg# ###g# #..g# #####",
    "u_maze_eval_1f2f3f": "##### #rgg# ###g# #...# #####",
    "u_maze_eval_5f6f": "##### #r..# ###.# #gg.# #####",
    "u2_maze": "###### #rggg# ####g# #gggg# ######",
    "u2_maze_eval": "###### #r...# ####.# #gggg# ######",
    "u3_maze": "####### #rgggg# #####g# #ggggg# #######",
    "u3_maze_eval": "####### #r....# #####.# #ggggg# #######",
    "u3_maze_single_eval": "####### #r....# #####.# #g....# #######",
    "u4_maze": "##### #ggg# #r#g# ###g# #g#g# #ggg# #####",
    "u4_maze_eval": "##### #...# #r#.# ###.# #g#.# #ggg# #####",
    "u5_maze": "######## #gggggg# #r####g# ######g# #g####g# #gggggg# ########",
    "u5_maze_eval": "######## #......# #r####.# ######.# #g####g# #gggggg# ########",
    "u5_maze_single_eval": "######## #......# #r####.# ######.# #g####.# #......# ########",
    "u6_maze": "####### #ggggg# #r###g# #####g# #g###g# #ggggg# #######",
    "u6_maze_eval": "####### #.....# #r###.# #####.# #g###g# #ggggg# #######",
    "u7_maze": "###### #gggg# #r##g# ####g# #g##g# #gggg# ######",
    "u7_maze_eval": "###### #....# #r##.# ####.# #g##g# #gggg# ######",
    "big_maze": "######## #rg##gg# #gg#ggg# ##ggg### #gg#ggg# #g#gg#g# #ggg#gg# ########",
    "big_maze_eval": "######## #r.##gg# #..#..g# ##...### #..#...# #.#g.#g# #.gg#gg# ########",
    # One more goal, at (2, 5): used to evaluate the paper's humanoid, and every body of its successor.
    "big_maze_eval_humanoid": "######## #r.##gg# #..#.gg# ##...### #..#...# #.#g.#g# #.gg#gg# ########",
    "hardest_maze": (
        "############ #rggg#ggggg# #g##g#g#g#g# #gggggg#ggg# #g####g###g# "
        "#gg#g#ggggg# ##g#g#g#g### #gg#ggg#ggg# ############"
    ),
    # Mazes of the paper's successor for an ant that pushes a ball; the ball starts at "b".
    "u_maze_ball": "##### #rgb# ###g# #ggg# #####",
    "big_maze_ball": "######## #r.##gg# #..#ggg# ##bgb### #gg#ggg# #g#gg#g# #ggg#gg# ########",
}

_PAIRS_SUFFIX = re.compile(r"^(?P<base>(?:\w+_)?maze)_gen_(?P<hops>(?:\d+f)+)$")
_MOST_CHARACTERS = 1 << 20  # in a file
_MOST_CELLS = 10_000
_MOST_PAIRS = 1_000_000  # of a start and a goal; all are in memory, and a reset draws one
_NEIGHBORS = ((1, 0), (-1, 0), (0, 1), (0, -1))

Cell = tuple[int, int]


@dataclass(frozen=True)
class Maze:
    """A grid of square cells with walls, start cells and goal cells.

    Attributes:
      rows: the layout, a string a row.
      cell_size: side of a cell in meters.
      origin: (x, y) in meters of the center of cell (0, 0).
      hops: if not empty, starts and goals are pairs of free cells this many cells apart (``..._gen_1f2f3f`` of the
        paper's code). First the distance is drawn, then the pair. In a maze that is a single corridor goals lie only
        forward of starts, as in the paper's code.
    """

    rows: tuple[str, ...]
    cell_size: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)
    hops: tuple[int, ...] = ()

    @cached_property
    def walls(self) -> np.ndarray:
        """Boolean [rows, columns], true where a cell is wall."""
        return np.array([[c == "#" for c in row] for row in self.rows])

    def same_ground(self, other: "Maze | None") -> bool:
        """Whether another maze has the same walls in the same place; starts and goals may differ."""
        place = (self.cell_size, self.origin)
        return (
            other is not None and place == (other.cell_size, other.origin) and np.array_equal(self.walls, other.walls)
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""
        return len(self.rows), len(self.rows[0])

    def cells(self, letters: str) -> list[Cell]:
        """Cells marked with one of the letters, in reading order."""
        return [(i, j) for i, row in enumerate(self.rows) for j, c in enumerate(row) if c in letters]

    @property
    def starts(self) -> list[Cell]:
        """Start cells."""
        return self.cells("r")

    @property
    def goals(self) -> list[Cell]:
        """Goal cells."""
        return self.cells("g")

    @property
    def free(self) -> list[Cell]:
        """All cells that are not wall."""
        return self.cells(".rgb")

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """All (start, goal) pairs that a reset may draw: cells [P, 2, 2] and their probabilities [P]."""
        if not self.hops:
            pairs = np.array([(start, goal) for start in self.starts for goal in self.goals])
            return pairs, np.full(len(pairs), 1 / len(pairs))
        cells = np.array(self.corridor or self.free)
        steps = self.steps(cells)
        if self.corridor:
            steps = np.triu(steps)  # only forward, as in the paper's code; a maze that branches has no such direction
        by_hop = [cells[np.argwhere(steps == hop)] for hop in self.hops]
        weights = [np.full(len(group), 1 / len(self.hops) / len(group)) for group in by_hop]
        return np.concatenate(by_hop), np.concatenate(weights)

    @cached_property
    def corridor(self) -> list[Cell] | None:
        """The cells from the start to the far end, if the maze is a single corridor that begins at its only start."""
        path = self.starts[:1]
        while nexts := [c for c in self._neighbors(path[-1]) if c not in path]:
            if len(nexts) > 1:
                return None
            path.append(nexts[0])
        return path if len(self.starts) == 1 else None

    def steps(self, cells: np.ndarray) -> np.ndarray:
        """Numbers of steps between cells [N, 2] on shortest 4-connected paths: [N, N], inf where there is none."""
        from scipy.sparse.csgraph import dijkstra

        at = self._free_index[tuple(np.asarray(cells).T)]
        return dijkstra(self._adjacency, directed=False, unweighted=True, indices=at)[:, at]

    def spread(self, cells: np.ndarray, count: int, away_from: Cell) -> np.ndarray:
        """Farthest-point sampling of cells [N, 2], by steps: indices [min(count, N)].

        Each chosen cell is the farthest from those chosen before and from the cell ``away_from``.
        """
        from scipy.sparse.csgraph import dijkstra

        at = self._free_index[tuple(np.asarray(cells).T)]

        def steps(index: int) -> np.ndarray:
            return dijkstra(self._adjacency, directed=False, unweighted=True, indices=index)[at]

        chosen: list[int] = []
        nearest = steps(self._free_index[away_from])
        for _ in range(min(count, len(at))):
            nearest[chosen[-1:]] = -1  # already chosen
            chosen.append(int(np.argmax(nearest)))
            nearest = np.where(nearest < 0, nearest, np.minimum(nearest, steps(at[chosen[-1]])))
        return np.array(chosen, int)

    @cached_property
    def _free_index(self) -> np.ndarray:
        """Indices [rows, columns] of the free cells in ``free``."""
        return np.cumsum(~self.walls).reshape(self.shape) - 1

    @cached_property
    def _adjacency(self) -> "csr_array":
        """Sparse adjacency [N, N] of free cells that share a side, each pair once."""
        from scipy.sparse import csr_array

        index, free = self._free_index, ~self.walls
        down, right = free[:-1] & free[1:], free[:, :-1] & free[:, 1:]
        one = np.concatenate([index[:-1][down], index[:, :-1][right]])
        other = np.concatenate([index[1:][down], index[:, 1:][right]])
        return csr_array((np.ones(len(one)), (one, other)), shape=(free.sum(),) * 2)

    def _neighbors(self, cell: Cell) -> list[Cell]:
        return [(cell[0] + i, cell[1] + j) for i, j in _NEIGHBORS if not self.walls[cell[0] + i, cell[1] + j]]

    def xy(self, cells: Cell | Sequence[Cell] | np.ndarray) -> np.ndarray:
        """Centers of cells [..., 2] in meters [..., 2]."""
        return np.asarray(self.origin) + self.cell_size * np.asarray(cells, dtype=float)

    def cell(self, xy: np.ndarray) -> np.ndarray:
        """The cells [..., 2] that contain positions [..., 2] in meters."""
        return np.floor((np.asarray(xy) - self.origin) / self.cell_size + 0.5).astype(int)

    def is_free(self, xy: np.ndarray) -> np.ndarray:
        """Whether positions [..., 2] in meters are in a free cell: [...]; outside the grid nothing is free."""
        cell = self.cell(xy)
        inside = np.all((cell >= 0) & (cell < self.shape), axis=-1)
        i, j = np.moveaxis(np.where(inside[..., None], cell, 0), -1, 0)
        return inside & ~self.walls[i, j]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """(x_min, x_max, y_min, y_max) of the grid in meters, border walls included."""
        half = self.cell_size / 2
        low, high = self.xy((0, 0)) - half, self.xy((self.shape[0] - 1, self.shape[1] - 1)) + half
        return float(low[0]), float(high[0]), float(low[1]), float(high[1])

    def grid(self, per_cell: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A grid with ``per_cell`` points per side of a cell: x [X], y [Y] in meters, and which are free [X, Y]."""
        offsets = (np.arange(per_cell) + 0.5) / per_cell - 0.5
        x, y = (
            self.origin[axis] + self.cell_size * (np.arange(n)[:, None] + offsets).ravel()
            for axis, n in enumerate(self.shape)
        )
        return x, y, np.repeat(np.repeat(~self.walls, per_cell, 0), per_cell, 1)

    def geodesic(self, points: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Length in meters of the shortest path inside the maze from points [..., 2] to a target [2]."""
        return self.geodesics(points, np.asarray(target)[None])[0]

    def geodesics(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Lengths in meters of the shortest paths inside the maze from targets [T, 2] to points [..., 2]: [T, ...].

        Exact. Infinite where there is no path, or where a point or target lies in a wall.
        """
        points, targets = np.asarray(points, dtype=float), np.asarray(targets, dtype=float)
        flat = points.reshape(-1, 2)
        free, reachable = self.is_free(flat), self.is_free(targets)
        lengths = np.full((len(targets), len(flat)), np.inf)
        lengths[np.ix_(reachable, free)] = self.cell_size * self._geodesics.lengths(
            (flat[free] - self.origin) / self.cell_size, (targets[reachable] - self.origin) / self.cell_size
        )
        return lengths.reshape(len(targets), *points.shape[:-1])

    @cached_property
    def _geodesics(self) -> Geodesics:
        return Geodesics(self.walls)


def parse(layout: str | Path | Sequence[str], *, name: str = "the maze") -> tuple[str, ...]:
    """Read and check a layout.

    Args:
      layout: rows of text, or the path of a text file.
      name: name of the maze in error messages.

    Returns:
      The rows.

    Raises:
      UsageError: the file cannot be read; rows of unequal length, an unknown letter, an open border, no start, no
        goal, a goal that a start cannot reach, or too many cells or pairs.
    """
    if isinstance(layout, str | Path):
        path, name = Path(layout), str(layout)
        try:
            with open(path, encoding="utf-8-sig") as file:  # editors on Windows may write a byte order mark
                text = file.read(_MOST_CHARACTERS + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise UsageError(f"cannot read the maze file {path}: {reason}") from None
        if len(text) > _MOST_CHARACTERS:
            raise UsageError(f"{path} is not a maze file: it has more than {_MOST_CHARACTERS:,} characters")
        layout = text.splitlines()
    rows = tuple(row.strip() for row in layout if row.strip())
    if not rows:
        raise UsageError(f"{name} is empty: a maze is rows of '#' wall, '.' free, 'r' start, 'g' goal")
    if sum(map(len, rows)) > _MOST_CELLS:
        raise UsageError(f"{name} has {sum(map(len, rows)):,} cells; a maze has at most {_MOST_CELLS:,}")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise UsageError(f"{name}: row {i + 1} has {len(row)} cells where row 1 has {len(rows[0])}")
        for j, letter in enumerate(row):
            if letter not in "#.rgb":
                raise UsageError(f"{name}: row {i + 1}, column {j + 1} holds {letter!r}; known are # . r g b")
            if letter != "#" and (i in (0, len(rows) - 1) or j in (0, len(row) - 1)):
                raise UsageError(f"{name}: the border is open at row {i + 1}, column {j + 1}; surround the maze with #")
    maze = Maze(rows)
    if not maze.starts:
        raise UsageError(f"{name} has no start: mark a free cell with 'r'")
    if not maze.goals:
        raise UsageError(f"{name} has no goal: mark at least one free cell with 'g'")
    starts, goals = maze.starts, maze.goals
    if len(starts) * len(goals) > _MOST_PAIRS:
        raise UsageError(
            f"{name} has {len(starts):,} starts and {len(goals):,} goals; their pairs may be {_MOST_PAIRS:,} at most"
        )
    reached: set[Cell] = set()
    for start in starts:
        if start in reached:  # it reaches the same cells
            continue
        reached = _reachable(maze, start)
        for goal in goals:
            if goal not in reached:
                raise UsageError(
                    f"{name}: the goal at row {goal[0] + 1}, column {goal[1] + 1} cannot be reached from the start "
                    f"at row {start[0] + 1}, column {start[1] + 1}"
                )
    return rows


def _reachable(maze: Maze, start: Cell) -> set[Cell]:
    seen, frontier = {start}, {start}
    while frontier:
        # A set, because in an open room there are many more paths than cells.
        frontier = {c for cell in frontier for c in maze._neighbors(cell)} - seen
        seen |= frontier
    return seen


def split_pairs(name: str) -> tuple[str, tuple[int, ...]]:
    """Split a name into base and distances: ``u_maze_gen_1f2f`` into ``u_maze`` and (1, 2)."""
    match = _PAIRS_SUFFIX.match(name)
    return (match["base"], tuple(int(hop) for hop in match["hops"].split("f")[:-1])) if match else (name, ())


def within(name: str, cells: int) -> str:
    """The name of a maze or environment with pairs at most ``cells`` apart: ``u_maze_gen_1f2f3f`` for 3.

    Raises:
      UsageError: fewer than one cell, or a name that does not end in ``_maze`` or has distances already.
    """
    if cells < 1:
        raise UsageError(f"pairs at most {cells} cells apart: a start and its goal are at least 1 apart")
    if "_gen_" in name or not name.endswith("_maze"):
        raise UsageError(f"{name} cannot be given pairs by distance: take a maze's own name, such as point_u_maze")
    return f"{name}_gen_" + "".join(f"{hop}f" for hop in range(1, cells + 1))


def get(name: str, *, cell_size: float = 1.0, centered: bool = False) -> Maze:
    """The maze of that name, for example ``u4_maze``, ``big_maze_eval`` or ``u_maze_gen_1f2f3f``.

    Raises:
      UsageError: no layout has this name (the message names the nearest), or no cells are that far apart.
    """
    base, hops = split_pairs(name)
    if base not in LAYOUTS:
        near = difflib.get_close_matches(base, LAYOUTS, n=3, cutoff=0.5)
        raise UsageError(f"no maze is called {name!r}; nearest: {', '.join(near) or ', '.join(LAYOUTS)}")
    return build(LAYOUTS[base].split(), cell_size=cell_size, centered=centered, hops=hops)


def build(rows: Sequence[str], *, cell_size: float = 1.0, centered: bool = False, hops: tuple[int, ...] = ()) -> Maze:
    """Build a maze from rows.

    Args:
      rows: the layout, see ``parse``.
      cell_size: side of a cell in meters.
      centered: put the middle of the grid at the origin, rather than the center of cell (0, 0).
      hops: distances of the pairs in cells, see ``Maze``.

    Raises:
      UsageError: as ``parse``, or no cells are that far apart.
    """
    rows = parse(rows)
    origin = (0.0, 0.0)
    if centered:
        origin = (-cell_size * (len(rows) - 1) / 2, -cell_size * (len(rows[0]) - 1) / 2)
    maze = Maze(rows, cell_size, origin, hops)
    if hops:
        steps = maze.steps(np.array(maze.corridor or maze.free))
        farthest = int(steps[np.isfinite(steps)].max())
        if not 0 < min(hops) <= max(hops) <= farthest:
            raise UsageError(f"pairs {hops} cells apart: cells of this maze are 1 to {farthest} apart")
    return maze
