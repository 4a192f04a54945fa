"""The picture of ``crlviz behavior``: one hard episode of each depth, the share of each behavior, what differs."""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr
from PIL import Image

from analyses.behavior import critical_depth, hardest_episode
from analyses.behavior.descriptors import DESCRIPTORS
from analyses.behavior.naming import ORDER, RULES, find_critical_depth, longest, with_current_names
from analyses.common import ground as grounds
from analyses.common import play_links, seed_plots
from crlviz import charts, datasets, statistics
from crlviz.envs.looks import UP_THE_MAP

Groups = Sequence[tuple[str, int, list[xr.Dataset]]]

HOW_TO_READ = (
    "Frames: the episode whose goal is farthest from its start by the geodesic; the same start, goal, moments in all "
    "rows; of the seeds of a depth, the one of median time at goal. Map: its path, thick; those of other seeds, thin; "
    "turned as the first frame is. "
    "Bars: shares of episodes; each gets one name, by the first rule that holds. Panels: what differs beyond chance, "
    "corrected for the number of descriptors; compared only where time at goal differs. A small mark is a seed."
)
_STILL, _GAP = (208, 156), 6  # pixels of a still, and between two
_SAME = 1e-3  # meters by which two starts or goals differ at most
_COLORS = 96  # of a still's palette
_WIDTH = 600  # pixels of the bars without stills
_LABEL = 42  # pixels of a segment of a bar that has room for its share
_PERCENT = alt.Axis(grid=False, values=[0, 0.25, 0.5, 0.75, 1], labelExpr="round(100 * datum.value) + ' %'")
# Time at goal is the title's; the geodesic is the episodes', not the agents'.
_NOT_COMPARED = ("time_at_goal", "geodesic")


@charts.self_contained
def plot(dataset: xr.Dataset, *, still: tuple[int, int] = _STILL, play: str = "") -> alt.TopLevelMixin:
    """Draw the hardest episode of each group of seeds, the share of each behavior, and what else differs.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      still: width and height of a still in pixels.
      play: address of a page of ``crlviz play``, into which the stills link.
    """
    dataset = with_current_names(datasets.with_current_names(dataset))
    groups = list(datasets.groups(dataset))
    critical = find_critical_depth(dataset)
    strips = _strips(dataset, groups, still, play)
    width = max((sum(part.width + _GAP for part in strip.hconcat) - _GAP for strip in strips), default=_WIDTH)
    maps = bool(strips) and dataset.sizes["axis"] > 1
    parts: list[Any] = [*strips, *([charts.key(_marks(groups))] if maps else []), _bars(groups, width)]
    if changed := differing(groups, critical):
        panels = seed_plots.panels(groups, {name: DESCRIPTORS[name].title for name in changed})
        parts.append(panels.properties(title=f"What else changes from depth {critical.before} to {critical.depth}"))
    picture = alt.vconcat(*parts, spacing=12).resolve_scale(color="independent", x="independent", y="independent")
    return charts.claimed(picture, *claim(dataset, groups, critical), HOW_TO_READ)


def claim(dataset: xr.Dataset, groups: Groups, critical: critical_depth.Critical) -> tuple[str, str]:
    """The title, which says what was found, and the line under it."""
    episodes = f"{dataset.attrs['episodes']} episodes of each agent in {dataset.attrs['env']}"
    apart = [float(_hardest(parts[0]).geodesic) for _, _, parts in groups]
    if "still" in dataset and np.ptp(apart) < _SAME:
        episodes += f"; the frames are of the hardest, {apart[0]:.1f} m from start to goal"
    fewest, most = min(len(parts) for _, _, parts in groups), max(len(parts) for _, _, parts in groups)
    seeds = "one seed" if most == 1 else f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"
    if critical.depth is not None:
        interval = f"95 % interval {critical.low:.3g} to {critical.high:.3g}"
        return (
            f"Depth {critical.depth} stays {critical.jump:.3g} steps longer at its goals than depth {critical.before}",
            f"{interval}; {seeds}, {episodes}",
        )
    more = f" and {len(groups) - 4} more" if len(groups) > 4 else ""
    if critical.detectable is not None:
        # In steps, as the test is.
        times = ", ".join(f"{_time(parts):.0f} at {label}" for label, _, parts in groups[:4])
        told = f"Steps at the goal: {times}{more}; {seeds}"
        steps = longest(dataset)
        if np.isinf(critical.detectable):
            needed = f"not even a difference of all {steps:.0f} steps would be found"
            return f"{told} are too few to tell", f"{needed}; {episodes}"
        of = f" of {steps:.0f}" if np.isfinite(steps) else ""
        needed = f"{seeds} would tell a difference of {critical.detectable:.0f}{of} steps at the goal"
        return f"{told} cannot tell them apart", f"{needed}; {episodes}"
    shares = ", ".join(f"{100 * _reached(parts):.0f} % ({label})" for label, _, parts in groups[:4])
    none = ", so no claim" if len(groups) > 1 else ""
    return f"Goals reached: {shares}{more}", f"{seeds}{none}; {episodes}"


