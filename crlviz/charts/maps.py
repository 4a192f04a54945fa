"""Parts of maps: mazes in meters seen from above, rasters, markers and veils."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from crlviz.charts.theme import font, ink, style, text_width
from crlviz.envs.mazes import Maze

WALL = "#d5d8dc"
START = "#ffffff"
GOAL = "#e4572e"
STAR = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"
ARROW = "M-0.9,0L0.9,0M0.3,-0.5L0.9,0L0.3,0.5"

# Stops of Vega's viridis as rrggbb; colors between them are interpolated linearly.
_VIRIDIS = (
    "440154470e61481a6c482575472f7d443a834144873d4e8a39568c35608d31688e2d708e2a788e27818e23888e21918d1f988b1fa08822a884"
    "2ab07f35b77943bf7154c56866cc5d7ad1518fd744a5db36bcdf27d2e21be9e51afde725"
)
VIRIDIS = [f"#{_VIRIDIS[k : k + 6]}" for k in range(0, len(_VIRIDIS), 6)]
_RASTER = 600  # minimum pixels of a raster's longer side, so that values stay sharp squares in every viewer
_TICKS = 6  # most on an axis
_HATCH = 4  # lines of a wall cell from its middle to a corner
_VEIL, _BORDER = 0.5, "#1a1a1a"  # opacity of what is not visited, and its border
_DOT: dict[str, Any] = {"shape": "circle", "size": 24, "filled": True, "opacity": 1}
_KEY_SPACING = 18  # pixels between the entries of a key


def inside(maze: Maze) -> tuple[float, float, float, float]:
    """(x_min, x_max, y_min, y_max) of a maze in meters without its outer ring of walls."""
    x_min, x_max, y_min, y_max = maze.extent
    return x_min + maze.cell_size, x_max - maze.cell_size, y_min + maze.cell_size, y_max - maze.cell_size


def in_meters(maze: Maze | None, extent: tuple[float, float, float, float], size: float) -> dict[str, Any]:
    """Encodings and size of a map of the ground, seen from above, with equal axes.

    As in a layout's text, x points down and y to the right.

    Args:
      maze: what lies outside is wall; None: an open plane.
      extent: (x_min, x_max, y_min, y_max) in meters.
      size: pixels of the longer side.

    Returns:
      ``x`` and ``y`` encodings, ``width`` and ``height`` in pixels, and the ``view``, with a wall around a maze.
    """
    x_min, x_max, y_min, y_max = extent
    scale = size / max(x_max - x_min, y_max - y_min)

    def axis(low: float, high: float, title: str) -> alt.Axis:
        return alt.Axis(title=title, grid=False, domain=False, values=ticks(low, high), format=".3~g", offset=3)

    across = alt.Scale(domain=[y_min, y_max], nice=False, zero=False)
    down = alt.Scale(domain=[x_min, x_max], nice=False, zero=False, reverse=True)
    return {
        "x": alt.X("y:Q", scale=across, axis=axis(y_min, y_max, "y (m)")),
        "y": alt.Y("x:Q", scale=down, axis=axis(x_min, x_max, "x (m)")),
        "width": round(scale * (y_max - y_min)),
        "height": round(scale * (x_max - x_min)),
        "view": alt.ViewBackground(stroke=None if maze is None else wall_color(), strokeWidth=3),
    }


def ticks(low: float, high: float) -> list[float]:
    """Ticks at whole meters between low and high, zero among them where it is inside; at most six."""
    if high - low < 2:  # no two whole meters fit
        return [float(f"{low + share * (high - low):.2g}") for share in (0.1, 0.5, 0.9)]
    steps = (base * 10**power for power in range(9) for base in (1, 2, 5))
    step = next(step for step in steps if math.floor(high / step) - math.ceil(low / step) < _TICKS)
    return [float(k * step) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def wall_color() -> str:
    """The color of walls in the style that is being drawn."""
    return "#3b4048" if style().dark else WALL


def tiles(x: np.ndarray, y: np.ndarray, side: float) -> pd.DataFrame:
    """Corners of square tiles centered at x [N], y [N], in meters, for ``mark_rect``."""
    half = side / 2
    return pd.DataFrame({"x": x - half, "x2": x + half, "y": y - half, "y2": y + half}).round(4)


def raster(values: np.ndarray, domain: tuple[float, float], title: str, ground: Mapping[str, Any]) -> Any:
    """A layer that shows values on a grid covering the ground, in viridis, with a legend.

    Drawn as an image: one rectangle per value would make charts of large mazes slow and their files large.

    Args:
      values: [X, Y]; NaN is transparent.
      domain: the values at the two ends of the color scale.
      title: title of the legend.
      ground: from ``in_meters``.
    """
    low, high = domain
    finite = np.isfinite(values)
    # Vega gives the middle color where the domain is a single value; so do we.
    share = np.where(finite, (values - low) / (high - low), 0).clip(0, 1) if high > low else np.full(values.shape, 0.5)
    stops = np.array([[int(color[k : k + 2], 16) for k in (1, 3, 5)] for color in VIRIDIS])
    positions = np.linspace(0, 1, len(stops))
    channels = [np.interp(share, positions, stop) for stop in stops.T] + [255.0 * finite]
    pixels = np.stack(channels, axis=-1).round().astype(np.uint8)
    image = _image(pixels, ground)
    color = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis", domain=[low, high]),
        legend=alt.Legend(title=title, gradientLength=min(120, ground["height"] - font(25))),
    )
    # An image has no color scale, so the legend belongs to invisible points.
    legend = alt.Chart(pd.DataFrame({"value": [low, high]})).mark_point(size=0, opacity=0).encode(color=color)
    return alt.layer(image, legend)


def _image(pixels: np.ndarray, ground: Mapping[str, Any]) -> alt.Chart:
    """A layer of pixels [X, Y, 4] (RGBA) that cover the ground."""
    from PIL import Image

    scale = -(-_RASTER // max(pixels.shape[:2]))
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(file, "PNG", compress_level=6)
    data = pd.DataFrame({"url": ["data:image/png;base64," + base64.b64encode(file.getvalue()).decode()]})
    mark = {"align": "left", "baseline": "top", "width": ground["width"], "height": ground["height"]}
    image = alt.Chart(data).mark_image(**mark, aspect=False, smooth=False)
    return image.encode(x=alt.value(0), y=alt.value(0), url="url:N")


def walls(maze: Maze, ground: Mapping[str, Any]) -> alt.LayerChart | alt.FacetChart:
    """A layer with a maze's walls, hatched: in gray a wall looks like no value. ``ground`` comes from ``in_meters``."""
    centers = maze.xy(np.argwhere(maze.walls))
    data = tiles(centers[:, 0], centers[:, 1], maze.cell_size)
    filled = alt.Chart(data).mark_rect(color=wall_color(), stroke=wall_color(), clip=True)
    # Parallel lines through a cell; in cells, from its center.
    shifts = np.linspace(-1, 1, 2 * _HATCH + 1)[1:-1]
    starts = np.stack([np.maximum(shifts, 0) - 0.5, np.maximum(-shifts, 0) - 0.5], axis=-1)
    ends = starts + (1 - abs(shifts))[:, None]
    corners = np.tile(centers, 2)[:, None] + maze.cell_size * np.concatenate([starts, ends], axis=-1)
    x, y, x2, y2 = corners.reshape(-1, 4).T
    lines = alt.Chart(pd.DataFrame({"x": x, "y": y, "x2": x2, "y2": y2}).round(3))
    hatching = lines.mark_rule(color=ink(0.5), strokeWidth=0.9, clip=True)
    return alt.layer(
        *(marks.encode(x=ground["x"], x2="y2:Q", y=ground["y"], y2="x2:Q") for marks in (filled, hatching))
    )


