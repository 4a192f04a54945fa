"""Exploration or expressivity: what learners of several depths make of the same data (paper figure 8)."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import xarray as xr

from analyses.common import claims, metrics, runs
from analyses.sweeps.contrasts import by_value
from analyses.sweeps.scaling_panels import curves
from crlviz import charts, statistics
from crlviz.errors import CrlvizError
from crlviz.statistics import Comparison

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


def verdicts(dataset: xr.Dataset, metric: str) -> tuple[dict[str, Comparison], dict[str, Comparison]]:
    """Whether the data matter, and whether the network does, corrected for all these comparisons together.

    Returns:
      For learners of each depth, data of the deepest collector against data of the shallowest; and for the data of each
      collector, the deepest learners against the shallowest.
    """
    scores: dict[tuple[Any, ...], list[float]] = {}  # by task, depth of the collector and of the learners
    parts = panels(dataset)
    for (task, collector), part in parts.items():
        for depth, score in zip(part.depth.values.tolist(), part[f"score_{metric}"].values.tolist(), strict=True):
            scores.setdefault((task, collector, depth), []).append(score)
    several = len({task for task, _ in parts}) > 1
    found: list[dict[str, dict[int, list[float]]]] = [{}, {}]  # by name and the depth that is compared
    for (task, collector, depth), values in scores.items():
        where = f" in {task}" * several
        found[0].setdefault(f"learners of depth {depth}{where}", {})[collector] = values
        found[1].setdefault(f"data of depth {collector}{where}", {})[depth] = values
    pairs = [
        {name: [own[depth] for depth in sorted(own)] for name, own in part.items() if len(own) > 1} for part in found
    ]
    count, largest = sum(map(len, pairs)), metrics.largest(dataset, metric)
    data, network = (
        {name: statistics.compare(own[-1], own[0], count, largest) for name, own in part.items()} for part in pairs
    )
    return data, network


def claim(dataset: xr.Dataset, metric: str = "time_at_goal") -> str:
    """For which learners data of a deeper collector are better, and with which data deeper learners are."""
    data, network = verdicts(dataset, metric)
    words = {
        "deeper": (data, "a deeper collector's data are better", "a shallower collector's data are better"),
        "learners": (network, "a deeper learner is better", "a shallower learner is better"),
    }
    nothing = {"deeper": "no difference between data found", "learners": "no difference between learners found"}
    sentences = []
    for kind, (found, above, below) in words.items():
        said: dict[str, list[str]] = {}
        for name, verdict in found.items():
            brief = verdict.brief(above, below).replace("no difference found", nothing[kind])
            said.setdefault(brief, []).append(name)
        sentences += [f"{brief} for {claims.listed(_short(names))}" for brief, names in said.items()]
    return claims.capital("; ".join(sentences))


def _short(names: Sequence[str]) -> list[str]:
    """Names that begin with the same words, which only the first keeps: learners of depth 4, 16."""
    first, *others = names
    begin = first.rpartition(" ")[0]
    return [first, *(name.removeprefix(f"{begin} ") for name in others)]


@charts.self_contained
def plot(dataset: xr.Dataset, *, metric: str = "time_at_goal") -> alt.TopLevelMixin:
    """Learning curves of the learners, a panel for each task and depth of collector.

    Args:
      dataset: from ``analyses.common.runs.compute``.
      metric: a key of ``METRICS``.

    Raises:
      CrlvizError: an error of ``panels``.
    """
    parts, drawn = panels(dataset), []
    tops: dict[str, float] = {}  # panels of a task have one axis
    for (task, _), part in parts.items():
        tops[task] = max(tops.get(task, 0.0), 1.0 if metric == "success" else float(part[metric].max()))
    several, count = len(tops) > 1, sum(map(len, verdicts(dataset, metric)))
    longest = metrics.largest(dataset, "time_at_goal")
    for (task, collector), part in parts.items():
        fed = f"data of depth {collector}" + f", {task}" * several
        said = claims.of_metric(by_value(part, "depth", metric), metric, count, longest=longest)
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
