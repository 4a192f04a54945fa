"""Search for a world on a laptop in which depth pays, and confirm the best candidate.

    python examples/where_depth_pays.py screen --jobs 2 --seconds 1800 --out runs/screen
    python examples/where_depth_pays.py confirm --jobs 2 --seconds 7200 --out runs/confirm
    python examples/where_depth_pays.py later --jobs 2 --seconds 3600 --out runs/later
    python examples/where_depth_pays.py starts --jobs 2 --seconds 3600 --out runs/starts
    python examples/where_depth_pays/report.py

The protocol, fixed before the confirming runs:

- Question: does depth 16 reach more goals than depth 4 (1) after as many updates, (2) with as many parameters, which
  depth 4 has at twice the width, (3) after as many seconds of training on one core, collection included, and (4) with
  as many parameters and after as many seconds?
- Metric: success, the share of 128 evaluation episodes that come within the world's success distance of a goal, drawn
  from all goals of the world. The score of a run is the mean of its last five evaluations within its budget.
- Budget: environment steps, the same for all arms in (1) and (2), and with them updates. For (3) and (4) the runs of
  depth 4 go on, with evaluations as far apart; their budget ends with the last evaluation before the mean of the
  seconds that depth 16 took. Every process has one core, and all arms train on the same machine in one batch, their
  seeds in step.
- Screening: one to three seeds from 100 on for each arm; it claims nothing. It chose the start of the networks, the
  world in which depth 4 stays below depth 16 by most, and a width at which it does.
- Later worlds (``later``): screened by the same rules after the confirmation; none was confirmed.
- Other starts (``starts``): actor and critic of depth 16 in the open plane, screened by the same rules after the
  confirmation and compared with nothing; none was confirmed.
- Confirming: seeds from 0 on, at least eight, none of them used for screening. The runs are not looked at before the
  batch has ended, and there are no second attempts. A run that was cut short before the end of its budget is listed and
  not counted.
- Test: ``crlviz.statistics.compare``, 5 % over the four comparisons together. Depth 8, and depth 16 with the paper's
  start, train along with fewer seeds; they are shown and not compared.

Each batch writes RESULTS.csv, a row for each evaluation of each run. Those that the page of the search shows are in
``examples/where_depth_pays/``.
"""

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.options import read_values
from crlviz.processes import process_pool
from training.sweep.grid import Cell, grid

COLUMNS = (
    *("world", "depth", "width", "start", "seed", "parameters", "complete"),
    *("env_steps", "gradient_steps", "train_seconds", "success", "time_at_goal"),
)
_STOP_SECONDS = 8  # before the end, for running processes to stop