def _reached(parts: Sequence[xr.Dataset]) -> float:
    return float(np.mean([(part.time_at_goal > 0).mean() for part in parts]))


def _time(parts: Sequence[xr.Dataset]) -> float:
    return float(np.mean([part.time_at_goal.mean() for part in parts]))


def differing(groups: Groups, critical: critical_depth.Critical) -> list[str]:
    """The descriptors that differ, beyond chance, between the depths before and after a critical depth.

    They are compared only where time at goal jumps, and corrected for their number. So a page of agents that do not
    differ makes a false claim in one of twenty cases. A descriptor that some seed lacks is left out.
    """
    if critical.depth is None:
        return []
    after, before = (
        next(parts for _, depth, parts in groups if depth == wanted) for wanted in (critical.depth, critical.before)
    )
    names = [name for name in DESCRIPTORS if name in after[0] and name not in _NOT_COMPARED]
    means = {name: [[float(part[name].mean()) for part in parts] for parts in (after, before)] for name in names}
    return [name for name, (a, b) in means.items() if statistics.compare(a, b, len(names)).verdict]


def _strips(dataset: xr.Dataset, groups: Groups, still: tuple[int, int], play: str) -> list[Any]:
    """Per group shown, the stills of the hardest episode and its path in the maze; none without stills."""
    if "still" not in dataset:
        return []
    colors = {label: charts.depth_color(depth) for label, depth, _ in groups}
    parts_of = {label: parts for label, _, parts in groups}
    rows = []
    for index, label in enumerate(map(str, dataset.shown.values)):
        shown = str(dataset.shown_source.values[index])
        link = _link(parts_of[label], shown, play, label) if play else ""
        frames = _frames(dataset.still.isel(shown=index).values, dataset.moment_time.values, still, link)
        ground = _ground(dataset, parts_of[label], shown, colors[label], still[1])
        row = alt.hconcat(frames, *([ground] if ground else []), spacing=_GAP)
        rows.append(row.properties(title=_heading(parts_of[label], label, shown)))
    return rows


def _heading(parts: Sequence[xr.Dataset], label: str, shown: str) -> alt.TitleParams:
    """What the shown agent does in the hardest episode, in words."""
    part = next(part for part in parts if str(part.source.item()) == shown)
    hardest, times = _hardest(part), part.time.values
    name = hardest.name.item()
    words = f"{label}: {name}"
    if np.isfinite(hardest.steps_to_goal.item()) and len(times) > 1:
        told = any(rule.reached for rule in RULES if rule.name == name)
        words += " in " if told else ", reached the goal after "
        words += f"{hardest.steps_to_goal.item() * (times[1] - times[0]):.1f} s"
    return alt.TitleParams(words, fontSize=charts.font(12), anchor="start", offset=4)


def _hardest(part: xr.Dataset) -> xr.Dataset:
    return part.isel(episode=hardest_episode.index(part))


def _link(parts: Sequence[xr.Dataset], shown: str, play: str, label: str) -> str:
    """The link to the hardest episode's start and goal in a page of ``crlviz play``."""
    part = next(part for part in parts if str(part.source.item()) == shown)
    return play_links.link(play, start=part.path.values[0], goal=part.goal.values, agent=label)


def _frames(pictures: np.ndarray, times: np.ndarray, still: tuple[int, int], link: str) -> Any:
    """Stills [moments, height, width, 3] side by side, each with its time, and a link if it is not empty."""
    width, height = still
    data = pd.DataFrame(
        {
            "url": [_png(picture) for picture in pictures],
            "left": [k * (width + _GAP) for k in range(len(pictures))],
            "time": [f"{time:.1f} s" for time in times],
            **({"link": link} if link else {}),
        }
    )
    links = {"href": "link:N"} if link else {}
    x = alt.X("left:Q", scale=None, axis=None)
    images = alt.Chart(data).mark_image(align="left", baseline="top", width=width, height=height)
    words: dict[str, Any] = {"align": "left", "baseline": "top", "dx": 6, "dy": 6, "fontWeight": "bold"}
    words |= {"fontSize": charts.font(12), "color": "#1a1a1a"}
    halo, text = alt.Chart(data).mark_text(**words, stroke="white", strokeWidth=3), alt.Chart(data).mark_text(**words)
    return alt.layer(
        images.encode(x=x, y=alt.value(0), url="url:N", **links),
        halo.encode(x=x, y=alt.value(0), text="time:N"),
        text.encode(x=x, y=alt.value(0), text="time:N"),
    ).properties(width=len(pictures) * (width + _GAP) - _GAP, height=height)


def _png(picture: np.ndarray) -> str:
    """A picture [height, width, 3] as a data URL."""
    file = io.BytesIO()
    Image.fromarray(picture.astype(np.uint8)).quantize(_COLORS).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _marks(groups: Groups) -> dict[str, str]:
    """What the marks on the maps mean, by kind."""
    marks = {"start": "start", "goal": "goal", "thick": "path of the episode shown"}
    return marks | ({"thin": "of other seeds"} if max(len(parts) for _, _, parts in groups) > 1 else {})


