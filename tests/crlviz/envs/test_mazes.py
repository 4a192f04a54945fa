"""Mazes against the grids of the public code, and distances against Dijkstra on a fine grid."""

import codecs
import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from crlviz import envs
from crlviz.envs import mazes
from crlviz.errors import CrlvizError, UsageError
from tests.helpers import DATA

FINE = 8  # points to a cell's side of the brute-force grid


def _cell(text: str) -> tuple[int, int]:
    row, column = text.split(",")
    return int(row), int(column)


def _recorded() -> dict[str, list[str]]:
    lines = (DATA / "mazes.txt").read_text().splitlines()
    return {name: facts for name, *facts in (line.split() for line in lines if not line.startswith("#"))}


def test_every_layout_has_a_recording():
    assert set(mazes.LAYOUTS) == set(_recorded())


@pytest.mark.parametrize("name", sorted(_recorded()))
def test_layouts_equal_those_of_the_public_code(name):
    rows, columns, walls, start, *goals = _recorded()[name]
    maze = mazes.get(name)
    assert maze.shape == (int(rows), int(columns))
    assert maze.walls.sum() == int(walls)
    assert maze.starts == [_cell(start)]
    assert maze.goals == [_cell(goal) for goal in goals]
    assert len(maze.free) == int(rows) * int(columns) - int(walls)


@pytest.mark.parametrize(("name", "base"), [(n, n.split("_maze")[0] + "_maze") for n in mazes.LAYOUTS if "maze_" in n])
def test_variants_keep_the_walls_and_start(name, base):
    variant, maze = mazes.get(name), mazes.get(base)
    np.testing.assert_array_equal(variant.walls, maze.walls)
    assert variant.starts == maze.starts


# ---- parse


BAD_LAYOUTS = {
    "ragged": (["#####", "#rg#", "#####"], ["row 2", "4 cells", "5"]),
    "open top": (["##.##", "#r.g#", "#####"], ["border", "row 1", "column 3"]),
    "open side": (["#####", "#r.g.", "#####"], ["border", "row 2", "column 5"]),
    "unknown letter": (["#####", "#rXg#", "#####"], ["'X'", "row 2", "column 3"]),
    "no start": (["#####", "#..g#", "#####"], ["no start", "'r'"]),
    "no goal": (["#####", "#r..#", "#####"], ["no goal", "'g'"]),
    "unreachable": (["#####", "#r#g#", "#####"], ["goal", "row 2", "column 4", "cannot be reached"]),
    # There is no way through between walls that touch at a corner.
    "diagonal gap": (["####", "#r##", "##g#", "####"], ["cannot be reached"]),
    "no rows": ([], ["empty"]),
    "blank rows": (["", "  "], ["empty"]),
}


@pytest.mark.parametrize(("layout", "words"), BAD_LAYOUTS.values(), ids=BAD_LAYOUTS)
def test_parse_refuses_bad_layouts_in_one_sentence(layout, words, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(layout))
    for source, name in ((layout, "the maze"), (file, str(file)), (str(file), str(file))):
        with pytest.raises(UsageError) as error:
            mazes.parse(source)
        message = str(error.value)
        assert all(word in message for word in [*words, name])
        assert "\n" not in message


def test_parse_reads_a_file_like_its_rows(tmp_path):
    rows = mazes.LAYOUTS["u4_maze"].split()
    file = tmp_path / "u4.txt"
    file.write_text("\r\n".join(["", *(f"  {row} " for row in rows), ""]))
    assert mazes.parse(file) == mazes.parse(rows) == tuple(rows)


def test_parse_reads_files_of_windows_editors(tmp_path):
    (tmp_path / "maze.txt").write_bytes(codecs.BOM_UTF8 + b"####\r\n#rg#\r\n####\r\n")
    assert mazes.parse(tmp_path / "maze.txt") == ("####", "#rg#", "####")
    (tmp_path / "tab.txt").write_text("#####\n#r\tg#\n#####\n")
    with pytest.raises(UsageError, match=r"tab.txt: row 2, column 3 holds '\\t'; known are"):
        mazes.parse(tmp_path / "tab.txt")


