"""After how many steps is a score reached, with LayerNorm and with hyperspherical weights? (paper table 2)"""

import math
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, metrics
from analyses.common.runs import vary
from crlviz import charts

SHARES = (0.2, 0.4, 0.6)  # of an episode spent at the goal; the paper's 200, 400 and 600 of 1,000 steps
NETWORKS = {"full network": "LayerNorm", "no LayerNorm, hyperspherical": "hyperspherical"}  # network -> its name here
_WIDTH, _SHAPES = 280, ("circle", "diamond")


def reached(dataset: xr.Dataset, levels: tuple[float, ...]) -> pd.DataFrame:
    """Environment steps after which runs first reach levels of time at goal.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task.
      levels: steps at the goal.

    Returns:
      One row for each ``depth``, ``network`` (a value of ``NETWORKS``) and ``level``: ``values`` (a list: the steps of
      each seed at its first evaluation at or above the level, NaN if it never is), ``passed`` (how many seeds are) and
      ``seeds``.
    """
    part = vary(dataset.isel(run=np.isin(dataset.network.values, list(NETWORKS))), "depth", "network")
    rows = []
    for depth in sorted(set(part.depth.values.tolist())):
        for network, name in NETWORKS.items():
            own = part.isel(run=(part.depth.values == depth) & (part.network.values == network))
            for level in levels if own.sizes["run"] else ():
                values = [
                    next((float(x) for x, y in zip(steps, curve, strict=True) if y >= level), math.nan)
                    for steps, curve in zip(own.env_steps.values, own.time_at_goal.values, strict=True)
                ]
                row = {"depth": depth, "network": name, "level": level, "values": values, "seeds": len(values)}
                rows.append(row | {"passed": int(np.isfinite(values).sum())})
    return pd.DataFrame(rows)


def plot(dataset: xr.Dataset, episode_length: int) -> Any:
    """Draw the steps until each level is reached, a panel for each depth.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task.
      episode_length: steps of an episode.
    """
    levels = tuple(share * episode_length for share in SHARES)
    data = reached(dataset, levels)
    data["row"] = [f"{row.level:.3g} steps at the goal, {row.network}" for row in data.itertuples()]
    data["value"] = data["values"].map(np.mean)  # NaN if a seed never gets there
    data["text"] = data.passed.map(str) + " of " + data.seeds.map(str) + " seeds"
    order = sorted(set(data.row), key=lambda row: (float(row.split()[0]), row.split(", ")[1]))
    scale = alt.Scale(domain=[0, 1.02 * float(dataset.env_steps.max())], nice=False)
    names = list(NETWORKS.values())
    shapes = alt.Scale(domain=names, range=list(_SHAPES))
    shape = alt.Shape("network:N", sort=names, scale=shapes, legend=charts.legend())
    panels: list[Any] = []
    for depth, own in data.groupby("depth"):
        axis = alt.Axis(ticks=False, domain=False, labelLimit=0, labels=not panels)
        y = alt.Y("row:N", sort=order, scale=alt.Scale(domain=order), title=None, axis=axis)
        seeds = own[["row", "network", "values"]].explode("values").dropna()
        seeds["values"] = seeds["values"].astype(float)
        x = alt.X("values:Q", scale=scale, title="environment steps", axis=charts.number_axis(tickCount=4))
        mark: dict[str, Any] = {"color": charts.depth_color(float(str(depth))), "opacity": 1}
        plain = own.drop(columns="values")
        layers = [
            alt.Chart(seeds).mark_point(size=30, **mark).encode(x=x, y=y, shape=shape),
            alt.Chart(plain.dropna(subset=["value"]))
            .mark_point(size=100, filled=True, **mark)
            .encode(x=alt.X("value:Q", scale=scale), y=y, shape=shape),
            alt.Chart(plain).mark_text(align="left", dx=8).encode(x=alt.value("width"), y=y, text="text:N"),
        ]
        size = {"width": _WIDTH, "height": charts.font(26) * len(order)}
        panels.append(charts.layers(*layers).properties(title=charts.panel_title(f"depth {depth}", _WIDTH), **size))
    deepest = data.depth.max()
    part = vary(dataset.isel(run=np.isin(dataset.network.values, list(NETWORKS))), "depth", "network")
    part = part.isel(run=part.depth.values == deepest)
    final, networks = part.score_time_at_goal.values, part.network.values
    scores = {name: final[networks == network].tolist() for network, name in NETWORKS.items()}
    longest = metrics.largest(dataset, "time_at_goal")
    claim = claims.of_metric(scores, "time_at_goal", where=f"at depth {deepest}", longest=longest)
    note = "small marks: seeds; large: their mean, if all get there"
    return charts.claimed(charts.row(*panels, spacing=90), claim, note)
