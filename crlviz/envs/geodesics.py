"""Exact lengths of shortest paths among square walls, by a visibility graph.

A shortest path is a chain of straight segments between corners of walls. Beams of sight are traced from each corner,
cell by cell, until walls stop them. The corners that they meet are the edges of a graph, to which each target is added.
The distance of a point is the least over the target and all corners that see it. Beams leave a corner only into the two
quadrants beside its wall, because no shortest path bends into the others. Points that do not see each other are never
compared, so the cost for a maze of corridors grows with its number of cells, not with the square.

Lengths are in cells: cell (i, j) spans i - 1/2 to i + 1/2 along x and j - 1/2 to j + 1/2 along y.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_SIGNS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])  # signs of x and y in each quadrant
_ROUNDING = 1e-9  # tolerance in radians when a point is tested against a beam
_NARROWEST = 1e-12  # radians; narrower beams pass between walls that touch, or are rounding errors
_PAIRS_AT_ONCE = 500_000  # of a beam and a point; bounds the memory
_BEAMS_AT_ONCE = 4096


class _Beams(NamedTuple):
    """Beams of sight within cells, all arrays [B]; one origin may have several beams in a cell.

    Attributes:
      origin: index of the origin.
      quadrant: index into ``_SIGNS``; with these signs an angle is 0 along x and pi / 2 along y.
      cell: flat index of the cell.
      low, high: edges of the beam in radians.
      far_x, far_y: distances from the origin to the cell's far faces.
    """

    origin: np.ndarray
    quadrant: np.ndarray
    cell: np.ndarray
    low: np.ndarray
    high: np.ndarray
    far_x: np.ndarray
    far_y: np.ndarray

    def at(self, chosen: np.ndarray | slice) -> "_Beams":
        return _Beams(*(field[chosen] for field in self))


class _Points(NamedTuple):
    """Positions xy [N, 2] sorted by cell and their indices [N]; for each cell, its first position and their number."""

    xy: np.ndarray
    indices: np.ndarray
    first: np.ndarray
    number: np.ndarray


class Geodesics:
    """Shortest paths in one maze. The visibility graph of its corners is built once, for all targets."""

    def __init__(self, walls: np.ndarray):
        """
        Args:
          walls: boolean [rows, columns], true where a cell is wall; the border must be wall.
        """
        self._walls = walls
        around = np.stack([walls[1:, 1:], walls[1:, :-1], walls[:-1, 1:], walls[:-1, :-1]])  # in the order of _SIGNS
        vertices = np.argwhere(around.sum(0) == 1)  # a path can bend only at the corner of a single wall
        self._corners = vertices + 0.5
        wall = around[:, vertices[:, 0], vertices[:, 1]].argmax(0)
        corner, quadrant = np.nonzero((_SIGNS[wall][:, None] * _SIGNS).sum(-1) == 0)  # the two beside the wall
        cells = vertices[corner] + (_SIGNS[quadrant] > 0)
        self._beams = self._trace(self._corners[corner], cells, quadrant, corner)
        # A path also arrives at a corner through one of these two cells.
        self._corner_points = self._sorted(self._corners[corner], cells, corner)
        self._graph = self._edges(self._beams, self._corners)

    def lengths(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Lengths [T, N] from targets [T, 2] to points [N, 2], all in free cells; infinite where there is no path."""
        result = np.full((len(targets), len(points)), np.inf)
        sorted_points = self._sorted(points, _cells(points), np.arange(len(points)))
        target, quadrant = np.repeat(np.arange(len(targets)), 4), np.tile(np.arange(4), len(targets))
        beams = self._trace(targets[target], _cells(targets)[target], quadrant, target)
        for seeing, point, length in _visible(beams, targets, sorted_points):
            result[seeing, point] = length
        to_corners = self._to_corners(beams, targets)
        for corner, point, length in _visible(self._beams, self._corners, sorted_points):
            order = np.argsort(point, kind="stable")
            corner, point, length = corner[order], point[order], length[order]
            first = np.flatnonzero(np.diff(point, prepend=-1))
            rows = max(1, 4 * _PAIRS_AT_ONCE // len(point))
            for begin in range(0, len(targets), rows):
                part = slice(begin, begin + rows)
                around = np.minimum.reduceat(to_corners[part, corner] + length, first, axis=1)
                result[part, point[first]] = np.minimum(result[part, point[first]], around)
        return result

    def _to_corners(self, beams: _Beams, targets: np.ndarray) -> np.ndarray:
        """Lengths [T, C] of shortest paths from targets [T, 2], with these beams, to all corners."""
        from scipy.sparse import csr_array, hstack, vstack
        from scipy.sparse.csgraph import dijkstra

        count, last = len(self._corners), len(targets)
        graph = vstack([self._graph, self._edges(beams, targets)])
        graph = hstack([graph, csr_array((count + last, last))], format="csr")
        return dijkstra(graph, indices=count + np.arange(last))[:, :count]

    def _edges(self, beams: _Beams, origins: np.ndarray) -> "csr_array":
        """Straight lengths from origins [O, 2], with these beams, to the corners that each sees: sparse [O, C]."""
        from scipy.sparse import csr_array

        shape = len(origins), len(self._corners)
        pairs = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0)), *_visible(beams, origins, self._corner_points)]
        origin, corner, length = (np.concatenate(column) for column in zip(*pairs, strict=True))
        # A corner may be seen through both of its cells; keep one.
        _, once = np.unique(origin * shape[1] + corner, return_index=True)
        # An origin on a corner has length 0, which would mean no edge.
        return csr_array((np.maximum(length[once], _NARROWEST), (origin[once], corner[once])), shape=shape)

    def _trace(self, origins: np.ndarray, cells: np.ndarray, quadrant: np.ndarray, origin: np.ndarray) -> _Beams:
        """All beams from origins [B, 2], each into one quadrant [B], starting in free cells [B, 2]."""
        width, solid = self._walls.shape[1], self._walls.ravel()
        far = 0.5 + _SIGNS[quadrant] * (cells - origins)
        zero = np.zeros(len(origin))
        start = _Beams(origin, quadrant, cells @ [width, 1], zero, zero + np.pi / 2, far[:, 0], far[:, 1])
        parts = [start]
        for begin in range(0, len(origin), _BEAMS_AT_ONCE):
            beams = start.at(slice(begin, begin + _BEAMS_AT_ONCE))
            while len(beams.origin):
                # The part of a beam below the cell's far corner leaves it along x, the part above along y.
                corner, signs = np.arctan2(beams.far_y, beams.far_x), _SIGNS[beams.quadrant]
                parts_ahead = (
                    beams._replace(
                        cell=beams.cell + width * signs[:, 0],
                        high=np.minimum(beams.high, corner),
                        far_x=beams.far_x + 1,
                    ),
                    beams._replace(
                        cell=beams.cell + signs[:, 1], low=np.maximum(beams.low, corner), far_y=beams.far_y + 1
                    ),
                )
                beams = _Beams(*(np.concatenate(fields) for fields in zip(*parts_ahead, strict=True)))
                beams = _merged(beams.at(~solid[beams.cell] & (beams.high - beams.low > _NARROWEST)))
                parts.append(beams)
        return _Beams(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))

    def _sorted(self, xy: np.ndarray, cells: np.ndarray, index: np.ndarray) -> _Points:
        """Sort positions [N, 2] in cells [N, 2] by cell."""
        flat = cells @ [self._walls.shape[1], 1]
        order = np.argsort(flat, kind="stable")
        number = np.bincount(flat, minlength=self._walls.size)
        return _Points(xy[order], index[order], np.cumsum(number) - number, number)