def test_parse_names_unreadable_files(tmp_path):
    binary = tmp_path / "maze.bin"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path in (binary, tmp_path / "missing.txt", tmp_path):
        with pytest.raises(UsageError) as error:
            mazes.parse(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_parse_refuses_large_mazes_quickly(tmp_path):
    """The number of pairs is the product of starts and goals: millions for a file of a few kilobytes."""
    room = ["#" * 98, *["#" + "rg" * 48 + "#"] * 98, "#" * 98]
    endless = tmp_path / "endless.txt"
    endless.write_text("#" * (1 << 20) + "#")
    cases = {"pairs may be 1,000,000 at most": room, "at most 10,000": ["#" * 101] * 101, "characters": endless}
    for words, layout in cases.items():
        began = time.perf_counter()
        with pytest.raises(UsageError, match=words):
            mazes.parse(layout)
        assert time.perf_counter() - began < 1
    with pytest.raises(UsageError, match="characters"):
        mazes.parse("/dev/zero")
    many = ["#" * 42, *["#" + "rg" * 20 + "#"] * 40, "#" * 42]
    began = time.perf_counter()
    assert mazes.parse(many) == tuple(many)  # 640,000 pairs; reachability is not checked pair by pair
    assert time.perf_counter() - began < 2


def test_every_start_must_reach_every_goal():
    with pytest.raises(UsageError, match="cannot be reached from the start at row 2, column 5"):
        mazes.parse(["######", "#rg#r#", "######"])


@settings(max_examples=300)
@given(st.lists(st.text("#.rgb", min_size=1, max_size=7), min_size=1, max_size=7))
def test_parse_agrees_with_the_rules(rows):
    """Against the rules: rectangular, closed, and every goal reachable from every start by steps between sides."""
    try:
        accepted = mazes.parse(rows) == tuple(rows)
    except UsageError:
        accepted = False
    assert accepted == _is_valid(rows)


def _is_valid(rows: list[str]) -> bool:
    if len({len(row) for row in rows}) > 1:
        return False
    grid = np.array([list(row) for row in rows])
    border = np.ones(grid.shape, bool)
    border[1:-1, 1:-1] = False
    if (grid[border] != "#").any() or not (grid == "r").any() or not (grid == "g").any():
        return False
    # Propagate labels: connected cells end up with the same number.
    label = np.where(grid == "#", -1, np.arange(grid.size).reshape(grid.shape))
    for _ in range(grid.size):
        for axis, shift in itertools.product((0, 1), (1, -1)):
            rolled = np.roll(label, shift, axis)  # cells that wrap around are border, hence -1
            label = np.where(grid == "#", -1, np.maximum(label, rolled))
    return len({*label[grid == "r"], *label[grid == "g"]}) == 1


# ---- names and pairs


@pytest.mark.parametrize(
    ("wrong", "near"), [("u4_mase", "u4_maze"), ("bigmaze", "big_maze"), ("hardest", "hardest_maze"), ("U_MAZE", "u")]
)
def test_unknown_names_suggest_the_nearest(wrong, near):
    for ask in (lambda: mazes.get(wrong), lambda: envs.make(f"point_{wrong}")):
        with pytest.raises(UsageError) as error:
            ask()
        assert repr(wrong) in str(error.value) or f"'point_{wrong}'" in str(error.value)
        assert near in str(error.value).partition("nearest")[2]


@pytest.mark.parametrize("wrong", ["", "maze", "point", "antler_u4_maze", "point_u_maze_gen_", "point_u_maze_gen_x"])
def test_unknown_environments_are_refused(wrong):
    with pytest.raises(UsageError, match=r"nearest: .*maze"):
        envs.make(wrong)


def test_custom_layouts_need_point_maze():
    with pytest.raises(UsageError, match="--layout"):
        envs.make("point_maze")
    with pytest.raises(UsageError, match="point_maze"):
        envs.make("point_u_maze", layout=["####", "#rg#", "####"])


def test_generated_pairs():
    """First the distance, each with probability 1/3; then the place along the corridor; only forward."""
    along = [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    maze = mazes.get("u_maze_gen_1f2f3f")
    pairs, weights = maze.pairs
    expected = {}
    for hop in (1, 2, 3):
        places = [(along[k], along[k + hop]) for k in range(7) if k + hop < 7]
        expected |= dict.fromkeys(places, 1 / 3 / len(places))
    found = {(tuple(start), tuple(goal)): weight for (start, goal), weight in zip(pairs.tolist(), weights, strict=True)}
    assert found.keys() == expected.keys()
    assert len(pairs) == 6 + 5 + 4
    for pair, weight in expected.items():
        assert found[pair] == pytest.approx(weight)


def test_pairs_of_plain_mazes_are_equally_likely():
    pairs, weights = mazes.get("u4_maze_eval").pairs
    assert {tuple(start) for start in pairs[:, 0]} == {(2, 1)}
    assert [tuple(goal) for goal in pairs[:, 1].tolist()] == [(4, 1), (5, 1), (5, 2), (5, 3)]
    np.testing.assert_allclose(weights, 0.25)


@pytest.mark.parametrize("name", ["big_maze", "hardest_maze"])
def test_generated_pairs_of_a_maze_that_branches(name):
    """In both directions, at the distances of a breadth-first search."""
    maze = mazes.get(f"{name}_gen_2f5f")
    free = np.array(maze.free)
    assert maze.corridor is None
    expected = {}
    for hop in (2, 5):
        found = []
        for start in free:
            age = np.where(maze.walls, -1, np.inf)
            age[tuple(start)] = 0
            for step in range(1, hop + 1):
                for axis, shift in itertools.product((0, 1), (1, -1)):
                    age = np.where(np.isinf(age) & (np.roll(age, shift, axis) == step - 1), step, age)
            found += [(tuple(start.tolist()), goal) for goal in map(tuple, np.argwhere(age == hop).tolist())]
        expected |= dict.fromkeys(found, 1 / 2 / len(found))
    pairs, weights = maze.pairs
    assert {(tuple(a), tuple(b)): w for (a, b), w in zip(pairs.tolist(), weights, strict=True)} == pytest.approx(
        expected
    )
    assert len(pairs) == len(expected)


def test_generated_pairs_need_cells_that_far_apart():
    for hops in ("7f", "0f1f"):
        with pytest.raises(UsageError, match="1 to 6"):
            mazes.get(f"u_maze_gen_{hops}")
    with pytest.raises(UsageError, match=r"1 to \d+ apart"):
        mazes.get("big_maze_gen_40f")
    assert len(mazes.get("u_maze_gen_6f").pairs[0]) == 1
    cut_off = ["########", "#rg#...#", "########"]  # unreachable cells are not part of the corridor
    with pytest.raises(UsageError, match="1 to 1"):
        mazes.build(cut_off, hops=(2,))


def test_steps_are_infinite_between_unconnected_cells():
    maze = mazes.build(["######", "#rg#.#", "######"])
    np.testing.assert_array_equal(maze.steps(np.array([(1, 1), (1, 2), (1, 4)]))[0], [0, 1, np.inf])


def test_names_with_pairs_within_a_distance():
    assert mazes.within("ant_u_maze", 3) == "ant_u_maze_gen_1f2f3f"
    assert mazes.split_pairs("u_maze_gen_1f12f") == ("u_maze", (1, 12))
    assert mazes.split_pairs("u_maze") == ("u_maze", ())
    custom = envs.make("point_maze_gen_1f2f", layout=["#####", "#rg.#", "#####"])
    assert custom.maze.hops == (1, 2)
    assert len(custom.maze.pairs[0]) == 2 + 1
    for wrong, cells in (("point_u_maze", 0), ("point_u_maze_gen_1f", 2), ("humanoid", 3), ("point_u_maze_eval", 1)):
        with pytest.raises(UsageError):
            mazes.within(wrong, cells)


# ---- positions


@given(
    st.sampled_from(sorted(mazes.LAYOUTS)),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.booleans(),
    st.floats(-0.499, 0.499),
    st.floats(-0.499, 0.499),
)
def test_cells_and_positions_round_trip(name, size, centered, dx, dy):
    maze = mazes.get(name, cell_size=size, centered=centered)
    cells = np.array(list(np.ndindex(maze.shape)))
    positions = maze.xy(cells) + size * np.array([dx, dy])
    np.testing.assert_array_equal(maze.cell(positions), cells)
    np.testing.assert_array_equal(maze.is_free(positions), ~maze.walls.ravel())
    x_min, x_max, y_min, y_max = maze.extent
    assert (x_max - x_min, y_max - y_min) == pytest.approx((size * maze.shape[0], size * maze.shape[1]))
    assert ((positions > (x_min, y_min)) & (positions < (x_max, y_max))).all()


def test_positions_as_in_the_papers_code():
    maze = mazes.get("u_maze", cell_size=4.0)
    np.testing.assert_array_equal(maze.xy((1, 3)), [4.0, 12.0])  # row to x, column to y
    centered = mazes.get("u2_maze", centered=True)
    np.testing.assert_allclose(centered.extent, (-2.5, 2.5, -3, 3))


def test_nothing_outside_the_grid_is_free():
    maze = mazes.get("u_maze")
    assert not maze.is_free(np.array([[-3, 1], [1, 40], [-0.6, -0.6], [1e6, -1e6]])).any()


@pytest.mark.parametrize("per_cell", [1, 3, 4])
def test_grid_returns_which_points_are_free(per_cell):
    maze = mazes.get("u4_maze", cell_size=2.0, centered=True)
    x, y, free = maze.grid(per_cell)
    assert free.shape == (7 * per_cell, 5 * per_cell)
    np.testing.assert_allclose(np.diff(x), 2 / per_cell)
    np.testing.assert_array_equal(free, maze.is_free(np.stack(np.meshgrid(x, y, indexing="ij"), -1)))


# ---- distances


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


def test_exit_codes_of_errors():
    assert issubclass(UsageError, CrlvizError)
    assert (CrlvizError.exit_code, UsageError.exit_code) == (1, 2)
