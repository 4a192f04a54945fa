"""The heatmaps as pictures: a still picture, and an animation through training (paper figure 9)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import xarray as xr
from tqdm import tqdm

from analyses.common import claims, ground
from analyses.heatmap.walk_marks import walk_marks
from crlviz import charts, datasets, statistics
from crlviz.errors import UsageError
from crlviz.options import check_choice

STILL = "a GIF shows the checkpoints of a run, and no run given has more than one"
HOW_TO_READ = (
    "The color of a position is Q(s, a, g) of an agent there, for the goal at the star; higher is nearer. Over goals, "
    "the color of a goal is its Q from the start at the circle. Rank correlation: Spearman's, of Q and minus the "
    "distance, through the maze or along the straight line; 1 if Q orders all positions by it. Partial: Spearman's "
    "partial correlation, each given the other, shown where maze and line order the positions nearly alike. Where a "
    "map is pale the policy, with actions drawn as in training, does not go, and Q means little."
)
_COLUMNS = 4  # maps in a row
_ALIKE = 0.05  # difference of rank correlations below which Q follows both alike
_MAZE, _LINE = "the maze", "the straight line"
_NEARLY_ALIKE = 0.85  # rank correlation of the two distances from which on their partial correlations are shown
COVERAGE_EPISODES = 128  # episodes of each checkpoint that tell where the policy goes
_FRAME_MILLISECONDS = 500


def is_shared(scale: str) -> bool:
    """Whether all maps share one color scale.

    Raises:
      UsageError: scale is neither ``own`` nor ``shared``.
    """
    check_choice("scale", scale, ("own", "shared"))
    return scale == "shared"


def covered(visits: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Points that the policy covers [X, Y]: the free points it visited, with small gaps between them closed.

    Args:
      visits: number of steps on each point [X, Y].
      free: points outside walls [X, Y]; points inside walls are never covered.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    # A morphological closing; border_value keeps the erosion from removing points at the border.
    return binary_erosion(binary_dilation(visits > 0, iterations=2), iterations=2, border_value=1) & free


@charts.self_contained
def plot(dataset: xr.Dataset, *, scale: str = "own", size: int = 300, tips: bool = True) -> alt.TopLevelMixin:
    """Draw one map of Q, the mean over seeds, for each group of seeds and each goal or start.

    One goal: the groups side by side. Several: a row for each group, a column for each goal.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      scale: ``own``: each map from its lowest to its highest Q; ``shared``: one color scale for all.
      size: longer side of a map in pixels.
      tips: tooltips with Q and distances at the mouse. They take one row of data for each point, so leave them out of
        static formats.

    Raises:
      UsageError: unknown scale.
    """
    note = "; ".join(filter(None, [_note(dataset), _judged_by(dataset)]))
    return charts.claimed(maps(dataset, scale, size, tips), claim(dataset), note, HOW_TO_READ)


def maps(
    dataset: xr.Dataset,
    scale: str,
    size: int,
    tips: bool,
    groups: Mapping[str, Sequence[xr.Dataset]] | None = None,
) -> alt.TopLevelMixin:
    """The maps of ``plot``, without a title, for a larger picture; arguments as there.

    ``groups``: label -> parts; a map shows their mean. Default: the groups of seeds.
    """
    groups = groups or {label: parts for label, _, parts in datasets.groups(dataset)}
    columns = [(label, mean(parts)) for label, parts in groups.items()]
    return _table(dataset, columns, scale, size, tips)


def mean(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """The mean over seeds of Q and its correlations, and the sum of their visits."""
    if len(parts) == 1:
        return parts[0]
    result = parts[0].copy()
    for name in ("q", "rank_correlation", "partial_correlation", "visits"):
        if name in result:
            values = np.mean([part[name].values for part in parts], axis=0)
            result[name] = result[name].copy(data=values * (len(parts) if name == "visits" else 1))
    walks = [name for name in ("walk_x", "walk_y") if name in result]
    if walks:  # all seeds' walkers, one after the other
        joined = xr.concat([part[walks].drop_vars("seed", errors="ignore") for part in parts], "walker")
        result = result.drop_vars(walks).assign({name: joined[name] for name in walks})
    return result


def claim(dataset: xr.Dataset) -> str:
    """What Q follows, in words: the maze or the straight line, at which rank correlations."""
    groups = {label: parts for label, _, parts in datasets.groups(dataset)}
    over = "Over goals, " if dataset.attrs["over"] == "goals" else ""
    in_maze = ground.maze_of(dataset) is not None
    if in_maze and len(groups) > 1 and min(map(len, groups.values())) >= statistics.FEWEST:
        scores = {label: _correlation(parts, "geodesic") for label, parts in groups.items()}
        words = claims.about(scores, "how closely Q follows the maze", "follows the maze more closely, {}", largest=2.0)
        return over + (words[0].lower() + words[1:] if over else words)
    return claims.capital(over + _of_ends(dataset, groups))


def _of_ends(dataset: xr.Dataset, groups: Mapping[str, Sequence[xr.Dataset]]) -> str:
    """What Q of the first and the last group follows, in words, without a test."""
    ends = {label: groups[label] for label in (next(iter(groups)), list(groups)[-1])}
    if ground.maze_of(dataset) is not None:
        return _follows(ends, _alike(dataset))
    shown = ", ".join(f"{np.mean(_correlation(parts, 'straight')):.2f} at {label}" for label, parts in ends.items())
    return f"Q falls with the distance: rank correlation {shown}"


def _follows(ends: Mapping[str, Sequence[xr.Dataset]], alike: bool) -> str:
    """Whether Q of one or two groups follows the maze or the straight line, in words; ``alike`` as for ``_alike``."""
    sides: dict[str, list[str]] = {}
    for label, (maze, line) in _both(ends, alike).items():
        sides.setdefault(_nearer(maze, line), []).append(label)
    if len(sides) == 1:
        side, labels = next(iter(sides.items()))
        more = {_MAZE: f"{_MAZE} more than {_LINE}", _LINE: f"{_LINE} more than {_MAZE}"}.get(side, side)
        return f"Q follows {more} at {claims.listed(labels)}"
    (first, (one,)), (second, (other,)) = sides.items()
    return f"{one}'s Q follows {first}, {other}'s {second}"


def _both(groups: Mapping[str, Sequence[xr.Dataset]], alike: bool) -> dict[str, tuple[float, float]]:
    """The correlations of each group's Q with maze and line by which ``_follows`` judges, means over its seeds."""
    name = "partial_correlation" if alike else "rank_correlation"
    means = {
        label: [float(np.mean(_correlation(parts, kind, name))) for kind in ("geodesic", "straight")]
        for label, parts in groups.items()
    }
    return {label: (maze, line) for label, (maze, line) in means.items()}


