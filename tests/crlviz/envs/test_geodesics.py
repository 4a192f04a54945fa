"""Shortest paths against a brute-force visibility graph, and large mazes."""

import itertools
import time

import numpy as np
import pytest
from scipy.sparse.csgraph import dijkstra

from crlviz.envs import mazes
from tests.helpers.carved import carved


def scattered(rows: int, columns: int, share: float, seed: int) -> mazes.Maze:
    """A grid with this share of random walls and a closed border."""
    inner = np.random.default_rng(seed).random((rows - 2, columns - 2)) < share
    inner[0, 0] = False
    walls = np.pad(inner, 1, constant_values=True)
    return mazes.Maze(tuple("".join("#" if wall else "." for wall in row) for row in walls), 2.0, (-3.0, 1.0))


def by_brute_force(maze: mazes.Maze, points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Lengths in meters from a target [2] to points [N, 2] in free cells, from all pairs of corners and all walls."""
    walls = maze.walls
    four = np.stack([walls[:-1, :-1], walls[:-1, 1:], walls[1:, :-1], walls[1:, 1:]])
    corners = np.argwhere(four.sum(0) == 1) + 0.5
    pinches = np.argwhere((four[0] == four[3]) & (four[1] == four[2]) & (four[0] != four[1])) + 0.5
    runs = [(first, last) for first, last in itertools.combinations_with_replacement(np.argwhere(walls), 2)]
    # Runs of walls are boxes, slightly smaller than their cells; a tiny box closes each corner at which walls touch.
    runs = [
        (first, last)
        for first, last in runs
        if (first == last).any() and walls[first[0] : last[0] + 1, first[1] : last[1] + 1].all()
    ]
    low = np.concatenate([np.array([first for first, _ in runs]) - 0.5 + 1e-7, pinches - 1e-6])
    high = np.concatenate([np.array([last for _, last in runs]) + 0.5 - 1e-7, pinches + 1e-6])
    nodes = np.concatenate([[(target - maze.origin) / maze.cell_size], corners])
    ends = np.concatenate([nodes, (points - maze.origin) / maze.cell_size])
    step = nodes[None, :, None] - ends[:, None, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (low - ends[:, None, None]) / step, (high - ends[:, None, None]) / step
    within = (ends[:, None, None] > low) & (ends[:, None, None] < high)
    enter = np.where(step == 0, np.where(within, -np.inf, np.inf), np.minimum(one, other)).max(-1)
    leave = np.where(step == 0, np.where(within, np.inf, -np.inf), np.maximum(one, other)).min(-1)
    blocked = ((enter < leave) & (enter < 1) & (leave > 0)).any(-1)
    legs = np.where(blocked, np.inf, np.linalg.norm(step[:, :, 0], axis=-1))
    to_nodes = dijkstra(np.where(np.isfinite(legs[: len(nodes)]), legs[: len(nodes)], 0), indices=0, directed=False)
    return maze.cell_size * (legs[len(nodes) :] + to_nodes).min(1)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.15, 0.35, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_lengths_are_those_of_a_visibility_graph(share, seed):
    maze = scattered(5 + 2 * seed, 12 - seed, share, seed)
    draw = np.random.default_rng(seed)
    # Random positions, and centers of cells, where many corners are collinear.
    anywhere = (draw.random((40, 2)) - 0.5) * maze.cell_size + maze.xy(draw.choice(maze.free, 40))
    points = np.concatenate([anywhere, maze.xy(draw.choice(maze.free, 20))])
    lengths = maze.geodesics(points, points[::6])
    assert lengths.shape == (10, 60)
    for row, target in zip(lengths, points[::6], strict=True):
        np.testing.assert_allclose(row, by_brute_force(maze, points, target), atol=1e-5)


def test_lengths_between_faces_and_corners_of_cells():
    """Points on grid lines, except where two walls touch: there the two methods differ by convention."""
    maze = mazes.Maze(tuple(carved(9)))
    free = ~maze.walls
    crowded = [(i, j) for i, j in np.ndindex(8, 8) if free[i : i + 2, j : j + 2].sum() >= 3]
    faces = [(i + 0.5, j) for i, j in np.ndindex(8, 9) if free[i : i + 2, j].all()]
    points = np.array([(i + 0.5, j + 0.5) for i, j in crowded if free[i + 1, j + 1]] + faces, float)
    for target in points[::5]:
        np.testing.assert_allclose(maze.geodesic(points, target), by_brute_force(maze, points, target), atol=1e-5)


def test_distances_in_an_open_room_are_straight():
    side = 21
    maze = mazes.build(["#" * side, *["#r" + "." * (side - 4) + "g#"] * (side - 2), "#" * side])
    points = maze.xy(maze.free)
    straight = np.linalg.norm(points[:, None] - points, axis=-1)
    np.testing.assert_allclose(maze.geodesics(points, points), straight, atol=1e-9)


def test_distances_in_a_large_maze_take_seconds():
    """Between all cells of a 41 x 41 maze, and to the points of a heatmap. A brute-force search took minutes."""
    maze = mazes.build(carved(41))
    begun = time.process_time()
    places = maze.xy(maze.free)
    between = maze.geodesics(places, places)
    x, y, free = maze.grid(8)
    points = np.stack(np.meshgrid(x, y, indexing="ij"), -1)[free]
    fine = maze.geodesics(points, places[-4:])
    assert time.process_time() - begun < 5
    np.testing.assert_allclose(between, between.T, rtol=1e-9)
    assert np.isfinite(fine).all()
    # Paths through the middle of corridors are not shorter, and cutting all corners does not halve them.
    steps = maze.steps(np.array(maze.free))
    assert (between <= steps + 1e-9).all()
    assert (between >= steps / 2).all()


def test_a_large_open_maze_parses_quickly():
    side = 60
    rows = ["#" * side, *["#r" + "." * (side - 4) + "g#"] * (side - 2), "#" * side]
    begun = time.process_time()
    assert len(mazes.parse(rows)) == side
    assert time.process_time() - begun < 5
