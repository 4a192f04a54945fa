"""How does the score grow with depth, and which settings matter? (paper figures 1, 5, 6, 7, 12 and 16)"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import click
import pandas as pd
import xarray as xr

from analyses.common import claims, outputs, runs
from analyses.common.metrics import METRICS, check_measured, largest
from analyses.common.runs import LAST, vary
from analyses.sweeps import by_algorithm, differences, profiles, results_table, scaling_panels
from analyses.sweeps.contrasts import by_value
from analyses.sweeps.scaling_panels import (
    ALGORITHMS,
    AXES,
    PANELS,
    axis_of,
    curves,
    missing,
    panels,
    styles,
    verdicts,
)
from crlviz import charts, statistics
from crlviz.checkpoints import atomic_files
from crlviz.options import Command, check_choice

_TASKS = 4  # side by side
_FOREST = 420  # pixels of the differences


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Curves, scores and costs of the runs at paths (``analyses.common.runs.collect``)."""
    return runs.collect(paths)


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
    check_measured(dataset, metric)
    x_axis = axis_of(dataset, x_axis)
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    compared = _differences(dataset, metric)
    drawn: dict[str, list[Any]] = {}
    for task in tasks:
        part = dataset.isel(run=dataset.env.values == task)
        pictures: dict[str, Any] = dict(panels(part, metric, x_axis, claimed=not len(compared)))
        pictures = pictures or {"curves": curves(part, metric=metric, x_axis=x_axis, title="Learning curves")}
        for name, picture in pictures.items():
            if len(tasks) > 1:
                picture.title.subtitle = [task]
            drawn.setdefault(name, []).append(picture)
    # A row for each panel, the tasks side by side; panels of fewer tasks fill the rows.
    wide = list(itertools.chain(*(drawn.pop(name) for name in list(drawn) if name in PANELS and PANELS[name].wide)))
    rows = []
    if drawn:
        rows = [charts.row(*itertools.chain(*drawn.values()), columns=min(max(2, len(tasks)), _TASKS))]
        rows[0] = rows[0].resolve_scale(color="independent", shape="independent", strokeDash="independent")
    if by_depth := profiles.scores_by_depth(dataset, metric):
        wide.append(profiles.plot(by_depth, metric))
    first = []
    if len(compared):
        words: dict[str, Any] = {"ends": ("the second is higher", "the first is higher"), "title": "Differences"}
        first = [differences.forest(compared, metric, **words, size=_FOREST)]
    parts = [*first, *rows, *wide]
    picture = alt.vconcat(*parts, spacing=34) if len(parts) > 1 else parts[0]
    picture = picture.resolve_scale(color="independent", shape="independent", strokeDash="independent")
    note = f"{', '.join(tasks[:3])}{f' and {len(tasks) - 3} more' * (len(tasks) > 3)}; {runs.seeds(dataset)}"
    note += f"; final scores: means of the last {LAST} evaluations" if drawn or len(compared) else ""
    return charts.claimed(picture, claim(dataset, metric), note, how_to_read(dataset))


def _differences(dataset: xr.Dataset, metric: str) -> pd.DataFrame:
    """The verdicts of all tasks; without rows if none has seeds enough for an interval, as points alone say little."""
    tables = []
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    for task in tasks:
        table = scaling_panels.differences(dataset.isel(run=dataset.env.values == task), metric)
        tables.append(table.assign(networks=table.networks + f", {task}") if len(tasks) > 1 and len(table) else table)
    table = pd.concat(tables, ignore_index=True)
    return table if len(table) and table.low.notna().any() else table.iloc[:0]


def claim(dataset: xr.Dataset, metric: str = "time_at_goal") -> str:
    """The effect of depth on the final score, in words; for several tasks, the number of tasks with this effect."""
    if by_algorithm.several(dataset) and len(rows := by_algorithm.gains(dataset, metric, ("updates",))):
        return by_algorithm.gains_claim(rows)
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    looks = verdicts(len(tasks))  # the titles of the panels are verdicts too
    results: dict[int, int] = {}
    for task in tasks:
        part = vary(dataset.isel(run=dataset.env.values == task), "depth")
        scores = by_value(part, "depth", metric)
        if len(scores) < 2 or len(tasks) == 1:
            continue
        first, *_, last = scores.values()
        result = statistics.compare(last, first, looks, largest(dataset, metric))
        if result.seeds >= statistics.FEWEST:
            results[result.verdict] = results.get(result.verdict, 0) + 1
    if not results:
        part = vary(dataset.isel(run=dataset.env.values == tasks[0]), "depth")
        unit = AXES[axis_of(part, "env_steps")]
        after = f" after {_short(float(part.trained.max()))} {unit}"
        longest = largest(dataset, "time_at_goal")
        return claims.of_metric(by_value(part, "depth", metric), metric, looks, after.strip(), longest)
    words = {1: "deeper is better in", -1: "shallower is better in", 0: "no difference between depths found in"}
    listed = [f"{words[verdict]} {results[verdict]}" for verdict in words if verdict in results]
    sentence = f"{', '.join(listed)} of {len(tasks)} tasks"
    if list(results) == [0]:
        sentence = f"no difference between depths found in any of {len(tasks)} tasks"
    return claims.capital(sentence)


def _short(value: float) -> str:
    """1.2M for 1,200,000."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def how_to_read(dataset: xr.Dataset) -> str:
    """The explanation of the picture."""
    notes = [
        "Learning curves: a thin line is a seed, a thick one the mean of a group. Final scores are means of the last "
        f"{LAST} evaluations; a small mark is a seed, a large one their mean. Each panel uses the runs that differ in "
        "what it shows alone, and compares its first and last group: in the differences above, where there are three "
        "seeds, or in its title. An interval is widened for the number of panels and tasks."
    ]
    if by_algorithm.several(dataset):
        notes.append(
            "A panel of one algorithm names it. Each picture of several algorithms is corrected for its algorithms and "
            "tasks, the other panels for their number."
        )
    if profiles.scores_by_depth(dataset, "success"):
        notes.append(profiles.HOW_TO_READ)
    lacking = [panel.title for panel in missing(dataset)]
    notes += [f"These runs do not differ in what other panels show: {'; '.join(lacking)}."] * bool(lacking)
    notes += filter(None, [dataset.attrs.get("settings"), runs.stalls(dataset)])
    return " ".join(notes)


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
    for row in by_algorithm.gains(dataset, metric).itertuples() if dataset.attrs["settings"] else ():
        click.echo(row.sentence)
    for note in filter(None, [dataset.attrs["settings"], runs.stalls(dataset)]):
        click.echo(note)
    for panel in missing(dataset):
        click.echo(f"Not drawn: {panel.title}; its runs: {panel.command}")
    if not profiles.scores_by_depth(dataset, metric):
        click.echo(f"Not drawn: performance profiles, which need {profiles.FEWEST} runs of each of several depths")
    tables = {
        ".csv": lambda path: atomic_files.write(path, table.to_csv(index=False, float_format="%.6g").encode()),
        ".md": lambda path: atomic_files.write(path, results_table.markdown(table).encode()),
    }
    dataset = dataset.assign_attrs({charts.HELP: how_to_read(dataset)})
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric, x_axis=x_axis), tables)


__all__ = [
    "ALGORITHMS",
    "AXES",
    "LAST",
    "PANELS",
    "command",
    "compute",
    "curves",
    "missing",
    "panels",
    "plot",
    "styles",
]
