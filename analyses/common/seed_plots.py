"""Panels that compare groups of checkpoints: a small mark for every seed, a large one for their mean."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims
from crlviz import charts


def panels(
    groups: Sequence[tuple[str, int, list[xr.Dataset]]], names: Mapping[str, str], *, columns: int = 4
) -> alt.ConcatChart:
    """Draw one panel for each variable, over groups of seeds.

    Args:
      groups: from ``datasets.groups``; each seed's part holds the variables. A variable with several values (one for
        each episode) is averaged. Seeds without a value are left out, which the panel says; a variable that no seed
        has gets no panel.
      names: variable -> title of its panel.
      columns: panels in a row.
    """
    order = [label for label, _, _ in groups]
    colors = [charts.depth_color(depth) for _, depth, _ in groups]
    color = alt.Color("group:N", scale=alt.Scale(domain=order, range=colors), legend=None)
    x = alt.X("group:N", sort=order, title=None, axis=charts.label_axis(order, 65), scale=alt.Scale(domain=order))
    width = max(150, 65 * len(order))
    lines = max(len(charts.panel_title(title, width).text) for title in names.values())
    left_out = {name: _left_out(groups, name) for name in names}
    drawn = []
    for name, title in names.items():
        rows: list[dict[str, Any]] = []
        for label, _, parts in groups:
            values = [float(part[name].mean()) for part in parts if part[name].notnull().any()]
            if values:
                rows.append({"group": label, "values": values, "value": float(np.mean(values))})
        if not rows:  # no seed has a value
            continue
        table = pd.DataFrame(rows).assign(meaning=groups[0][2][0][name].attrs["long_name"])
        y = alt.Y("value:Q", title=groups[0][2][0][name].attrs["units"].replace("1", "") or None)
        layers = charts.seed_marks(table, y, x=x, color=color, tooltip=["meaning:N", "group:N", "value:Q"])
        heading = charts.panel_title(title, width, lines)
        if any(left_out.values()):
            heading.subtitle, heading.subtitleFontSize = left_out[name] or [""], charts.font(11)
        drawn.append(charts.layers(*layers).properties(width=width, height=130, title=heading))
    return alt.concat(*drawn, columns=columns, spacing=28)


def _left_out(groups: Sequence[tuple[str, int, list[xr.Dataset]]], name: str) -> list[str]:
    """Of which groups only some seeds have a variable, a line each."""
    scores = {label: [float(part[name].mean()) for part in parts] for label, _, parts in groups}
    return list(filter(None, (claims.unmeasured({label: values}) for label, values in scores.items())))
