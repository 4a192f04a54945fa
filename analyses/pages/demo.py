"""``crlviz demo``: train shallow and deep agents in one maze, and write a page that shows what each learned.

Training runs as ``crlviz train`` in one process per core, so the page can list the commands that ran.
"""

import base64
import contextlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from crlviz import statistics
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.processes import process_pool
from crlviz.processes.process_pool import LOGS, Job

ENV = "point_big_maze"
SHALLOW, DEEP, WIDTH = 4, 16, 64
# A trunk has about depth x width^2 parameters, so depth 4 with twice the width has as many as depth 16.
WIDE = WIDTH * round((DEEP / SHALLOW) ** 0.5)
ENV_STEPS, QUICK_ENV_STEPS = 2_304_000, 1_152_000
SEEDS = (0, 1, 2)
SHOWN_SEED, SHOWN_GOALS = 0, 2


@dataclass(frozen=True)
class Kind:
    """A network and its training length. Each seed of it is one run."""

    name: str
    title: str
    depth: int
    width: int
    env_steps: int

    @property
    def cost(self) -> float:
        """Relative work of a run, for the progress bar: proportional to the steps, almost proportional to the depth."""
        return self.env_steps / 1e6 * (2 + self.depth * self.width / WIDTH)


@dataclass(frozen=True)
class Run:
    """One run of a kind, finished or not."""

    kind: Kind
    seed: int
    runs: Path

    @property
    def out(self) -> Path:
        """Path of its run directory."""
        return self.runs / f"{self.kind.name}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """Command line after ``crlviz`` that trains it."""
        kind = self.kind
        shape = ["--depth", kind.depth, "--width", kind.width, "--seed", self.seed, "--env-steps", kind.env_steps]
        return ["train", ENV, *map(str, shape), "--out", str(self.out)]

    @property
    def share(self) -> float:
        """Share of the run that is done; 1 once the directory holds this run, finished."""
        run = RunDirectory(self.out)
        try:
            if run.read_config()["command"][1:] != self.arguments:
                return 0.0
            done, finished = int(run.read_metrics()[-1]["env_steps"]), run.finished()
        except (CrlvizError, KeyError, IndexError):
            return 0.0
        return 1.0 if finished else min(0.99, done / self.kind.env_steps)

    @property
    def is_made_here(self) -> bool:
        """Whether the directory holds a run that a demo started, according to its note."""
        try:
            return self.out.is_dir() and RunDirectory(self.out).read_config()["command"][1:] == json.loads(
                self._note.read_text()
            )
        except (CrlvizError, KeyError, OSError, ValueError):
            return False

    def note(self) -> None:
        """Record that a demo starts this run. Without this note a demo does not delete the directory."""
        atomic_files.make_directory(self._note.parent)
        atomic_files.write(self._note, json.dumps(self.arguments).encode())

    @property
    def _note(self) -> Path:
        return self.runs.parent / LOGS / f"{self.out.name}.json"


def train_all(runs: Sequence[Run], title: str) -> None:
    """Train every run that is not finished, in one process per core.

    Raises:
      UsageError: the directory of a run holds something else, which is left unchanged.
      CrlvizError: a run failed; the message gives the reason.
    """
    waiting = [run for run in runs if run.share < 1]
    finished = sum(run.kind.cost for run in runs if run not in waiting)
    for run in waiting:
        if run.out.exists() and not run.share and not run.is_made_here:
            raise UsageError(f"{run.out} was not made by this demo: move it, or give another --out")
    jobs = {}
    for run in waiting:
        arguments = run.arguments
        if run.share and RunDirectory(run.out).states():  # from a demo that was stopped
            arguments = ["train", "--resume", str(run.out)]
        elif run.is_made_here:  # from a demo with other settings, or one that was stopped before its first save
            shutil.rmtree(run.out)
        run.note()
        jobs[Job(tuple(arguments), run.runs.parent / LOGS / f"{run.out.name}.txt")] = run
    # Networks this small train faster on a core than on a GPU, and several processes would compete for GPU memory.
    ticks = process_pool.run(list(jobs), len(process_pool.cores()), {"JAX_PLATFORMS": "cpu"})
    bar_format = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    bar = tqdm(total=sum(run.kind.cost for run in runs), desc=title, bar_format=bar_format, disable=None)
    with bar, contextlib.closing(ticks):
        for running, ended in ticks:
            for job, code in ended:
                run = jobs.pop(job)
                name = f"{run.kind.title}, seed {run.seed}"
                if code:
                    raise CrlvizError(f"training {name} failed: {job.last_words}")
                finished += run.kind.cost
                tqdm.write(f"  {name}: {_result(run.out)}")
            bar.n = finished + sum(jobs[job].kind.cost * jobs[job].share for job in running)
            bar.set_postfix_str(f"{len(running)} running, {len(jobs) - len(running)} waiting")


def _result(run: Path) -> str:
    from analyses.common.runs import LAST, clock, metrics

    table = metrics(run)
    return f"reaches {table.success.tail(LAST).mean():.0%} of goals, {clock(table)[0][-1]:.0f} s of training"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write.  [default: demo, or demo-quick]")
@click.option(
    "--quick", is_flag=True, help="One seed and half the training: two minutes, but too few seeds to compare."
)
def command(out: Path | None, quick: bool) -> None:
    """Train depth 4 and depth 16 in a maze on this machine, and write a page that shows what they learned.

    It also trains two controls: depth 4 with as many parameters as depth 16, and depth 4 for as many seconds. Finished
    runs in OUT are kept and unfinished ones resumed, so an interrupted demo continues where it stopped.

    \b
    Example: crlviz demo --quick
    """
    start = time.perf_counter()
    out = out or Path("demo-quick" if quick else "demo")
    seeds = SEEDS[:1] if quick else SEEDS
    steps = QUICK_ENV_STEPS if quick else ENV_STEPS
    click.echo(f"Training depth {SHALLOW} and depth {DEEP} on {ENV}, {len(seeds)} seed(s) each, and two controls.")
    shallow = Kind("depth4", f"depth {SHALLOW}", SHALLOW, WIDTH, steps)
    deep = Kind("depth16", f"depth {DEEP}", DEEP, WIDTH, steps)
    wide = Kind("depth4-wide", f"depth {SHALLOW}, as many parameters (width {WIDE})", SHALLOW, WIDE, steps)
    # The longest runs first, so that no core waits for a long run at the end.
    first = [Run(kind, seed, out / "runs") for kind in (deep, wide, shallow) for seed in seeds]
    train_all(first, "training")
    ratio = _seconds(first, deep) / _seconds(first, shallow)
    longer = Kind(
        "depth4-long", f"depth {SHALLOW}, as many seconds", SHALLOW, WIDTH, 1000 * round(steps * ratio / 1000)
    )
    second = [Run(longer, seed, out / "runs") for seed in seeds]
    train_all(second, f"depth {SHALLOW} for as many seconds")
    runs = sorted(first, key=lambda run: (shallow, deep, wide).index(run.kind)) + second
    click.echo("Drawing.")
    index = report(runs, out, quick=quick, began=start)
    click.echo(f"Took {time.perf_counter() - start:.0f} s. Open {index} in a browser.")


def _seconds(runs: Sequence[Run], kind: Kind) -> float:
    """Mean training seconds over the runs of a kind, without stalls of the machine."""
    from analyses.common.runs import clock, metrics

    return float(np.mean([clock(metrics(run.out))[0][-1] for run in runs if run.kind == kind]))


def report(runs: Sequence[Run], out: Path, *, quick: bool, began: float) -> Path:
    """Write pictures, tables and the page for finished runs, shallow and deep first; returns the path of the page."""
    import altair as alt
    import jinja2

    from analyses.common import runs as run_data
    from analyses.heatmap import q_map
    from analyses.sweeps import efficiency, scaling
    from crlviz import charts, datasets
    from crlviz.agent import load

    titles = {run.out: run.kind.title for run in runs}
    data = run_data.compute(list(titles)).assign_coords(group=("run", list(titles.values())))
    table = efficiency.table(data, "success")
    kinds = list(dict.fromkeys(run.kind for run in runs))
    shallow, deep = kinds[0], kinds[1]
    agents = {run: load(run.out) for run in runs if run.kind in (shallow, deep)}
    maps = q_map.compute(list(agents.values()), coverage=True)
    shown = maps.isel(goal=slice(SHOWN_GOALS))
    shown = shown.sel(seed=SHOWN_SEED) if "seed" in shown.dims else shown
    pictures = {
        "heatmaps": q_map.plot(shown),
        "curves": alt.hconcat(*(scaling.curves(data, x_axis=x_axis) for x_axis in ("gradient_steps", "train_seconds"))),
        "efficiency": efficiency.panels(data, metric="success", costs=("gradient_steps", "parameters", "seconds")),
    }
    for name, picture in pictures.items():
        charts.save(picture, out / f"{name}.png")
    datasets.save(maps, out / "heatmaps.nc")
    table.assign(scores=[" ".join(f"{score:.3f}" for score in scores) for scores in table.scores]).to_csv(
        out / "results.csv", index=False, float_format="%.6g"
    )
    _animate([run for run in agents if run.seed == SHOWN_SEED], agents, out / "policies.gif")
    page = jinja2.Template(
        resources.files("analyses.pages").joinpath("demo.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        quick=quick,
        env=ENV,
        kinds=kinds,
        seeds=len({run.seed for run in runs}),
        shown_seed=SHOWN_SEED,
        findings=findings(table, kinds),
        correlations=_correlations(maps, kinds[:2]),
        rows=table.to_dict("records"),
        script=charts.embed_script(),
        charts={name: charts.embed(picture, name) for name, picture in pictures.items()},
        animation=base64.b64encode((out / "policies.gif").read_bytes()).decode(),
        commands=[shlex.join(["crlviz", *run.arguments]) for run in runs],
        out=out,
        first=[run.out for run in agents if run.seed == SHOWN_SEED],
        stalls=run_data.stalls(data),
        seconds=time.perf_counter() - began,
        settings=agents[runs[0]].config,
        cores=os.cpu_count(),
    )
    index = out / "index.html"
    index.write_text(page, encoding="utf-8", errors="replace")
    for sentence in findings(table, kinds):
        click.echo(f"  {sentence}")
    return index


def findings(table: Any, kinds: Sequence[Kind]) -> list[str]:
    """Compare deep with shallow at equal updates, parameters and seconds: one sentence each, corrected for three tests.

    Args:
      table: from ``analyses.sweeps.efficiency.table``.
      kinds: shallow, deep, equal parameters, equal seconds.
    """
    by_group = {row["group"]: row for row in table.to_dict("records")}
    deep, others = by_group[kinds[1].title], (kinds[0], kinds[2], kinds[3])
    sentences = []
    for quantity, kind in zip(("updates", "parameters", "seconds"), others, strict=True):
        other = by_group[kind.title]
        comparison = statistics.compare(deep["scores"], other["scores"], len(others), largest=1.0)  # shares
        verdict = comparison.words("deeper is better here", "deeper is worse here")
        sentences.append(
            f"At equal {quantity}, depth {kinds[1].depth} reaches {deep['score']:.0%} of the goals and depth "
            f"{kind.depth} {other['score']:.0%}: {verdict}."
        )
    return sentences


def _correlations(maps: Any, kinds: Sequence[Kind]) -> list[tuple[str, float, float]]:
    """Mean rank correlation of Q with distance, over seeds and goals.

    Returns:
      For each depth: title, correlation with the distance in the maze, correlation with the straight-line distance.
    """
    result = []
    for kind in kinds:
        mean = maps.rank_correlation.sel(depth=kind.depth)
        mean = mean.mean([dim for dim in mean.dims if dim != "distance_kind"]).values
        result.append((kind.title, float(mean[0]), float(mean[1])))
    return result


def _animate(runs: Sequence[Run], agents: dict[Run, Any], path: Path) -> None:
    """Write a GIF of one seed's policies, side by side, each from the start to every goal at once."""
    from crlviz.charts import depth_color
    from crlviz.rendering.maze_gif import animate
    from crlviz.rollouts import rollout

    maze = agents[runs[0]].env.maze
    goals = maze.xy(maze.goals)
    episodes = {run.kind.title: rollout(agents[run], len(goals), goals=goals) for run in runs}
    animate(maze, episodes, path, colors=[depth_color(run.kind.depth) for run in runs])
