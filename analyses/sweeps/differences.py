"""Differences of scores with the intervals that decide their verdicts, a row for each comparison."""

import altair as alt
import numpy as np
import pandas as pd

from analyses.common.metrics import METRICS
from crlviz import charts


def forest(
    rows: pd.DataFrame, metric: str, *, ends: tuple[str, str], title: str, size: float
) -> alt.LayerChart | alt.FacetChart:
    """Draw differences beside a line at zero.

    Args:
      rows: one for each comparison: ``difference``, ``low`` and ``high`` (NaN: no interval), and at its right ``name``,
        ``words`` (the verdict) and below them ``networks`` (what was compared).
      metric: a key of ``METRICS``; its scores were subtracted.
      ends: the words for differences below and above zero.
      title: of the panel; if there are intervals it says so.
      size: width of the panel in pixels.
    """
    data = rows[["networks", "difference", "low", "high"]].assign(
        row=range(len(rows)), said=rows.name + ": " + rows.words
    )
    y = alt.Y("row:O", axis=None)
    measured = rows[["difference", "low", "high"]].to_numpy(float)
    most = 1.05 * float(np.nanmax(np.abs(measured))) or 1.0
    words = METRICS[metric].replace(" ", "\u00a0")
    form = "datum.value == 0 ? '0' : format(datum.value, '+.3~g')"
    x = alt.X(
        "difference:Q",
        title=[words, f"\u2190 {ends[0]}\u2003{ends[1]} \u2192"],
        scale=alt.Scale(domain=[-most, most], nice=False),
        axis=alt.Axis(tickCount=5, labelExpr=form, titlePadding=8),
    )
    zero = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color=charts.ink(0.6)).encode(x="zero:Q")
    known = alt.Chart(data.dropna(subset=["low"])).mark_rule(strokeWidth=3, color=charts.ink(0.85))
    points = alt.Chart(data).mark_point(filled=True, size=110, opacity=1, color=charts.ink(0.85))
    at_right = alt.Chart(data).encode(x=alt.value("width"), y=y)
    bold = at_right.mark_text(align="left", baseline="bottom", dx=14, dy=-1, fontWeight="bold")
    gray = at_right.mark_text(align="left", baseline="top", dx=14, dy=2, color=charts.ink(0.7))
    title += ", with the 95 % interval" * bool(np.isfinite(rows.low).any())
    return charts.layers(
        zero,
        known.encode(x=alt.X("low:Q"), x2="high:Q", y=y),
        points.encode(x=x, y=y, tooltip=["networks:N", "difference:Q", "low:Q", "high:Q"]),
        bold.encode(text="said:N"),
        gray.encode(text="networks:N"),
    ).properties(width=size, height=max(3, len(data)) * charts.font(48), title=charts.panel_title(title, size))