def marker(xy: np.ndarray, ground: Mapping[str, Any], kind: str) -> alt.Chart:
    """A layer with starts (white circles) or goals (orange stars) at positions [N, 2] or [2] in meters.

    ``kind`` is "start" or the tooltip's name for a goal.
    """
    xy = np.atleast_2d(xy)
    data = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "what": kind})
    return (
        alt.Chart(data)
        .mark_point(**_looks(kind))
        .encode(x=ground["x"], y=ground["y"], tooltip=["what:N", "x:Q", "y:Q"])
    )


def _looks(kind: str) -> dict[str, Any]:
    shape, size, fill = ("circle", 70, START) if kind == "start" else (STAR, 160, GOAL)
    return {
        "shape": shape,
        "size": size,
        "filled": True,
        "fill": fill,
        "stroke": "black",
        "strokeWidth": 1.2,
        "opacity": 1,
    }


def key(entries: Mapping[str, str]) -> Any:
    """A line that says what the marks of maps mean.

    Args:
      entries: kind of mark -> its words: start, goal, ring, path, thick or thin
        (lines), dot (in a tile), veil, line or arrow (on a map).
    """
    place, middle, layers = 8.0, font(8), []
    for kind, words in entries.items():
        base = alt.Chart(pd.DataFrame({"words": [words]})).encode(y=alt.value(middle))
        at = base.encode(x=alt.value(place))
        if kind in ("start", "goal"):
            layers.append(at.mark_point(**_looks(kind)))
        elif kind == "ring":
            layers.append(at.mark_point(size=200, color=ink(0.9), strokeWidth=1.2, opacity=1))
        elif kind in ("thick", "thin"):
            rule = at.mark_rule(color=ink(0.7), strokeWidth=2.5 if kind == "thick" else 1, x2Offset=0)
            layers.append(rule.encode(x=alt.value(place - 8), x2=alt.value(place + 8)))
        elif kind == "path":
            rule = at.mark_rule(color=ink(0.25), x2Offset=0)
            layers.append(rule.encode(x=alt.value(place - 8), x2=alt.value(place + 8)))
            layers += [base.mark_point(**_DOT, fill="#2a788e").encode(x=alt.value(place + step)) for step in (-7, 0, 7)]
        else:
            tile: dict[str, Any] = {"shape": "square", "size": 240, "strokeWidth": 0, "filled": True, "opacity": 1}
            layers.append(at.mark_point(**tile, fill="#2a788e"))
            if kind == "veil":
                layers.append(at.mark_point(**tile | {"opacity": _VEIL}, fill="white"))
                layers.append(at.mark_point(shape="square", size=240, stroke=_BORDER, strokeWidth=0.8, opacity=1))
            if kind == "dot":
                layers.append(at.mark_point(**_DOT, fill="white", stroke="black", strokeWidth=0.8))
            if kind == "arrow":
                layers.append(
                    at.mark_point(shape=ARROW, size=140, filled=False, color="white", strokeWidth=1.4, opacity=1)
                )
            if kind == "line":
                line = at.mark_rule(color="white", strokeWidth=1.4, x2Offset=0)
                layers.append(line.encode(x=alt.value(place - 6), x2=alt.value(place + 6)))
        layers.append(base.mark_text(align="left", baseline="middle").encode(x=alt.value(place + 12), text="words:N"))
        place += 12 + text_width(words) + _KEY_SPACING
    return alt.layer(*layers).properties(width=place, height=font(16), view=alt.ViewBackground(stroke=None))


