"""Numbers of checkpoints side by side: every seed a small mark, their interquartile mean a large one, its interval."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from crlviz import charts, statistics


def panels(
    groups: Sequence[tuple[str, int, list[xr.Dataset]]], names: Mapping[str, str], *, columns: int = 4
) -> alt.ConcatChart:
    """A panel a number, over groups of seeds.

    Args:
      groups: from ``datasets.groups``, each seed's part holding the numbers; of those with more than one value (one an
        episode), the mean is taken. Seeds that have none are left out.
      names: variables, and what their panels are called.
      columns: panels in a row.
    """
    order = [label for label, _, _ in groups]
    colours = [charts.depth_colour(depth) for _, depth, _ in groups]
    colour = alt.Color("group:N", scale=alt.Scale(domain=order, range=colours), legend=None)
    x = alt.X("group:N", sort=order, title=None, axis=charts.names(order, 65), scale=alt.Scale(domain=order))
    drawn = []
    for name, title in names.items():
        seeds: list[dict[str, Any]] = []
        means: list[dict[str, Any]] = []
        for label, _, parts in groups:
            values = [float(part[name].mean()) for part in parts if part[name].notnull().any()]
            if not values:
                continue
            seeds += [{"group": label, "value": value} for value in values]
            low, high = statistics.interval(values) or (np.nan, np.nan)
            means.append({"group": label, "value": statistics.interquartile_mean(values), "low": low, "high": high})
        table = pd.DataFrame(means)
        table["meaning"] = groups[0][2][0][name].attrs["long_name"]
        y = alt.Y("value:Q", title=groups[0][2][0][name].attrs["units"].replace("1", "") or None)
        tooltip = ["meaning:N", "group:N", "value:Q", "low:Q", "high:Q"]
        drawn.append(
            charts.layers(
                alt.Chart(pd.DataFrame(seeds)).mark_point(size=25, opacity=0.6).encode(x=x, y=y, color=colour),
                alt.Chart(table.dropna()).mark_rule(strokeWidth=1.5).encode(x=x, y="low:Q", y2="high:Q", color=colour),
                alt.Chart(table)
                .mark_point(size=110, filled=True, opacity=1)
                .encode(x=x, y=y, color=colour, tooltip=tooltip),
            ).properties(width=max(130, 65 * len(order)), height=130, title=alt.TitleParams(title, fontSize=12))
        )
    return alt.concat(*drawn, columns=columns, spacing=28)
