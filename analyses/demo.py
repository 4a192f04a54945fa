"""``crlviz demo``: train shallow and deep agents in one maze, and a page that shows what each learned.

The trainer runs as its own command, one process a core, so the page can name commands that really ran.
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

from crlviz import files, processes, statistics
from crlviz.errors import CrlvizError, UsageError
from crlviz.processes import LOGS, Job

ENV = "point_big_maze"
SHALLOW, DEEP, WIDTH = 4, 16, 64
# A trunk's hidden parameters are about depth x width^2, so at depth 4 twice the width has depth 16's.
WIDE = WIDTH * round((DEEP / SHALLOW) ** 0.5)
ENV_STEPS, QUICK_ENV_STEPS = 2_304_000, 1_152_000
SEEDS = (0, 1, 2)
SHOWN_SEED, SHOWN_GOALS = 0, 2


@dataclass(frozen=True)
class Kind:
    """One network trained for one time; its seeds are its runs."""

    name: str
    title: str
    depth: int
    width: int
    env_steps: int

    @property
    def cost(self) -> float:
        """About how much work a run is, for the progress bar: with the steps, and nearly with the depth."""
        return self.env_steps / 1e6 * (2 + self.depth * self.width / WIDTH)


@dataclass(frozen=True)
class Run:
    """A run of a kind, finished or not; ``out`` appears when it is finished."""

    kind: Kind
    seed: int
    runs: Path

    @property
    def out(self) -> Path:
        return self.runs / f"{self.kind.name}-seed{self.seed}"

    @property
    def arguments(self) -> list[str]:
        """What one types after ``crlviz`` for it."""
        kind = self.kind
        shape = ["--depth", kind.depth, "--width", kind.width, "--seed", self.seed, "--env-steps", kind.env_steps]
        return ["train", ENV, *map(str, shape), "--out", str(self.out)]

    @property
    def share(self) -> float:
        """How much of it is done: 1 once the directory holds this very run whole."""
        from analyses.runs import metrics
        from crlviz.checkpoints import all_steps, read_config

        try:
            if read_config(self.out)["command"][1:] != self.arguments:
                return 0.0
            done, saved = int(metrics(self.out).env_steps.iloc[-1]), all_steps(self.out)
        except (CrlvizError, KeyError):
            return 0.0
        whole = done >= self.kind.env_steps and done in saved
        return 1.0 if whole else min(0.99, done / self.kind.env_steps)

    @property
    def is_made_here(self) -> bool:
        """Whether the directory holds a run that a demo has begun, as it noted."""
        from crlviz.checkpoints import read_config

        try:
            return self.out.is_dir() and read_config(self.out)["command"][1:] == json.loads(self._note.read_text())
        except (CrlvizError, KeyError, OSError, ValueError):
            return False

    def note(self) -> None:
        """Note that a demo begins this run: another of its name is not a demo's to remove."""
        files.make_directory(self._note.parent)
        files.write(self._note, json.dumps(self.arguments).encode())

    @property
    def _note(self) -> Path:
        return self.runs.parent / LOGS / f"{self.out.name}.json"


def train_all(runs: Sequence[Run], title: str) -> None:
    """Train every run that is not there whole, one process a core.

    Raises:
      UsageError: a run's directory holds something else; that is left as it is.
      CrlvizError: a run failed; the message is its own.
    """
    waiting = [run for run in runs if run.share < 1]
    finished = sum(run.kind.cost for run in runs if run not in waiting)
    for run in waiting:
        if run.out.exists() and not run.share and not run.is_made_here:
            raise UsageError(f"{run.out} is not of this demo, which leaves it alone: move it, or give another --out")
    jobs = {}
    for run in waiting:
        arguments = run.arguments
        if run.share and (run.out / "state").exists():  # of a demo that was stopped
            arguments = ["train", "--resume", str(run.out)]
        elif run.is_made_here:  # by one that wanted other settings, or was stopped before a first save
            shutil.rmtree(run.out)
        run.note()
        jobs[Job(tuple(arguments), run.runs.parent / LOGS / f"{run.out.name}.txt")] = run
    # Networks this small train faster on a core than on a GPU, and several processes would fight over its memory.
    ticks = processes.run(list(jobs), len(processes.cores()), {"JAX_PLATFORMS": "cpu"})
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    bar = tqdm(total=sum(run.kind.cost for run in runs), desc=title, bar_format=layout, disable=None)
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
    from analyses.runs import LAST, clock, metrics

    table = metrics(run)
    return f"reaches {table.success.tail(LAST).mean():.0%} of goals, {clock(table)[0][-1]:.0f} s of training"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Directory to write.  [default: demo, or demo-quick]")
