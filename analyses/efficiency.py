"""What does depth buy, and what width, and what do they cost? (paper figure 4)"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses import doubling, outputs, runs
from analyses.runs import LAST, METRICS, table
from analyses.scaling import styles
from crlviz import charts

COSTS = {
    "updates": "updates",
    "parameters": "parameters of actor and critic",
    "flops": "FLOPs an update (matrix products)",
    "seconds": "training seconds",
}
_SHORT = {"updates": "updates", "parameters": "parameters", "flops": "FLOPs", "seconds": "seconds"}
_LINES = {"depth": "deeper, at one width", "width": "wider, at one depth"}
_LINE_STYLE = alt.Scale(domain=list(_LINES.values()), range=[[1, 0], [5, 4]])
_GAIN_COLOUR = alt.Scale(domain=["depth", "width"], range=["#333333", "#9a9a9a"])
NEEDS = (
    "To tell depth from width, runs over depth at one width and over width at one depth are needed: crlviz sweep ENV "
    "--depth 4,8,16 --seed 0-4 --out RUNS; crlviz sweep ENV --depth 4 --width 128,256 --seed 0-4 --out RUNS"
)


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Scores and costs (``runs.compute``) of the runs that differ in depth, width and training time alone."""
    shapes = "depth", "width", "trained"
    return runs.relabel(runs.vary(runs.collect(paths), *shapes), *shapes)


