"""GIFs from above: size, number of frames, and positions of the points."""

import imageio.v3 as imageio
import numpy as np
import xarray as xr

from crlviz.envs import mazes
from crlviz.rendering.top_view import Ground, Panel, animate


def test_frames_show_the_points(tmp_path):
    maze = mazes.build(["#####", "#r..#", "#..g#", "#####"], centered=True)
    steps = 10
    # One point from the start to the goal, arriving at the last step.
    path = np.linspace(maze.xy((1, 1)), maze.xy((2, 3)), steps)
    rollout = xr.Dataset(
        {
            "achieved": (("episode", "time", "goal_index"), path[None]),
            "goal": (("episode", "goal_index"), maze.xy((2, 3))[None]),
            "success": (("episode", "time"), (np.arange(steps) == steps - 1)[None]),
        }
    )
    file = tmp_path / "a.gif"
    panels = [Panel("left", rollout, "#ff0000"), Panel("right", rollout, "#0000ff")]
    animate(Ground(maze.extent, 200, maze), panels, file, every=1, fps=5)
    frames = imageio.imread(file, index=None)
    assert frames.shape[:3] == (
        steps,
        160 + 44,
        400,
    )  # 4 rows of 5 columns and a strip of text; the pause at the end is one long frame
    for step in (0, 4):
        for panel, channel in ((0, 0), (1, 2)):
            row, column = (path[step] - maze.origin + 0.5) * 40
            pixel = frames[step, 44 + round(row), 200 * panel + round(column)].astype(int)
            others = [c for c in range(3) if c != channel]
            assert pixel[channel] > 150 > pixel[others].max(), (step, panel, pixel)
    wall = frames[0, 44 + 20, 20]
    assert np.ptp(wall[:3].astype(int)) < 20  # gray


def test_bodies_are_drawn_as_lines_in_a_grid_of_panels(tmp_path):
    lines = np.zeros((1, 3, 2, 2))
    lines[0, :, 1] = [1.0, 0.0]  # from the origin down, as x points down
    rollout = xr.Dataset(
        {
            "achieved": (("episode", "time", "goal_index"), lines[:, :, 0]),
            "goal": (("episode", "goal_index"), np.array([[-1.5, -1.5]])),
            "success": (("episode", "time"), np.zeros((1, 3), bool)),
        }
    )
    file = tmp_path / "grid.gif"
    panels = [Panel(name, rollout, "#ff0000", lines) for name in "abcd"]
    animate(Ground((-2, 2, -2, 2), 100), panels, file, columns=2, every=1, fps=1)
    frame = imageio.imread(file, index=0).astype(int)
    assert frame.shape[:2] == (2 * (100 + 44), 2 * 100)
    for row in (0, 144):
        for column in (0, 100):
            red = frame[row + 44 :, column:]
            assert red[62, 50, 0] > 200 > red[62, 50, 1], "the middle of the line"
            assert red[62, 40].min() > 200, "beside it"
