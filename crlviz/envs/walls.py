"""Contacts of chains of links with the walls of a maze, for bodies in plain jax.

For contacts a chain is a row of discs, so close together that no corner of a wall fits between two discs.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs.mazes import Maze

RADIUS = 0.05  # meters, of the discs
CLEARANCE = 0.045  # meters from centers of discs to walls that a chain keeps
_SPACING = 1 / 12  # meters, largest distance between neighboring centers: below 2 CLEARANCE, so no corner fits between


class Walls:
    """The walls of a maze, as contacts for discs."""

    def __init__(self, maze: Maze):
        self._size, self._origin = maze.cell_size, maze.origin
        self._quarters = jnp.asarray(_quarter_walls(maze))

    def pushes(self, x: jax.Array, y: jax.Array, radius: float) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Displacements along x and y that move discs out of walls, and distances of centers to walls (-1 inside one).

        All [...] in meters; separate arrays of x and y are faster on a CPU. Exact for the nearest wall if the radius,
        and the depth of a center in a wall, are below half a cell.
        """
        size = self._size

        def axis(position, origin):
            at = (position - origin) / size + 0.5  # in cells: cell i spans [i, i + 1)
            half = jnp.floor(2 * at)  # index of the half cell, which has one neighboring cell
            side = 2 * (half - 2 * jnp.floor(half / 2)) - 1  # the side of that neighbor, +-1
            return half.astype(int), side, size * jnp.abs(at - jnp.round(at))  # and its distance

        (i, x_side, x_gap), (j, y_side, y_gap) = axis(x, self._origin[0]), axis(y, self._origin[1])
        beside = self._quarters[i, j]
        inside, x_wall, y_wall, corner = (beside & bit > 0 for bit in (1, 2, 4, 8))
        # A center in a wall leaves through the nearest free face, or through both faces if only the diagonal cell is
        # free. Then it is in that cell, and the walls beside that cell count.
        across = inside & x_wall & y_wall & ~corner
        by_x = across | (inside & ~x_wall & (y_wall | (x_gap <= y_gap)))
        by_y = across | (inside & ~y_wall & ~by_x)
        x_wall, y_wall = (
            jnp.where(inside, by_y & ~by_x & corner, x_wall),
            jnp.where(inside, by_x & ~by_y & corner, y_wall),
        )
        # A center in a free cell is pushed back from the faces, or from the corner if no face is a wall.
        corner = corner & ~(inside | x_wall | y_wall)
        to_corner = jnp.sqrt(x_gap**2 + y_gap**2 + 1e-12)
        back = jnp.where(corner, jnp.minimum(1 - radius / to_corner, 0), 0)

        def push(by, wall, gap):
            return jnp.where(by, gap + radius, jnp.where(wall, jnp.minimum(gap - radius, 0), back * gap))

        faces = jnp.minimum(jnp.where(x_wall, x_gap, jnp.inf), jnp.where(y_wall, y_gap, jnp.inf))
        distance = jnp.where(inside, -1.0, jnp.minimum(faces, jnp.where(corner, to_corner, jnp.inf)))
        return x_side * push(by_x, x_wall, x_gap), y_side * push(by_y, y_wall, y_gap), distance


def along_chain(links: int, length: float) -> np.ndarray:
    """Matrix [D, N] from the vectors of a chain's links to the discs' centers, relative to its beginning.

    There is a disc at each end of a link, and others evenly between.

    Args:
      links: number of links N.
      length: of a link in meters.
    """
    each = math.ceil(length / _SPACING - 1e-9)
    position = np.arange(links * each + 1) / each  # along the chain, in links
    return np.clip(position[:, None] - np.arange(links), 0, 1)  # the share of each link before that position


def _quarter_walls(maze: Maze) -> np.ndarray:
    """Bit masks of walls for the quarters of all cells [2 rows, 2 columns]: 1 if the cell is wall, 2 if its neighbor
    along x is, 4 along y, 8 across the corner."""
    walls = np.pad(maze.walls, 1, constant_values=True)
    i, j = np.indices((2 * maze.shape[0], 2 * maze.shape[1]))
    here, there = (i // 2 + 1, j // 2 + 1), (i // 2 + 2 * (i % 2), j // 2 + 2 * (j % 2))
    around = walls[here], walls[there[0], here[1]], walls[here[0], there[1]], walls[there]
    return sum(bit * wall for bit, wall in zip((1, 2, 4, 8), around, strict=True)).astype(np.int32)
