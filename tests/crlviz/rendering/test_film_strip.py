"""Strips of frames: which moments they show, and that a frame is that of the film."""

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from crlviz import envs
from crlviz.errors import UsageError
from crlviz.rendering import film_strip, video
from crlviz.rendering.video import Panel


@pytest.fixture(scope="module")
def env():
    return envs.make("point_u_maze")  # steps of 0.1 s


def _panel(env, x, alive=None):
    """A point that moves along x [N] at y = -1; its goal is at x = 1."""
    x = np.asarray(x, float)
    pose = np.stack([x, np.full(len(x), -1.0), np.full(len(x), 1.0), np.full(len(x), -1.0)], axis=1)
    alive = np.arange(len(x)) < (alive or len(x))
    return Panel(
        "walks",
        env,
        xr.Dataset(
            {
                "pose": (("time", "joint"), pose),
                "achieved": (("time", "goal_index"), pose[:, :2]),
                "goal": ("goal_index", np.array([1.0, -1.0])),
                "distance": ("time", 1 - x),
                "success": ("time", (1 - x < 0.05) & alive),
                "alive": ("time", alive),
            }
        ),
    )


def test_the_last_frame_is_where_all_is_told(env):
    arrives = _panel(env, np.minimum(np.linspace(-1, 3, 101), 1))  # at the goal from step 49 on
    stuck = _panel(env, np.minimum(np.linspace(-1, 3, 101), 0))  # has gone 95 % of its way at step 24
    falls = _panel(env, np.linspace(-1, 0, 101), alive=60)
    still = _panel(env, np.full(101, -1.0))
    assert film_strip.moments([arrives], 3) == pytest.approx([0, 2.5, 5.0])
    assert film_strip.moments([stuck])[-1] == pytest.approx(2.4, abs=0.11)
    assert film_strip.moments([stuck, arrives])[-1] == pytest.approx(5.0)
    assert film_strip.moments([falls])[-1] == pytest.approx(6.0 + 1.5)
    assert film_strip.moments([still])[-1] == pytest.approx(10.0)


def test_the_title_tells_what_is_seen(env):
    arrives, stays = _panel(env, np.linspace(-1, 1, 41)), _panel(env, np.full(41, -1.0))
    falls, elsewhere = _panel(env, np.linspace(-1, 0, 41), alive=20), _panel(env, np.full(41, 0.5))
    assert film_strip.title([arrives, stays]) == (
        "point_u_maze, the same start and goal: walks arrives after 4.0 s; walks does not arrive"
    )
    assert film_strip.title([falls]) == "point_u_maze: walks falls after 2.0 s"
    assert film_strip.title([stays, elsewhere]).startswith("point_u_maze: ")
    assert film_strip.title([stays] * 6).endswith("; 2 more")


def test_a_strip_has_a_row_for_each_panel_and_a_column_for_each_moment(env, tmp_path):
    panels = [_panel(env, np.linspace(-1, 1, 41)), _panel(env, np.full(41, -1.0))]
    assert film_strip.write(tmp_path / "s.png", panels, size=(160, 120), count=3)
    picture = np.asarray(Image.open(tmp_path / "s.png")).astype(int)
    title = 2 * 11
    assert picture[:title].min() < 100  # its words
    picture = picture[title:]
    height = picture.shape[0] // 2
    assert picture.shape[1] == 3 * 160
    assert height > 120  # a caption above each
    moves, rests = picture[height - 120 : height], picture[2 * height - 120 :]
    assert abs(rests[:, :160] - rests[:, 320:480]).max() < 10
    assert abs(moves[:, :160] - moves[:, 320:480]).mean() > 2
    assert abs(moves[:, :160] - rests[:, :160]).max() < 10  # the same start
    still = film_strip.stills(panels, [0.0, 4.0], (160, 120))
    assert [pictures.shape for pictures in still] == [(2, 120, 160, 3)] * 2
    # A still is the frame without its map, which is in the upper right.
    assert abs(still[0][0][80:].astype(int) - moves[80:, :160]).max() == 0


def test_another_ending_is_a_mistake(env, tmp_path):
    with pytest.raises(UsageError, match=r"ends? in \.png|must end in \.png"):
        film_strip.write(tmp_path / "s.jpg", [_panel(env, np.zeros(3))], size=(64, 48))
    assert video.SIZE == (640, 480)