def _ground(dataset: xr.Dataset, parts: Sequence[xr.Dataset], shown: str, color: str, height: int) -> Any:
    """The hardest episode's paths from above: thick for the agent shown, thin for others; None on a line."""
    if dataset.sizes["axis"] < 2:
        return None
    maze = grounds.maze_of(dataset)
    turned = functools.partial(_turned, azimuth=UP_THE_MAP if maze else dataset.attrs.get("azimuth", UP_THE_MAP))
    if maze:
        extent = charts.inside(maze)
    else:  # a square
        places = np.concatenate([turned(dataset[name].values.reshape(-1, 2)) for name in ("path", "goal")])
        low, high = np.nanmin(places, axis=0), np.nanmax(places, axis=0)
        half, middle = 0.65 * float((high - low).max()) + 1e-3, (low + high) / 2
        extent = (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)
    tall = (extent[1] - extent[0]) / max(extent[1] - extent[0], extent[3] - extent[2])
    ground = charts.in_meters(maze, extent, height / tall)
    x, y = (ground[name].copy() for name in ("x", "y"))
    x.axis = y.axis = None
    ground |= {"x": x, "y": y}
    below = [charts.walls(maze, ground)] if maze else _scale_bar(extent, ground)
    if not maze:
        ground["view"] = alt.ViewBackground(stroke=charts.ink(0.4))
    lines, ends = [], []
    for part in sorted(parts, key=lambda part: str(part.source.item()) == shown):
        places = turned(part.path.values[np.isfinite(part.path.values).all(-1)])
        thick = str(part.source.item()) == shown
        line = alt.Chart(pd.DataFrame(places, columns=["x", "y"]).round(3).reset_index()).mark_line(
            color=color, strokeWidth=2.5 if thick else 1, opacity=1 if thick else 0.45
        )
        lines.append(line.encode(x=x, y=y, order="index:Q"))
        ends = [charts.marker(places[0], ground, "start"), charts.marker(turned(part.goal.values), ground, "goal")]
    return alt.layer(*below, *lines, *ends).properties(
        width=ground["width"], height=ground["height"], view=ground["view"]
    )


def _turned(places: np.ndarray, azimuth: float) -> np.ndarray:
    """Places [..., 2] in the axes of a map, down and to the right, that has above what a camera has ahead."""
    cos, sin = np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))
    x, y = places[..., 0], places[..., 1]
    return np.stack([-cos * x - sin * y, sin * x - cos * y], axis=-1)


def _scale_bar(extent: tuple[float, float, float, float], ground: Mapping[str, Any]) -> list[Any]:
    """Layers with a bar of a round length in meters, in the map's lower left corner."""
    side = extent[3] - extent[2]
    length = max(base * 10.0**power for power in range(-4, 6) for base in (1, 2, 5) if base * 10.0**power < 0.4 * side)
    left, down = extent[2] + 0.06 * side, extent[1] - 0.06 * side
    data = pd.DataFrame({"x": [down], "y": [left], "end": [left + length], "words": [f"{length:g} m"]})
    bar = alt.Chart(data).encode(x=ground["x"], y=ground["y"])
    words = bar.mark_text(align="left", baseline="bottom", dy=-4, fontSize=charts.font(11)).encode(text="words:N")
    return [bar.mark_rule(color=charts.ink(0.7), strokeWidth=2).encode(x2="end:Q"), words]


def _bars(groups: Groups, width: int) -> alt.LayerChart:
    """A bar for each group of seeds, split by the share of each behavior."""
    rows = []
    for label, _, parts in groups:
        start = 0.0
        for rule in ORDER:
            share = float(np.mean([part.share.sel(behavior=rule.name).item() for part in parts]))
            row = {"group": label, "behavior": rule.name, "share": share, "rule": rule.words, "start": start}
            rows.append(row | {"end": start + share, "middle": start + share / 2, "text": f"{100 * share:.0f} %"})
            start += share
    data = pd.DataFrame(rows)
    data = data[data.share > 0]
    present = [rule for rule in ORDER if rule.name in set(data.behavior)]
    color = alt.Color(
        "behavior:N",
        title=None,
        scale=alt.Scale(domain=[rule.name for rule in present], range=[rule.color for rule in present]),
        legend=charts.legend(orient="top", columns=min(4, len(present)), offset=4),
    )
    order = [label for label, _, _ in groups]
    y = alt.Y("group:N", sort=order, title=None, axis=alt.Axis(labelLimit=400, ticks=False, domain=False, grid=False))
    x = alt.X("start:Q", title="share of episodes", scale=alt.Scale(domain=[0, 1]), axis=_PERCENT)
    tooltip = ["group:N", "behavior:N", "rule:N", alt.Tooltip("share:Q", format=".2f")]
    bars = alt.Chart(data).mark_bar(height=20).encode(x=x, x2="end:Q", y=y, color=color, tooltip=tooltip)
    roomy = data[data.share * width >= _LABEL]
    texts = (
        alt.Chart(roomy).mark_text(fontSize=charts.font(11), color="#1a1a1a").encode(x="middle:Q", y=y, text="text:N")
    )
    return charts.layers(bars, texts).properties(width=width, height=26 * len(order))
