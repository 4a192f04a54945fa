"""Shared parts of charts: the theme, colors of depths, mazes in meters, layers, and files by their ending."""

import base64
import contextlib
import functools
import html
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import altair as alt
import numpy as np
import pandas as pd

from crlviz.checkpoints import atomic_files
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError
from crlviz.escaping import script_json

ENDINGS = (".html", ".png", ".svg", ".pdf", ".json")
FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"
WALL = "#d5d8dc"
START = "#ffffff"
GOAL = "#e4572e"
STAR = "M0,-1L0.29,-0.4L0.95,-0.31L0.48,0.15L0.59,0.81L0,0.5L-0.59,0.81L-0.48,0.15L-0.95,-0.31L-0.29,-0.4Z"

# Stops of Vega's viridis as rrggbb; colors between them are interpolated linearly.
_VIRIDIS = (
    "440154470e61481a6c482575472f7d443a834144873d4e8a39568c35608d31688e2d708e2a788e27818e23888e21918d1f988b1fa08822a884"
    "2ab07f35b77943bf7154c56866cc5d7ad1518fd744a5db36bcdf27d2e21be9e51afde725"
)
SOLID: list[int] = []  # no dashes; some PDF viewers draw [1, 0] as very fine dashes
VIRIDIS = [f"#{_VIRIDIS[k : k + 6]}" for k in range(0, len(_VIRIDIS), 6)]
_RASTER = 600  # minimum pixels of a raster's longer side, so that values stay sharp squares in every viewer

# Colors of depths 4, 16, 64, 256 and 1,024, light to dark; interpolated in the logarithm of depth.
_DEPTH_STOPS = ("#f2b035", "#e0604c", "#a8326e", "#611f76", "#22103f")


@alt.theme.register("crlviz", enable=False)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "config": {
            "font": FONT,
            "background": "white",
            "title": {"anchor": "start", "fontSize": 14, "subtitleFontSize": 12, "subtitleColor": "#555", "offset": 8},
            "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#e8e8e8"},
            "legend": {"labelFontSize": 11, "labelLimit": 600, "titleFontSize": 12, "titleFontWeight": "normal"},
            "view": {"stroke": "transparent"},
        }
    }


@contextlib.contextmanager
def _our_settings() -> Iterator[None]:
    """Context in which Altair uses our theme and accepts tables of any length. The user's settings are restored."""
    # A map has one row per point, and Altair refuses more than 5,000 rows.
    with alt.theme.enable("crlviz"), alt.data_transformers.enable("default", max_rows=None):
        yield


P = ParamSpec("P")


def self_contained(plot: Callable[P, alt.TopLevelMixin]) -> Callable[P, alt.TopLevelMixin]:
    """Decorator: the function's charts look the same in any session, whatever its theme and limit of rows.

    A chart and its copies (``chart.properties(...)``) bring our settings when they are shown or saved. Chart plus chart
    is Altair's own and has the session's settings.
    """

    @functools.wraps(plot)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> alt.TopLevelMixin:
        chart = plot(*args, **kwargs)
        kind: Any = type(chart)
        ours = object.__new__(_with_our_settings(kind))
        ours.__dict__.update(chart.__dict__)  # a chart's constructor would validate all its parts again
        return ours

    return wrapper


@functools.cache
def _with_our_settings(kind: Any) -> Any:
    """A subclass of a kind of chart, such as ``alt.LayerChart``, that is written with our settings."""

    def to_dict(self: Any, *args: Any, **options: Any) -> dict[str, Any]:
        with _our_settings():
            return kind.to_dict(self, *args, **options)

    return type(kind.__name__, (kind,), {"to_dict": to_dict, "__doc__": kind.__doc__})


def _spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    with _our_settings():
        return chart.to_dict()


def depth_color(depth: float) -> str:
    """The color of a depth, as #rrggbb."""
    position = min(max(math.log(max(depth, 1) / 4, 4), 0), len(_DEPTH_STOPS) - 1)
    low = min(int(position), len(_DEPTH_STOPS) - 2)
    return blend(_DEPTH_STOPS[low], _DEPTH_STOPS[low + 1], position - low)


def blend(a: str, b: str, share: float) -> str:
    """Linear interpolation from color a (share 0) to color b (share 1), all as #rrggbb."""
    first, second = (np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)]) for color in (a, b))
    return "#" + "".join(f"{round(value):02x}" for value in first + share * (second - first))


def in_meters(maze: Maze | None, extent: tuple[float, float, float, float], size: float) -> dict[str, Any]:
    """Encodings and size of a map of the ground, seen from above, with equal axes.

    As in a layout's text, x points down and y to the right.

    Args:
      maze: puts ticks at the centers of its cells; None: default ticks.
      extent: (x_min, x_max, y_min, y_max) in meters.
      size: pixels of the longer side.

    Returns:
      ``x`` and ``y`` encodings, and ``width`` and ``height`` in pixels.
    """
    x_min, x_max, y_min, y_max = extent
    scale = size / max(x_max - x_min, y_max - y_min)

    def axis(index: int, title: str) -> alt.Axis:
        if maze is None:
            return alt.Axis(title=title, grid=False)
        return alt.Axis(title=title, grid=False, values=ticks(maze, index), format=".3~g")

    return {
        "x": alt.X("y:Q", scale=alt.Scale(domain=[y_min, y_max], nice=False, zero=False), axis=axis(1, "y (m)")),
        "y": alt.Y(
            "x:Q", scale=alt.Scale(domain=[x_min, x_max], nice=False, zero=False, reverse=True), axis=axis(0, "x (m)")
        ),
        "width": round(scale * (y_max - y_min)),
        "height": round(scale * (x_max - x_min)),
    }


