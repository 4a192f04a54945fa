"""Arrows and lines of ``analyses.heatmap.walks`` on a map."""

from collections.abc import Mapping
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

_ARROW = 11  # pixels


def walk_marks(part: xr.Dataset, axes: Mapping[str, Any]) -> list[alt.Chart]:
    """Layers with the walks of one map: a line for each episode, or an arrow at each point of a grid."""
    x, y = part.walk_x.values, part.walk_y.values
    if part.attrs["show"] == "trajectories":
        walker, step = np.nonzero(np.isfinite(x))
        data = pd.DataFrame({"x": x[walker, step], "y": y[walker, step], "walker": walker, "step": step}).round(3)
        line = alt.Chart(data).mark_line(color="white", strokeWidth=1.6)
        return [line.encode(x=axes["x"], y=axes["y"], detail="walker:N", order="step:Q")]
    last = np.isfinite(x).sum(1) - 1
    walkers = np.arange(len(x))
    dx, dy = x[walkers, last] - x[:, 0], y[walkers, last] - y[:, 0]
    # In the picture x points down and y to the right; a mark's angle is clockwise from up.
    data = pd.DataFrame({"x": x[:, 0], "y": y[:, 0], "angle": np.degrees(np.arctan2(dy, -dx))}).round(3)
    data = data[np.hypot(dx, dy) > 0]
    arrow = alt.Chart(data).mark_text(text="\u2191", color="white", fontSize=_ARROW, baseline="middle")
    return [arrow.encode(x=axes["x"], y=axes["y"], angle=alt.Angle("angle:Q", scale=None))]