def _correlation(parts: Sequence[xr.Dataset], kind: str, name: str = "rank_correlation") -> list[float]:
    """For each seed, the mean over goals of a correlation of Q with one distance."""
    return [float(part[name].sel(distance_kind=kind).mean()) for part in parts]


def _alike(dataset: xr.Dataset) -> bool:
    """Whether maze and line order the positions of some map nearly alike, so that only partial correlations tell."""
    return "distance_correlation" in dataset and float(dataset.distance_correlation.max()) > _NEARLY_ALIKE


def _nearer(maze: float, line: float) -> str:
    if abs(maze - line) < _ALIKE:
        return "maze and straight line alike"
    return _MAZE if maze > line else _LINE


def _note(dataset: xr.Dataset) -> str:
    action = "the policy's action" if dataset.attrs["action"] == "policy" else "action zero"
    seeds = max(len(parts) for _, _, parts in datasets.groups(dataset))
    mean_of = f"; mean of {seeds} seeds" if seeds > 1 else "; one seed"
    where = "every goal, from one start" if dataset.attrs["over"] == "goals" else "every position"
    what = f"{dataset.q.attrs['long_name']} of {where}"
    return f"{dataset.attrs['env']}; {what}, {action}{mean_of}"


def _judged_by(dataset: xr.Dataset) -> str:
    """The correlations behind the title, in words; empty without a maze."""
    if ground.maze_of(dataset) is None:
        return ""
    kind = "partial rank correlation" if _alike(dataset) else "rank correlation"
    groups = list(datasets.groups(dataset))
    ends = {label: parts for label, _, parts in (groups[0], groups[-1])}
    shown = "; ".join(f"{label} {maze:.2f}, {line:.2f}" for label, (maze, line) in _both(ends, _alike(dataset)).items())
    return f"{kind} (maze, line): {shown}"


