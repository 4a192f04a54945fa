"""Exact lengths of shortest paths among square walls.

A shortest path is straight between corners of walls. So light is sent from each corner, cell by cell until walls stop
it, and the corners that it meets make a graph; a target's light joins it, and each point takes the best of what it is
lit by: the target, or a corner. A corner's light goes to its two sides only, as no path bends towards another.
What has no sight of each other is never compared, so a maze of corridors costs by its cells, not by their square.

All is in cells: cell (i, j) spans i - 1/2 to i + 1/2 along x and j - 1/2 to j + 1/2 along y.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_SIGNS = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])  # of x and y in each quadrant
_ROUNDING = 1e-9  # radians by which an angle may lie outside a beam that it belongs to
_LEAST = 1e-12  # radians: what is narrower passes between two walls that touch, or is rounding
_AT_ONCE = 500_000  # pairs of a beam and a point in one table: bounds the memory
_ORIGINS_AT_ONCE = 4096


class _Beams(NamedTuple):
    """Light in cells, all arrays [B]; what an origin sends through one cell may be several.

    Attributes:
      origin: index of where it comes from.
      quadrant: index into ``_SIGNS``; with these signs an angle is 0 along x and pi / 2 along y.
      cell: flat index of the cell that it is in.
      low, high: its edges in radians.
      far_x, far_y: how far the cell's farther faces are from the origin.
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


class _Places(NamedTuple):
    """Positions [N, 2] in the order of their cells, whose they are [N], and of each cell the first and how many."""

    xy: np.ndarray
    whose: np.ndarray
    first: np.ndarray
    number: np.ndarray


