"""The page of ``crlviz demo``: what the agents do, what depth bought, and what the critics see."""

import base64
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims
from crlviz import charts, datasets, statistics

if TYPE_CHECKING:
    from analyses.pages.demo import Kind, Run
    from crlviz.agent import Agent

SHOWN_SEED, SHOWN_GOALS = 0, 2
STAGES = {"a third of the training": 1 / 3, "two thirds": 2 / 3, "all of it": 1.0}
_FILM_STEPS, _FILM_GOALS, _FILM_RADIUS = 160, 8, 1.5  # steps, goals on a ring in the open, its radius in meters
_FILM_WIDTH = 250  # pixels of a panel
_ABILITY = 0.25  # share of goals from which on an agent counts as able
_QUANTITIES = ("updates", "parameters", "seconds")


def report(runs: Sequence["Run"], out: Path, *, env: str, quick: bool) -> Path:
    """Write pictures, tables and the pages for finished runs, shallow and deep first; returns the path of the first."""
    import jinja2

    from analyses.common import runs as run_data
    from analyses.heatmap import q_map
    from analyses.sweeps import efficiency
    from crlviz.agent import load
    from crlviz.browser import play_page

    titles = {run.out: run.kind.title for run in runs}
    data = run_data.compute(list(titles)).assign_coords(group=("run", list(titles.values())))
    table = efficiency.table(data, "success")
    kinds = list(dict.fromkeys(run.kind for run in runs))
    agents = {run: load(run.out) for run in runs if run.kind in kinds[:2]}
    maps = q_map.compute(list(agents.values()), coverage=True)
    shown = maps.isel(goal=slice(SHOWN_GOALS))
    shown = shown.sel(seed=SHOWN_SEED) if "seed" in shown.dims else shown
    pictures = {
        "heatmaps": q_map.plot(shown),
        "curves": curves(data),
        "efficiency": efficiency.panels(data, metric="success", costs=("gradient_steps", "parameters", "seconds")),
    }
    _save(out, pictures, maps, table)
    first = [run for run in agents if run.seed == SHOWN_SEED]
    film(first, out / "film.gif")
    (out / "play.html").write_text(play_page.page([agents[run] for run in first]), encoding="utf-8", errors="replace")
    verdicts, comparisons = findings(table, kinds), compared(table, kinds)
    page = jinja2.Template(
        resources.files("analyses.pages").joinpath("demo.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        quick=quick,
        env=env,
        maze=agents[first[0]].env.maze is not None,
        kinds=kinds,
        headline=headline(table, kinds, comparisons),
        price=price(comparisons),
        seeds=len({run.seed for run in runs}),
        shown_seed=SHOWN_SEED,
        stages=list(STAGES),
        findings=verdicts,
        able=able(data, kinds),
        ability=_ABILITY,
        correlations=correlations(maps, kinds[:2]),
        rows=table.to_dict("records"),
        script=charts.embed_script(),
        charts={name: charts.embed(picture, name) for name, picture in pictures.items()},
        film=base64.b64encode((out / "film.gif").read_bytes()).decode(),
        commands=[shlex.join(["crlviz", *run.arguments]) for run in runs],
        out=out,
        first=[run.out for run in first],
        stalls=run_data.stalls(data),
        minutes=float(data.train_seconds.max("evaluation").sum()) / 60,
        settings=agents[first[0]].config,
        cores=os.cpu_count(),
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8", errors="replace")
    for sentence in verdicts:
        click.echo(f"  {sentence}")
    return index


def _save(out: Path, pictures: Mapping[str, alt.TopLevelMixin], maps: xr.Dataset, table: pd.DataFrame) -> None:
    """Save the pictures, the maps of Q and the table of results as files."""
    for name, picture in pictures.items():
        charts.save(picture, out / f"{name}.png")
    datasets.save(maps, out / "heatmaps.nc")
    table.assign(scores=[" ".join(f"{score:.3f}" for score in scores) for scores in table.scores]).to_csv(
        out / "results.csv", index=False, float_format="%.6g"
    )


def compared(table: pd.DataFrame, kinds: Sequence["Kind"]) -> dict[str, statistics.Comparison]:
    """Deep against shallow at equal updates, parameters and seconds, corrected for the number of tests.

    Args:
      table: from ``analyses.sweeps.efficiency.table``.
      kinds: shallow, deep, equal parameters, and equal seconds, which a quick demo leaves out.
    """
    scores = dict(zip(table.group, table.scores, strict=True))
    others = _others(kinds)
    return {
        quantity: statistics.compare(scores[kinds[1].title], scores[kind.title], len(others), largest=1.0)  # shares
        for quantity, kind in others.items()
    }


def findings(table: pd.DataFrame, kinds: Sequence["Kind"]) -> list[str]:
    """One sentence for each comparison of ``compared``."""
    score = dict(zip(table.group, table.score, strict=True))
    words = {
        quantity: result.words("deeper is better here", "deeper is worse here")
        for quantity, result in compared(table, kinds).items()
    }
    return [
        f"At equal {quantity}, depth {kinds[1].depth} reaches {score[kinds[1].title]:.0%} of the goals and depth "
        f"{kind.depth} {score[kind.title]:.0%}: {words[quantity]}."
        for quantity, kind in _others(kinds).items()
    ]


def _others(kinds: Sequence["Kind"]) -> dict[str, "Kind"]:
    """The networks that the deep one is compared with, by what they have as much of."""
    return dict(zip(_QUANTITIES, (kinds[0], *kinds[2:]), strict=False))


def headline(table: pd.DataFrame, kinds: Sequence["Kind"], comparisons: Mapping[str, statistics.Comparison]) -> str:
    """The result at equal updates, as a title."""
    score = dict(zip(table.group, table.score, strict=True))
    shares = {kind.title: claims.number(score[kind.title], ".0%") for kind in kinds}
    shallow, deep = kinds[:2]
    result = comparisons["updates"]
    if result.verdict:
        better, worse = (deep, shallow) if result.verdict > 0 else (shallow, deep)
        high, low = shares[better.title], shares[worse.title]
        return f"Depth {better.depth} reaches {high} of its goals, depth {worse.depth}: {low}"
    told = f"Depth {deep.depth} reached {shares[deep.title]} of goals, depth {shallow.depth}: {shares[shallow.title]}"
    if result.seeds < statistics.FEWEST:
        return f"{told}; too few seeds to say more"
    if len(kinds) > 2:
        told += f", a wider depth {kinds[2].depth} of equal size: {shares[kinds[2].title]}"
    apart = f"cannot tell {deep.depth} from {shallow.depth}"
    return f"{told}; {result.seeds} seeds {'are too few to tell' if math.isinf(result.detectable) else apart}"


def price(comparisons: Mapping[str, statistics.Comparison]) -> str:
    """A sentence on where depth paid; empty with too few seeds to say, or if no difference is found at all."""
    if not any(result.verdict for result in comparisons.values()):
        return ""
    words = {1: "Depth pays for", 0: "No difference is found for", -1: "Width or time pays more than depth for"}
    parts = []
    for verdict, word in words.items():
        if names := [f"equal {name}" for name, result in comparisons.items() if result.verdict == verdict]:
            parts.append(f"{word} {' and '.join(names)}.")
    return " ".join(parts)


def take_off(success: np.ndarray) -> int | None:
    """The first evaluation with success of 1/4 or more whose mean from there on is 1/4 or more too; else None."""
    success = np.asarray(success, float)
    success = success[np.isfinite(success)]
    for index in np.flatnonzero(success >= _ABILITY):
        if success[index:].mean() >= _ABILITY:
            return int(index)
    return None


def able(data: xr.Dataset, kinds: Sequence["Kind"]) -> list[tuple[str, int, int, str]]:
    """For each kind: its title, how many runs acquire the ability, how many runs it has, and after which updates."""
    result = []
    for kind in kinds:
        part = data.isel(run=np.flatnonzero(data.group.values == kind.title))
        found = [(run, take_off(part.success.values[run])) for run in range(part.sizes["run"])]
        steps = [part.gradient_steps.values[run, index] for run, index in found if index is not None]
        result.append((kind.title, len(steps), len(found), ", ".join(f"{step:,.0f}" for step in sorted(steps))))
    return result


@charts.self_contained
def curves(data: xr.Dataset) -> alt.TopLevelMixin:
    """Success over updates and over seconds; a ring marks where a run takes off (``take_off``)."""
    from analyses.sweeps import scaling

    panels = []
    for x_axis in ("gradient_steps", "train_seconds"):
        rows = []
        for run in range(data.sizes["run"]):
            index = take_off(data.success.values[run])
            if index is not None:
                x, y = float(data[x_axis].values[run, index]), float(data.success.values[run, index])
                rows.append({"group": str(data.group.values[run]), "x": x, "score": y, "what": "takes off"})
        lines = scaling.curves(data, x_axis=x_axis)
        marks = alt.Chart(pd.DataFrame(rows, columns=["group", "x", "score", "what"]))
        rings = marks.mark_point(size=90, strokeWidth=1.5, color="#222222", fill="white", opacity=1)
        tooltip = ["what:N", "group:N", "x:Q", "score:Q"]
        panels.append(alt.layer(lines, rings.encode(x="x:Q", y="score:Q", tooltip=tooltip)) if rows else lines)
    # One panel may have room for its lines' names where the other needs a legend.
    return alt.hconcat(*panels).resolve_scale(color="independent", strokeDash="independent")


def correlations(maps: xr.Dataset, kinds: Sequence["Kind"]) -> list[tuple[str, float, float]]:
    """Mean rank correlation of Q with distance, over seeds and goals.

    Returns:
      For each depth: title, correlation with the distance in the maze, correlation with the straight-line distance.
    """
    result = []
    for kind in kinds:
        mean = maps.rank_correlation.sel(depth=kind.depth)
        mean = mean.mean([dim for dim in mean.dims if dim != "distance_kind"]).values
        result.append((kind.title, float(mean[0]), float(mean[-1])))
    return result


def film(runs: Sequence["Run"], path: Path) -> None:
    """Write a GIF of one seed's policies, a row for each run, a column for each of ``STAGES``, all in step.

    Every panel has the same starts and goals: a maze's, or a ring of goals around the origin.
    """
    from crlviz.agent import load
    from crlviz.charts import depth_color
    from crlviz.checkpoints.run_directory import RunDirectory
    from crlviz.rendering.top_view import Ground, Panel, animate

    panels = []
    for run in runs:
        steps = RunDirectory(run.out).checkpoint_steps()
        for stage, share in STAGES.items():
            step = steps[np.argmin(np.abs(np.array(steps) - share * steps[-1]))]
            agent = load(run.out / "checkpoints" / str(step))
            episodes = _episodes(agent)
            caption = f"{run.kind.title}, {stage}"
            bodies = agent.env.outline(episodes.pose.values)
            panels.append(Panel(caption, episodes, depth_color(run.kind.depth), bodies))
    maze = agent.env.maze
    reach = _FILM_RADIUS + 0.6
    ground = Ground(maze.extent if maze else (-reach, reach, -reach, reach), _FILM_WIDTH, maze)
    animate(ground, panels, path, columns=len(STAGES), every=4, fps=12)


def _episodes(agent: "Agent") -> xr.Dataset:
    """Episodes to the goals that the film shows."""
    from crlviz.rollouts import rollout

    maze = agent.env.maze
    angles = 2 * np.pi * np.arange(_FILM_GOALS) / _FILM_GOALS
    ring = _FILM_RADIUS * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    goals = maze.xy(maze.goals) if maze else ring
    return rollout(agent, len(goals), goals=goals, length=min(_FILM_STEPS, agent.env.episode_length))
