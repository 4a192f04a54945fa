"""The panels of ``analyses.sweeps.scaling``: learning curves, and final scores over one or two factors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, metrics, runs
from analyses.common.metrics import METRICS
from analyses.common.runs import vary
from analyses.sweeps import algorithm_panels, contrasts
from analyses.sweeps.contrasts import Contrast
from crlviz import charts, datasets, statistics

ALGORITHMS = "crl,sac,sac+her,td3+her,gcsl,gcbc"  # of the paper's figures 12 and 13
AXES = {"gradient_steps": "updates", "train_seconds": "training seconds", "env_steps": "environment steps"}
_COLORS = ("#0b7285", "#c2255c", "#e8890c", "#5f8f29", "#7048a8")  # of lines that are not depths, after the ink
_WIDTH, _HEIGHT = 330, 240  # pixels of a panel
_LINES = 3  # of a panel's title, so that those of a row align
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")


def curves(
    dataset: xr.Dataset,
    *,
    metric: str = "success",
    x_axis: str = "gradient_steps",
    size: int = 380,
    title: str = "",
    lines: int = 1,
    top: float = 0.0,
) -> alt.LayerChart | alt.FacetChart:
    """Draw scores over training: a thick line for each group (the mean over seeds), thin lines for its seeds.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task.
      metric: a key of ``METRICS``.
      x_axis: a key of ``AXES``.
      size: width in pixels.
      title: default: the axis.
      lines: height of the title in lines.
      top: upper end of the axis of scores; 0: by the scores.
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
    y = alt.Y("score:Q", title=METRICS[metric], scale=alt.Scale(domain=[0, top]) if top else _domain(metric))
    drawn, average = pd.DataFrame(seeds).dropna(), pd.DataFrame(means)
    ends = average.rename(columns={"score": "value"}).groupby("group", sort=False).tail(1)
    color = alt.Color("group:N", sort=order, scale=style["color"])
    top = top or (1.0 if metric == "success" else float(drawn.score.max()))
    named = charts.end_labels(ends, x, color, (0, top), _HEIGHT) if top > 0 else None
    legend = charts.legend(columns=2, symbolSize=400) if named is None else None
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    thin = alt.Chart(drawn).mark_line(strokeWidth=0.8, opacity=0.45)
    thick = alt.Chart(average).mark_line(strokeWidth=2.6)
    return charts.layers(
        thin.encode(x=x, y=y, color=color, strokeDash=dash, detail="run:N"),
        thick.encode(x=x, y=y, color=color, strokeDash=dash),
        named,
    ).properties(width=size, height=_HEIGHT, title=charts.panel_title(title or f"against {AXES[x_axis]}", size, lines))


def styles(dataset: xr.Dataset) -> dict[str, alt.Scale]:
    """Color, dash and shape of each group: one color for each depth; dashes separate groups of one depth."""
    order = list(dict.fromkeys(dataset.group.values.tolist()))
    depths = [int(dataset.depth.values[dataset.group.values == group][0]) for group in order]
    nth = [depths[:index].count(depth) for index, depth in enumerate(depths)]
    dashes = (charts.SOLID, [7, 3], [2, 3], [9, 3, 2, 3], [12, 3], [4, 2], [1, 4], [9, 2, 2, 2, 2, 2])
    return {
        "color": alt.Scale(domain=order, range=[charts.depth_color(depth) for depth in depths]),
        "dash": alt.Scale(domain=order, range=[dashes[n % len(dashes)] for n in nth]),
        "shape": alt.Scale(domain=order, range=[_SHAPES[n % len(_SHAPES)] for n in range(len(order))]),
    }


