"""What do depth and width buy, and what do they cost, each algorithm for itself? (paper figure 4)"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, metrics, outputs, runs
from analyses.common.metrics import METRICS
from analyses.common.runs import LAST, table
from analyses.sweeps import by_algorithm, depth_vs_width, differences
from analyses.sweeps.scaling_panels import styles
from crlviz import charts
from crlviz.options import check_choice

COSTS = {
    "gradient_steps": "updates",
    "parameters": "parameters",
    "flops": "FLOPs an update",
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
    """Scores and costs (``runs.compute``) of runs that differ in algorithm, shape and training time alone."""
    dataset, shapes = runs.collect(paths), ("depth", "width", "trained")
    names = ("algorithm", *shapes) if by_algorithm.several(dataset) else shapes
    return runs.relabel(runs.vary(dataset, *names), *names)


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
    """Draw the comparison of depth with width, and below it the final score of each group against each cost.

    Below, one row of panels for each task: networks are compared within a task, because tasks are not equally hard.
    Lines join the networks of the depth sweep and of the width sweep.

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
    known = [cost for cost in costs if cost != "flops" or dataset.flops_per_update.notnull().any()]
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    parts = [dataset.isel(run=dataset.env.values == task) for task in tasks]
    clouds = [panels(part, metric=metric, costs=known, size=size) for part in parts]
    if len(tasks) > 1:
        clouds = [cloud.properties(title=task) for cloud, task in zip(clouds, tasks, strict=True)]
    first = []
    if len(compared):
        words: dict[str, Any] = {"ends": ("wider is higher", "deeper is higher"), "title": "Deeper minus wider"}
        first.append(differences.forest(_of_widths(compared), metric, **words, size=2.1 * size))
    if len(gained := _gains(dataset, metric)):
        words = {"ends": ("shallower is higher", "deeper is higher")}
        words["title"] = "Deeper minus shallower, each algorithm for itself"
        first.append(differences.forest(_of_algorithms(gained), metric, **words, size=2.1 * size))
    below = alt.vconcat(*clouds, charts.key({"ring": "best score for its cost (Pareto front)"}), spacing=20)
    picture = alt.vconcat(*first, below, spacing=34)
    return charts.claimed(
        picture.resolve_scale(color="independent", shape="independent", strokeDash="independent"),
        _claim(compared, gained) or _best(dataset, metric),
        f"{', '.join(tasks[:3])}{f' and {len(tasks) - 3} more' * (len(tasks) > 3)}; {runs.seeds(dataset)}",
        how_to_read(dataset, metric),
    )


def _gains(dataset: xr.Dataset, metric: str) -> pd.DataFrame:
    """What depth gained each algorithm, if there are several; without rows if there is one."""
    return by_algorithm.gains(dataset, metric) if by_algorithm.several(dataset) else pd.DataFrame()


def _claim(compared: pd.DataFrame, gained: pd.DataFrame) -> str:
    """The verdicts in words; those on algorithms go before those on width."""
    if not len(gained):
        return depth_vs_width.claim(compared)
    parts = {equal: by_algorithm.gains_claim(gained, equal) for equal in ("updates", "seconds")}
    return " ".join(f"At equal {equal}: {part}." for equal, part in parts.items() if part)


def _best(dataset: xr.Dataset, metric: str) -> str:
    """The measured scores in words, for runs that allow no comparison of depth with width."""
    groups = table(dataset.isel(run=dataset.env.values == dataset.env.values[0]), metric)
    scores = {str(row.group): row.scores for row in groups.itertuples()}
    return claims.of_metric(scores, metric, longest=metrics.largest(dataset, "time_at_goal"))