def ticks(maze: Maze, axis: int) -> list[float]:
    """Where a map's axis (0: x, 1: y) has ticks, in meters: on every second cell, on fewer where they would crowd."""
    count = maze.shape[axis]
    return [maze.origin[axis] + maze.cell_size * k for k in range(1, count - 1, 2 * -(-count // 20))]


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
    from PIL import Image

    low, high = domain
    finite = np.isfinite(values)
    # Vega gives the middle color where the domain is a single value; so do we.
    share = np.where(finite, (values - low) / (high - low), 0).clip(0, 1) if high > low else np.full(values.shape, 0.5)
    stops = np.array([[int(color[k : k + 2], 16) for k in (1, 3, 5)] for color in VIRIDIS])
    positions = np.linspace(0, 1, len(stops))
    channels = [np.interp(share, positions, stop) for stop in stops.T] + [255.0 * finite]
    pixels = np.stack(channels, axis=-1).round().astype(np.uint8)
    scale = -(-_RASTER // max(values.shape))
    file = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(file, "PNG", compress_level=1)
    data = pd.DataFrame({"url": ["data:image/png;base64," + base64.b64encode(file.getvalue()).decode()]})
    image = (
        alt.Chart(data)
        .mark_image(
            align="left", baseline="top", aspect=False, smooth=False, width=ground["width"], height=ground["height"]
        )
        .encode(x=alt.value(0), y=alt.value(0), url="url:N")
    )
    color = alt.Color(
        "value:Q",
        scale=alt.Scale(scheme="viridis", domain=[low, high]),
        legend=alt.Legend(title=title, gradientLength=120),
    )
    # An image has no color scale, so the legend belongs to invisible points.
    legend = alt.Chart(pd.DataFrame({"value": [low, high]})).mark_point(size=0, opacity=0).encode(color=color)
    return alt.layer(image, legend)


def walls(maze: Maze, ground: Mapping[str, Any]) -> alt.Chart:
    """A layer with a maze's walls; ``ground`` comes from ``in_meters``."""
    centers = maze.xy(np.argwhere(maze.walls))
    data = tiles(centers[:, 0], centers[:, 1], maze.cell_size)
    return alt.Chart(data).mark_rect(color=WALL, stroke=WALL).encode(x=ground["x"], x2="y2:Q", y=ground["y"], y2="x2:Q")


def marker(xy: np.ndarray, ground: Mapping[str, Any], kind: str) -> alt.Chart:
    """A layer with starts (white circles) or goals (orange stars) at positions [N, 2] or [2] in meters.

    ``kind`` is "start" or the tooltip's name for a goal.
    """
    xy = np.atleast_2d(xy)
    data = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "what": kind})
    shape, size, fill = ("circle", 70, START) if kind == "start" else (STAR, 160, GOAL)
    return (
        alt.Chart(data)
        .mark_point(shape=shape, size=size, filled=True, fill=fill, stroke="black", strokeWidth=1.2, opacity=1)
        .encode(x=ground["x"], y=ground["y"], tooltip=["what:N", "x:Q", "y:Q"])
    )


def outline(inside: np.ndarray, x: np.ndarray, y: np.ndarray, side: float, ground: Mapping[str, Any]) -> alt.Chart:
    """A layer with the border of a region.

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
    return (
        alt.Chart(data)
        .mark_rule(color="white", strokeWidth=1.6)
        .encode(x=ground["x"], x2="y2:Q", y=ground["y"], y2="x2:Q")
    )


def seed_marks(table: pd.DataFrame, y: alt.Y, *, tooltip: Sequence[str] = (), **channels: Any) -> list[alt.Chart]:
    """Two layers: a small mark per seed and a large mark at their mean.

    No intervals are drawn: with few seeds and skewed scores, no interval has its nominal coverage.

    Args:
      table: one row per group: ``values`` (one number per seed), ``value`` (their mean), and the channels' columns.
      y: encoding of ``value``.
      tooltip: columns shown in the tooltip of the mean.
      channels: further encodings of both layers.
    """
    seeds = table.drop(columns="value").explode("values").rename(columns={"values": "value"})
    means = table.drop(columns="values")
    return [
        alt.Chart(seeds).mark_point(size=22, opacity=0.5).encode(y=y, **channels),
        alt.Chart(means).mark_point(size=100, filled=True, opacity=1).encode(y=y, tooltip=list(tooltip), **channels),
    ]


def panel_title(label: str, pixels: float) -> alt.TitleParams:
    """A panel's title, wrapped to the panel's width in pixels, as a label may name many settings."""
    return alt.TitleParams(textwrap.wrap(label, max(16, int(pixels / 7.5))), anchor="middle", fontSize=13)


def label_axis(labels: Sequence[str], room: float) -> alt.Axis:
    """An axis of groups, with one line per setting in each label.

    Args:
      labels: the groups' labels, settings separated by ", ".
      room: pixels available for each label; if one is wider, all are rotated by 90 degrees.
    """
    lines = [label.split(", ") for label in labels]
    split: dict[str, Any] = {"labelExpr": "split(datum.label, ', ')", "labelLimit": 0}
    if 6.5 * max(len(line) for label in lines for line in label) <= room:
        return alt.Axis(labelAngle=0, **split)
    # In a rotated label, the first line is at the tick and the others are to its right, so the label is shifted left.
    return alt.Axis(labelAngle=-90, labelOffset=-6.5 * (max(map(len, lines)) - 1), **split)


def _runs(edges: np.ndarray) -> list[list[int]]:
    """Runs of consecutive True values in the rows of [N, M], each as [row, first, end)."""
    steps = np.diff(np.pad(edges.astype(int), ((0, 0), (1, 1))), axis=1)
    return np.column_stack([np.argwhere(steps == 1), np.argwhere(steps == -1)[:, 1]]).tolist()


def number_axis(**options: Any) -> alt.Axis:
    """An axis of numbers of any size, labeled 0.8, 200, 200k.

    SI suffixes are used from 1,000 on only: 0.8 would become 800m, which reads as meters, and zero would get a suffix.
    """
    text = "format(datum.value, abs(datum.value) < 1000 ? '.3~g' : '.3~s')"
    defaults: dict[str, Any] = {"grid": False, "labelExpr": text, "labelOverlap": "greedy", "labelSeparation": 6}
    return alt.Axis(**defaults | options)


def layers(*charts: alt.Chart) -> Any:
    """Layer charts, leaving out those without data: Vega logs a warning for them in every page's console."""
    return alt.layer(*(chart for chart in charts if len(chart.data)))


def seed_note(counts: Sequence[int]) -> str:
    """Text on the number of seeds in a chart of ``seed_marks``, given the number in each group."""
    if max(counts) == 1:
        return "one seed"
    number = "-".join(map(str, sorted({min(counts), max(counts)})))
    return f"{number} seeds, small marks; the large ones are their means"


def check_endings(paths: Sequence[Path], also: Sequence[str] = ()) -> None:
    """Check output files before anything is computed.

    Args:
      paths: the files.
      also: endings allowed besides ``ENDINGS``.

    Raises:
      UsageError: unknown ending, or no such directory.
      WriteError: the directory is not writable.
    """
    for path in paths:
        if path.suffix not in (*ENDINGS, *also):
            raise UsageError(f"cannot tell the format of {path}: its name should end in {' '.join((*ENDINGS, *also))}")
        atomic_files.check_writable(path)


def save(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart in the format given by the path's ending. HTML files are self-contained and need no network.

    Raises:
      UsageError: unknown ending, or no such directory.
      CrlvizError: the file cannot be written.
    """
    path = Path(path)
    check_endings([path])
    atomic_files.write(path, render(chart, path.suffix))


def render(chart: alt.TopLevelMixin, ending: str) -> bytes:
    """Encode a chart in the format of an ending, one of ``ENDINGS``."""
    import vl_convert

    spec = _spec(chart)
    if ending == ".html":
        head = f'<meta charset="utf-8"><title>{html.escape(_title(spec))}</title><script>{embed_script()}</script>'
        body = embed(chart, "chart", menu=True)
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'.encode()
    if ending == ".png":
        return vl_convert.vegalite_to_png(spec, scale=2)
    if ending == ".svg":
        return vl_convert.vegalite_to_svg(spec).encode()
    if ending == ".pdf":
        return vl_convert.vegalite_to_pdf(spec)
    return (json.dumps(spec, indent=1) + "\n").encode()


def _title(spec: Mapping[str, Any]) -> str:
    """A chart's title, or the first title among its parts."""
    title = spec.get("title", "")
    text = title["text"] if isinstance(title, dict) else title
    if text:
        return text if isinstance(text, str) else " ".join(text)
    parts = (part for kind in ("vconcat", "hconcat", "concat", "layer") for part in spec.get(kind, []))
    return next(filter(None, map(_title, parts)), "crlviz")


def embed_script() -> str:
    """JavaScript that defines ``vegaEmbed``, for self-contained pages with one or more charts."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def embed(chart: alt.TopLevelMixin, name: str, *, menu: bool = False) -> str:
    """HTML that draws a chart in a page that contains ``embed_script``.

    Args:
      chart: the chart.
      name: id of its element in the page.
      menu: show Vega's menu to save the chart as a picture.
    """
    name, options = html.escape(name), script_json({"actions": menu, "renderer": "svg"})
    script = f'vegaEmbed("#{name}", {script_json(_spec(chart))}, {options});'
    return f'<div id="{name}"></div><script>{script}</script>'
