"""Distances in mazes against Dijkstra on a fine grid."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from crlviz.envs import mazes

FINE = 8  # points to a cell's side of the brute-force grid


@st.composite
def random_mazes(draw):
    """Closed grids with random walls, and points inside free cells (multiples of 1 / FINE)."""
    rows, columns = draw(st.integers(2, 5)), draw(st.integers(2, 5))
    inner = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    walls = np.ones((rows + 2, columns + 2), bool)
    walls[1:-1, 1:-1] = np.reshape(inner, (rows, columns))
    assume(not walls.all())
    maze = mazes.Maze(tuple("".join("#" if wall else "." for wall in row) for row in walls))
    offset = st.integers(1, FINE - 1).map(lambda k: k / FINE - 0.5)
    point = st.tuples(st.sampled_from(maze.free), offset, offset).map(lambda p: (p[0][0] + p[1], p[0][1] + p[2]))
    return maze, np.array(draw(st.lists(point, min_size=3, max_size=3)))


@settings(max_examples=150)
@given(random_mazes())
def test_geodesic_is_a_metric(case):
    maze, points = case
    table = np.stack([maze.geodesic(points, target) for target in points])
    np.testing.assert_allclose(table, table.T, rtol=1e-9)
    np.testing.assert_allclose(np.diag(table), 0, atol=1e-9)
    straight = np.linalg.norm(points[:, None] - points, axis=-1)
    assert (table >= straight - 1e-9).all()
    for a, b, c in itertools.permutations(range(3)):
        assert table[a, b] <= table[a, c] + table[c, b] + 1e-9


@settings(max_examples=150)
@given(random_mazes())
def test_geodesic_is_the_straight_line_if_it_is_free(case):
    maze, (a, b, _) = case
    line = a + np.linspace(0, 1, 4001)[:, None] * (b - a)
    cells = maze.cell(line)
    assume((np.abs(np.diff(cells, axis=0)).sum(-1) <= 1).all())  # a diagonal step may jump between walls that touch
    length, straight = maze.geodesic(a, b), np.linalg.norm(a - b)
    if maze.is_free(line).all():
        # The samples may step over a sliver of wall, which lengthens the path only slightly.
        assert length == pytest.approx(straight, abs=1e-4)
    else:
        assert length > straight


@settings(max_examples=150)
@given(random_mazes())
def test_geodesic_against_a_fine_grid(case):
    maze, points = case
    exact = maze.geodesic(points, points[0])
    grid = _grid_lengths(maze, points)
    np.testing.assert_array_equal(np.isinf(exact), np.isinf(grid))
    finite = np.isfinite(exact)
    assert (exact[finite] <= grid[finite] + 1e-9).all()
    # Paths with eight directions are longer by at most 1 / cos(22.5 degrees), and by a step per corner.
    assert (grid[finite] <= 1.0824 * exact[finite] + 2 / FINE).all()


@pytest.mark.parametrize("name", ["u4_maze", "big_maze", "hardest_maze"])
def test_geodesic_in_the_papers_mazes(name):
    maze = mazes.get(name)
    points = maze.xy(maze.free)
    exact, grid = maze.geodesic(points, points[0]), _grid_lengths(maze, points)
    assert (exact <= grid + 1e-9).all()
    assert (grid <= 1.0824 * exact + 2 / FINE).all()


def _grid_lengths(maze: mazes.Maze, points: np.ndarray) -> np.ndarray:
    """Lengths of shortest 8-connected paths from the first point to all, on a grid with edges inside free cells."""
    shape = np.array(maze.shape) * FINE + 1  # node (0, 0) is the low corner of cell (0, 0)
    walls = np.pad(maze.walls, 1, constant_values=True)
    edges = []
    steps = np.arange(FINE)
    for i, j in maze.free:
        x, y = np.meshgrid(i * FINE + np.arange(FINE + 1), j * FINE + np.arange(FINE + 1), indexing="ij")
        node = x * shape[1] + y
        edges += [(node[:-1].ravel(), node[1:].ravel(), 1.0), (node[:, :-1].ravel(), node[:, 1:].ravel(), 1.0)]
        edges += [(node[np.ix_(steps, steps)].ravel(), node[1:, 1:].ravel(), 2**0.5)]
        edges += [(node[1:, :-1].ravel(), node[:-1, 1:].ravel(), 2**0.5)]
    a = np.concatenate([edge[0] for edge in edges])
    b = np.concatenate([edge[1] for edge in edges])
    length = np.concatenate([np.full(len(edge[0]), edge[2] / FINE) for edge in edges])
    # There is no passage where two walls touch at a corner.
    closed = []
    for i, j in np.ndindex(maze.shape[0] - 1, maze.shape[1] - 1):
        four = walls[i + 1 : i + 3, j + 1 : j + 3]
        if four[0, 0] == four[1, 1] != four[0, 1] == four[1, 0]:
            closed.append((i + 1) * FINE * shape[1] + (j + 1) * FINE)
    keep = ~(np.isin(a, closed) | np.isin(b, closed))
    # Edges between two free cells appear twice, and a sparse matrix would add them up. Keep one.
    pair, first = np.unique(np.stack([a, b], 1)[keep], axis=0, return_index=True)
    graph = coo_array((length[keep][first], (pair[:, 0], pair[:, 1])), shape=(shape.prod(), shape.prod())).tocsr()
    nodes = np.rint((points + 0.5) * FINE).astype(int)
    index = nodes[:, 0] * shape[1] + nodes[:, 1]
    return dijkstra(graph, directed=False, indices=index[0])[index]


def test_no_path_squeezes_between_walls_that_touch():
    maze = mazes.Maze(("#####", "#.#.#", "##..#", "#####"))
    assert np.isinf(maze.geodesic(np.array([1.0, 1.0]), np.array([2.0, 2.0])))
    # Here a way around exists; it is far longer than the one between walls (1, 2) and (2, 1).
    ring = mazes.Maze(("#####", "#.#.#", "#.#.#", "##..#", "#####"))
    assert np.isinf(ring.geodesic(np.array([2.4, 1.4]), np.array([2.6, 1.6])))
    around = mazes.Maze(("######", "#....#", "#.##.#", "#.#..#", "##..##", "######"))
    for x in (1.0, 3.3, 3.4999):
        length = around.geodesic(np.array([x, 1.0]), np.array([4.0, 2.0]))
        assert length > 5


def test_geodesic_by_hand():
    # In the U maze from the center of (1, 1) to that of (3, 1): to the end of the wall, past its thickness, and back.
    maze = mazes.get("u_maze")
    expected = 2 * np.hypot(1.5, 0.5) + 1
    assert maze.geodesic(np.array([1.0, 1.0]), np.array([3.0, 1.0])) == pytest.approx(expected, abs=1e-5)
    # With cells four times as large the length is four times as large, whatever the origin.
    large = mazes.get("u_maze", cell_size=4.0, centered=True)
    ends = large.xy([(1, 1), (3, 1)])
    assert large.geodesic(ends[0], ends[1]) == pytest.approx(4 * expected, abs=1e-4)


def test_geodesic_keeps_shapes_and_marks_walls():
    maze = mazes.get("u_maze")
    x, y, free = maze.grid(3)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
    distance = maze.geodesic(points, np.array([1.0, 1.0]))
    assert distance.shape == free.shape
    np.testing.assert_array_equal(np.isfinite(distance), free)
    assert np.isinf(maze.geodesic(np.array([[1.0, 1.0]]), np.array([2.0, 1.0]))).all()
    assert maze.geodesic(np.zeros((0, 2)), np.array([1.0, 1.0])).shape == (0,)
