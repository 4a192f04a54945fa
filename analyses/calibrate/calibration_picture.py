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
    "near": "learned steps per real step, near goals",
    "far": "learned steps per real step, far goals",
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
        strips["far"] = "distance of a step to far goals, of one to near goals"
    below = seed_plots.panels(groups, strips)
    chart = alt.vconcat(charts.row(*panels), below, spacing=30) if panels else below
    chart = chart.resolve_scale(color="independent", strokeDash="independent")
    seeds = charts.seed_note([len(parts) for _, _, parts in groups])
    note = f"{dataset.attrs['env']}; {dataset.attrs['episodes']} episodes an agent; {seeds}"
    title, ranks = claim(dataset)
    return charts.claimed(chart, title, "; ".join(filter(None, [note, ranks])), dataset.attrs.get(charts.HELP, ""))


def claim(dataset: xr.Dataset) -> tuple[str, str]:
    """Whether the distance of the group that orders goals best is time, and how well each group orders them, in words.

    Where no group's seeds all have a rank correlation, the latter is the title and nothing follows.
    """
    groups = list(datasets.groups(dataset))
    scores = {label: [part.rank_achieved.item() for part in parts] for label, _, parts in groups}
    what = "rank correlation of learned distance and steps"
    ranks = claims.about(scores, what, "orders goals by steps with rank correlation {}", largest=2.0)
    known = {label: np.mean(values) for label, values in scores.items() if np.isfinite(values).all()}
    if not known:
        return ranks, ""
    best = max(known, key=lambda label: known[label])
    parts = next(parts for label, _, parts in groups if label == best)
    near, far = ([part[name].item() for part in parts] for name in ("near", "far"))
    return _time(best, near, far, in_steps(dataset)), ranks[:1].lower() + ranks[1:]


def _time(group: str, near_slopes: Sequence[float], far_slopes: Sequence[float], steps: bool) -> str:
    """Whether the distance of a group is time for each of its seeds, and where it is not."""
    near, far = float(np.mean(near_slopes)), float(np.mean(far_slopes))
    if not np.isfinite([near, far]).all():
        return f"{claims.capital(group)} has too few pairs to say whether its learned distance is time"
    if not steps:
        return f"A step far from the goal changes the learned distance of {group} {far:.1f} times as much as one near"
    is_near, is_far = (TIME[0] <= min(slopes) <= max(slopes) <= TIME[1] for slopes in (near_slopes, far_slopes))
    verdicts = {
        (True, True): "time",
        (True, False): "time near the goal but not far",
        (False, True): "time far from the goal but not near",
        (False, False): "not time",
    }
    return (
        f"Learned distance is {verdicts[is_near, is_far]} at {group}: one step counts as {near:.1f} near the goal, "
        f"{far:.1f} far"
    )


def _curves(groups: _Groups, value: str, which: str = "") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Medians of each seed, and of each group the mean of its seeds' quartiles, over x.

    A seed may have too few pairs in a bin. The mean is that of the others, where most seeds have one.

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
        known = np.isfinite(y).all(-1) & np.isfinite(x)
        for index in np.flatnonzero(2 * known.sum(0) > len(chosen)):
            low, middle, high = y[known[:, index], index].mean(0)
            at = x[known[:, index], index].mean()
            means.append({"group": label, "x": at, "low": low, "value": middle, "high": high})
    columns = ["group", "x", "low", "value", "high"]
    return pd.DataFrame(seeds).dropna(), pd.DataFrame(means, columns=columns)


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
    longest = float(seeds.x.max())
    ends = pd.DataFrame({"x": [0.0, longest], "value": [0.0, longest], "words": ["", "equal"]})
    line = alt.Chart(ends if identity else ends.iloc[:0])
    dashed, named = (
        line.mark_line(strokeDash=[4, 4], strokeWidth=1.2),
        line.mark_text(align="right", baseline="top", dy=7),
    )
    return charts.layers(
        dashed.encode(x=x, y=y, color=alt.value(charts.ink(0.5))),
        named.encode(x=x, y=y, text="words:N", color=alt.value(charts.ink(0.7))),
        band,
        thin.encode(x=x, y=y, color=color, strokeDash=dash, detail="seed:N"),
        thick.encode(x=x, y=y, color=color, strokeDash=dash, tooltip=["group", "x", "low", "value", "high"]),
    ).properties(width=size, height=_HEIGHT, title=charts.panel_title(title, size))


__all__ = ["NUMBERS", "TIME", "claim", "plot"]