def veil(free: np.ndarray, inside: np.ndarray, ground: Mapping[str, Any]) -> alt.Chart:
    """A layer that makes all that is free and not inside a region pale.

    Args:
      free, inside: [X, Y], of the tiles of a grid that covers the ground.
      ground: from ``in_meters``.
    """
    pixels = np.full((*free.shape, 4), 255, np.uint8)
    pixels[..., 3] = np.where(free & ~inside, round(255 * _VEIL), 0)
    return _image(pixels, ground)


def outline(
    inside: np.ndarray, x: np.ndarray, y: np.ndarray, side: float, ground: Mapping[str, Any]
) -> alt.LayerChart | alt.FacetChart:
    """A layer with the border of a region: dark in white, to be seen on every color.

    Args:
      inside: [X, Y], whether each tile belongs to the region.
      x, y: [X] and [Y], centers of the tiles in meters.
      side: side of a tile in meters.
      ground: from ``in_meters``.
    """
    padded = np.pad(inside, 1)
    across, along = padded[1:, :] != padded[:-1, :], padded[:, 1:] != padded[:, :-1]
    # One rule for each straight piece of the border; its ends are in tiles from the grid's corner.
    rows = [(i, i, first - 1, end - 1) for i, first, end in _runs(across)]
    rows += [(first - 1, end - 1, j, j) for j, first, end in _runs(along.T)]
    ends = np.array(rows, float).reshape(-1, 4) * side + np.array([x[0], x[0], y[0], y[0]]) - side / 2
    data = pd.DataFrame(ends, columns=["x", "x2", "y", "y2"]).round(4)
    rules = alt.Chart(data).encode(x=ground["x"], x2="y2:Q", y=ground["y"], y2="x2:Q")
    return alt.layer(
        rules.mark_rule(color="white", strokeWidth=1.8, strokeCap="square"),
        rules.mark_rule(color=_BORDER, strokeWidth=0.8, strokeCap="square"),
    )


def _runs(edges: np.ndarray) -> list[Sequence[int]]:
    """Runs of consecutive True values in the rows of [N, M], each as [row, first, end)."""
    steps = np.diff(np.pad(edges.astype(int), ((0, 0), (1, 1))), axis=1)
    return np.column_stack([np.argwhere(steps == 1), np.argwhere(steps == -1)[:, 1]]).tolist()
