"""Exploration or expressivity: what learners of several depths make of the same data (paper figure 8)."""

import altair as alt
import numpy as np
import xarray as xr

from analyses.common import claims, runs
from analyses.sweeps.scaling_panels import by_value, curves
from crlviz import charts
from crlviz.errors import CrlvizError

_WIDTH, _LINES = 330, 3  # of a panel: pixels, and lines of its title


def panels(dataset: xr.Dataset) -> dict[tuple[str, int], xr.Dataset]:
    """The learners of each task and depth of collector that differ in nothing but depth and seed.

    Args:
      dataset: from ``analyses.common.runs.compute``.

    Raises:
      CrlvizError: there are no learners of two depths with one collector.
    """
    found = {}
    if "collector_depth" in dataset.coords:
        for task in dict.fromkeys(dataset.env.values.tolist()):
            for depth in sorted(set(dataset.collector_depth.values.tolist()) - {0}):
                fed = (dataset.env.values == task) & (dataset.collector_depth.values == depth)
                part = runs.vary(dataset.isel(run=fed), "depth") if fed.any() else dataset.isel(run=fed)
                if len(set(part.depth.values.tolist())) > 1:
                    found[task, depth] = part
    if not found:
        raise CrlvizError("no runs here are learners of two depths that one collector feeds (crlviz train --learners)")
    return found


def claim(dataset: xr.Dataset, metric: str = "time_at_goal") -> str:
    """With which collectors the deepest learners score better than the shallowest, corrected for all panels."""
    parts, scores = panels(dataset), {}
    several = len({task for task, _ in parts}) > 1
    for (task, collector), part in parts.items():
        where = f"learners from a collector of depth {collector}" + f" in {task}" * several
        own = scores.setdefault(where, {})
        for depth, score in zip(part.depth.values.tolist(), part[f"score_{metric}"].values.tolist(), strict=True):
            own.setdefault(depth, []).append(score)
    return claims.of_gains(claims.gains(scores), "the learners of every collector")


@charts.self_contained
def plot(dataset: xr.Dataset, *, metric: str = "time_at_goal") -> alt.TopLevelMixin:
    """Learning curves of the learners, a panel for each task and depth of collector.

    Args:
      dataset: from ``analyses.common.runs.compute``.
      metric: a key of ``runs.METRICS``.

    Raises:
      CrlvizError: an error of ``panels``.
    """
    parts, drawn = panels(dataset), []
    tops: dict[str, float] = {}  # panels of a task have one axis
    for (task, _), part in parts.items():
        tops[task] = max(tops.get(task, 0.0), 1.0 if metric == "success" else float(part[metric].max()))
    several = len(tops) > 1
    for (task, collector), part in parts.items():
        fed = f"data of depth {collector}" + f", {task}" * several
        said = claims.of_metric(by_value(part, "depth", metric), metric, len(parts))
        own = runs.relabel(part, "depth").sortby("depth")
        title = f"{claims.capital(fed)}: {said[0].lower()}{said[1:]}"
        drawn.append(
            curves(own, metric=metric, x_axis="env_steps", size=_WIDTH, title=title, lines=_LINES, top=tops[task])
        )
    picture = charts.row(*drawn, columns=3).resolve_scale(color="independent", strokeDash="independent")
    counts = [count for part in parts.values() for count in np.unique(part.depth, return_counts=True)[1].tolist()]
    note = f"{', '.join(tops)}; {charts.seed_note(counts).replace('small marks', 'thin lines')}"
    how = (
        "A collector acts, and learners of several depths train at the same time on batches of its buffer alone, so "
        "all of a panel have the same data. If data from a deep collector help only deep learners, the network limits "
        "the others; if with data from a shallow collector all learn alike, the data do. A thin line is a seed, a "
        f"thick one the mean; scores are means of the last {runs.LAST} evaluations."
    )
    return charts.claimed(picture, claim(dataset, metric), note, how)
