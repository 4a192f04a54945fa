"""The picture of ``crlviz calibrate``: learned distance over steps, and what it gets wrong."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.calibrate.calibration import NUMBERS, in_steps
from analyses.common import claims, seed_plots
from analyses.sweeps.scaling_panels import styles
from crlviz import charts, datasets

# A critic's distance counts as time if, for every seed, a step adds this many learned steps.
TIME = (2 / 3, 3 / 2)
_LINES = {"achieved": "to goals that they achieved", "commanded": "to the commanded goal"}
_HEIGHT = 240
_STRIPS = {
    "rank_achieved": "rank correlation with steps",
    "rank_geodesic": "rank correlation with paths",
    "near": "learned steps a step, near",
    "far": "learned steps a step, far",
}
_Groups = Sequence[tuple[str, int, list[xr.Dataset]]]


@charts.self_contained
def plot(dataset: xr.Dataset, *, size: int = 280) -> alt.TopLevelMixin:
    """Draw the learned distance over steps and over shortest paths, and below them numbers of each seed.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      size: width of a panel in pixels.
    """
    groups, steps = list(datasets.groups(dataset)), in_steps(dataset)
    rows = pd.DataFrame([{"group": label, "depth": depth} for label, depth, _ in groups])
    style = styles(rows.to_xarray())
    title = "learned steps" if steps else "learned distance, minus Q"
    value = "learned_steps" if steps else "learned_distance"
    panels = [
        _panel(_curves(groups, value, which), style, ("steps needed", title), words, size, identity=steps)
        for which, words in _LINES.items()
    ]
    if "geodesic_distance" in dataset:
        data = _curves(groups, "geodesic_steps" if steps else "geodesic_distance")
        panels.append(_panel(data, style, ("shortest path (m)", title), "along the maze", size, identity=False))
    panels = [panel for panel in panels if panel is not None]
    strips = {name: words for name, words in _STRIPS.items() if steps or name != "near"}
    if not steps:
        strips["far"] = "a step far, against one near"
    below = seed_plots.panels(groups, strips)
    chart = alt.vconcat(charts.row(*panels), below, spacing=30) if panels else below
    chart = chart.resolve_scale(color="independent", strokeDash="independent")
    seeds = charts.seed_note([len(parts) for _, _, parts in groups])
    note = f"{dataset.attrs['env']}; {dataset.attrs['episodes']} episodes an agent; {seeds}"
    return charts.claimed(chart, claim(dataset), note, dataset.attrs.get(charts.HELP, ""))


def claim(dataset: xr.Dataset) -> str:
    """How well distances order goals by steps, and whether the distance of the best group is time, in words."""
    groups = list(datasets.groups(dataset))
    scores = {label: [part.rank_achieved.item() for part in parts] for label, _, parts in groups}
    what = "rank correlation of learned distance and steps"
    first = claims.about(scores, what, "orders goals by steps with rank correlation {}", largest=2.0)
    known = {label: np.mean(values) for label, values in scores.items() if np.isfinite(values).all()}
    if not known:
        return first
    best = max(known, key=lambda label: known[label])
    parts = next(parts for label, _, parts in groups if label == best)
    near, far = ([part[name].item() for part in parts] for name in ("near", "far"))
    return f"{first}; {_time(best, near, far, in_steps(dataset))}"


def _time(group: str, near_slopes: Sequence[float], far_slopes: Sequence[float], steps: bool) -> str:
    """Whether the distance of a group is time for each of its seeds, and where it is not."""
    near, far = float(np.mean(near_slopes)), float(np.mean(far_slopes))
    if not np.isfinite([near, far]).all():
        return f"{group} has too few pairs to say whether its distance is time"
    if not steps:
        return f"a step far from the goal changes the distance of {group} {far:.1f} times as much as one near"
    is_near, is_far = (TIME[0] <= min(slopes) <= max(slopes) <= TIME[1] for slopes in (near_slopes, far_slopes))
    verdicts = {
        (True, True): "time",
        (True, False): "time near the goal but not far",
        (False, True): "time far from the goal but not near",
        (False, False): "not time",
    }
    return (
        f"the distance of {group} is {verdicts[is_near, is_far]}: a step adds {near:.1f} learned steps near the goal, "
        f"{far:.1f} far from it"
    )


def _curves(groups: _Groups, value: str, which: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Medians of each seed, and of each group the mean of its seeds' quartiles, over x.

    Args:
      groups: from ``datasets.groups``.
      value: variable [.., quantile].
      which: of the dimension ``goals``; without it the variable is one over ``meters``.
    """
    seeds: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    for label, _, parts in groups:
        chosen = [part.sel(goals=which) if which else part for part in parts]
        y = np.stack([part[value].transpose(..., "quantile").values for part in chosen])  # [seed, x, quantile]
        x = np.stack([part.needed_steps.values if which else part.meters.values for part in chosen])
        for seed in range(len(chosen)):
            medians = zip(x[seed], y[seed, :, 1], strict=True)
            seeds += [{"group": label, "seed": seed, "x": at, "value": value} for at, value in medians]
        for at, (low, middle, high) in zip(x.mean(0), y.mean(0), strict=True):
            means.append({"group": label, "x": at, "low": low, "value": middle, "high": high})
    return pd.DataFrame(seeds).dropna(), pd.DataFrame(means).dropna()


def _panel(
    data: tuple[pd.DataFrame, pd.DataFrame],
    style: dict[str, alt.Scale],
    axes: tuple[str, str],
    title: str,
    size: int,
    *,
    identity: bool,
) -> alt.LayerChart | None:
    """Lines of groups and seeds, bands of the middle half; None without data."""
    seeds, means = data
    if not len(seeds):
        return None
    order = list(style["color"]["domain"])
    legend = charts.legend(columns=4, symbolSize=300)
    x = alt.X("x:Q", title=axes[0], axis=charts.number_axis(tickCount=5), scale=alt.Scale(zero=True, nice=False))
    y = alt.Y("value:Q", title=axes[1], axis=charts.number_axis(tickCount=5), scale=alt.Scale(zero=False))
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    band = alt.Chart(means).mark_area(opacity=0.14).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color)
    thin = alt.Chart(seeds).mark_line(strokeWidth=0.8, opacity=0.45)
    thick = alt.Chart(means).mark_line(strokeWidth=2.6, point=alt.OverlayMarkDef(size=22))
    ends = pd.DataFrame({"x": [0.0, float(seeds.x.max())], "value": [0.0, float(seeds.x.max())]})
    line = alt.Chart(ends if identity else ends.iloc[:0]).mark_line(strokeDash=[4, 4], strokeWidth=1.2)
    return charts.layers(
        line.encode(x=x, y=y, color=alt.value(charts.ink(0.5))),
        band,
        thin.encode(x=x, y=y, color=color, strokeDash=dash, detail="seed:N"),
        thick.encode(x=x, y=y, color=color, strokeDash=dash, tooltip=["group", "x", "low", "value", "high"]),
    ).properties(width=size, height=_HEIGHT, title=charts.panel_title(title, size))


__all__ = ["NUMBERS", "TIME", "claim", "plot"]
