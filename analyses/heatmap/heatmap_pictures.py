"""The heatmaps as pictures: a still picture, and an animation through training (paper figure 9)."""

import io
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import xarray as xr
from tqdm import tqdm

from crlviz import charts, datasets
from crlviz.envs import mazes
from crlviz.errors import UsageError
from crlviz.options import check_choice

STILL = "a GIF shows the checkpoints of a run, and no run given has more than one"
COVERAGE_EPISODES = 128  # episodes of each checkpoint that give the outline
_FRAME_MILLISECONDS = 500


def maze_of(dataset: xr.Dataset) -> mazes.Maze | None:
    """The maze of a Dataset from ``compute``; None if its environment has none."""
    if "maze" not in dataset.attrs:
        return None
    origin = (float(dataset.attrs["origin"][0]), float(dataset.attrs["origin"][1]))
    return mazes.Maze(tuple(dataset.attrs["maze"].split("\n")), float(dataset.attrs["cell_size"]), origin)


def is_shared(scale: str) -> bool:
    """Whether all maps share one color scale.

    Raises:
      UsageError: scale is neither ``own`` nor ``shared``.
    """
    check_choice("scale", scale, ("own", "shared"))
    return scale == "shared"


def covered(visits: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Points that the policy covers [X, Y]: the free points it visited, with small gaps between them closed.

    Args:
      visits: number of steps on each point [X, Y].
      free: points outside walls [X, Y]; points inside walls are never covered.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    # A morphological closing; border_value keeps the erosion from removing points at the border.
    return binary_erosion(binary_dilation(visits > 0, iterations=2), iterations=2, border_value=1) & free


@charts.self_contained
def plot(dataset: xr.Dataset, *, scale: str = "own", size: int = 300, tips: bool = True) -> alt.TopLevelMixin:
    """Draw one map of Q for each checkpoint (columns) and goal or start (rows).

    Args:
      dataset: from ``compute``, or read back from netCDF.
      scale: ``own``: each map from its lowest to its highest Q; ``shared``: one color scale for all.
      size: longer side of a map in pixels.
      tips: tooltips with Q and distances at the mouse. They take one row of data for each point, so leave them out of
        static formats.

    Raises:
      UsageError: unknown scale.
    """
    columns = [(label, part) for label, _, part in datasets.each(dataset)]
    return _table(dataset, columns, scale, size, tips, _title(dataset))


def _table(
    dataset: xr.Dataset,
    columns: Sequence[tuple[str, xr.Dataset]],
    scale: str,
    size: int,
    tips: bool,
    title: alt.TitleParams,
) -> alt.VConcatChart:
    """The maps of some checkpoints of a Dataset; a shared scale spans the whole Dataset."""
    shared = is_shared(scale)
    bounds = (float(dataset.q.min()), float(dataset.q.max())) if shared else (None, None)
    fixed = dataset.geodesic.dims[0]
    rows = []
    for index in range(dataset.sizes[fixed]):
        maps = [_map(part.isel({fixed: index}), label, bounds, size, tips) for label, part in columns]
        # bounds="flush": the width of a legend's numbers does not shift the map to its right.
        # All arguments are given at once, here and below, because each further method call copies the whole chart.
        resolve = alt.Resolve(scale=alt.ScaleResolveMap(color="shared" if shared else "independent"))
        rows.append(alt.hconcat(*maps, bounds="flush", spacing=70 if shared else 125, resolve=resolve))
    return alt.vconcat(
        *rows, spacing=18, title=title, resolve=alt.Resolve(scale=alt.ScaleResolveMap(color="independent"))
    )


def _newest_at(label: str, parts: dict[int, xr.Dataset], time: int) -> tuple[str, xr.Dataset]:
    """Label and data of a run's newest checkpoint at a time in environment steps; q is NaN if it had none yet."""
    saved = [steps for steps in parts if steps <= time]
    if not saved:
        part = next(iter(parts.values()))
        return f"{label} (none saved by then)", part.drop_vars("visits", errors="ignore").assign(q=part.q * np.nan)
    newest = max(saved)
    return label if newest == time else f"{label} (at {newest:,} steps)", parts[newest]


def _title(dataset: xr.Dataset) -> alt.TitleParams:
    fixed = dataset.geodesic.dims[0]
    action = "the policy's action" if dataset.attrs["action"] == "policy" else "action zero"
    notes = [
        f"{dataset.q.attrs['long_name']}, with {action}.",
        f"Rank correlation: Spearman's, of Q and minus the distance to the {fixed}.",
    ]
    if "visits" in dataset:
        notes.append(f"White outline: where {COVERAGE_EPISODES} training episodes of this policy went.")
    return alt.TitleParams(f"Q(s, a, g) over {dataset.attrs['over']} in {dataset.attrs['env']}", subtitle=notes)


def _map(
    part: xr.Dataset, label: str, domain: tuple[float | None, float | None], size: int, tips: bool
) -> alt.LayerChart | alt.FacetChart:
    """One map with walls, outline, markers and caption; a bound of ``domain`` that is None is the map's own."""
    maze = maze_of(part)
    spacing, x, y = part.attrs["spacing"], part.x.values, part.y.values
    extent = (x[0] - spacing / 2, x[-1] + spacing / 2, y[0] - spacing / 2, y[-1] + spacing / 2)
    if maze is not None:
        extent = maze.extent
    axes = charts.in_meters(maze, extent, size)
    q = part.q.values
    i, j = np.nonzero(np.isfinite(q))
    data = charts.tiles(x[i], y[j], spacing).assign(
        q=q[i, j].round(4), geodesic=part.geodesic.values[i, j].round(3), straight=part.straight.values[i, j].round(3)
    )
    known = (q[i, j].min(), q[i, j].max()) if len(i) else (0.0, 1.0)  # nothing is known before a run's first checkpoint
    low, high = (bound if bound is not None else value for bound, value in zip(domain, known, strict=True))
    layers: list[Any] = [charts.raster(q, (float(low), float(high)), "Q", axes)]
    if tips:
        tiles = alt.Chart(data).mark_rect(opacity=0).encode(x=axes["x"], x2="y2:Q", y=axes["y"], y2="x2:Q")
        layers.append(tiles.encode(tooltip=["x:Q", "y:Q", "q:Q", "geodesic:Q", "straight:Q"]))
    if maze is not None:
        layers.append(charts.walls(maze, axes))
    if "visits" in part:
        layers.append(charts.outline(covered(part.visits.values, np.isfinite(q)), x, y, spacing, axes))
    fixed = "goal" if "goal_x" in part.coords else "start"
    if maze is not None and fixed == "goal":
        layers.append(charts.marker(maze.xy(maze.starts), axes, "start"))
    layers.append(charts.marker(np.array([part[f"{fixed}_x"].item(), part[f"{fixed}_y"].item()]), axes, fixed))
    by_maze, by_line = part.rank_correlation.values
    caption = f"rank correlation: maze {by_maze:.2f}, straight line {by_line:.2f}"
    if maze is None:
        caption = f"rank correlation: straight line {by_line:.2f}"
    if not len(i):
        caption = ""
    layers.append(
        alt.Chart()
        .mark_text(align="center", baseline="top", fontSize=12, clip=False)
        .encode(x=alt.value(axes["width"] / 2), y=alt.value(axes["height"] + 40), text=alt.value(caption))
    )
    return alt.layer(
        *layers,
        width=axes["width"],
        height=axes["height"],
        title=charts.panel_title(label, size),
    )


def animate(dataset: xr.Dataset, *, scale: str = "own", size: int = 300) -> bytes:
    """Draw an animation through training: one frame for each checkpoint time, all runs in sync.

    Args:
      dataset: from ``compute``, with several checkpoints of each run. If runs were saved at different times, a frame
        shows each run's newest checkpoint at that time and labels it with its steps; a run without one shows its walls
        alone.
      scale: as for ``plot``; ``shared`` is one color scale for all frames.
      size: longer side of a map in pixels.

    Returns:
      Content of a GIF file.

    Raises:
      UsageError: no run has several checkpoints, or unknown scale.
    """
    from PIL import Image

    runs = datasets.runs(dataset)
    times = sorted({steps for parts in runs.values() for steps in parts})
    if len(times) < 2:
        raise UsageError(STILL)
    images = []
    for time in tqdm(times, unit="frame", disable=None):
        columns = [_newest_at(label, parts, time) for label, parts in runs.items()]
        title = _title(dataset)
        title.text = f"{title.text}, after {time:,} environment steps"
        picture = charts.render(_table(dataset, columns, scale, size, False, title), ".png")
        # PNGs are rendered at twice the size.
        images.append(Image.open(io.BytesIO(picture)).convert("RGB").reduce(2))
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    frames = []
    for image in images:
        canvas = Image.new("RGB", (width, height), "white")
        canvas.paste(image)
        # FASTOCTREE keeps the few orange pixels of the goal; the other methods merge them with their neighbors.
        frames.append(canvas.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    file = io.BytesIO()
    # The last frame stays for two seconds before the animation repeats.
    durations = [_FRAME_MILLISECONDS] * (len(frames) - 1) + [2000]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()
