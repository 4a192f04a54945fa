"""How does success grow with depth? Learning curves of runs (paper figure 1)."""

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.runs import LAST, compute
from crlviz import charts, statistics

AXES = {"gradient_steps": "updates", "train_seconds": "training seconds", "env_steps": "environment steps"}


def plot(dataset: xr.Dataset, *, over: str = "gradient_steps", size: int = 380) -> alt.LayerChart | alt.FacetChart:
    """Success over training, a line a group (interquartile mean over seeds) on thin lines of its seeds.

    Args:
      dataset: from ``analyses.runs.compute``.
      over: ``gradient_steps``, ``train_seconds`` or ``env_steps``.
      size: width in pixels.
    """
    seeds, means = [], []
    for group, part in dataset.groupby("group"):
        depth = int(part.depth[0])
        for index in range(part.sizes["run"]):
            run = part.isel(run=index)
            for x, y in zip(run[over].values, run.success.values, strict=True):
                seeds.append({"group": group, "depth": depth, "seed": int(run.seed), "x": x, "success": y})
        for evaluation in range(part.sizes["evaluation"]):
            values = part.success.values[:, evaluation]
            if np.isfinite(values).all():
                x, y = part[over].values[:, evaluation].mean(), statistics.interquartile_mean(values)
                means.append({"group": group, "depth": depth, "x": x, "success": y})
    order = list(dict.fromkeys(dataset.group.values.tolist()))
    style = styles(dataset)
    x = alt.X("x:Q", title=AXES[over], axis=alt.Axis(format="~s", grid=False, tickCount=6))
    y = alt.Y("success:Q", title="goals reached (share)", scale=alt.Scale(domain=[0, 1]))
    legend = alt.Legend(orient="bottom", columns=1, title=None, labelLimit=400, symbolOpacity=1, symbolSize=400)
    colour = alt.Color("group:N", sort=order, scale=style["colour"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    thin = alt.Chart(pd.DataFrame(seeds).dropna()).mark_line(strokeWidth=0.8, opacity=0.45)
    thick = alt.Chart(pd.DataFrame(means)).mark_line(strokeWidth=2.6)
    return alt.layer(
        thin.encode(x=x, y=y, color=colour, strokeDash=dash, detail="seed:N"),
        thick.encode(x=x, y=y, color=colour, strokeDash=dash),
    ).properties(width=size, height=260, title=alt.TitleParams(f"against {AXES[over]}", subtitle=seed_note(dataset)))


def styles(dataset: xr.Dataset) -> dict[str, alt.Scale]:
    """One colour a depth; groups of one depth differ by their dashes and by the marks' shapes."""
    order = list(dict.fromkeys(dataset.group.values.tolist()))
    depths = [int(dataset.depth.values[dataset.group.values == group][0]) for group in order]
    nth = [depths[:index].count(depth) for index, depth in enumerate(depths)]
    dashes, shapes = ([1, 0], [7, 3], [2, 3], [9, 3, 2, 3]), ("circle", "square", "triangle-up", "diamond")
    return {
        "colour": alt.Scale(domain=order, range=[charts.depth_colour(depth) for depth in depths]),
        "dash": alt.Scale(domain=order, range=[dashes[n % len(dashes)] for n in nth]),
        "shape": alt.Scale(domain=order, range=[shapes[n % len(shapes)] for n in nth]),
    }


def seed_note(dataset: xr.Dataset) -> str:
    """How many seeds stand behind a picture of runs."""
    counts = set(np.unique(dataset.group.values, return_counts=True)[1].tolist())
    number = "-".join(map(str, sorted({min(counts), max(counts)})))
    return (
        "one seed, so no interval" if counts == {1} else f"{number} seeds; the thick line is their interquartile mean"
    )


__all__ = ["AXES", "LAST", "compute", "plot", "seed_note", "styles"]