@dataclass(frozen=True)
class Panel:
    """One picture of a sweep.

    Attributes:
      title: its content.
      factors: of ``runs.FACTORS``: the factors in which its runs differ, with two values or more each.
      draw: draws it, from the Dataset of those runs of one task, a key of ``METRICS`` and a key of ``AXES``.
      options: options of the sweep that makes such runs.
      contrasts: what its title compares, from that Dataset and metric; None: it has a title of its own.
      also: further factors in which its runs may differ.
      wide: whether it takes a row of its own.
    """

    title: str
    factors: tuple[str, ...]
    draw: Callable[[xr.Dataset, str, str], Any]
    options: str
    contrasts: Callable[[xr.Dataset, str], list[Contrast]] | None = None
    also: tuple[str, ...] = ()
    wide: bool = False

    @property
    def needs(self) -> str:
        """The runs that it needs, in words."""
        names = " and ".join(f"several values of {name.replace('_', ' ')}" for name in self.factors)
        return f"{self.title} needs runs with {names}"

    @property
    def command(self) -> str:
        """The sweep that makes these runs."""
        return f"crlviz sweep ENV {self.options} --seed 0-4 --out RUNS"


def axis_of(dataset: xr.Dataset, x_axis: str) -> str:
    """The axis of learning curves: updates instead of environment steps, if a run on a data set has none."""
    without = x_axis == "env_steps" and bool(dataset.env_steps.isnull().all("evaluation").any())
    return "gradient_steps" if without else x_axis


def panels(
    dataset: xr.Dataset, metric: str = "time_at_goal", x_axis: str = "env_steps", *, claimed: bool = True
) -> dict[str, alt.TopLevelMixin]:
    """Draw the panels that the runs of one task support, by their names in ``PANELS``.

    The title of a panel is its claim, or else what it shows.
    """
    drawn = {}
    x_axis = axis_of(dataset, x_axis)
    for name, (panel, part) in _supported(dataset).items():
        drawn[name] = panel.draw(part, metric, x_axis)
        if panel.contrasts:
            compared = panel.contrasts(part, metric) if claimed else []
            title = _said(part, compared[0], metric) if compared else claims.capital(panel.title.partition(" (")[0])
            drawn[name].title = charts.panel_title(title, _WIDTH, _LINES if claimed else 1)
    return drawn


def _supported(dataset: xr.Dataset) -> dict[str, tuple[Panel, xr.Dataset]]:
    """The panels that the runs of one task support, with the runs of each."""
    supported = {}
    for name, panel in PANELS.items():
        part = vary(dataset, *panel.factors, *panel.also)
        values = list(zip(*(part[factor].values.tolist() for factor in panel.factors), strict=True))
        most = max(len(set(column)) for column in zip(*values, strict=True))
        # With two factors, there must be more combinations than values of either: both vary, not only jointly.
        if len(set(values)) > (most if len(panel.factors) > 1 else 1):
            supported[name] = panel, part
    return supported


def missing(dataset: xr.Dataset) -> list[Panel]:
    """The panels that the runs of no task support."""
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    drawn = {name for task in tasks for name in _supported(dataset.isel(run=dataset.env.values == task))}
    return [panel for name, panel in PANELS.items() if name not in drawn]


def _cells(part: xr.Dataset, names: Sequence[str], metric: str) -> pd.DataFrame:
    """One row for each combination of factors: ``values``, the score of each seed, and ``value``, their mean."""
    labels = pd.DataFrame({name: part[name].values for name in names}).assign(score=part[f"score_{metric}"].values)
    rows = []
    for key, group in labels.groupby(list(names), sort=True):
        scores = group.score.tolist()
        rows.append(dict(zip(names, key, strict=True)) | {"value": float(np.mean(scores)), "values": scores})
    return pd.DataFrame(rows)


def _said(part: xr.Dataset, contrast: Contrast, metric: str) -> str:
    """The title of a panel: its claim, corrected for the number of panels and tasks, and of looks in the panel."""
    algorithm = f"{part.algorithm.values[0]}: " * bool(part.attrs.get("settings"))  # one of several
    longest = metrics.largest(part, "time_at_goal")
    return algorithm + claims.of_metric(contrast.scores, metric, _looks(part) * contrast.looks, contrast.where, longest)


