"""``crlviz sweep``: train every combination of settings, each in its own run directory, in parallel processes."""

import contextlib
import heapq
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from crlviz import envs
from crlviz.algorithms import registry
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.processes import interrupts, process_pool
from training.sweep.grid import Cell, grid

if TYPE_CHECKING:
    from training.sweep.ray_cluster import Cluster

_LONGEST_NAME = 200  # bytes in the name of a log file; file systems allow 255
_LAST = 5  # a run is summarized by the mean of its last five evaluations (paper section 4)
# A rough cost model that orders groups by duration, measured on a laptop core: seconds before a process trains,
# multiply-adds per second on one core, and the cost of the rest of a layer as a number of multiply-adds.
_START_UP_SECONDS = 15.0
_MULTIPLY_ADDS_PER_SECOND = 4e9
_LAYER_OVERHEAD = 170_000


@dataclass(frozen=True)
class Group:
    """Cells that one process trains. They differ only in their seed.

    Attributes:
      cells: all new, or all to resume.
      begun: whether they are to resume.
    """

    cells: tuple[Cell, ...]
    begun: bool

    @property
    def name(self) -> str:
        """Name of the log file, without its ending."""
        seeds = _format_ranges(cell.config.seed for cell in self.cells)
        name = f"{self.cells[0].kind}-seed{'s' * (len(self.cells) > 1)}{seeds}"
        if len(name.encode()) > _LONGEST_NAME:  # truncate; a checksum of the full name keeps it unique
            name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{zlib.crc32(name.encode()):08x}"
        return name

    @property
    def arguments(self) -> tuple[str, ...]:
        """Command line after ``crlviz``. Interrupted runs resume from their last saved state."""
        if self.begun:
            return ("train", *(text for cell in self.cells for text in ("--resume", str(cell.out))))
        first = self.cells[0]
        if len(self.cells) == 1:
            return (*first.arguments, "--seed", str(first.config.seed), "--out", str(first.out))
        seeds = ",".join(str(cell.config.seed) for cell in self.cells)
        return (*first.arguments, "--seed", seeds, "--out", str(first.folder / f"{first.kind}-seed{{seed}}"))

    @property
    def seconds(self) -> float:
        """Rough duration on one core, good enough to order groups."""
        return _START_UP_SECONDS + sum(map(_train_seconds, self.cells))

    def halves(self) -> list["Group"]:
        """Split the cells into two groups of nearly equal size."""
        half = len(self.cells) // 2
        return [Group(self.cells[:half], self.begun), Group(self.cells[half:], self.begun)]


def _format_ranges(seeds: Iterable[int]) -> str:
    """Format integers as ranges: 0-4,7."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _train_seconds(cell: Cell) -> float:
    """Estimated seconds on one core for all updates, from the matrix products in the layers of actor, phi and psi."""
    config, counts = cell.config, cell.config.schedule
    update = sum(
        network.depth * (network.width**2 * config.batch_size + _LAYER_OVERHEAD)
        for network in (config.actor, config.critic, config.critic)
    )
    return update * counts.gradient_steps(counts.steps) / _MULTIPLY_ADDS_PER_SECOND


def grouped(cells: Sequence[Cell], at_once: int, *, apart: bool = False) -> list[Group]:
    """Group the unfinished cells by kind; longest group first.

    The seeds of one kind form a group, which starts and compiles once. A group is split in half when that shortens the
    sweep: no core should be idle while another has several cells to train.

    Args:
      cells: from ``grid``.
      at_once: how many groups train in parallel.
      apart: make each cell its own group.
    """
    kinds: dict[Any, list[Cell]] = {}
    for cell in cells:
        if not cell.finished:
            kinds.setdefault((cell.name if apart else cell.kind, cell.begun), []).append(cell)
    groups = [Group(tuple(kind), begun) for (_, begun), kind in kinds.items()]
    while True:
        groups.sort(key=lambda group: -group.seconds)
        for index, group in enumerate(groups):
            split = [*groups[:index], *group.halves(), *groups[index + 1 :]]
            if len(group.cells) > 1 and busy_seconds(split, at_once) < busy_seconds(groups, at_once):
                groups = split
                break
        else:
            return groups


def busy_seconds(groups: Sequence[Group], at_once: int) -> list[float]:
    """Busy seconds of each core, largest first, when the longest groups start first."""
    busy = [0.0] * at_once
    for seconds in sorted((group.seconds for group in groups), reverse=True):
        heapq.heapreplace(busy, busy[0] + seconds)
    return sorted(busy, reverse=True)


def train_groups(
    cells: Sequence[Cell], groups: Sequence[Group], logs: Path, at_once: int, nodes: "Cluster | None" = None
) -> dict[str, str]:
    """Train each group of cells in its own process.

    Args:
      cells: all cells of the sweep.
      groups: the unfinished cells, from ``grouped``.
      logs: directory of the log files, one for each group.
      at_once: how many groups train in parallel, on disjoint cores.
      nodes: the cluster to train on; None: this machine.

    Returns:
      For each cell that failed, its name and the reason.
    """
    jobs = {process_pool.Job(group.arguments, logs / f"{group.name}.txt"): group for group in groups}
    left = sum(len(group.cells) for group in groups)
    failed: dict[str, str] = {}
    total, waiting = sum(cell.total for cell in cells), sum(cell.total for group in groups for cell in group.cells)
    ended_steps = total - waiting
    # Processes on one accelerator divide its memory. The variable has no effect on a CPU.
    shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / at_once:.2f}"} if at_once > 1 else {}
    if nodes:
        job_ticks = nodes.run(list(jobs), lambda job: [group.arguments for group in grouped(jobs[job].cells, 1)])
    else:
        job_ticks = process_pool.run(list(jobs), at_once, shared)
    bar = tqdm(total=total, initial=ended_steps, unit="step", unit_scale=True, disable=None)
    with bar, contextlib.closing(job_ticks) as ticks:
        for running, ended in ticks:
            for job, _ in ended:
                for cell in jobs[job].cells:
                    ended_steps += cell.total
                    left -= 1
                    if not cell.finished:
                        failed[cell.name] = _failure_reason(cell, job)
                    tqdm.write(f"{cell.name}: {_result(cell, failed)}")
            bar.n = ended_steps + sum(cell.done for job in running for cell in jobs[job].cells)
            bar.set_postfix_str(f"{len(cells) - left} of {len(cells)} runs", refresh=False)
            bar.refresh()
    return failed


def _failure_reason(cell: Cell, job: process_pool.Job) -> str:
    """Why a cell did not finish: the last line of the log about this cell, else the last line."""
    lines = [line for line in job.log_lines if line.startswith(f"{cell.out}: ")]
    return printable(lines[-1].removeprefix(f"{cell.out}: ")) if lines else job.last_words


def _result(cell: Cell, failed: Mapping[str, str]) -> str:
    if cell.name in failed:
        return f"failed: {failed[cell.name]}"
    from training.run.runner import scores_in_words  # it imports jax

    last = cell.rows[-_LAST:]
    return f"{scores_in_words(last)}, {float(last[-1]['train_seconds']):.0f} s of training"


def _default_jobs() -> int:
    """1 on an accelerator, else the number of cores. A child process asks jax, so that this one holds no device."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import jax; print(jax.default_backend())"],
        capture_output=True,
        text=True,
        check=False,
    )
    return len(process_pool.cores()) if done.stdout.strip() in ("cpu", "") else 1


