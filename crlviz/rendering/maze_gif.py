"""GIFs of policies that move through a maze, side by side. Needs neither a renderer nor a video encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from crlviz import charts
from crlviz.envs.mazes import Maze

SCALE = 2  # pictures are drawn this many times larger and shrunk, for smooth edges
_TRAIL = 25  # steps of the path drawn behind a point


def animate(
    maze: Maze,
    rollouts: Mapping[str, xr.Dataset],
    path: str | Path,
    *,
    colors: Sequence[str],
    width: int = 300,
    every: int = 2,
    fps: int = 20,
) -> None:
    """Write a GIF with one panel per policy, all episodes in sync.

    A goal turns green once its point has come within the success distance. The view is that of the charts: from above,
    x down and y to the right.

    Args:
      maze: the maze.
      rollouts: caption to Dataset of ``crlviz.rollout``; frames stop at the end of the shortest.
      path: the file.
      colors: color of the points in each panel, #rrggbb.
      width: width of a panel in pixels.
      every: steps per frame.
      fps: frames per second.
    """
    length = min(rollout.sizes["time"] for rollout in rollouts.values())
    grounds = ground(maze, width)
    frames = []
    for step in range(0, length, every):
        panels = [
            _panel(grounds, maze, caption, rollout, step, color, width)
            for (caption, rollout), color in zip(rollouts.items(), colors, strict=True)
        ]
        frames.append(np.concatenate(panels, axis=1))
    hold = [frames[-1]] * fps  # hold the last frame for a second before the loop restarts
    imageio.imwrite(path, frames + hold, extension=".gif", duration=1000 / fps, loop=0)


def pixels(maze: Maze, xy: np.ndarray, width: int) -> np.ndarray:
    """Convert positions [..., 2] in meters to (right, down) pixels [..., 2] of ``ground(maze, width)``."""
    x_min, _, y_min, y_max = maze.extent
    scale = SCALE * width / (y_max - y_min)
    return np.stack([(xy[..., 1] - y_min) * scale, (xy[..., 0] - x_min) * scale], axis=-1)


def ground(maze: Maze, width: int) -> Image.Image:
    """A picture of the maze's walls, ``SCALE * width`` pixels wide."""
    x_min, x_max, y_min, y_max = maze.extent
    height = round(SCALE * width * (x_max - x_min) / (y_max - y_min))
    image = Image.new("RGB", (SCALE * width, height), "white")
    draw = ImageDraw.Draw(image)
    half = maze.cell_size / 2
    for center in maze.xy(np.argwhere(maze.walls)):
        draw.rectangle([*pixels(maze, center - half, width), *pixels(maze, center + half, width)], fill=charts.WALL)
    return image


def _panel(
    ground: Image.Image, maze: Maze, caption: str, rollout: xr.Dataset, step: int, color: str, width: int
) -> np.ndarray:
    image = ground.copy()
    draw = ImageDraw.Draw(image)
    unit = SCALE * width / (maze.extent[3] - maze.extent[2]) * maze.cell_size
    reached = rollout.success.values[:, : step + 1].any(axis=1)
    for goal, done in zip(pixels(maze, rollout.goal.values[:, :2], width), reached, strict=True):
        disc(draw, goal, 0.22 * unit, "#8bc98b" if done else "#f3d9d2")
    paths = pixels(maze, rollout.achieved.values[:, max(0, step - _TRAIL) : step + 1, :2], width)
    faint = charts.blend(color, "#ffffff", 0.65)
    for path in paths:
        if len(path) > 1:
            draw.line([tuple(point) for point in path], fill=faint, width=SCALE)
    for path in paths:
        disc(draw, path[-1], 0.09 * unit, color, outline="#222222")
    font = ImageFont.load_default(size=13 * SCALE)
    count = f"step {step + 1}: {int(reached.sum())} of {len(reached)} goals reached"
    strip = Image.new("RGB", (image.width, 44 * SCALE), "white")
    text = ImageDraw.Draw(strip)
    text.text((strip.width / 2, 13 * SCALE), caption, fill="black", font=font, anchor="mm")
    text.text((strip.width / 2, 31 * SCALE), count, fill="#555555", font=font, anchor="mm")
    panel = np.concatenate([np.asarray(strip), np.asarray(image)], axis=0)
    size = (width, round(panel.shape[0] / SCALE))
    return np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.LANCZOS))


def disc(draw: ImageDraw.ImageDraw, center: np.ndarray, radius: float, fill: str, outline: str | None = None) -> None:
    """Draw a disc centered at (right, down) pixels."""
    low, high = center - radius, center + radius
    draw.ellipse([low[0], low[1], high[0], high[1]], fill=fill, outline=outline, width=SCALE)