def differences(dataset: xr.Dataset, metric: str) -> pd.DataFrame:
    """The verdicts of the panels that the runs of one task support, as rows for ``differences.forest``."""
    rows = []
    for panel, part in _supported(dataset).values():
        for contrast in panel.contrasts(part, metric) if panel.contrasts else ():
            (first, before), *_, (last, after) = contrast.scores.items()
            result = statistics.compare(after, before, _looks(part) * contrast.looks, metrics.largest(dataset, metric))
            form = ".0%" if metric == "success" else ".3g"
            numbers = " against ".join(claims.number(float(np.mean(scores)), form) for scores in (after, before))
            words = result.brief(f"{last} is higher", f"{first} is higher")
            measured = {"difference": result.difference, "low": result.low, "high": result.high}
            told = f"{numbers} {contrast.where or 'at the end'}"
            rows.append(measured | {"name": f"{last} against {first}", "words": words, "networks": told})
    return pd.DataFrame(rows)


def _looks(part: xr.Dataset) -> int:
    """The number of verdicts in a picture's narrow panels: one in each, for each task."""
    return verdicts(_tasks(part))


def verdicts(tasks: int) -> int:
    """The number of verdicts in the narrow panels of a picture of this many tasks."""
    return tasks * sum(not panel.wide for panel in PANELS.values())


def _tasks(part: xr.Dataset) -> int:
    """The number of tasks in the picture that a part of it belongs to."""
    return len(str(part.attrs["env"]).split(", "))


