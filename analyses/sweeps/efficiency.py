"""What do depth and width buy, and what do they cost? (paper figure 4)"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import outputs, runs
from analyses.common.runs import LAST, METRICS, table
from analyses.sweeps import depth_vs_width
from analyses.sweeps.scaling import styles
from crlviz import charts
from crlviz.options import check_choice

COSTS = {
    "gradient_steps": "updates",
    "parameters": "parameters of actor and critic",
    "flops": "FLOPs an update (matrix products)",
    "seconds": "training seconds",
}
_SHORT = {"gradient_steps": "updates", "parameters": "parameters", "flops": "FLOPs", "seconds": "seconds"}
_LINES = {"depth": "deeper, at one width", "width": "wider, at one depth"}
_LINE_STYLE = alt.Scale(domain=list(_LINES.values()), range=[charts.SOLID, [5, 4]])
NEEDS = (
    "To compare depth with width, one task needs runs over depth at one width and over width at one depth, with as "
    "many doublings or as many parameters: crlviz sweep ENV --depth 4,8,16 --seed 0-4 --out RUNS; "
    "crlviz sweep ENV --depth 4 --width 128,256 --seed 0-4 --out RUNS"
)


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Scores and costs (``runs.compute``) of the runs at paths that differ in depth, width and training time alone."""
    shapes = "depth", "width", "trained"
    return runs.relabel(runs.vary(runs.collect(paths), *shapes), *shapes)


