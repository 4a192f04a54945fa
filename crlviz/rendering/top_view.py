"""Policies seen from above, as GIFs of panels in step. Needs neither a renderer nor a video encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from crlviz import charts
from crlviz.envs.mazes import Maze

SCALE = 2  # pictures are drawn this many times larger and shrunk, for smooth edges
_TRAIL = 25  # steps of the path drawn behind a body
_BODY_WIDTH = 0.1  # meters, of a body that is a line
_CAPTION = 44  # pixels


@dataclass(frozen=True)
class Ground:
    """The ground from above, as in the charts: x points down, y to the right.

    Attributes:
      extent: (x_min, x_max, y_min, y_max) in meters.
      width: pixels of its picture.
      maze: the maze on it; None: the open plane.
    """

    extent: tuple[float, float, float, float]
    width: int
    maze: Maze | None = None

    @property
    def unit(self) -> float:
        """Pixels of the large picture in a cell of the maze, or in a meter."""
        _, _, y_min, y_max = self.extent
        return SCALE * self.width / (y_max - y_min) * (self.maze.cell_size if self.maze else 1.0)

    def pixels(self, xy: np.ndarray) -> np.ndarray:
        """Convert positions [..., 2] in meters to (right, down) pixels [..., 2] of the large picture."""
        x_min, _, y_min, y_max = self.extent
        scale = SCALE * self.width / (y_max - y_min)
        return np.stack([(xy[..., 1] - y_min) * scale, (xy[..., 0] - x_min) * scale], axis=-1)

    def picture(self) -> Image.Image:
        """The large picture, ``SCALE * width`` pixels wide: walls on white."""
        x_min, x_max, y_min, y_max = self.extent
        height = round(SCALE * self.width * (x_max - x_min) / (y_max - y_min))
        image = Image.new("RGB", (SCALE * self.width, height), "white")
        draw = ImageDraw.Draw(image)
        if self.maze:
            half = self.maze.cell_size / 2
            for center in self.maze.xy(np.argwhere(self.maze.walls)):
                draw.rectangle([*self.pixels(center - half), *self.pixels(center + half)], fill=charts.WALL)
        else:
            draw.rectangle([0, 0, image.width - 1, image.height - 1], outline=charts.WALL, width=SCALE)
        return image


@dataclass(frozen=True)
class Panel:
    """The episodes of one policy.

    Attributes:
      caption: the line above.
      rollout: Dataset of ``crlviz.rollout``.
      color: of the bodies, #rrggbb.
      bodies: [episode, time, P, 2], points of each body's line in meters; None: a body is a disc.
    """

    caption: str
    rollout: xr.Dataset
    color: str
    bodies: np.ndarray | None = None


def animate(
    ground: Ground,
    panels: Sequence[Panel],
    path: str | Path,
    *,
    columns: int | None = None,
    every: int = 2,
    fps: int = 20,
) -> None:
    """Write a GIF of panels, all episodes in step.

    A goal turns green once its body has come within the success distance.

    Args:
      ground: what all of them move on.
      panels: row by row; frames stop at the end of the shortest.
      path: the file.
      columns: panels in a row; None: all.
      every: steps per frame.
      fps: frames per second.
    """
    length = min(panel.rollout.sizes["time"] for panel in panels)
    columns = columns or len(panels)
    below = ground.picture()
    frames = []
    for step in range(0, length, every):
        drawn = [_draw(ground, below.copy(), panel, step) for panel in panels]
        rows = [np.concatenate(drawn[first : first + columns], axis=1) for first in range(0, len(drawn), columns)]
        frames.append(np.concatenate(rows, axis=0))
    hold = [frames[-1]] * fps  # hold the last frame for a second before the loop restarts
    imageio.imwrite(path, frames + hold, extension=".gif", duration=1000 / fps, loop=0)


def _draw(ground: Ground, image: Image.Image, panel: Panel, step: int) -> np.ndarray:
    draw = ImageDraw.Draw(image)
    unit, rollout = ground.unit, panel.rollout
    reached = rollout.success.values[:, : step + 1].any(axis=1)
    for goal, done in zip(ground.pixels(rollout.goal.values[:, :2]), reached, strict=True):
        disc(draw, goal, 0.22 * unit, "#8bc98b" if done else "#f3d9d2")
    paths = ground.pixels(rollout.achieved.values[:, max(0, step - _TRAIL) : step + 1, :2])
    faint = charts.blend(panel.color, "#ffffff", 0.65)
    for path in paths:
        if len(path) > 1:
            draw.line([tuple(point) for point in path], fill=faint, width=SCALE)
    if panel.bodies is None:
        for path in paths:
            disc(draw, path[-1], 0.09 * unit, panel.color, outline="#222222")
    else:
        for body in ground.pixels(panel.bodies[:, step]):
            _chain(draw, body, panel.color, max(SCALE, round(_BODY_WIDTH * unit)))
    font = ImageFont.load_default(size=13 * SCALE)
    count = f"step {step + 1}: {int(reached.sum())} of {len(reached)} goals reached"
    strip = Image.new("RGB", (image.width, _CAPTION * SCALE), "white")
    text = ImageDraw.Draw(strip)
    text.text((strip.width / 2, 13 * SCALE), panel.caption, fill="black", font=font, anchor="mm")
    text.text((strip.width / 2, 31 * SCALE), count, fill="#555555", font=font, anchor="mm")
    whole = np.concatenate([np.asarray(strip), np.asarray(image)], axis=0)
    size = (ground.width, round(whole.shape[0] / SCALE))
    return np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.LANCZOS))


def _chain(draw: ImageDraw.ImageDraw, points: np.ndarray, color: str, width: int) -> None:
    """A thick line through points [P, 2] in pixels, round at its ends and joints, with a dark end at the first."""
    draw.line([tuple(point) for point in points], fill=color, width=width)
    for point in points:
        disc(draw, point, width / 2, color)
    disc(draw, points[0], width / 2, "#222222")


def disc(draw: ImageDraw.ImageDraw, center: np.ndarray, radius: float, fill: str, outline: str | None = None) -> None:
    """Draw a disc centered at (right, down) pixels."""
    low, high = center - radius, center + radius
    draw.ellipse([low[0], low[1], high[0], high[1]], fill=fill, outline=outline, width=SCALE)