def _curves(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    """Learning curves, a line for each depth."""
    return curves(runs.relabel(part, "depth").sortby("depth"), metric=metric, x_axis=x_axis, size=_WIDTH)


def _depths(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    return _over(part, metric, "depth", "depth")


def _ablations(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    return _over(part, metric, "depth", "network")


def _batches(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    return _over(part, metric, "batch_size", "depth")


# Algorithm panels correct only for their own algorithms and tasks, not for the other panels.
def _algorithms(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    return algorithm_panels.over_depth(part, metric, _tasks(part))


def _algorithm_curves(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    return algorithm_panels.curves(part, metric, x_axis, AXES[x_axis], _tasks(part))


def _over(part: xr.Dataset, metric: str, x: str, by: str) -> alt.TopLevelMixin:
    """Final scores over one factor, a line for each value of another."""
    data = _cells(part, list(dict.fromkeys([x, by])), metric)
    values = list(dict.fromkeys(data[by])) if x != by else sorted(data[by])
    is_depth = by == "depth"
    others = (charts.ink(0.95), *_COLORS)  # the first, such as the full network, is visible on dark too
    colors = [charts.depth_color(v) if is_depth else others[n % len(others)] for n, v in enumerate(values)]
    names = [datasets.FACTS[by].format(value) for value in values]
    data["line"] = data[by].map(dict(zip(values, names, strict=True)))
    ticks = sorted(set(data[x]))
    # Lines are shifted slightly along x, so that the marks of their seeds do not overlap.
    shifts = {line: 2 ** (0.05 * (n - (len(names) - 1) / 2)) if x != by else 1.0 for n, line in enumerate(names)}
    data["place"] = data[x] * data.line.map(shifts)
    scale = alt.Scale(type="log", base=2, domain=[ticks[0] / 1.2, ticks[-1] * 1.2], nice=False)
    at = alt.X("place:Q", title=x.replace("_", " "), scale=scale, axis=alt.Axis(values=ticks, grid=False, format="d"))
    height = alt.Y("value:Q", title=METRICS[metric], scale=_domain(metric))
    shades = alt.Scale(domain=names, range=colors)
    ends = data.sort_values(x).groupby("line", sort=False).tail(1).assign(group=lambda rows: rows.line)
    top = 1.0 if metric == "success" else float(data["values"].map(max).max())
    named = None
    if x != by and top > 0:
        named = charts.end_labels(ends, at, alt.Color("line:N", scale=shades), (0, top), _HEIGHT)
    legend = charts.legend(columns=3) if x != by and named is None else None
    color = alt.Color("line:N", sort=names, scale=shades, legend=legend)
    shapes = alt.Scale(domain=names, range=[_SHAPES[n % len(_SHAPES)] for n in range(len(names))])
    shape = alt.Shape("line:N", sort=names, scale=shapes, legend=legend) if not is_depth else alt.value("circle")
    line = alt.Chart(data.drop(columns="values")).mark_line(strokeWidth=1.8).encode(x=at, y=height)
    layers = [
        line.encode(color=color) if x != by else line.encode(color=alt.value(charts.ink(0.3))),
        *charts.seed_marks(data, height, x=at, color=color, shape=shape, tooltip=list(dict.fromkeys([x, by, "value"]))),
        named,
    ]
    return charts.layers(*layers).properties(width=_WIDTH, height=_HEIGHT)


def _grid(part: xr.Dataset, metric: str, x_axis: str) -> alt.TopLevelMixin:
    """Final scores by actor and critic depth, as numbers on colored tiles."""
    data = _cells(part, ["depth", "actor_depth"], metric)
    middle = (data.value.min() + data.value.max()) / 2
    number_format = ".2f" if metric == "success" else ".3~g"
    base = alt.Chart(data).encode(
        x=alt.X("depth:O", title="critic depth", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("actor_depth:O", title="actor depth", sort="descending"),
    )
    cells = base.mark_rect().encode(color=alt.Color("value:Q", scale=alt.Scale(scheme="viridis"), legend=None))
    ink = alt.condition(f"datum.value < {middle}", alt.value("white"), alt.value("black"))
    numbers = base.mark_text(fontSize=charts.font(15), dy=-7)
    score = numbers.encode(text=alt.Text("value:Q", format=number_format), color=ink)
    data["seeds"] = [f"{n} seed" + "s" * (n > 1) for n in map(len, data.pop("values"))]
    count = base.mark_text(fontSize=charts.font(10), dy=charts.font(10)).encode(text="seeds:N", color=ink)
    return alt.layer(cells, score, count).properties(width=_WIDTH, height=_HEIGHT)


def _domain(metric: str) -> alt.Scale:
    """Scale of scores: 0 to 1 for success, else from 0."""
    return alt.Scale(domain=[0, 1]) if metric == "success" else alt.Scale(zero=True)


PANELS = {
    "curves": Panel(
        "learning curves by depth (figure 1)", ("depth",), _curves, "--depth 4,8,16,32", contrasts.training
    ),
    "depth": Panel(
        "final score by depth (figures 1 and 5, table 1)",
        ("depth",),
        _depths,
        "--depth 4,8,16,32",
        contrasts.depths,
    ),
    "ablation": Panel(
        "without residual, LayerNorm, Swish (figures 5 and 16)",
        ("depth", "network"),
        _ablations,
        "--depth 4,8,16,32 --ablate residual,layer-norm,swish",
        contrasts.ablations,
    ),
    "batch": Panel(
        "batch size by depth (figure 7)",
        ("depth", "batch_size"),
        _batches,
        "--depth 4,16 --batch-size 64,256",
        contrasts.batches,
    ),
    "grid": Panel(
        "actor depth by critic depth (figure 6)",
        ("depth", "actor_depth"),
        _grid,
        "--actor-depth 4,16 --critic-depth 4,16",
        contrasts.actor_or_critic,
    ),
    "algorithm_curves": Panel(
        "learning curves of several algorithms (figure 12)",
        ("algorithm",),
        _algorithm_curves,
        f"--algorithm {ALGORITHMS}",
        also=("depth",),
        wide=True,
    ),
    "algorithms": Panel(
        "final score by depth of several algorithms (figure 13)",
        ("algorithm", "depth"),
        _algorithms,
        f"--algorithm {ALGORITHMS} --depth 4,16",
        wide=True,
    ),
}


__all__ = ["ALGORITHMS", "AXES", "PANELS", "Panel", "curves", "differences", "missing", "panels", "styles"]