def how_to_read(dataset: xr.Dataset, metric: str) -> str:
    """The explanation of the picture, with every comparison in full."""
    compared = depth_vs_width.compare(dataset, metric)
    gained = _gains(dataset, metric)
    notes = ["First: the score of one network minus that of another, with the interval that decides."]
    notes += compared.sentence.tolist() if len(compared) else [NEEDS] * (not len(gained))
    notes += gained.sentence.tolist() if len(gained) else []
    notes.append(f"Below: each network's score, the mean of its last {LAST} evaluations, against what it cost.")
    notes.append("A ring marks the Pareto front of these means: what was measured, and no claim of a difference.")
    notes += filter(None, [dataset.attrs.get("settings"), runs.shares(dataset), runs.stalls(dataset)])
    if dataset.flops_per_update.isnull().all():
        notes.append("FLOPs are left out: these runs were trained before config.json recorded them.")
    return " ".join(notes)


def panels(dataset: xr.Dataset, *, metric: str, costs: Sequence[str], size: int = 230) -> Any:
    """Draw the final score of each group against each cost, one panel for each cost, without a comparison.

    Args:
      dataset: from ``compute``, of one task.
      metric: a key of ``METRICS``.
      costs: keys of ``COSTS``; a cost that no run records is left out.
      size: width of a panel in pixels.
    """
    groups = table(dataset, metric).rename(columns={"score": "value", "scores": "values"})
    known = [cost for cost in costs if groups[cost].notna().any()]
    return charts.row(*(_panel(dataset, groups, metric, cost, size) for cost in known))


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
    legend = alt.Legend(title=None, labelLimit=400, symbolOpacity=1)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    swept = []
    for (_, algorithm), own in depth_vs_width.by_kind(dataset).items():
        for name, line in depth_vs_width.lines(own).items():
            for part in line.values():
                rows = groups[groups.group.isin(part.group.values)]
                of = {"line": _LINES[name], "algorithm": algorithm}
                swept += [of | {cost: row[cost], "value": row["value"]} for _, row in rows.iterrows()]
    layers: list[alt.Chart] = []
    if swept:
        dash = alt.StrokeDash("line:N", scale=_LINE_STYLE, legend=alt.Legend(title=None))
        lines = alt.Chart(pd.DataFrame(swept)).mark_line(color=charts.ink(0.55), strokeWidth=1.3)
        layers.append(lines.encode(x=x, y=y, strokeDash=dash, detail="algorithm:N"))
    points = groups[["group", cost, "value", "values"]]
    layers += charts.seed_marks(points, y, x=x, color=color, shape=shape, tooltip=["group:N", "value:Q", f"{cost}:Q"])
    ringed = groups[pareto(groups[cost], groups["value"])][[cost, "value"]]
    rings = alt.Chart(ringed).mark_point(size=420, color=charts.ink(0.9), strokeWidth=1.2, opacity=1)
    layers.append(rings.encode(x=x, y=y))
    title = charts.panel_title(f"against {_SHORT[cost]}", size)
    return charts.layers(*layers).properties(width=size, height=200, title=title)


def _of_widths(compared: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``depth_vs_width.compare`` for ``differences.forest``."""
    several = [name for name in ("env", "algorithm") if compared[name].nunique() > 1]
    names = [", ".join([f"equal {row['equal']}", *(row[name] for name in several)]) for _, row in compared.iterrows()]
    networks = compared.deep + " against " + compared.wide
    return compared.assign(name=names, networks=networks)


def _of_algorithms(gained: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``by_algorithm.gains`` for ``differences.forest``."""
    several = gained.env.nunique() > 1
    names = [f"{row.algorithm}, equal {row.equal}" + f", {row.env}" * several for row in gained.itertuples()]
    networks = [f"depth {row.deep} against depth {row.shallow}" for row in gained.itertuples()]
    return gained.assign(name=names, networks=networks)


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
    notes = filter(None, [dataset.attrs["settings"], runs.shares(dataset), runs.stalls(dataset)])
    said = [*compared.get("sentence", ()), *_gains(dataset, metric).get("sentence", ())]
    click.echo("\n".join([*(said or [NEEDS]), *notes]))
    dataset = dataset.assign_attrs({charts.HELP: how_to_read(dataset, metric)})
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric))


__all__ = ["COSTS", "LAST", "command", "compute", "pareto", "plot", "table"]