def pareto(costs: Sequence[float] | np.ndarray, scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which of N networks lie on the Pareto front [N]: no other scores as much for less, or more for as much."""
    costs, scores = np.asarray(costs, float), np.asarray(scores, float)
    as_good = (costs[None] <= costs[:, None]) & (scores[None] >= scores[:, None])
    better = (costs[None] < costs[:, None]) | (scores[None] > scores[:, None])
    return ~np.any(as_good & better, axis=1)


@charts.whole
def plot(
    dataset: xr.Dataset,
    *,
    metric: str = "time_at_goal",
    costs: Sequence[str] = ("parameters", "flops", "seconds"),
    size: int = 230,
) -> alt.TopLevelMixin:
    """Final score of each group against each cost, the depth and the width sweep as lines; and what doubling bought.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      metric: a key of ``METRICS``.
      costs: keys of ``COSTS``, a panel each.
      size: width of a panel in pixels.
    """
    groups = table(dataset, metric)
    told = [cost for cost in costs if groups[cost].notna().any()]
    panels = [_panel(dataset, groups, metric, cost, size) for cost in told]
    compared = doubling.compare(dataset, metric)
    notes = [f"Mean of the last {LAST} evaluations, interquartile mean over runs; {runs.seeds(dataset)}."]
    notes.append("A ring marks the Pareto front: no network here scores as much for less.")
    notes += filter(None, [runs.shares(dataset)])
    if len(told) < len(costs):
        notes.append("FLOPs are left out: these runs were trained before config.json told them.")
    notes += compared.sentence.tolist() if len(compared) else [NEEDS]
    picture = alt.hconcat(*panels)
    if len(compared):
        picture = alt.hconcat(picture, _gains(dataset, compared, metric, size))
        picture = picture.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    wide = textwrap.TextWrapper(max(60, 47 * (len(panels) + bool(len(compared)))))
    lines = [line for note in notes for line in wide.wrap(note)]
    title = f"{METRICS[metric].capitalize()}, and what it cost"
    return picture.properties(title=alt.TitleParams(title, subtitle=lines, subtitleLineHeight=16))


def _panel(
    dataset: xr.Dataset, groups: pd.DataFrame, metric: str, cost: str, size: int
) -> alt.LayerChart | alt.FacetChart:
    """Scores against one cost."""
    groups = groups.dropna(subset=[cost])
    style, order = styles(dataset), groups.group.tolist()
    x = alt.X(
        f"{cost}:Q",
        title=COSTS[cost],
        scale=alt.Scale(type="log", nice=False, padding=25),
        axis=alt.Axis(format=".2~s", grid=False, tickCount=4),
    )
    domain = alt.Scale(domain=[0, 1]) if metric == "success" else alt.Scale(zero=True)
    y = alt.Y("score:Q", title=METRICS[metric], scale=domain)
    legend = alt.Legend(orient="bottom", columns=1, title=None, labelLimit=400, symbolOpacity=1)
    colour = alt.Color("group:N", sort=order, scale=style["colour"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    swept = []
    for name, line in doubling.lines(dataset).items():
        for part in line.values():
            rows = groups[groups.group.isin(part.group.values)]
            swept += [{"line": _LINES[name], cost: row[cost], "score": row["score"]} for _, row in rows.iterrows()]
    seeds = groups.explode("scores").rename(columns={"scores": "seed_score"})
    points = alt.Chart(groups[["group", cost, "score"]])
    layers: list[alt.Chart] = []
    if swept:
        dash = alt.StrokeDash("line:N", scale=_LINE_STYLE, legend=alt.Legend(orient="bottom", title=None, columns=1))
        layers.append(
            alt.Chart(pd.DataFrame(swept)).mark_line(color="#777", strokeWidth=1.3).encode(x=x, y=y, strokeDash=dash)
        )
    layers += [
        alt.Chart(seeds[["group", cost, "seed_score"]])
        .mark_point(size=22, opacity=0.5)
        .encode(x=x, y=alt.Y("seed_score:Q", scale=domain), color=colour, shape=shape),
        alt.Chart(groups.dropna(subset=["low"])[["group", cost, "low", "high"]])
        .mark_rule(strokeWidth=1.5)
        .encode(x=x, y="low:Q", y2="high:Q", color=colour),
        points.mark_point(size=130, filled=True, opacity=1).encode(
            x=x, y=y, color=colour, shape=shape, tooltip=["group:N", "score:Q", f"{cost}:Q"]
        ),
        alt.Chart(groups[pareto(groups[cost], groups.score)][[cost, "score"]])
        .mark_point(size=420, color="#222", strokeWidth=1.2, opacity=1)
        .encode(x=x, y=y),
    ]
    return alt.layer(*layers).properties(width=size, height=240, title=f"against {_SHORT[cost]}")


def _gains(dataset: xr.Dataset, compared: pd.DataFrame, metric: str, size: int) -> alt.LayerChart | alt.FacetChart:
    """What depth and width gained over the network that both start from, at equal updates, parameters and seconds."""
    rows = [
        {"equal": f"equal {row['equal']}", "by": name}
        | {key: row[f"gain_{name}{tail}"] for key, tail in (("gain", ""), ("low", "_low"), ("high", "_high"))}
        for row in compared.to_dict("records")
        for name in ("depth", "width")
    ]
    data = pd.DataFrame(rows)
    y = alt.Y("equal:N", sort=list(dict.fromkeys(data.equal)), title=None, axis=alt.Axis(labelLimit=200))
    offset = alt.YOffset("by:N", sort=["depth", "width"])
    legend = alt.Legend(orient="bottom", title="doubled", columns=2)
    colour = alt.Color("by:N", scale=_GAIN_COLOUR, legend=legend)
    x = alt.X("gain:Q", title=f"gain in {METRICS[metric]}", axis=alt.Axis(tickCount=5))
    base = next(iter(doubling.lines(dataset)["depth"]))
    return alt.layer(
        alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(color="#bbb").encode(x="zero:Q"),
        alt.Chart(data.dropna(subset=["low"]))
        .mark_rule(strokeWidth=2)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=offset, color=colour),
        alt.Chart(data)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(x=x, y=y, yOffset=offset, color=colour, tooltip=["by:N", "equal:N", "gain:Q", "low:Q", "high:Q"]),
    ).properties(width=size, height=240, title=f"gain over depth {base[0]}, width {base[1]}")


@click.command()
@outputs.runs
@outputs.out("efficiency.html")
@outputs.metric
def command(paths: Sequence[Path], out: Sequence[Path], metric: str) -> None:
    """Tell what depth and width bought at equal updates, equal parameters and equal seconds.

    RUNS are run directories, or directories that hold some.

    \b
    Example: crlviz efficiency runs --metric success --out efficiency.png
    """
    outputs.check(out)
    dataset = compute(paths)
    compared = doubling.compare(dataset, metric)
    click.echo("\n".join(compared.sentence if len(compared) else [NEEDS]))
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric))


__all__ = ["COSTS", "LAST", "command", "compute", "pareto", "plot", "table"]
