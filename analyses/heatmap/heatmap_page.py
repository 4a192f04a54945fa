"""The heatmaps as an interactive page: a click moves the goal, a slider moves through training.

All maps are precomputed. The page holds them as one byte per point, scaled from the lowest Q of a map to its highest.
So it opens from disk without a network and responds at once. ``heatmap_page.html`` draws them.
"""

import base64
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import xarray as xr

from analyses.common import ground
from analyses.heatmap.heatmap_pictures import COVERAGE_EPISODES, covered, is_shared
from crlviz import charts, datasets
from crlviz.envs import mazes
from crlviz.escaping import script_json

MAX_BYTES = 6_000_000  # of maps and distances; base64 in the page takes a third more
_UNREACHED = 2**16 - 1  # stands for an infinite distance


def choose_resolution(maps: int, checkpoints: int, max_resolution: int) -> int:
    """Choose the resolution at which a page stays below ``MAX_BYTES``.

    A point takes one byte for each checkpoint and two for its distance.

    Args:
      maps: number of places times number of cells.
      checkpoints: number of checkpoints.
      max_resolution: largest resolution.

    Returns:
      Points along a cell's side.
    """
    return min(max_resolution, max(1, int((MAX_BYTES / (maps * (checkpoints + 2))) ** 0.5)))


def page(dataset: xr.Dataset, *, scale: str = "own", play: str = "") -> str:
    """Build a self-contained HTML page: one map for each run, side by side, and a slider over its checkpoints.

    Args:
      dataset: from ``analyses.heatmap.q_map.compute``, or read back from netCDF.
      scale: initial color scale, ``own`` or ``shared``; the page can switch.
      play: address of a page of ``crlviz play``; each map links into it at its goal.

    Raises:
      UsageError: unknown scale.
    """
    fixed = dataset.geodesic.dims[0]
    maze = ground.maze_of(dataset)
    spacing = dataset.attrs["spacing"]
    if maze:  # without its outer ring of walls, as in the still pictures
        ring = round(maze.cell_size / spacing)
        dataset = dataset.isel(x=slice(ring, -ring), y=slice(ring, -ring))
    x, y, free = dataset.x.values, dataset.y.values, np.isfinite(dataset.straight.values[0])
    distances = dataset.geodesic.values[:, free]
    unit = max(0.01, np.nanmax(distances) / (_UNREACHED - 1))  # meters per step of the 16-bit numbers
    places = np.stack([dataset[f"{fixed}_x"].values, dataset[f"{fixed}_y"].values], axis=1)
    content = {
        "fixed": fixed,
        "size": free.shape,
        "spacing": spacing,
        "corner": [x[0] - spacing / 2, y[0] - spacing / 2],
        "free": _packed(free),
        "geodesic": _packed(np.nan_to_num(distances / unit, nan=_UNREACHED).round().astype("<u2")),
        "unit": unit,
        "places": places.round(4).tolist(),
        "first": _first_place(fixed, places, maze),
        "ticks": [charts.ticks(*charts.inside(maze)[2 * axis :][:2]) if maze else [] for axis in (0, 1)],
        "starts": maze.xy(maze.starts).tolist() if maze and fixed == "goal" else [],
        "colors": {"wall": charts.WALL, "start": charts.START, "goal": charts.GOAL, "scale": charts.VIRIDIS},
        "panels": _panels(dataset, free, fixed),
        "play": play if fixed == "goal" else "",
    }
    settings = {
        "over": dataset.attrs["over"],
        "env": dataset.attrs["env"],
        "meaning": dataset.q.attrs["long_name"],
        "policy": dataset.attrs["action"] == "policy",
        "coverage": COVERAGE_EPISODES if "visits" in dataset else 0,
        "shared": is_shared(scale),
        "has_maze": maze is not None,
        "few": len(places) if maze and len(places) < len(maze.free) else 0,
        "font": charts.FONT,
    }
    template = resources.files("analyses.heatmap").joinpath("heatmap_page.html").read_text(encoding="utf-8")
    return jinja2.Template(template, autoescape=True).render(fixed=fixed, data=script_json(content), **settings)


def _panels(dataset: xr.Dataset, free: np.ndarray, fixed: str) -> list[dict[str, Any]]:
    """One panel for each run, with all its checkpoints; ``free`` [X, Y] marks the points outside walls."""
    result = []
    for label, parts in datasets.runs(dataset).items():
        maps = np.stack([part.q.transpose(fixed, "x", "y").values[:, free] for part in parts.values()])
        low, high = maps.min(-1, keepdims=True), maps.max(-1, keepdims=True)
        levels = 255 * (maps - low) / np.where(high > low, high - low, 1)
        correlation = np.stack(
            [part.rank_correlation.transpose("distance_kind", fixed).values for part in parts.values()]
        )
        outlines = [covered(part.visits.values, free)[free] for part in parts.values()] if "visits" in dataset else []
        result.append(
            {
                "label": label,
                "steps": list(parts),
                "q": _packed(levels.round().astype(np.uint8)),
                "low": low[..., 0].round(4).tolist(),
                "high": high[..., 0].round(4).tolist(),
                "correlation": [[_or_none(row) for row in kinds] for kinds in correlation],
                "visits": _packed(np.array(outlines)),
            }
        )
    return result


def _first_place(fixed: str, places: np.ndarray, maze: mazes.Maze | None) -> int:
    """Index of the place shown first: the goal farthest from the start, or the start; without a maze, the middle."""
    if maze is None:
        return len(places) // 2
    distance = maze.geodesic(places, maze.xy(maze.starts[0]))
    return int(np.argmax(distance) if fixed == "goal" else np.argmin(distance))


def _or_none(values: np.ndarray) -> list[float | None]:
    """Rounded numbers for JSON, which has no NaN."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def _packed(values: np.ndarray) -> str:
    """The array's bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
