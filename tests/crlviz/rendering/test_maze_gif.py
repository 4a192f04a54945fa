"""Maze GIFs: size, number of frames, and positions of the points."""

import imageio.v3 as imageio
import numpy as np
import xarray as xr

from crlviz.envs import mazes
from crlviz.rendering.maze_gif import animate


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
    animate(maze, {"left": rollout, "right": rollout}, file, colors=["#ff0000", "#0000ff"], width=200, every=1, fps=5)
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
