"""The heatmaps as a page to play with: a click moves the goal, a slider moves through training.

Every map is computed before; the page holds them as bytes, one a point, from the lowest Q of its map to the highest.
So it opens from disk, without a network, and answers at once. ``heatmap_page.html`` draws them.
"""

import base64
from importlib import resources
from typing import Any

import jinja2
import numpy as np
import xarray as xr

from analyses.heatmap.heatmap_pictures import COVERAGE_EPISODES, is_shared, maze_of, passed
from crlviz import charts, datasets
from crlviz.escaping import script_json

MOST_BYTES = 6_000_000  # of maps and distances; in the page, as text, a third more
_UNREACHED = 2**16 - 1


def fitting(maps: int, checkpoints: int, most: int) -> int:
    """Points along a cell's side, at most ``most``, so that a page stays small; ``maps``: its places times its cells.

    A point takes a byte for each checkpoint and two for the way to it.
    """
    return min(most, max(1, int((MOST_BYTES / (maps * (checkpoints + 2))) ** 0.5)))


def page(dataset: xr.Dataset, *, scale: str = "own") -> str:
    """HTML that stands alone: a map for each checkpoint, side by side; those of one run share a map and the slider.

    Args:
      dataset: from ``analyses.heatmap.q_map.compute``, or read back from netCDF.
      scale: of the colors at first, ``own`` or ``shared``; the page can switch.
    """
    fixed = dataset.geodesic.dims[0]
    free = np.isfinite(dataset.straight.values[0])
    maze = maze_of(dataset)
    spacing, x, y = dataset.attrs["spacing"], dataset.x.values, dataset.y.values
    ways = dataset.geodesic.values[:, free]
    unit = max(0.01, np.nanmax(ways) / (_UNREACHED - 1))  # meters
    places = np.stack([dataset[f"{fixed}_x"].values, dataset[f"{fixed}_y"].values], axis=1)
    content = {
        "fixed": fixed,
        "size": free.shape,
        "spacing": spacing,
        "corner": [x[0] - spacing / 2, y[0] - spacing / 2],
        "free": _packed(free),
        "geodesic": _packed(np.nan_to_num(ways / unit, nan=_UNREACHED).round().astype("<u2")),
        "unit": unit,
        "places": places.round(4).tolist(),
        "first": _first(fixed, places, maze),
        "ticks": [charts.ticks(maze, axis) if maze else [] for axis in (0, 1)],
        "starts": maze.xy(maze.starts).tolist() if maze and fixed == "goal" else [],
        "colors": {"wall": charts.WALL, "start": charts.START, "goal": charts.GOAL, "scale": charts.VIRIDIS},
        "panels": _panels(dataset, free, fixed),
    }
    words = {
        "over": dataset.attrs["over"],
        "env": dataset.attrs["env"],
        "policy": dataset.attrs["action"] == "policy",
        "coverage": COVERAGE_EPISODES if "visits" in dataset else 0,
        "shared": is_shared(scale),
        "has_maze": maze is not None,
        "few": len(places) if maze and len(places) < len(maze.free) else 0,
        "font": charts.FONT,
    }
    template = resources.files("analyses.heatmap").joinpath("heatmap_page.html").read_text(encoding="utf-8")
    return jinja2.Template(template, autoescape=True).render(fixed=fixed, data=script_json(content), **words)


def _panels(dataset: xr.Dataset, free: np.ndarray, fixed: str) -> list[dict[str, Any]]:
    """A panel for all checkpoints that differ in nothing but how long they were trained."""
    result = []
    for label, parts in datasets.runs(dataset).items():
        maps = np.stack([part.q.transpose(fixed, "x", "y").values[:, free] for part in parts.values()])
        low, high = maps.min(-1, keepdims=True), maps.max(-1, keepdims=True)
        levels = 255 * (maps - low) / np.where(high > low, high - low, 1)
        correlation = np.stack(
            [part.rank_correlation.transpose("distance_kind", fixed).values for part in parts.values()]
        )
        outlines = [passed(part.visits.values, free)[free] for part in parts.values()] if "visits" in dataset else []
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


def _first(fixed: str, places: np.ndarray, maze: Any) -> int:
    """The place shown first: the goal farthest from the start, or the start; without a maze, the middle one."""
    if maze is None:
        return len(places) // 2
    way = maze.geodesic(places, maze.xy(maze.starts[0]))
    return int(np.argmax(way) if fixed == "goal" else np.argmin(way))


def _or_none(values: np.ndarray) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