@click.option("--quick", is_flag=True, help="One seed and half the training: two minutes, and no claim.")
def command(out: Path | None, quick: bool) -> None:
    """Train depth 4 and depth 16 in a maze on this machine, and make a page of what they learned.

    Beside them two controls: depth 4 with the parameters of depth 16, and depth 4 trained for as many seconds. Runs
    that OUT holds already are kept and half ones resumed, so an interrupted demo goes on where it was.

    \b
    Example: crlviz demo --quick
    """
    began = time.perf_counter()
    out = out or Path("demo-quick" if quick else "demo")
    seeds = SEEDS[:1] if quick else SEEDS
    steps = QUICK_ENV_STEPS if quick else ENV_STEPS
    click.echo(f"Training depth {SHALLOW} and depth {DEEP} on {ENV}, {len(seeds)} seed(s) each, and two controls.")
    shallow = Kind("depth4", f"depth {SHALLOW}", SHALLOW, WIDTH, steps)
    deep = Kind("depth16", f"depth {DEEP}", DEEP, WIDTH, steps)
    wide = Kind("depth4-wide", f"depth {SHALLOW}, as many parameters (width {WIDE})", SHALLOW, WIDE, steps)
    # The longest first, so that the last to end is a short one.
    first = [Run(kind, seed, out / "runs") for kind in (deep, wide, shallow) for seed in seeds]
    train_all(first, "training")
    ratio = _seconds(first, deep) / _seconds(first, shallow)
    long = Kind("depth4-long", f"depth {SHALLOW}, as many seconds", SHALLOW, WIDTH, 1000 * round(steps * ratio / 1000))
    second = [Run(long, seed, out / "runs") for seed in seeds]
    train_all(second, f"depth {SHALLOW} for depth {DEEP}'s seconds")
    runs = sorted(first, key=lambda run: (shallow, deep, wide).index(run.kind)) + second
    click.echo("Drawing.")
    index = report(runs, out, quick=quick, began=began)
    click.echo(f"Took {time.perf_counter() - began:.0f} s. Open {index} in a browser.")


def _seconds(runs: Sequence[Run], kind: Kind) -> float:
    """Mean seconds of training of a kind's runs, a stalled machine's left out."""
    from analyses.runs import clock, metrics

    return float(np.mean([clock(metrics(run.out))[0][-1] for run in runs if run.kind == kind]))


def report(runs: Sequence[Run], out: Path, *, quick: bool, began: float) -> Path:
    """Write the pictures, the numbers and the page of finished runs; the page's path."""
    import altair as alt
    import jinja2

    from analyses import efficiency, heatmap, scaling
    from analyses import runs as run_data
    from crlviz import charts, datasets
    from crlviz.agent import load

    titles = {run.out: run.kind.title for run in runs}
    data = run_data.compute(list(titles)).assign_coords(group=("run", list(titles.values())))
    table = efficiency.table(data, "success")
    kinds = list(dict.fromkeys(run.kind for run in runs))
    shallow, deep = kinds[0], kinds[1]
    agents = {run: load(run.out) for run in runs if run.kind in (shallow, deep)}
    maps = heatmap.compute(list(agents.values()), coverage=True)
    shown = maps.isel(goal=slice(SHOWN_GOALS))
    shown = shown.sel(seed=SHOWN_SEED) if "seed" in shown.dims else shown
    pictures = {
        "heatmaps": heatmap.plot(shown),
        "curves": alt.hconcat(*(scaling.curves(data, over=over) for over in ("gradient_steps", "train_seconds"))),
        "efficiency": efficiency.panels(data, metric="success", costs=("updates", "parameters", "seconds")),
    }
    for name, picture in pictures.items():
        charts.save(picture, out / f"{name}.png")
    datasets.save(maps, out / "heatmaps.nc")
    table.assign(scores=[" ".join(f"{score:.3f}" for score in scores) for scores in table.scores]).to_csv(
        out / "results.csv", index=False, float_format="%.6g"
    )
    _animate([run for run in agents if run.seed == SHOWN_SEED], agents, out / "policies.gif")
    page = jinja2.Template(
        resources.files("analyses").joinpath("demo.html").read_text(encoding="utf-8"), autoescape=True
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
    """What the table says of depth at equal updates, parameters and seconds: three comparisons, as few seeds allow.

    Args:
      table: of ``analyses.efficiency.table``.
      kinds: shallow, deep, as many parameters, as many seconds.
    """
    by_group = {row["group"]: row for row in table.to_dict("records")}
    deep, others = by_group[kinds[1].title], (kinds[0], kinds[2], kinds[3])
    sentences = []
    for what, kind in zip(("updates", "parameters", "seconds"), others, strict=True):
        other = by_group[kind.title]
        found = statistics.compare(deep["scores"], other["scores"], len(others), largest=1.0)  # shares
        verdict = found.words("deeper is better here", "deeper is worse here")
        sentences.append(
            f"At equal {what}, depth {kinds[1].depth} reaches {deep['score']:.0%} of the goals and depth "
            f"{kind.depth} {other['score']:.0%}: {verdict}."
        )
    return sentences


def _correlations(maps: Any, kinds: Sequence[Kind]) -> list[tuple[str, float, float]]:
    """Of each depth: its name, and the mean rank correlation of Q with the maze and the line, over seeds and goals."""
    result = []
    for kind in kinds:
        mean = maps.rank_correlation.sel(depth=kind.depth)
        mean = mean.mean([dim for dim in mean.dims if dim != "distance_kind"]).values
        result.append((kind.title, float(mean[0]), float(mean[1])))
    return result


def _animate(runs: Sequence[Run], agents: dict[Run, Any], path: Path) -> None:
    """One seed's policies, each from the start to every goal of the maze at once."""
    from crlviz.animation import animate
    from crlviz.charts import depth_colour
    from crlviz.rollouts import rollout

    maze = agents[runs[0]].env.maze
    goals = maze.xy(maze.goals)
    episodes = {run.kind.title: rollout(agents[run], len(goals), goals=goals) for run in runs}
    animate(maze, episodes, path, colours=[depth_colour(run.kind.depth) for run in runs])