class Geodesics:
    """Shortest paths in one maze; what all targets share is found once."""

    def __init__(self, walls: np.ndarray):
        """
        Args:
          walls: boolean [rows, columns], true where a cell is wall, as all of the border is.
        """
        self._walls = walls
        around = np.stack([walls[1:, 1:], walls[1:, :-1], walls[:-1, 1:], walls[:-1, :-1]])  # as _SIGNS has them
        vertices = np.argwhere(around.sum(0) == 1)  # a path bends around the corner of one wall alone
        self._corners = vertices + 0.5
        wall = around[:, vertices[:, 0], vertices[:, 1]].argmax(0)
        corner, quadrant = np.nonzero((_SIGNS[wall][:, None] * _SIGNS).sum(-1) == 0)  # the two beside the wall's own
        cells = vertices[corner] + (_SIGNS[quadrant] > 0)
        self._light = self._shine(self._corners[corner], cells, quadrant, corner)
        # A path comes to a corner, too, through one of the two cells.
        self._corner_places = self._placed(self._corners[corner], cells, corner)
        self._graph = self._to_seen(self._light, self._corners)

    def lengths(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """From targets [T, 2] to points [N, 2], all in free cells: [T, N], infinite where no path leads."""
        result = np.full((len(targets), len(points)), np.inf)
        places = self._placed(points, _cells(points), np.arange(len(points)))
        target, quadrant = np.repeat(np.arange(len(targets)), 4), np.tile(np.arange(4), len(targets))
        light = self._shine(targets[target], _cells(targets)[target], quadrant, target)
        for which, point, length in _lit(light, targets, places):
            result[which, point] = length
        to_corners = self._to_corners(light, targets)
        for corner, point, length in _lit(self._light, self._corners, places):
            order = np.argsort(point, kind="stable")
            corner, point, length = corner[order], point[order], length[order]
            first = np.flatnonzero(np.diff(point, prepend=-1))
            rows = max(1, 4 * _AT_ONCE // len(point))
            for begin in range(0, len(targets), rows):
                part = slice(begin, begin + rows)
                around = np.minimum.reduceat(to_corners[part, corner] + length, first, axis=1)
                result[part, point[first]] = np.minimum(result[part, point[first]], around)
        return result

    def _to_corners(self, light: _Beams, targets: np.ndarray) -> np.ndarray:
        """From targets [T, 2], that send ``light``, to all corners: [T, C]."""
        from scipy.sparse import csr_array, hstack, vstack
        from scipy.sparse.csgraph import dijkstra

        count, last = len(self._corners), len(targets)
        graph = vstack([self._graph, self._to_seen(light, targets)])
        graph = hstack([graph, csr_array((count + last, last))], format="csr")
        return dijkstra(graph, indices=count + np.arange(last))[:, :count]

    def _to_seen(self, light: _Beams, origins: np.ndarray) -> "csr_array":
        """From origins [O, 2], that send ``light``, straight to the corners that each sees: a sparse [O, C]."""
        from scipy.sparse import csr_array

        shape = len(origins), len(self._corners)
        pairs = [(np.zeros(0, int), np.zeros(0, int), np.zeros(0)), *_lit(light, origins, self._corner_places)]
        origin, corner, length = (np.concatenate(column) for column in zip(*pairs, strict=True))
        _, once = np.unique(origin * shape[1] + corner, return_index=True)  # it may come from both sides of a corner
        # Not zero, which means no edge, for an origin on a corner.
        return csr_array((np.maximum(length[once], _LEAST), (origin[once], corner[once])), shape=shape)

    def _shine(self, origins: np.ndarray, cells: np.ndarray, quadrant: np.ndarray, origin: np.ndarray) -> _Beams:
        """All light of origins [B, 2], each into one quadrant [B], which begins in a free cell [B, 2] of its own."""
        width, solid = self._walls.shape[1], self._walls.ravel()
        far = 0.5 + _SIGNS[quadrant] * (cells - origins)
        zero = np.zeros(len(origin))
        start = _Beams(origin, quadrant, cells @ [width, 1], zero, zero + np.pi / 2, far[:, 0], far[:, 1])
        parts = [start]
        for begin in range(0, len(origin), _ORIGINS_AT_ONCE):
            beams = start.at(slice(begin, begin + _ORIGINS_AT_ONCE))
            while len(beams.origin):
                # What is below the cell's far corner leaves it along x, what is above along y.
                corner, signs = np.arctan2(beams.far_y, beams.far_x), _SIGNS[beams.quadrant]
                ways = (
                    beams._replace(
                        cell=beams.cell + width * signs[:, 0],
                        high=np.minimum(beams.high, corner),
                        far_x=beams.far_x + 1,
                    ),
                    beams._replace(
                        cell=beams.cell + signs[:, 1], low=np.maximum(beams.low, corner), far_y=beams.far_y + 1
                    ),
                )
                beams = _Beams(*(np.concatenate(fields) for fields in zip(*ways, strict=True)))
                beams = _merged(beams.at(~solid[beams.cell] & (beams.high - beams.low > _LEAST)))
                parts.append(beams)
        return _Beams(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))

    def _placed(self, xy: np.ndarray, cells: np.ndarray, whose: np.ndarray) -> _Places:
        flat = cells @ [self._walls.shape[1], 1]
        order = np.argsort(flat, kind="stable")
        number = np.bincount(flat, minlength=self._walls.size)
        return _Places(xy[order], whose[order], np.cumsum(number) - number, number)


def _cells(xy: np.ndarray) -> np.ndarray:
    """The cells [N, 2] of positions [N, 2]."""
    return np.floor(xy + 0.5).astype(int)


def _merged(beams: _Beams) -> _Beams:
    """Beams of one origin in one cell that touch, as one: else each corner passed would cut all that lies behind it."""
    order = np.lexsort([beams.low, beams.cell, beams.quadrant, beams.origin])
    beams = beams.at(order)
    apart = beams.low[1:] - beams.high[:-1] > _LEAST
    for field in (beams.origin, beams.quadrant, beams.cell):
        apart |= field[1:] != field[:-1]
    first, end = _runs(np.cumsum(np.append(0, apart))[: len(order)])
    return beams.at(first)._replace(high=beams.high[end - 1])


def _lit(light: _Beams, origins: np.ndarray, places: _Places) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The places that light of origins [O, 2] meets: indices of origins [K] and places [K] and their distances [K], in
    parts of bounded size."""
    light = light.at(places.number[light.cell] > 0)
    number = places.number[light.cell]
    part = np.cumsum(number) // _AT_ONCE
    for begin, end in zip(*_runs(part), strict=True):
        beams, count = light.at(slice(begin, end)), number[begin:end]
        beam = np.repeat(np.arange(end - begin), count)
        place = np.arange(count.sum()) + np.repeat(places.first[beams.cell] - np.cumsum(count) + count, count)
        way = places.xy[place] - origins[beams.origin[beam]]
        along = way * _SIGNS[beams.quadrant[beam]]
        angle = np.arctan2(along[:, 1], along[:, 0])
        meets = (angle >= beams.low[beam] - _ROUNDING) & (angle <= beams.high[beam] + _ROUNDING)
        if meets.any():
            yield beams.origin[beam[meets]], places.whose[place[meets]], np.linalg.norm(way[meets], axis=1)


def _runs(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal numbers in [N] begins and ends."""
    first = np.flatnonzero(np.diff(part, prepend=-1))
    return first, np.append(first, len(part))[1:]