def pareto(costs: Sequence[float] | np.ndarray, scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mask [N] of the Pareto front of N networks: no other scores as much for less cost, or more for the same cost."""
    costs, scores = np.asarray(costs, float), np.asarray(scores, float)
    no_worse = (costs[None] <= costs[:, None]) & (scores[None] >= scores[:, None])
    better = (costs[None] < costs[:, None]) | (scores[None] > scores[:, None])
    return ~np.any(no_worse & better, axis=1)


@charts.self_contained
def plot(
    dataset: xr.Dataset,
    *,
    metric: str = "time_at_goal",
    costs: Sequence[str] = ("parameters", "flops", "seconds"),
    size: int = 230,
) -> alt.TopLevelMixin:
    """Draw the final score of each group against each cost, and the comparison of depth with width.

    One row of panels for each task: networks are compared within a task, because tasks are not equally hard. Lines join
    the networks of the depth sweep and of the width sweep.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      metric: a key of ``METRICS``.
      costs: keys of ``COSTS``, one panel each.
      size: width of a panel in pixels.

    Raises:
      UsageError: unknown metric or cost.
    """
    check_choice("metric", metric, METRICS)
    for cost in costs:
        check_choice("cost", cost, COSTS)
    compared = depth_vs_width.compare(dataset, metric)
    notes = [f"Mean of the last {LAST} evaluations; {runs.seeds(dataset)}."]
    notes.append("A ring marks the Pareto front of these means: what was measured, and no claim of a difference.")
    notes += filter(None, [runs.shares(dataset), runs.stalls(dataset)])
    known = [cost for cost in costs if cost != "flops" or dataset.flops_per_update.notnull().any()]
    if len(known) < len(costs):
        notes.append("FLOPs are left out: these runs were trained before config.json recorded them.")
    notes += compared.sentence.tolist() if len(compared) else [NEEDS]
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    rows = []
    for task in tasks:
        row: alt.HConcatChart = panels(
            dataset.isel(run=dataset.env.values == task), metric=metric, costs=known, size=size
        )
        if len(compared) and len(of_task := compared[compared.env == task]):
            row = alt.hconcat(row, _differences(of_task, metric, size))
            row = row.resolve_scale(color="independent", shape="independent", strokeDash="independent")
        rows.append(row.properties(title=task) if len(tasks) > 1 else row)
    wrapper = textwrap.TextWrapper(max(60, 47 * (len(known) + bool(len(compared)))))
    lines = [line for note in notes for line in wrapper.wrap(note)]
    title = alt.TitleParams(f"{METRICS[metric].capitalize()}, and what it cost", subtitle=lines, subtitleLineHeight=16)
    picture = rows[0] if len(rows) == 1 else alt.vconcat(*rows, spacing=30)
    return picture.resolve_scale(color="independent", shape="independent", strokeDash="independent").properties(
        title=title
    )


def panels(dataset: xr.Dataset, *, metric: str, costs: Sequence[str], size: int = 230) -> alt.HConcatChart:
    """Draw the final score of each group against each cost, one panel for each cost, without a comparison.

    Args:
      dataset: from ``compute``, of one task.
      metric: a key of ``METRICS``.
      costs: keys of ``COSTS``; a cost that no run records is left out.
      size: width of a panel in pixels.
    """
    groups = table(dataset, metric).rename(columns={"score": "value", "scores": "values"})
    return alt.hconcat(*(_panel(dataset, groups, metric, cost, size) for cost in costs if groups[cost].notna().any()))


def _panel(
    dataset: xr.Dataset, groups: pd.DataFrame, metric: str, cost: str, size: int
) -> alt.LayerChart | alt.FacetChart:
    """Scores against one cost, with the Pareto front ringed."""
    groups = groups.dropna(subset=[cost])
    style, order = styles(dataset), groups.group.tolist()
    x = alt.X(
        f"{cost}:Q",
        title=COSTS[cost],
        scale=alt.Scale(type="log", nice=False, padding=25),
        axis=charts.number_axis(tickCount=4),
    )
    domain = alt.Scale(domain=[0, 1]) if metric == "success" else alt.Scale(zero=True)
    y = alt.Y("value:Q", title=METRICS[metric], scale=domain)
    legend = alt.Legend(orient="bottom", columns=1, title=None, labelLimit=400, symbolOpacity=1)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    swept = []
    for name, line in depth_vs_width.lines(dataset).items():
        for part in line.values():
            rows = groups[groups.group.isin(part.group.values)]
            swept += [{"line": _LINES[name], cost: row[cost], "value": row["value"]} for _, row in rows.iterrows()]
    layers: list[alt.Chart] = []
    if swept:
        dash = alt.StrokeDash("line:N", scale=_LINE_STYLE, legend=alt.Legend(orient="bottom", title=None, columns=1))
        layers.append(
            alt.Chart(pd.DataFrame(swept)).mark_line(color="#777", strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash)
        )
    points = groups[["group", cost, "value", "values"]]
    layers += charts.seed_marks(points, y, x=x, color=color, shape=shape, tooltip=["group:N", "value:Q", f"{cost}:Q"])
    ringed = groups[pareto(groups[cost], groups["value"])][[cost, "value"]]
    layers.append(alt.Chart(ringed).mark_point(size=420, color="#222", strokeWidth=1.2, opacity=1).encode(x=x, y=y))
    return charts.layers(*layers).properties(width=size, height=240, title=f"against {_SHORT[cost]}")


def _differences(compared: pd.DataFrame, metric: str, size: int) -> alt.LayerChart | alt.FacetChart:
    """The score of the deeper network minus that of the wider one, with the interval that decides the verdict."""
    data = compared[["equal", "deep", "wide", "difference", "low", "high"]].assign(equal="equal " + compared.equal)
    y = alt.Y("equal:N", sort=data.equal.tolist(), title=None, axis=alt.Axis(labelLimit=200))
    x = alt.X("difference:Q", title=f"difference in {METRICS[metric]}", axis=alt.Axis(tickCount=5))
    tooltip = ["equal:N", "deep:N", "wide:N", "difference:Q", "low:Q", "high:Q"]
    return charts.layers(
        alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color="#bbb").encode(x="zero:Q"),
        alt.Chart(data.dropna(subset=["low"])).mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", y=y),
        alt.Chart(data).mark_point(filled=True, size=90, opacity=1, color="#333").encode(x=x, y=y, tooltip=tooltip),
    ).properties(width=size, height=240, title="the deeper network minus the wider")


@click.command()
@outputs.runs
@outputs.out("efficiency.html")
@outputs.metric
def command(paths: Sequence[Path], out: Sequence[Path], metric: str) -> None:
    """Compare what depth and width bought at equal updates, equal parameters and equal seconds, task by task.

    RUNS are run directories, or directories that hold some.

    \b
    Example: crlviz efficiency runs --metric success --out efficiency.png
    """
    outputs.check(out)
    dataset = compute(paths)
    compared = depth_vs_width.compare(dataset, metric)
    notes = filter(None, [runs.shares(dataset), runs.stalls(dataset)])
    click.echo("\n".join([*(compared.sentence if len(compared) else [NEEDS]), *notes]))
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric))


__all__ = ["COSTS", "LAST", "command", "compute", "pareto", "plot", "table"]
