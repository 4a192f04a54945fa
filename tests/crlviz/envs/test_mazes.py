"""Mazes against the grids of the public code."""

import codecs
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crlviz import envs
from crlviz.envs import mazes
from crlviz.errors import CrlvizError, UsageError
from tests.helpers import DATA


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


def test_exit_codes_of_errors():
    assert issubclass(UsageError, CrlvizError)
    assert (CrlvizError.exit_code, UsageError.exit_code) == (1, 2)
