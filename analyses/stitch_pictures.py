"""The picture of ``analyses.stitch``: scores over distance, the maze from its start, and every start to every goal."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, ground, play_links
from analyses.sweeps.scaling_panels import styles
from crlviz import charts, datasets
from crlviz.envs.mazes import Maze
from crlviz.options import check_choice

X_AXES = {"cells": "cells from start to goal", "meters": "distance from start to goal (m)"}
HOW_TO_READ = (
    "First: the score over the distance from start to goal, the mean over all pairs of cells at that distance; below "
    "each distance the number of its pairs. The vertical line is the largest distance that training drew; where "
    "training drew pairs at all distances, pairs that it drew and pairs that it never drew have a panel each. Then the "
    "maze: each cell has the color of its score as a goal, from the maze's start. Last: every start cell (row) and "
    "goal cell (column), numbered by distance from the maze's start; dots are the pairs that training drew."
)
METRICS = {"success": "goals reached (share)", "time_at_goal": "time at goal (steps)"}
_REACHED, _MISSED = "#f2c14e", "#4a2a6b"  # of a matrix of yes and no: light and dark in gray too


def curves(dataset: xr.Dataset, *, metric: str = "success", x_axis: str = "cells") -> pd.DataFrame:
    """Success or time at goal over distance, for seen and unseen pairs separately.

    Args:
      dataset: from ``compute``.
      metric: ``success`` or ``time_at_goal``.
      x_axis: ``cells`` or ``meters`` (rounded to multiples of a cell's side).

    Returns:
      One row for each group, kind of pair and distance. Columns ``group``, ``depth``, ``pairs`` (seen or unseen), ``x``
      (the distance), ``number`` (of pairs), ``values`` (for each seed, its mean over pairs) and ``value`` (their mean).

    Raises:
      UsageError: unknown ``metric`` or ``x_axis``.
    """
    check_axes(metric, x_axis)
    x = _in(dataset, x_axis)
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        seen = parts[0].seen.values
        for pairs, chosen in (("seen", seen), ("unseen", ~seen)):
            for distance in np.unique(x[x > 0]):
                at_distance = chosen & (x == distance)
                if not at_distance.any():
                    continue
                scores = [float(part[metric].values[at_distance].mean()) for part in parts]
                rows.append(
                    {
                        "group": label,
                        "depth": depth,
                        "pairs": pairs,
                        "x": float(distance),
                        "number": int(at_distance.sum()),
                        "values": scores,
                        "value": float(np.mean(scores)),
                    }
                )
    return pd.DataFrame(rows)


def _in(dataset: xr.Dataset, x_axis: str) -> np.ndarray:
    """The distance of each pair [start, goal] in the unit of an axis."""
    if x_axis == "cells":
        return dataset.cells.values
    return np.round(dataset.distance.values / dataset.attrs["cell_size"]) * dataset.attrs["cell_size"]


def check_axes(metric: str, x_axis: str) -> None:
    check_choice("metric", metric, METRICS)
    check_choice("x_axis", x_axis, X_AXES)


@charts.self_contained
def plot(
    dataset: xr.Dataset, *, metric: str = "success", x_axis: str = "cells", size: int = 260, play: str = ""
) -> alt.TopLevelMixin:
    """Draw curves over distance; below, for each group of seeds, the maze by the score from its start, and a matrix.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      metric: ``success`` or ``time_at_goal``.
      x_axis: axis of the curves: ``cells`` or ``meters``.
      size: side of a matrix in pixels.
      play: address of a page of ``crlviz play``, into which the cells of the matrices link.
    """
    check_axes(metric, x_axis)
    groups = list(datasets.groups(dataset))
    top = 1.0 if metric == "success" else max(float(dataset[metric].max()), 1.0)
    titles = charts.panel_titles([label for label, _, _ in groups], size)
    seeds = [parts for _, _, parts in groups]
    rows = [_distances_drawn(dataset, metric, x_axis, top, size)]
    if (maze := ground.maze_of(dataset)) is not None:
        maps = [_map(parts, maze, metric, top, size, title) for parts, title in zip(seeds, titles, strict=True)]
        keyed = alt.vconcat(charts.row(*maps, columns=4), charts.key({"start": "the maze's start"}), spacing=12)
        rows += [_titled(keyed, "Goals from the maze's start")]
    matrices = [
        _matrix(parts, metric, top, size, title, play, label)
        for (label, _, parts), title in zip(groups, titles, strict=True)
    ]
    keyed = alt.vconcat(charts.row(*matrices, columns=4), charts.key({"dot": "pair drawn in training"}), spacing=12)
    rows += [_titled(keyed, "Every start to every goal")]
    count, free = dataset.sizes["start"], dataset.attrs.get("free_cells", dataset.sizes["start"])
    cells = f"{count} cells" if count == free else f"{count} of {free} cells, far apart"
    note = f"{dataset.attrs['env']}, {cells}; {charts.seed_note(list(map(len, seeds)))}"
    picture = alt.vconcat(*rows, spacing=30)
    picture = picture.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    return charts.claimed(picture, claim(dataset, metric), note, HOW_TO_READ)


def claim(dataset: xr.Dataset, metric: str = "success") -> str:
    """What the scores of pairs that training never drew say, in words."""
    scores, distances = {}, []
    for label, _, parts in datasets.groups(dataset):
        known = np.isfinite(parts[0].success.values)
        unseen = known & ~parts[0].seen.values.astype(bool)
        chosen = unseen if unseen.any() else known
        distances.append(trained_up_to(parts[0].cells.values, parts[0].seen.values))
        scores[label] = [float(part[metric].values[chosen].mean()) for part in parts]
    far = distances[0] if len(set(distances)) == 1 else None
    where = f"beyond the training distance of {far:.0f} cells" if far else "for pairs that training never drew"
    return claims.of_metric(scores, metric, where=where)


def trained_up_to(distance: np.ndarray, seen: np.ndarray) -> float | None:
    """The largest distance of a pair that training drew; None if no pair is farther, or none was drawn.

    Args:
      distance: of each pair.
      seen: whether training drew it.
    """
    seen = np.asarray(seen, bool)
    if not seen.any() or distance[seen].max() >= distance.max():
        return None
    return float(distance[seen].max())


def _titled(chart: Any, title: str) -> Any:
    return chart.properties(title=alt.TitleParams(title, fontSize=charts.font(13), offset=12, frame="group"))


def _distances_drawn(dataset: xr.Dataset, metric: str, x_axis: str, top: float, size: int) -> Any:
    """Scores over distance: one panel with a line at the training distance, or one for each kind of pair."""
    table = curves(dataset, metric=metric, x_axis=x_axis)
    x = _in(dataset, x_axis)
    seen = next(datasets.groups(dataset))[2][0].seen.values
    if (far := trained_up_to(x, seen)) is None:
        kinds = {"seen": "Pairs drawn in training", "unseen": "Pairs never drawn"}
        parts = {title: table[table.pairs == kind] for kind, title in kinds.items()}
        panels = [
            _curves(part, metric, top, x_axis, 1.1 * size, title, None) for title, part in parts.items() if len(part)
        ]
        return charts.row(*panels).resolve_scale(color="shared", shape="shared", strokeDash="shared")
    both = _all_pairs(table)
    return _curves(both, metric, top, x_axis, 2.2 * size, "", far)


def _all_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """``curves`` with seen and unseen pairs of a distance taken together, weighted by their numbers."""
    rows = []
    for (group, depth, x), part in table.groupby(["group", "depth", "x"], sort=False):
        weights = part.number.to_numpy(float)
        values = np.average(np.array(part["values"].tolist()), axis=0, weights=weights)
        row = {"group": group, "depth": depth, "x": x, "number": int(weights.sum()), "values": values.tolist()}
        rows.append(row | {"value": float(values.mean())})
    return pd.DataFrame(rows)


def _matrix(
    parts: Sequence[xr.Dataset], metric: str, top: float, size: int, title: alt.TitleParams, play: str, label: str
) -> alt.LayerChart | alt.FacetChart:
    """The mean over one group of seeds, start cells by goal cells."""
    first = parts[0]
    success = np.mean([part.success.values for part in parts], axis=0)
    start, goal = np.nonzero(np.isfinite(success))
    data = pd.DataFrame(
        {
            "start": start,
            "goal": goal,
            "success": success[start, goal].round(3),
            "time_at_goal": np.mean([part.time_at_goal.values for part in parts], axis=0)[start, goal].round(1),
            "distance": first.distance.values[start, goal].round(2),
            "cells": first.cells.values[start, goal],
            "seen": first.seen.values[start, goal].astype(bool),
        }
    )
    links = {}
    if play:
        places = {
            side: np.stack([first[f"{side}_x"].values, first[f"{side}_y"].values], 1) for side in ("start", "goal")
        }
        data["play"] = [
            play_links.link(play, start=places["start"][i], goal=places["goal"][j], agent=label)
            for i, j in zip(start, goal, strict=True)
        ]
        links = {"href": "play:N"}
    count, tile = len(success), size / len(success)
    ticks = list(range(0, count, max(1, count // 6)))
    axis: dict[str, Any] = {"grid": False, "labelAngle": 0, "values": ticks, "domain": False, "ticks": False}
    domain = list(range(count))
    place = {
        "x": alt.X("goal:O", title="goal cell", scale=alt.Scale(domain=domain, padding=0), axis=alt.Axis(**axis)),
        "y": alt.Y("start:O", title="start cell", scale=alt.Scale(domain=domain, padding=0), axis=alt.Axis(**axis)),
    }
    encoded, data = _colored(data, metric, top)
    # Strokes have the tiles' colors, so that no background shows between tiles.
    edge = alt.Stroke(encoded["shorthand"], scale=encoded["scale"], legend=None)
    tooltip = ["start", "goal", "success", alt.Tooltip("time_at_goal", title="time at goal (steps)")]
    tooltip += [alt.Tooltip("distance", title="distance (m)"), "cells", "seen"]
    dots: dict[str, Any] = {
        "size": min(60, max(3, (0.3 * tile) ** 2)),
        "color": "white",
        "stroke": "black",
        "strokeWidth": min(0.8, 0.05 * tile),
    }
    return charts.layers(
        alt.Chart(data).mark_rect(strokeWidth=1).encode(**place, color=encoded, stroke=edge, tooltip=tooltip, **links),
        alt.Chart(data[data.seen]).mark_point(filled=True, opacity=1, **dots).encode(**place, **links),
    ).properties(width=size, height=size, title=title)


def _colored(data: pd.DataFrame, metric: str, top: float) -> tuple[alt.Color, pd.DataFrame]:
    """The color of a score: two colors where every pair is reached or not, else viridis up to ``top``."""
    if metric == "success" and data.success.isin([0, 1]).all():
        scale = alt.Scale(domain=["reached", "missed"], range=[_REACHED, _MISSED])
        data = data.assign(outcome=np.where(data.success > 0, "reached", "missed"))
        return alt.Color("outcome:N", scale=scale, legend=alt.Legend(title=None)), data
    form = ".0%" if metric == "success" else "~s"
    legend = alt.Legend(title=METRICS[metric].split(" (")[0], gradientLength=120, format=form)
    return alt.Color(f"{metric}:Q", scale=alt.Scale(scheme="viridis", domain=[0, top]), legend=legend), data


def _map(
    parts: Sequence[xr.Dataset], maze: Maze, metric: str, top: float, size: int, title: alt.TitleParams
) -> alt.LayerChart | alt.FacetChart:
    """The maze with each cell in the color of its score as a goal from the maze's start, the mean over seeds."""
    encodings = charts.in_meters(maze, charts.inside(maze), size)
    first = parts[0]
    values = np.mean([part[metric].values[0] for part in parts], axis=0)
    known = np.isfinite(values)
    data = charts.tiles(first.goal_x.values[known], first.goal_y.values[known], maze.cell_size)
    data[metric] = values[known].round(3)
    data["cells"] = first.cells.values[0][known]
    encoded, data = _colored(data, metric, top)
    place = {"x": encodings["x"], "x2": "y2:Q", "y": encodings["y"], "y2": "x2:Q"}
    edge = alt.Stroke(encoded["shorthand"], scale=encoded["scale"], legend=None)
    start = np.array([first.start_x.values[0], first.start_y.values[0]])
    return alt.layer(
        charts.walls(maze, encodings),
        alt.Chart(data).mark_rect(strokeWidth=1).encode(**place, color=encoded, stroke=edge, tooltip=["cells", metric]),
        charts.marker(start, encodings, "start"),
    ).properties(width=encodings["width"], height=encodings["height"], view=encodings["view"], title=title)


def _curves(
    table: pd.DataFrame, metric: str, top: float, x_axis: str, width: float, title: str, far: float | None
) -> alt.LayerChart | alt.FacetChart:
    """Scores over distance, with the number of pairs below each; a vertical line at distance ``far``."""
    style, order = styles(table[["group", "depth"]].to_xarray()), list(dict.fromkeys(table.group))
    ticks = sorted(table.x.unique().tolist())
    shown = ticks[:: -(-len(ticks) // 12)]
    numbers = table.groupby("x").number.max()
    counts = "".join(f"datum.value == {x} ? '{numbers[x]:,}' : " for x in shown) + "''"
    axis = alt.Axis(grid=False, values=shown, labelExpr=f"[format(datum.value, '~g'), {counts}]", labelFlush=False)
    pad = 0.02 * (ticks[-1] - ticks[0]) or 1
    scale = alt.Scale(domain=[ticks[0] - pad, ticks[-1] + pad], nice=False, zero=False)
    x = alt.X("x:Q", title=[X_AXES[x_axis], "number of pairs"], axis=axis, scale=scale)
    y = alt.Y("value:Q", title=METRICS[metric], scale=alt.Scale(domain=[0, top]))
    ends = table.sort_values("x").groupby("group", sort=False).tail(1)
    named = charts.end_labels(ends, x, alt.Color("group:N", scale=style["color"]), (0, top), 200)
    legend = charts.legend(symbolSize=120) if named is None else None
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    line = alt.Chart(table.drop(columns="values")).mark_line().encode(x=x, y=y, color=color, strokeDash=dash)
    tooltip = ["group:N", "x:Q", "value:Q", "number:Q"]
    marks = charts.seed_marks(table, y, x=x, color=color, shape=shape, tooltip=tooltip)
    at = alt.Chart(pd.DataFrame([{"x": far, "words": "farthest in training"}] if far is not None else []))
    rule = at.mark_rule(color=charts.ink(0.6), strokeDash=[4, 3]).encode(x=x)
    words = at.mark_text(align="left", baseline="bottom", dx=-2, dy=-4, color=charts.ink(0.7))
    return charts.layers(rule, words.encode(x=x, y=alt.value(0), text="words:N"), line, *marks, named).properties(
        width=width, height=200, **({"title": charts.panel_title(title, width)} if title else {})
    )


__all__ = ["HOW_TO_READ", "METRICS", "X_AXES", "check_axes", "claim", "curves", "plot", "trained_up_to"]