@dataclass(frozen=True)
class World:
    """A world to train in.

    Attributes:
      env: environment id.
      layout: rows of its maze, if it is one of ours.
      settings: in addition to the laptop preset.
      prefill: environment steps before the first update; whole training steps.
      every: environment steps between two evaluations; whole training steps.
    """

    env: str
    layout: tuple[str, ...] = ()
    settings: Mapping[str, object] | None = None
    prefill: int = 256_000
    every: int = 307_200


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only. ``start`` is that of the networks."""

    world: str
    depth: int
    width: int
    start: str = "quiet"
    env_steps: int = 0
    evaluations: int = 0
    seeds: str = "100-101"

    @property
    def name(self) -> str:
        return f"{self.world}-depth{self.depth}-width{self.width}-{self.start}"


def perfect_maze(rooms: int, seed: int = 0) -> tuple[str, ...]:
    """A maze with one way between any two cells, drawn at random; every cell is a start or a goal, alternately."""
    rng, rows = np.random.default_rng(seed), np.full((2 * rooms + 1,) * 2, "#")
    path = [(0, 0)]
    rows[1, 1] = "."
    while path:
        i, j = path[-1]
        around = [(i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)]
        fresh = [
            (k, m) for k, m in around if min(k, m) >= 0 and max(k, m) < rooms and rows[2 * k + 1, 2 * m + 1] == "#"
        ]
        if not fresh:
            path.pop()
            continue
        k, m = fresh[rng.integers(len(fresh))]
        rows[2 * k + 1, 2 * m + 1] = rows[i + k + 1, j + m + 1] = "."
        path.append((k, m))
    for i, j in np.argwhere(rows == "."):
        rows[i, j] = "rg"[(i + j) % 2]
    return tuple("".join(row) for row in rows)


WORLDS = {
    "swimmer": World("swimmer"),
    "swimmer_u_maze": World("swimmer_u_maze"),
    "point_perfect_5": World("point_maze", perfect_maze(5), prefill=96_000, every=134_400),
    "planar_arm": World("planar_arm"),
    "point_big_maze_distracted": World(
        "point_big_maze", settings={"env_options.distractors": 256}, prefill=96_000, every=134_400
    ),
}


def _arms(
    depth: int, width: int, seeds: str, millions: float = 6, *, world: str = "swimmer", start: str = "quiet"
) -> list[Arm]:
    """Arms of one seed each. Whatever their length, all arms in a world are evaluated at the same steps."""
    own = WORLDS[world]
    evaluations = round((millions * 1_000_000 - own.prefill) / own.every)
    steps = {"env_steps": own.prefill + own.every * evaluations, "evaluations": evaluations}
    return [Arm(world, depth, width, start, **steps, seeds=seed) for seed in read_values("seeds", seeds)]


# The longest first.
SCREEN = [
    *_arms(16, 32, "100-101"),
    *_arms(16, 32, "100-101", start="paper"),
    *_arms(4, 32, "100-101", 16),
    *_arms(4, 64, "100-102"),
    *_arms(16, 32, "100", world="swimmer_u_maze"),
    *_arms(16, 16, "100"),
    *_arms(4, 32, "100-101", start="paper"),
    *_arms(8, 32, "100"),
    *_arms(4, 32, "100", world="swimmer_u_maze"),
    *_arms(4, 16, "100"),
]
# Three runs a seed, each of about as many seconds; then controls of fewer seeds, which are not compared.
CONFIRM = [
    *(
        arm
        for seed in range(10)
        for arm in (*_arms(16, 32, str(seed)), *_arms(4, 32, str(seed), 17), *_arms(4, 64, str(seed), 13))
    ),
    *_arms(16, 32, "0-5", start="paper"),
    *_arms(8, 32, "0-5"),
]
# Worlds that were tried after the confirmation, one seed each. In two of them depth 4 trains for longer than depth 16.
LATER = [
    *_arms(16, 64, "100", 7, world="swimmer_u_maze"),
    *_arms(4, 64, "100", 21, world="swimmer_u_maze"),
    *_arms(4, 128, "100", 7, world="swimmer_u_maze"),
    *_arms(16, 32, "100", 4, world="planar_arm"),
    *_arms(4, 32, "100", 4, world="planar_arm"),
    *_arms(4, 64, "100", 4, world="planar_arm"),
    *_arms(16, 32, "100", 2.3, world="point_big_maze_distracted"),
    *_arms(4, 32, "100", 6, world="point_big_maze_distracted"),
    *_arms(4, 56, "100", 4, world="point_big_maze_distracted"),
]
# Other starts of depth 16 in the open plane, of which fresh networks promised most.
STARTS = [
    *_arms(16, 32, "100", start="zero_quiet_heads"),
    *_arms(16, 32, "100", start="norm_quiet_heads"),
]
BATCHES = {"screen": SCREEN, "confirm": CONFIRM, "later": LATER, "starts": STARTS}


def cells(arm: Arm, out: Path) -> list[Cell]:
    """The runs of an arm, in a folder of its own."""
    world = WORLDS[arm.world]
    layout = out / f"{arm.world}.txt" if world.layout else None
    if layout and not layout.exists():
        atomic_files.write(layout, "\n".join(world.layout).encode())
    settings = {"actor.start": arm.start, "critic.start": arm.start, "save_every": 1000, "save_replay": False}
    settings |= {"evaluations": arm.evaluations} if arm.evaluations else {}
    options = {"depth": arm.depth, "width": arm.width, "seed": arm.seeds, "env_steps": arm.env_steps or None}
    return grid(
        world.env,
        out / arm.name,
        {name: None if value is None else str(value) for name, value in options.items()},
        settings=[f"{name}={value}" for name, value in {**settings, **(world.settings or {})}.items()],
        layout=layout,
    )


def run(arms: Sequence[Arm], jobs: int, seconds: float, out: Path) -> Path:
    """Train the arms' runs, their seeds in step, until all are done or the seconds are over; write the results.

    Args:
      arms: most important first.
      jobs: processes at a time, each with a core of its own.
      seconds: of clock, from the start of this function.
      out: directory of the runs and of the results.

    Returns:
      The results file. A run that failed or was cut short keeps its rows, with ``complete`` 0.
    """
    end = time.monotonic() + seconds
    atomic_files.make_directory(out)
    of_arm = [(arm, cells(arm, out)) for arm in arms]
    queue = [(arm, own[k]) for k in range(max(len(own) for _, own in of_arm)) for arm, own in of_arm if k < len(own)]
    todo = [
        process_pool.Job(
            (*cell.arguments, "--seed", str(cell.config.seed), "--out", str(cell.out)),
            out / process_pool.LOGS / f"{arm.name}-seed{cell.config.seed}.txt",
        )
        for arm, cell in queue
        if not cell.begun
    ]
    shared = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(out.absolute() / "programs")}
    # The pool waits for processes that are slow to stop. An interrupt meanwhile kills them.
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with pinned(jobs), contextlib.closing(process_pool.run(todo, jobs, shared)) as ticks:
        for _, ended in ticks:
            for job, code in ended:
                print(f"{job.log.stem}: {job.last_words if code else 'done'}", flush=True)
            if ended:  # so that little is lost if this process is killed
                write_results(queue, out / "RESULTS.csv")
            if time.monotonic() > end - _STOP_SECONDS:
                signal.alarm(_STOP_SECONDS - 2)
                break
    signal.alarm(0)
    return write_results(queue, out / "RESULTS.csv")


@contextlib.contextmanager
def pinned(count: int) -> Iterator[None]:
    """Context in which this process uses only so many cores, which the pool then gives one to each of its processes."""
    cores = process_pool.cores()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores[:count])
    try:
        yield
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)


def write_results(runs: Sequence[tuple[Arm, Cell]], path: Path) -> Path:
    """Write a row for each evaluation of each run that has begun."""
    lines = [",".join(COLUMNS)]
    for arm, cell in runs:
        if not cell.rows:
            continue
        parameters, complete = RunDirectory(cell.out).read_config()["cost"]["parameters"], int(cell.done == cell.total)
        own = [arm.world, arm.depth, arm.width, arm.start, cell.config.seed, parameters, complete]
        lines += [",".join(map(str, [*own, *(row[name] for name in COLUMNS[len(own) :])])) for row in cell.rows]
    atomic_files.write(path, ("\n".join(lines) + "\n").encode())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch", choices=BATCHES, help="candidates, the winner, worlds or starts tried later")
    parser.add_argument("--jobs", type=int, default=len(process_pool.cores()), help="processes at a time")
    parser.add_argument("--seconds", type=float, required=True, help="stop after this time; what is unfinished says so")
    parser.add_argument("--out", type=Path, required=True, help="directory of the runs and RESULTS.csv")
    given = parser.parse_args()
    print(run(BATCHES[given.batch], given.jobs, given.seconds, given.out))


if __name__ == "__main__":
    main()
