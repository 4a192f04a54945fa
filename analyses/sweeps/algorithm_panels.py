"""Pictures of several algorithms over depth: a small panel for each algorithm, a color for each depth."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, metrics
from analyses.common.metrics import METRICS
from analyses.sweeps import by_algorithm
from crlviz import charts

_WIDTH, _HEIGHT = 128, 170  # pixels of a panel
_COLUMNS = 6  # panels side by side


def over_depth(part: xr.Dataset, metric: str, looks: int = 1) -> Any:
    """Final scores over depth, a panel for each algorithm; its title says what depth gained (figure 13).

    Args:
      part: from ``analyses.common.runs.collect``, of one task.
      metric: a key of ``METRICS``.
      looks: number of such pictures on the page.
    """
    algorithms = by_algorithm.parts(part)
    scores = {
        name: {depth: runs[f"score_{metric}"].values.tolist() for depth, runs in depths.items()}
        for name, depths in algorithms.items()
    }
    verdicts = claims.gains(scores, looks, metrics.largest(part, metric))
    top = max(max(values) for depths in scores.values() for values in depths.values())
    ticks = sorted({depth for depths in scores.values() for depth in depths})
    panels: list[Any] = []
    for name, depths in scores.items():
        rows = [{"depth": d, "values": values, "value": float(np.mean(values))} for d, values in depths.items()]
        scale = alt.Scale(type="log", base=2, domain=[ticks[0] / 1.6, ticks[-1] * 1.6], nice=False)
        x = alt.X("depth:Q", title="depth", scale=scale, axis=alt.Axis(values=ticks, grid=False, format="d"))
        y = _y("value", metric, first=not panels, top=top)
        line = alt.Chart(pd.DataFrame(rows).drop(columns="values")).mark_line(strokeWidth=1.6, color=charts.ink(0.3))
        color = alt.Color("depth:N", scale=_depth_colors(ticks), legend=None)
        marks = charts.seed_marks(pd.DataFrame(rows), y, x=x, color=color, tooltip=["depth", "value"])
        words = verdicts[name].brief(*claims.GAINS) if name in verdicts else "one depth"
        panels.append(charts.layers(line.encode(x=x, y=y), *marks).properties(title=_title(name, words)))
    return _side_by_side(panels, claims.of_gains(verdicts))


def curves(part: xr.Dataset, metric: str, x_axis: str, x_title: str, looks: int = 1) -> Any:
    """Learning curves, a panel for each algorithm, with the means of the others in gray (figure 12).

    Args:
      part: from ``analyses.common.runs.collect``, of one task.
      metric: a key of ``METRICS``.
      x_axis: a variable of the Dataset: ``env_steps``, ``gradient_steps`` or ``train_seconds``.
      x_title: its title.
      looks: number of such pictures on the page.
    """
    algorithms = by_algorithm.parts(part)
    depths = sorted({depth for each in algorithms.values() for depth in each})
    seeds, means = [], []
    for name, of_depth in algorithms.items():
        for depth, runs in of_depth.items():
            along, scores = runs[x_axis].values, runs[metric].values
            for run, (xs, ys) in enumerate(zip(along, scores, strict=True)):
                at = {"algorithm": name, "depth": depth, "line": f"{name} {depth} {run}"}
                seeds += [at | {"x": x, "score": y} for x, y in zip(xs, ys, strict=True) if np.isfinite(y)]
            known = np.isfinite(scores).all(axis=0)
            at = {"algorithm": name, "depth": depth, "line": f"{name} {depth}"}
            mean = zip(along[:, known].mean(axis=0), scores[:, known].mean(axis=0), strict=True)
            means += [at | {"x": x, "score": y} for x, y in mean]
    of_seeds, of_means = pd.DataFrame(seeds), pd.DataFrame(means)
    top = float(of_seeds.score.max())
    panels: list[Any] = []
    for name, of_depth in algorithms.items():
        x = alt.X(
            "x:Q", title=x_title, axis=charts.number_axis(tickCount=3), scale=alt.Scale(domain=[0, of_means.x.max()])
        )
        y = _y("score", metric, first=not panels, top=top)
        color = alt.Color("depth:O", title="depth", scale=_depth_colors(depths), legend=charts.legend(title="depth"))
        own, others = of_means[of_means.algorithm == name], of_means[of_means.algorithm != name]
        gray = alt.Chart(others).mark_line(strokeWidth=1, color=charts.ink(0.18))
        thin = alt.Chart(of_seeds[of_seeds.algorithm == name]).mark_line(strokeWidth=0.8, opacity=0.5, clip=True)
        thick = alt.Chart(own).mark_line(strokeWidth=2.6, clip=True)
        words = f"at {max(of_depth)} layers" if len(of_depth) == 1 else ""
        layers = [layer.encode(x=x, y=y, detail="line:N") for layer in (gray, thin, thick)]
        layers[1:] = [layer.encode(color=color) for layer in layers[1:]]
        panels.append(charts.layers(*layers).properties(title=_title(name, words)))
    return _side_by_side(panels, by_algorithm.against_first(part, metric, looks))


def hours(part: xr.Dataset) -> Any:
    """Seconds of training of each algorithm and depth (table 5); no claim, because seconds depend on the machine."""
    data = by_algorithm.hours(part).rename(columns={"seconds": "value"})
    order, depths = list(dict.fromkeys(data.algorithm)), sorted(set(data.depth))
    x = alt.X("value:Q", title="training seconds", scale=alt.Scale(type="log", nice=False, padding=14))
    y = alt.Y("algorithm:N", sort=order, title=None, axis=alt.Axis(ticks=False, domain=False))
    color = alt.Color("depth:O", title="depth", scale=_depth_colors(depths), legend=charts.legend(title="depth"))
    seeds = data[["algorithm", "depth", "values"]].explode("values").rename(columns={"values": "value"})
    means = data.drop(columns="values")
    numbers = alt.Chart(means).mark_text(dy=-11).encode(x=x, y=y, text=alt.Text("value:Q", format=".3~s"))
    picture = charts.layers(
        alt.Chart(seeds).mark_point(size=22, opacity=0.5).encode(x=x, y=y, color=color),
        alt.Chart(means).mark_point(size=100, filled=True, opacity=1).encode(x=x, y=y, color=color),
        numbers,
    ).properties(width=420, height=charts.font(34) * len(order))
    low, high = data.loc[data.value.idxmin()], data.loc[data.value.idxmax()]
    claim = (
        f"Training took {low.value:.3g} s ({low.algorithm}, depth {low.depth}) to {high.value:.3g} s "
        f"({high.algorithm}, depth {high.depth})"
    )
    return charts.claimed(picture, claim, "seconds compare only between runs that trained side by side", HOW_TO_TIME)


def passing(part: xr.Dataset, metric: str) -> Any:
    """When the first algorithm's deepest network passes each other one's final score (table 6), as seconds."""
    data = by_algorithm.passes(part, metric)
    first, depth = data["first"][0], data.first_depth[0]
    form = ".0%" if metric == "success" else ".3g"
    name_of = {"success": "success", "time_at_goal": "time at goal"}
    names = [f"{row.algorithm}, depth {row.depth}" for row in data.itertuples()]
    data = data.assign(name=names, kind=f"{first}, depth {depth}, passes", value=data["values"].map(np.mean))
    scores = pd.Series([claims.number(score, form) for score in data.score])
    data["text"] = (
        f"final {name_of[metric]} "
        + scores
        + "; "
        + data.passed.map(str)
        + " of "
        + data.seeds.map(str)
        + " seeds pass"
    )
    top = max(float(data.whole.max()), *(float(s) for values in data["values"] for s in values if np.isfinite(s)))
    x = alt.Scale(domain=[0, 1.05 * top], nice=False)
    y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=0))
    seeds = data[["name", "values"]].explode("values").dropna()
    seeds["values"] = seeds["values"].astype(float)
    title = f"training seconds: {first} at depth {depth} passes (marks), whole run of the other (line)"
    along = alt.X("whole:Q", title=title, scale=x)
    plain = data.drop(columns="values")
    mark: dict[str, Any] = {"color": charts.depth_color(depth), "opacity": 1}
    picture = charts.layers(
        alt.Chart(plain).mark_bar(height=5, color=charts.ink(0.2)).encode(x=along, y=y),
        alt.Chart(seeds).mark_point(size=40, **mark).encode(x=alt.X("values:Q", scale=x), y=y),
        alt.Chart(plain.dropna(subset=["value"])).mark_point(size=110, filled=True, **mark).encode(x="value:Q", y=y),
        alt.Chart(plain).mark_text(align="left", dx=12).encode(x=alt.value("width"), y=y, text="text:N"),
    ).properties(width=420, height=charts.font(34) * len(data))
    every = data[data.passed == data.seeds].algorithm.tolist()
    claim = f"All seeds of {first} at depth {depth} pass the final score of {claims.listed(every) if every else 'none'}"
    note = "small marks: seeds; large: their mean, if all pass; measured times, and no claim of a difference"
    return charts.claimed(picture, claim, note, HOW_TO_TIME)


HOW_TO_TIME = (
    "Training seconds count collecting and updating. They depend on the machine and on what else it ran: they compare "
    "only between runs that trained side by side."
)


def _y(name: str, metric: str, first: bool, top: float) -> alt.Y:
    """The shared axis of scores; only the first panel of a row labels it."""
    axis = alt.Axis() if first else alt.Axis(labels=False, ticks=False, domain=False)
    domain = [0, 1] if metric == "success" else [0, 1.05 * top or 1]
    return alt.Y(f"{name}:Q", title=METRICS[metric] if first else None, scale=alt.Scale(domain=domain), axis=axis)


def _depth_colors(depths: list[int]) -> alt.Scale:
    return alt.Scale(domain=depths, range=[charts.depth_color(depth) for depth in depths])


def _title(name: str, words: str) -> alt.TitleParams:
    sizes: dict[str, Any] = {"fontSize": charts.font(12), "subtitleFontSize": charts.font(10)}
    return alt.TitleParams(name, subtitle=[words or "\u00a0"], anchor="start", frame="group", offset=6, **sizes)


def _side_by_side(panels: list[Any], claim: str) -> Any:
    sized = [panel.properties(width=_WIDTH, height=_HEIGHT) for panel in panels]
    picture = charts.row(*sized, columns=_COLUMNS, spacing=14)
    return picture.properties(title=charts.panel_title(claim, (_WIDTH + 14) * min(len(sized), _COLUMNS)))
