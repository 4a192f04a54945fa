"""Pictures of environments, and the command that writes them."""

import imageio.v3 as imageio
import numpy as np
import pytest

from crlviz import cli, envs
from crlviz.rendering.cameras import Cameraman
from crlviz.rendering.env_picture import draw, picture
from crlviz.rendering.renderers import FOVY, open_renderer


@pytest.mark.parametrize("layout", ["u4_maze", "hardest_maze"])
def test_walls_are_drawn_in_their_cells(layout):
    """Seen from above, the center of every cell has the color of a wall or of the floor, also in a shadow."""
    env = envs.make(f"point_{layout}")
    away = np.full(4, 1e3)  # point and goal out of sight
    height, width = 240, 320
    camera = Cameraman(env, away, away[2:], "top", width / height).shot(away, 0.0)
    renderer = open_renderer(env.model, width, height)
    image = renderer.render(away, camera).astype(float)
    renderer.close()
    scale = height / 2 / np.tan(np.radians(FOVY / 2)) / camera.distance
    for cell, wall in np.ndenumerate(env.maze.walls):
        x, y = env.maze.xy(cell) - camera.lookat[:2]
        red, _, blue = image[round(height / 2 + scale * x), round(width / 2 + scale * y)]
        assert (blue > 1.08 * red) == wall, cell


def test_start_and_goal_are_in_the_picture():
    image, _ = picture("point_big_maze", (320, 240))
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    assert ((green > 1.4 * red) & (green > 1.4 * blue)).sum() > 20
    assert ((red > 1.3 * green) & (green > 1.3 * blue)).sum() > 10


@pytest.mark.slow
def test_a_grid_has_one_tile_per_environment(tmp_path):
    draw(["point_u_maze"], tmp_path / "one.png", (80, 60))
    draw(
        ["point_u_maze", "point_u2_maze", "point_u3_maze", "point_u4_maze", "point_u5_maze"],
        tmp_path / "grid.png",
        (80, 60),
    )
    assert imageio.imread(tmp_path / "one.png").shape == (60, 80, 3)
    grid = imageio.imread(tmp_path / "grid.png")
    assert grid.shape == (2 * 68, 4 * 80, 3)
    assert (grid[68:, 80:] == 255).all()
    assert grid[68:, :80].std() > 10


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ant_u44_maze", "--out", "a.png"], "ant_u4_maze"),
        (["--out", "a.png"], "name the environments"),
        (["point_u_maze", "--out", "a.doc"], "not a picture"),
        (["point_u_maze", "--out", "a.png", "--size", "2x2"], "2x2"),
    ],
)
def test_mistakes(arguments, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["crlviz", "envs", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_table_of_one_environment(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["crlviz", "envs", "ant_u4_maze"])
    cli.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert lines[1].split()[:4] == ["ant_u4_maze", "29", "2", "8"]
    assert envs.check("ant_u4_maze") is not None


@pytest.mark.slow  # a reset of each compiles: 3 to 8 seconds
@pytest.mark.parametrize("id", [id for id in envs.BODIES if id != "point" and not id.endswith("_hard")])
def test_every_body_can_be_drawn(id):
    image, _ = picture(id, (160, 120))
    assert image.std() > 10
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    assert ((green > 1.3 * red) & (green > 1.2 * blue)).any() or id == "arm_grasp"  # the goal is visible