def _cells(xy: np.ndarray) -> np.ndarray:
    """The cells [N, 2] of positions [N, 2]."""
    return np.floor(xy + 0.5).astype(int)


def _merged(beams: _Beams) -> _Beams:
    """Merge touching beams of one origin in one cell; else every corner passed would split all beams behind it."""
    order = np.lexsort([beams.low, beams.cell, beams.quadrant, beams.origin])
    beams = beams.at(order)
    separate = beams.low[1:] - beams.high[:-1] > _NARROWEST
    for field in (beams.origin, beams.quadrant, beams.cell):
        separate |= field[1:] != field[:-1]
    first, end = _runs(np.cumsum(np.append(0, separate))[: len(order)])
    return beams.at(first)._replace(high=beams.high[end - 1])


def _visible(
    beams: _Beams, origins: np.ndarray, points: _Points
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The points that origins [O, 2] see: indices of origins [K] and points [K], and their distances [K], in parts of
    bounded size."""
    beams = beams.at(points.number[beams.cell] > 0)
    number = points.number[beams.cell]
    part = np.cumsum(number) // _PAIRS_AT_ONCE
    for begin, end in zip(*_runs(part), strict=True):
        some, count = beams.at(slice(begin, end)), number[begin:end]
        beam = np.repeat(np.arange(end - begin), count)
        point = np.arange(count.sum()) + np.repeat(points.first[some.cell] - np.cumsum(count) + count, count)
        offset = points.xy[point] - origins[some.origin[beam]]
        mirrored = offset * _SIGNS[some.quadrant[beam]]
        angle = np.arctan2(mirrored[:, 1], mirrored[:, 0])
        seen = (angle >= some.low[beam] - _ROUNDING) & (angle <= some.high[beam] + _ROUNDING)
        if seen.any():
            yield some.origin[beam[seen]], points.indices[point[seen]], np.linalg.norm(offset[seen], axis=1)


def _runs(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends of the runs of equal numbers in an array [N]."""
    first = np.flatnonzero(np.diff(part, prepend=-1))
    return first, np.append(first, len(part))[1:]