def _table(
    dataset: xr.Dataset, columns: Sequence[tuple[str, xr.Dataset]], scale: str, size: int, tips: bool
) -> alt.VConcatChart:
    """The maps of some checkpoints of a Dataset, and what their marks mean; a shared scale spans the whole Dataset."""
    shared = is_shared(scale)
    bounds = (float(dataset.q.min()), float(dataset.q.max())) if shared else (None, None)
    fixed = dataset.geodesic.dims[0]
    count = dataset.sizes[fixed]
    alike = _alike(dataset)
    maps = [
        [_map(part.isel({fixed: index}), label, bounds, size, tips, count > 1, alike) for index in range(count)]
        for label, part in columns
    ]
    rows = [[row[0] for row in maps]] if count == 1 else maps
    wide = 1 if charts.style().narrow else _COLUMNS
    rows = [row[first : first + wide] for row in rows for first in range(0, len(row), wide)]
    # bounds="flush": the width of a legend's numbers does not shift the map to its right.
    # All arguments are given at once, here and below, because each further method call copies the whole chart.
    resolve = alt.Resolve(scale=alt.ScaleResolveMap(color="shared" if shared else "independent"))
    spacing = round(charts.font(70 if shared else 125))
    drawn: list[Any] = [alt.hconcat(*row, bounds="flush", spacing=spacing, resolve=resolve) for row in rows]
    apart = alt.Resolve(scale=alt.ScaleResolveMap(color="independent"))
    return alt.vconcat(*drawn, charts.key(_marks(dataset)), spacing=18, resolve=apart)


def _marks(dataset: xr.Dataset) -> dict[str, str]:
    """What the marks on the maps mean, by kind."""
    marks = {}
    if ground.maze_of(dataset) is not None or dataset.attrs["over"] == "goals":
        marks["start"] = "start"
    if dataset.attrs["over"] == "positions":
        marks["goal"] = "goal"
    if "visits" in dataset:
        marks["veil"] = f"not visited in {COVERAGE_EPISODES} episodes of this policy"
    if "walk_x" in dataset:
        kind, words = {
            "policy": ("arrow", "where the policy heads"),
            "trajectories": ("line", "episodes from the start"),
        }[dataset.attrs["show"]]
        marks[kind] = words
    return marks


def _newest_at(label: str, parts: dict[int, xr.Dataset], time: int) -> tuple[str, xr.Dataset]:
    """Label and data of a run's newest checkpoint at a time in environment steps; q is NaN if it had none yet."""
    saved = [steps for steps in parts if steps <= time]
    if not saved:
        part = next(iter(parts.values()))
        return f"{label} (none saved by then)", part.drop_vars("visits", errors="ignore").assign(q=part.q * np.nan)
    newest = max(saved)
    return label if newest == time else f"{label} (at {newest:,} steps)", parts[newest]


def _map(
    part: xr.Dataset,
    label: str,
    domain: tuple[float | None, float | None],
    size: int,
    tips: bool,
    named: bool,
    alike: bool,
) -> alt.LayerChart | alt.FacetChart:
    """One map with walls, outline and markers, under its label and its correlations.

    A bound of ``domain`` that is None is the map's own; ``named``: the label tells the goal or start too.
    """
    maze = ground.maze_of(part)
    spacing, x, y = part.attrs["spacing"], part.x.values, part.y.values
    q = part.q.values
    extent = (x[0] - spacing / 2, x[-1] + spacing / 2, y[0] - spacing / 2, y[-1] + spacing / 2)
    kept = slice(None)  # without the outer ring of walls
    if maze is not None:
        extent, ring = charts.inside(maze), round(maze.cell_size / spacing)
        kept = slice(ring, -ring)
    axes = charts.in_meters(maze, extent, size)
    i, j = np.nonzero(np.isfinite(q))
    known = (q[i, j].min(), q[i, j].max()) if len(i) else (0.0, 1.0)  # nothing is known before a run's first checkpoint
    low, high = (bound if bound is not None else value for bound, value in zip(domain, known, strict=True))
    layers: list[Any] = [charts.raster(q[kept, kept], (float(low), float(high)), "Q", axes)]
    if tips:
        layers.append(_tips(part, i, j, axes))
    if maze is not None:
        layers.append(charts.walls(maze, axes))
    if "visits" in part:
        free = np.isfinite(q)
        visited = covered(part.visits.values, free)
        layers.append(charts.veil(free[kept, kept], visited[kept, kept], axes))
        layers.append(charts.outline(visited, x, y, spacing, axes))
    fixed = "goal" if "goal_x" in part.coords else "start"
    place = np.array([part[f"{fixed}_x"].item(), part[f"{fixed}_y"].item()])
    if "walk_x" in part:
        layers += walk_marks(part, axes)
    if maze is not None and fixed == "goal":
        layers.append(charts.marker(maze.xy(maze.starts), axes, "start"))
    layers.append(charts.marker(place, axes, fixed))
    title = charts.panel_title(label + f", {fixed} {place[0]:g},{place[1]:g}" * named, size)
    title.subtitle = _correlations(part, alike) if len(i) else [""]
    title.subtitleFontSize = charts.font(11)
    view = {"width": axes["width"], "height": axes["height"], "view": axes["view"]}
    return alt.layer(*layers, title=title, **view)


