"""``crlviz demo``: train shallow and deep agents in one world, and write a page that shows what each learned.

Training runs as ``crlviz train`` in one process per core, so the page can list the commands that ran.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.processes import process_pool
from crlviz.processes.process_pool import LOGS, Job

ENV = "swimmer"
SHALLOW, DEEP, WIDTH = 4, 16, 32
# A trunk has about depth x width^2 parameters, so depth 4 with twice the width has as many as depth 16.
WIDE = WIDTH * round((DEEP / SHALLOW) ** 0.5)
ENV_STEPS = 6_092_800  # whole training steps and evaluations of the preset
SEEDS = (0, 1, 2)


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
    "--quick",
    is_flag=True,
    help="One seed instead of three: two minutes, but too few seeds to compare.",
)
def command(out: Path | None, quick: bool) -> None:
    """Train depth 4 and depth 16 on this machine, and write a page that shows what they learned.

    It also trains two controls: depth 4 with as many parameters as depth 16, and depth 4 for as many seconds. --quick
    leaves out the second, which can only begin when the others have ended. Finished runs in OUT are kept and unfinished
    ones resumed, so an interrupted demo continues where it stopped.

    \b
    Example: crlviz demo --quick
    """
    start = time.perf_counter()
    out = out or Path("demo-quick" if quick else "demo")
    from analyses.pages.demo_page import report

    seeds = SEEDS[:1] if quick else SEEDS
    click.echo(f"Training depth {SHALLOW} and depth {DEEP} on {ENV}, {len(seeds)} seed(s) each, and controls.")
    shallow = Kind("depth4", f"depth {SHALLOW}", SHALLOW, WIDTH, ENV_STEPS)
    deep = Kind("depth16", f"depth {DEEP}", DEEP, WIDTH, ENV_STEPS)
    wide = Kind("depth4-wide", f"depth {SHALLOW}, as many parameters (width {WIDE})", SHALLOW, WIDE, ENV_STEPS)
    # The longest runs first, so that no core waits for a long run at the end.
    first = [Run(kind, seed, out / "runs") for kind in (deep, wide, shallow) for seed in seeds]
    train_all(first, "training")
    second = [] if quick else _longer(first, shallow, deep)
    if second:
        train_all(second, f"depth {SHALLOW} for as many seconds")
    runs = sorted(first, key=lambda run: (shallow, deep, wide).index(run.kind)) + second
    click.echo("Drawing.")
    index = report(runs, out, env=ENV, quick=quick)
    click.echo(f"Took {time.perf_counter() - start:.0f} s. Open {index} in a browser.")


def _longer(first: Sequence[Run], shallow: Kind, deep: Kind) -> list[Run]:
    """Runs of the shallow network for as many seconds as the deep network took, one run for each seed."""
    ratio = _seconds(first, deep) / _seconds(first, shallow)
    steps = 1000 * round(ENV_STEPS * ratio / 1000)
    longer = Kind("depth4-long", f"depth {SHALLOW}, as many seconds", SHALLOW, WIDTH, steps)
    return [Run(longer, run.seed, run.runs) for run in first if run.kind == shallow]


def _seconds(runs: Sequence[Run], kind: Kind) -> float:
    """Mean training seconds over the runs of a kind, without stalls of the machine."""
    from analyses.common.runs import clock, metrics

    return float(np.mean([clock(metrics(run.out))[0][-1] for run in runs if run.kind == kind]))