@click.command()
@click.argument("env", required=False)
@click.option("--dataset", type=click.Path(path_type=Path), help="Learn from this file, as in crlviz train --dataset.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Parent of the run directories.")
@click.option(
    "--preset",
    help="Settings to start from: paper, laptop or smoke.  [default: laptop for bodies of plain jax, else paper]",
)
@click.option("--algorithm", help=f"Learning algorithms: {', '.join(registry.NAMES)}.  [default: crl]")
@click.option("--depth", help="Layers in residual blocks, for actor and critic.")
@click.option("--actor-depth", help="Depth of the actor only.")
@click.option("--critic-depth", help="Depth of the critic encoders only.")
@click.option("--width", help="Units of each layer.")
@click.option("--seed", default="0", show_default=True, help="Seed of the random number generator.")
@click.option("--batch-size", help="Rows in a batch.")
@click.option("--env-steps", help="Total steps, over all environments.")
@click.option("--gradient-steps", help="Total updates, on a data set.")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--max-pair-distance", help="Train on start-goal pairs at most this many cells apart; none: all.")
@click.option(
    "--ablate",
    help="Also train without each of these: residual, layer-norm, swish (with ReLU instead); or hyperspherical: with "
    "weights on the unit sphere instead of LayerNorm.",
)
@click.option("--layout", type=click.Path(path_type=Path), help="Custom maze, for ENV point_maze.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE[,VALUE...]", help="Any other setting.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Parallel processes.  [default: 1 on a GPU, else one per core; on a cluster, as many as fit]",
)
@click.option("--apart", is_flag=True, help="Train each seed in its own process.")
@click.option("--cluster", metavar="HOST:PORT|auto", help="Train on this Ray cluster; auto: the one that runs here.")
@click.option(
    "--gpus-per-cell",
    type=click.FloatRange(0),
    help="GPUs for each process on the cluster.  [default: 1 if it has any]",
)
@click.option("--cpus-per-cell", type=click.IntRange(1), help="Cores for each process on the cluster.  [default: 1]")
@click.option("--retries", type=click.IntRange(0), help="Restarts of a process that the cluster lost.  [default: 3]")
@click.option("--dry-run", is_flag=True, help="Print the combinations and their cost, and do not train.")
def command(
    env: str | None,
    dataset: Path | None,
    out: Path,
    preset: str | None,
    ablate: str | None,
    layout: Path | None,
    settings: tuple[str, ...],
    jobs: int | None,
    apart: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train every combination of settings. ENV and each option take several values, such as 4,8,16 or 0-4.

    Each combination gets a run directory in OUT. Those that differ only in their seed share one process, as in crlviz
    train --seed 0-4, or several where a core would be idle. Combinations that are finished in OUT are skipped: the same
    command continues after a failure or a Ctrl-C, and a larger sweep only trains the new ones.

    With --cluster the processes run on the nodes of a Ray cluster. All nodes must see OUT and have the same Python
    environment. If a node is lost, its runs resume on another node from their last saved state.

    \b
    Example: crlviz sweep point_big_maze --depth 4,8,16 --seed 0-4 --out runs
             crlviz sweep point_big_maze --depth 4,8,16 --seed 0-4 --out runs --cluster auto
             crlviz sweep --dataset walks.nc --algorithm crl,gcbc --depth 4,16 --out runs
    """
    with interrupts.exit_at_once():
        import jax

        jax.config.update("jax_platforms", "cpu")  # leave the accelerator to the training processes
    cluster_options = {name: options.pop(name) for name in ("cluster", "cpus_per_cell", "gpus_per_cell", "retries")}
    if cluster_options["cluster"]:  # relative paths mean nothing on another node
        out, layout, dataset = out.absolute(), layout and layout.absolute(), dataset and dataset.absolute()
    if not env and not dataset:
        raise UsageError("sweep takes ENV or --dataset FILE")
    shared: dict[str, Any] = {"ablate": ablate, "preset": preset, "layout": layout, "file": dataset}
    cells = grid(env, out, options, settings=settings, **shared)
    with _connect(cluster_options, jobs) as nodes:
        _sweep(cells, out, nodes, nodes.at_once if nodes else jobs or _default_jobs(), apart, dry_run)


@contextlib.contextmanager
def _connect(options: Mapping[str, Any], jobs: int | None) -> Iterator["Cluster | None"]:
    """Connect to the cluster that ``--cluster`` names; None without that option: train on this machine."""
    if not options["cluster"]:
        for name, value in options.items():
            if value is not None:
                raise UsageError(f"--{name.replace('_', '-')} needs --cluster")
        yield None
        return
    from training.sweep import ray_cluster  # imports ray

    resources = {"cpus": options["cpus_per_cell"], "gpus": options["gpus_per_cell"], "retries": options["retries"]}
    with ray_cluster.connect(options["cluster"], **resources, most=jobs) as nodes:
        yield nodes


def _sweep(cells: Sequence[Cell], out: Path, nodes: "Cluster | None", at_once: int, apart: bool, dry_run: bool) -> None:
    """Train the cells and print each result; with ``dry_run``, only print their cost."""
    begun = [cell for cell in cells if cell.begun]
    finished = [cell for cell in begun if cell.finished]
    groups = grouped(cells, at_once, apart=apart)
    if dry_run:
        click.echo(_plan(cells, groups))
        return
    click.echo(
        f"{len(cells)} runs in {out}: {len(finished)} finished, {len(begun) - len(finished)} to resume, "
        f"{len(cells) - len(begun)} new"
    )
    logs = out / process_pool.LOGS
    try:
        failed = train_groups(cells, groups, logs, at_once, nodes)
    except KeyboardInterrupt:
        done = sum(cell.finished for cell in cells)
        click.echo(f"\n{done} of {len(cells)} runs are finished; run the same command again to continue.", err=True)
        raise
    width = max(len(cell.name) for cell in cells)
    click.echo("\n".join([f"\n{'run':{width}}", *(f"{cell.name:{width}}  {_result(cell, failed)}" for cell in cells)]))
    if failed:
        raise CrlvizError(
            f"{len(failed)} of {len(cells)} runs failed: {', '.join(failed)}; their logs are in {logs}; run the same "
            "command again to retry"
        )


def _plan(cells: Sequence[Cell], groups: Sequence[Group]) -> str:
    """Table of the cells: parameters, cost, steps and the process that trains each."""
    from training.loop.train_loop import cost_of
    from training.run.building import algorithm  # imports brax

    environments: dict[str, Any] = {}
    process = {cell.name: str(number) for number, group in enumerate(groups, 1) for cell in group.cells}
    width = max(len(cell.name) for cell in cells)
    lines = [f"{'run':{width}}{'parameters':>13}{'FLOPs/update':>14}{'updates':>12}{'env steps':>14}{'process':>10}"]
    for cell in cells:
        config = cell.config
        env_key = f"{config.env} {config.layout} {config.env_options}"
        if env_key not in environments and config.env:
            environments[env_key] = envs.make(config.env, layout=config.layout or None, **config.env_options)
        method, counts = algorithm(config, environments.get(env_key)), config.schedule
        rows = config.dataset.replaced(method.recorded) if config.dataset.path else None
        cost = cost_of(method, config.batch_size, rows)
        lines.append(
            f"{cell.name:{width}}{cost['parameters']:13,}{cost['flops_per_update']:14.3g}"
            f"{counts.gradient_steps(counts.steps):12,}{counts.total_env_steps:14,}"
            f"{process.get(cell.name, 'finished'):>10}"
        )
    left, unit = sum(cell.total for cell in cells if cell.name in process), cells[0].config.schedule.unit
    lines.append(
        f"{len(cells)} runs, {len(cells) - len(process)} of them finished; {sum(cell.total for cell in cells):,} "
        f"{unit}s, {left:,} of them left"
    )
    return "\n".join(lines)