def _tips(part: xr.Dataset, i: np.ndarray, j: np.ndarray, axes: dict[str, Any]) -> alt.Chart:
    """Invisible tiles at points (i, j), with Q and distances at the mouse."""
    values = {name: part[name].values[i, j].round(3) for name in ("geodesic", "straight")}
    tiles = charts.tiles(part.x.values[i], part.y.values[j], part.attrs["spacing"])
    data = tiles.assign(q=part.q.values[i, j].round(4), **values)
    base = alt.Chart(data).mark_rect(opacity=0).encode(x=axes["x"], x2="y2:Q", y=axes["y"], y2="x2:Q")
    return base.encode(tooltip=["x:Q", "y:Q", "q:Q", "geodesic:Q", "straight:Q"])


def _correlations(part: xr.Dataset, alike: bool) -> list[str]:
    """The rank correlations of Q with minus each distance, in words.

    Where the two distances of a map order the positions nearly ``alike``, all maps also tell each given the other.
    """
    by_maze, by_line = part.rank_correlation.values
    if ground.maze_of(part) is None:
        return [f"rank correlation: straight line {by_line:.2f}"]
    words = [f"rank correlation: maze {by_maze:.2f}, line {by_line:.2f}"]
    if alike:
        words.append("partial correlation: maze {:.2f}, line {:.2f}".format(*part.partial_correlation.values))
    return words


def animate(dataset: xr.Dataset, *, scale: str = "own", size: int = 300) -> bytes:
    """Draw an animation through training: one frame for each checkpoint time, all runs in sync.

    Args:
      dataset: from ``compute``, with several checkpoints of each run. If runs were saved at different times, a frame
        shows each run's newest checkpoint at that time and labels it with its steps; a run without one shows its walls
        alone.
      scale: as for ``plot``; ``shared`` is one color scale for all frames.
      size: longer side of a map in pixels.

    Returns:
      Content of a GIF file.

    Raises:
      UsageError: no run has several checkpoints, or unknown scale.
    """
    from PIL import Image

    runs = datasets.runs(dataset)
    times = sorted({steps for parts in runs.values() for steps in parts})
    if len(times) < 2:
        raise UsageError(STILL)
    images = []
    for time in tqdm(times, unit="frame", disable=None):
        columns = [_newest_at(label, parts, time) for label, parts in runs.items()]
        saved = {label: [part] for label, part in columns if part.q.notnull().any()}
        words = f"After {time:,} environment steps, {_of_ends(dataset, saved)}"
        picture = charts.render(
            charts.claimed(_table(dataset, columns, scale, size, False), words, _note(dataset)), ".png"
        )
        # PNGs are rendered at twice the size.
        images.append(Image.open(io.BytesIO(picture)).convert("RGB").reduce(2))
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    frames = []
    for image in images:
        canvas = Image.new("RGB", (width, height), "white")
        canvas.paste(image, (0, height - image.height))  # the maps stay where they are under titles of any height
        # FASTOCTREE keeps the few orange pixels of the goal; the other methods merge them with their neighbors.
        frames.append(canvas.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    file = io.BytesIO()
    # The last frame stays for two seconds before the animation repeats.
    durations = [_FRAME_MILLISECONDS] * (len(frames) - 1) + [2000]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return file.getvalue()
