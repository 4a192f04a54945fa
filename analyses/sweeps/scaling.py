"""How does the score grow with depth, and which settings matter? (paper figures 1, 5, 6, 7, 12 and 16)"""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import outputs, runs
from analyses.common.runs import LAST, METRICS, vary
from analyses.sweeps import results_table
from crlviz import charts, datasets
from crlviz.checkpoints import atomic_files
from crlviz.options import Command, check_choice

AXES = {"gradient_steps": "updates", "train_seconds": "training seconds", "env_steps": "environment steps"}
_COLORS = ("#222222", "#0b7285", "#c2255c", "#e8890c", "#5f8f29", "#7048a8")  # of lines that are not depths
_SHAPES = ("circle", "square", "triangle-up", "diamond")


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Curves, scores and costs of the runs at paths (``analyses.common.runs.collect``)."""
    return runs.collect(paths)


def curves(
    dataset: xr.Dataset, *, metric: str = "success", x_axis: str = "gradient_steps", size: int = 380, title: str = ""
) -> alt.LayerChart | alt.FacetChart:
    """Draw scores over training: a thick line for each group (the mean over seeds), thin lines for its seeds.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task.
      metric: a key of ``METRICS``.
      x_axis: a key of ``AXES``.
      size: width in pixels.
      title: default: the axis.
    """
    seeds, means = [], []
    for group, part in dataset.groupby("group"):
        depth = int(part.depth[0])
        for index in range(part.sizes["run"]):
            run = part.isel(run=index)
            for x, y in zip(run[x_axis].values, run[metric].values, strict=True):
                seeds.append({"group": group, "depth": depth, "run": int(run.run), "x": x, "score": y})
        for evaluation in range(part.sizes["evaluation"]):
            values = part[metric].values[:, evaluation]
            if np.isfinite(values).all():
                x, y = part[x_axis].values[:, evaluation].mean(), values.mean()
                means.append({"group": group, "depth": depth, "x": x, "score": y})
    order = list(dict.fromkeys(dataset.group.values.tolist()))
    style = styles(dataset)
    x = alt.X("x:Q", title=AXES[x_axis], axis=charts.number_axis(tickCount=6))
    y = alt.Y("score:Q", title=METRICS[metric], scale=_domain(metric))
    legend = alt.Legend(orient="bottom", columns=1, title=None, labelLimit=400, symbolOpacity=1, symbolSize=400)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    thin = alt.Chart(pd.DataFrame(seeds).dropna()).mark_line(strokeWidth=0.8, opacity=0.45)
    thick = alt.Chart(pd.DataFrame(means)).mark_line(strokeWidth=2.6)
    note = runs.seeds(dataset).partition(",")[0]
    note = note if note == "one seed" else f"{note}; the thick line is their mean"
    return charts.layers(
        thin.encode(x=x, y=y, color=color, strokeDash=dash, detail="run:N"),
        thick.encode(x=x, y=y, color=color, strokeDash=dash),
    ).properties(width=size, height=260, title=alt.TitleParams(title or f"against {AXES[x_axis]}", subtitle=note))


def styles(dataset: xr.Dataset) -> dict[str, alt.Scale]:
    """Color, dash and shape of each group: one color for each depth; dash and shape separate groups of one depth."""
    order = list(dict.fromkeys(dataset.group.values.tolist()))
    depths = [int(dataset.depth.values[dataset.group.values == group][0]) for group in order]
    nth = [depths[:index].count(depth) for index, depth in enumerate(depths)]
    dashes = (charts.SOLID, [7, 3], [2, 3], [9, 3, 2, 3])
    return {
        "color": alt.Scale(domain=order, range=[charts.depth_color(depth) for depth in depths]),
        "dash": alt.Scale(domain=order, range=[dashes[n % len(dashes)] for n in nth]),
        "shape": alt.Scale(domain=order, range=[_SHAPES[n % len(_SHAPES)] for n in nth]),
    }


@dataclass(frozen=True)
class Panel:
    """One picture of a sweep.

    Attributes:
      title: its content.
      factors: of ``runs.FACTORS``: the factors in which its runs differ, with two values or more each.
      draw: draws it, from the Dataset of those runs of one task, a key of ``METRICS`` and a key of ``AXES``.
      options: options of the sweep that makes such runs.
    """

    title: str
    factors: tuple[str, ...]
    draw: Callable[[xr.Dataset, str, str], alt.TopLevelMixin]
    options: str

    @property
    def needs(self) -> str:
        """The runs that it needs, in words."""
        names = " and ".join(f"several values of {name.replace('_', ' ')}" for name in self.factors)
        return f"{self.title} needs runs with {names}"

    @property
    def command(self) -> str:
        """The sweep that makes these runs."""
        return f"crlviz sweep ENV {self.options} --seed 0-4 --out RUNS"


def panels(
    dataset: xr.Dataset, metric: str = "time_at_goal", x_axis: str = "env_steps"
) -> dict[str, alt.TopLevelMixin]:
    """Draw the panels that the runs of one task support, by their names in ``PANELS``."""
    drawn = {}
    for name, panel in PANELS.items():
        part = vary(dataset, *panel.factors)
        values = list(zip(*(part[factor].values.tolist() for factor in panel.factors), strict=True))
        most = max(len(set(column)) for column in zip(*values, strict=True))
        # With two factors, there must be more combinations than values of either: both vary, not only jointly.
        if len(set(values)) > (most if len(panel.factors) > 1 else 1):
            drawn[name] = panel.draw(part, metric, x_axis)
    return drawn


@charts.self_contained
def plot(dataset: xr.Dataset, *, metric: str = "time_at_goal", x_axis: str = "env_steps") -> alt.TopLevelMixin:
    """Draw every panel that the runs support, in a block for each task; learning curves if they support none.

    Args:
      dataset: from ``analyses.common.runs.compute``, or read back from netCDF.
      metric: a key of ``METRICS``.
      x_axis: a key of ``AXES``: the axis of learning curves.

    Raises:
      UsageError: unknown metric or axis.
    """
    check_choice("metric", metric, METRICS)
    check_choice("x_axis", x_axis, AXES)
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    blocks = []
    for task in tasks:
        part = dataset.isel(run=dataset.env.values == task)
        pictures: list[Any] = list(panels(part, metric, x_axis).values())
        pictures = pictures or [curves(part, metric=metric, x_axis=x_axis, title="Learning curves")]
        block = alt.concat(*pictures, columns=2, spacing=30, title=task)
        blocks.append(block.resolve_scale(color="independent", shape="independent", strokeDash="independent"))
    lacking = [panel.title for panel in missing(dataset)]
    if len(lacking) == len(PANELS):
        return alt.vconcat(*blocks, spacing=30).properties(title=f"{METRICS[metric].capitalize()}, over training")
    lines = [f"Final scores are means of the last {LAST} evaluations; {runs.seeds(dataset)}."]
    lines += filter(None, [runs.stalls(dataset)])
    lines += [f"Not drawn, because no runs differ in it: {'; '.join(lacking)}."] * bool(lacking)
    subtitle = [line for text in lines for line in textwrap.wrap(text, 130)]
    return alt.vconcat(*blocks, spacing=30).properties(
        title=alt.TitleParams(
            f"{METRICS[metric].capitalize()}, by depth and what changes it",
            subtitle=subtitle,
            subtitleLineHeight=16,
            offset=14,
        )
    )


def missing(dataset: xr.Dataset) -> list[Panel]:
    """The panels that the runs of no task support."""
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    drawn = {name for task in tasks for name in panels(dataset.isel(run=dataset.env.values == task))}
    return [panel for name, panel in PANELS.items() if name not in drawn]


def _cells(part: xr.Dataset, names: Sequence[str], metric: str) -> pd.DataFrame:
    """One row for each combination of factors: ``values``, the score of each seed, and ``value``, their mean."""
    labels = pd.DataFrame({name: part[name].values for name in names}).assign(score=part[f"score_{metric}"].values)
    rows = []
    for key, group in labels.groupby(list(names), sort=True):
        scores = group.score.tolist()
        rows.append(dict(zip(names, key, strict=True)) | {"value": float(np.mean(scores)), "values": scores})
    return pd.DataFrame(rows)


def _curves(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    """Learning curves, a line for each depth."""
    part = runs.relabel(part, "depth").sortby("depth")
    return curves(part, metric=metric, x_axis=x_axis, size=330, title="Learning curves by depth")


def _over(part: xr.Dataset, metric: str, x: str, by: str, title: str) -> alt.TopLevelMixin:
    """Final scores over one factor, a line for each value of another."""
    data = _cells(part, list(dict.fromkeys([x, by])), metric)
    values = list(dict.fromkeys(data[by])) if x != by else sorted(data[by])
    is_depth = by == "depth"
    colors = [charts.depth_color(v) if is_depth else _COLORS[n % len(_COLORS)] for n, v in enumerate(values)]
    names = [datasets.FACTS[by].format(value) for value in values]
    data["line"] = data[by].map(dict(zip(values, names, strict=True)))
    ticks = sorted(set(data[x]))
    # Lines are shifted slightly along x, so that the marks of their seeds do not overlap.
    shifts = {line: 2 ** (0.05 * (n - (len(names) - 1) / 2)) if x != by else 1.0 for n, line in enumerate(names)}
    data["place"] = data[x] * data.line.map(shifts)
    scale = alt.Scale(type="log", base=2, domain=[ticks[0] / 1.2, ticks[-1] * 1.2], nice=False)
    at = alt.X("place:Q", title=x.replace("_", " "), scale=scale, axis=alt.Axis(values=ticks, grid=False, format="d"))
    height = alt.Y("value:Q", title=METRICS[metric], scale=_domain(metric))
    legend = alt.Legend(orient="bottom", columns=3, title=None, symbolOpacity=1) if x != by else None
    color = alt.Color("line:N", sort=names, scale=alt.Scale(domain=names, range=colors), legend=legend)
    shapes = alt.Scale(domain=names, range=[_SHAPES[n % len(_SHAPES)] for n in range(len(names))])
    shape = alt.Shape("line:N", sort=names, scale=shapes, legend=legend) if not is_depth else alt.value("circle")
    line = alt.Chart(data.drop(columns="values")).mark_line(strokeWidth=1.8).encode(x=at, y=height)
    layers = [
        line.encode(color=color) if x != by else line.encode(color=alt.value("#bbb")),
        *charts.seed_marks(data, height, x=at, color=color, shape=shape, tooltip=list(dict.fromkeys([x, by, "value"]))),
    ]
    return charts.layers(*layers).properties(
        width=330, height=260, title=alt.TitleParams(title, subtitle=runs.seeds(part))
    )


def _grid(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    """Final scores by actor and critic depth, as numbers on colored tiles."""
    data = _cells(part, ["depth", "actor_depth"], metric)
    middle = (data.value.min() + data.value.max()) / 2
    number_format = ".2f" if metric == "success" else ".3~g"
    base = alt.Chart(data).encode(
        x=alt.X("depth:O", title="critic depth", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("actor_depth:O", title="actor depth", sort="descending"),
    )
    legend = alt.Legend(title=METRICS[metric], gradientLength=160, titleLimit=200)
    cells = base.mark_rect().encode(color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis"), legend=legend))
    ink = alt.condition(f"datum.value < {middle}", alt.value("white"), alt.value("black"))
    score = base.mark_text(fontSize=15, dy=-7).encode(text=alt.Text("value:Q", format=number_format), color=ink)
    data["seeds"] = [f"{n} seed" + "s" * (n > 1) for n in map(len, data.pop("values"))]
    count = base.mark_text(fontSize=10, dy=10).encode(text="seeds:N", color=ink)
    return alt.layer(cells, score, count).properties(
        width=270, height=260, title=alt.TitleParams("Actor depth by critic depth", subtitle="means")
    )


def _domain(metric: str) -> alt.Scale:
    """Scale of scores: 0 to 1 for success, else from 0."""
    return alt.Scale(domain=[0, 1]) if metric == "success" else alt.Scale(zero=True)


PANELS = {
    "curves": Panel("learning curves by depth (figure 1)", ("depth",), _curves, "--depth 4,8,16,32"),
    "depth": Panel(
        "final score by depth (figures 1 and 5, table 1)",
        ("depth",),
        lambda part, metric, x_axis: _over(part, metric, "depth", "depth", "Final score by depth"),
        "--depth 4,8,16,32",
    ),
    "ablation": Panel(
        "without residual, LayerNorm, Swish (figures 5 and 16)",
        ("depth", "network"),
        lambda part, metric, x_axis: _over(part, metric, "depth", "network", "With and without parts of the network"),
        "--depth 4,8,16,32 --ablate residual,layer-norm,swish",
    ),
    "batch": Panel(
        "batch size by depth (figure 7)",
        ("depth", "batch_size"),
        lambda part, metric, x_axis: _over(part, metric, "batch_size", "depth", "Batch size by depth"),
        "--depth 4,16 --batch-size 64,256",
    ),
    "grid": Panel(
        "actor depth by critic depth (figure 6)",
        ("depth", "actor_depth"),
        _grid,
        "--actor-depth 4,16 --critic-depth 4,16",
    ),
}


@click.command(cls=Command, old_options={"--over": "--x-axis"})
@outputs.runs
@outputs.out("scaling.html", "csv or md for the table")
@outputs.metric
@click.option(
    "--x-axis", type=click.Choice(list(AXES)), default="env_steps", show_default=True, help="Axis of the curves."
)
def command(paths: Sequence[Path], out: Sequence[Path], metric: str, x_axis: str) -> None:
    """Draw learning curves and final scores over depth, batch size, actor and critic depth, and ablations.

    RUNS are run directories, or directories that hold some. Panels that they do not support are listed with the sweeps
    that make their runs.

    \b
    Example: crlviz scaling runs --metric success --out scaling.png --out table.md
    """
    outputs.check(out, also=(".csv", ".md"))
    dataset = compute(paths)
    table = results_table.table(dataset)
    click.echo(results_table.markdown(table))
    for note in filter(None, [runs.stalls(dataset)]):
        click.echo(note)
    for panel in missing(dataset):
        click.echo(f"Not drawn: {panel.title}; its runs: {panel.command}")
    tables = {
        ".csv": lambda path: atomic_files.write(path, table.to_csv(index=False, float_format="%.6g").encode()),
        ".md": lambda path: atomic_files.write(path, results_table.markdown(table).encode()),
    }
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric, x_axis=x_axis), tables)


__all__ = ["AXES", "LAST", "PANELS", "command", "compute", "curves", "missing", "panels", "plot", "styles"]
