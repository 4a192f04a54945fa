"""``crlviz sweep``: train every combination of settings, a run directory each, in processes of their own."""

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
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.processes import interrupts, process_pool
from training.config import schedule
from training.sweep.grid import Cell, grid

if TYPE_CHECKING:
    from training.sweep.ray_cluster import Cluster

_LONGEST_NAME = 200  # bytes of a log's; file systems take 255
_LAST = 5  # a run's single number is the mean of its last five evaluations (paper section 4)
# To tell long groups from short ones, roughly, as measured on a laptop-class core: seconds of a process before it
# trains, products of matrices that a core gets through in a second, and as how many of them the rest of a layer counts.
_START_UP = 15.0
_PRODUCTS_A_SECOND = 4e9
_REST_OF_A_LAYER = 170_000


@dataclass(frozen=True)
class Group:
    """Cells that one process trains: they differ in their seed alone.

    Attributes:
      cells: all new, or all broken off.
      begun: which of the two.
    """

    cells: tuple[Cell, ...]
    begun: bool

    @property
    def name(self) -> str:
        """Of its log."""
        name = (
            f"{self.cells[0].kind}-seed{'s' * (len(self.cells) > 1)}{_short(cell.config.seed for cell in self.cells)}"
        )
        if len(name.encode()) > _LONGEST_NAME:  # the whole of it as a number, after what there is room for
            name = f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{zlib.crc32(name.encode()):08x}"
        return name

    @property
    def arguments(self) -> tuple[str, ...]:
        """What to type after ``crlviz``: runs that were broken off go on from their last saved states."""
        if self.begun:
            return ("train", *(text for cell in self.cells for text in ("--resume", str(cell.out))))
        first = self.cells[0]
        if len(self.cells) == 1:
            return (*first.arguments, "--seed", str(first.config.seed), "--out", str(first.out))
        seeds = ",".join(str(cell.config.seed) for cell in self.cells)
        return (*first.arguments, "--seeds", seeds, "--out", str(first.folder / f"{first.kind}-seed{{seed}}"))

    @property
    def seconds(self) -> float:
        """About how long it takes on a core, to tell a long one from a short one."""
        return _START_UP + sum(map(_work, self.cells))

    def halves(self) -> list["Group"]:
        half = len(self.cells) // 2
        return [Group(self.cells[:half], self.begun), Group(self.cells[half:], self.begun)]


def _short(seeds: Iterable[int]) -> str:
    """Whole numbers as 0-4,7."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _work(cell: Cell) -> float:
    """Seconds on a core of all updates of actor, phi and psi, by the products in their hidden layers."""
    config, counts = cell.config, schedule(cell.config)
    update = sum(
        network.depth * (network.width**2 * config.batch_size + _REST_OF_A_LAYER)
        for network in (config.actor, config.critic, config.critic)
    )
    return update * counts.gradient_steps(config, counts.steps) / _PRODUCTS_A_SECOND


def grouped(cells: Sequence[Cell], at_once: int, *, apart: bool = False) -> list[Group]:
    """The cells that are not finished, in groups, the longest first.

    Seeds of one kind make a group, which starts and compiles once. It is halved where the sweep ends sooner then: no
    core should be idle while another has several cells to do.

    Args:
      cells: from ``grid``.
      at_once: how many groups train at the same time.
      apart: each cell is a group of its own.
    """
    kinds: dict[Any, list[Cell]] = {}
    for cell in cells:
        if not cell.finished:
            kinds.setdefault((cell.name if apart else cell.kind, cell.begun), []).append(cell)
    groups = [Group(tuple(kind), begun) for (_, begun), kind in kinds.items()]
    while True:
        groups.sort(key=lambda group: -group.seconds)
        for place, group in enumerate(groups):
            split = [*groups[:place], *group.halves(), *groups[place + 1 :]]
            if len(group.cells) > 1 and _busy(split, at_once) < _busy(groups, at_once):
                groups = split
                break
        else:
            return groups


def _busy(groups: Sequence[Group], at_once: int) -> list[float]:
    """Seconds that each core is busy, the busiest first, when the longest group is begun first."""
    busy = [0.0] * at_once
    for seconds in sorted((group.seconds for group in groups), reverse=True):
        heapq.heapreplace(busy, busy[0] + seconds)
    return sorted(busy, reverse=True)


def train_groups(
    cells: Sequence[Cell], groups: Sequence[Group], logs: Path, at_once: int, nodes: "Cluster | None" = None
) -> dict[str, str]:
    """Train groups of cells, each in a process of its own.

    Args:
      cells: of the whole sweep.
      groups: of those that are not finished, from ``grouped``.
      logs: directory of what each prints.
      at_once: how many train at the same time, on disjoint cores.
      nodes: where; None: on this machine.

    Returns:
      Of each cell that failed, its name and why.
    """
    jobs = {process_pool.Job(group.arguments, logs / f"{group.name}.txt"): group for group in groups}
    left = sum(len(group.cells) for group in groups)
    failed: dict[str, str] = {}
    total, waiting = sum(cell.total for cell in cells), sum(cell.total for group in groups for cell in group.cells)
    ended_steps = total - waiting
    # Processes that share an accelerator share its memory; on a CPU this says nothing.
    shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / at_once:.2f}"} if at_once > 1 else {}
    if nodes:
        every = nodes.run(list(jobs), lambda job: [todo.arguments for todo in grouped(jobs[job].cells, 1)])
    else:
        every = process_pool.run(list(jobs), at_once, shared)
    bar = tqdm(total=total, initial=ended_steps, unit="step", unit_scale=True, disable=None)
    with bar, contextlib.closing(every) as ticks:
        for running, ended in ticks:
            for job, _ in ended:
                for cell in jobs[job].cells:
                    ended_steps += cell.total
                    left -= 1
                    if not cell.finished:
                        failed[cell.name] = _why(cell, job)
                    tqdm.write(f"{cell.name}: {_result(cell, failed)}")
            bar.n = ended_steps + sum(cell.done for job in running for cell in jobs[job].cells)
            bar.set_postfix_str(f"{len(cells) - left} of {len(cells)} cells", refresh=False)
            bar.refresh()
    return failed


def _why(cell: Cell, job: process_pool.Job) -> str:
    """Why a cell is not finished: what its process said of it, or said last."""
    own = [line for line in job.words if line.startswith(f"{cell.out}: ")]
    return printable(own[-1].removeprefix(f"{cell.out}: ")) if own else job.last_words


def _result(cell: Cell, failed: Mapping[str, str]) -> str:
    if cell.name in failed:
        return f"failed: {failed[cell.name]}"
    last = cell.rows[-_LAST:]
    success, steps = (sum(float(row[name]) for row in last) / len(last) for name in ("success", "time_at_goal"))
    return f"success {success:.2f}, time at goal {steps:.0f}, {float(last[-1]['train_seconds']):.0f} s of training"


def _default_jobs() -> int:
    """One run at a time on an accelerator, else one a core. Asked in a process of its own, which frees the device."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import jax; print(jax.default_backend())"],
        capture_output=True,
        text=True,
        check=False,
    )
    return len(process_pool.cores()) if done.stdout.strip() in ("cpu", "") else 1


@click.command()
@click.argument("env")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the run directories.")
@click.option(
    "--preset",
    help="Settings to start from: paper, laptop or smoke.  [default: laptop for point and swimmer, else paper]",
)
@click.option("--depth", help="Layers inside residual blocks, of actor and critic.")
@click.option("--actor-depth", help="The actor's alone.")
@click.option("--critic-depth", help="The critic encoders' alone.")
@click.option("--width", help="Units of each layer.")
@click.option("--seed", default="0", show_default=True, help="Of everything random.")
@click.option("--batch-size", help="Rows of an update.")
@click.option("--env-steps", help="Steps in total, over all environments.")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--max-pair-distance", help="Train on starts and goals at most so many cells apart; none: on all.")
@click.option("--ablate", help="Also without each of these: residual, layer-norm, swish (ReLU in its place).")
@click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE[,VALUE...]", help="Any other setting.")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Processes at the same time.  [default: 1 on a GPU, else one a core; all that a cluster has room for]",
)
@click.option("--apart", is_flag=True, help="A process for each seed, not one for the seeds of a cell.")
@click.option("--cluster", metavar="HOST:PORT|auto", help="Train on the nodes of this Ray cluster; auto: the one here.")
@click.option(
    "--gpus-per-cell", type=click.FloatRange(0), help="GPUs of a process there.  [default: 1 if there are any]"
)
@click.option("--cpus-per-cell", type=click.IntRange(1), help="Cores likewise.  [default: 1]")
@click.option("--retries", type=click.IntRange(0), help="How often what is lost there is begun again.  [default: 3]")
@click.option("--dry-run", is_flag=True, help="Print the cells and what they cost; train nothing.")
def command(env, out, preset, ablate, layout, settings, jobs, apart, dry_run, **options) -> None:
    """Train every combination of settings: ENV and each option take several values, 4,8,16 or 0-4.

    A run directory a cell is made in OUT. Cells that differ in their seed alone are trained by one process, as crlviz
    train --seeds does, or by several where a core would be idle. Cells that OUT holds finished are skipped, so the same
    command goes on after a failure or a Ctrl-C, and a larger one adds to it.

    With --cluster the processes run on the nodes of a Ray cluster, which all see OUT and have the same Python
    environment. What is lost with its node goes on from its last saved state on another.

    \b
    Example: crlviz sweep point_big_maze --depth 4,8,16 --seed 0-4 --out runs
             crlviz sweep point_big_maze --depth 4,8,16 --seed 0-4 --out runs --cluster auto
    """
    with interrupts.nothing_begun():
        import jax

        jax.config.update("jax_platforms", "cpu")  # this process only counts: the accelerator is for the runs
    where = {name: options.pop(name) for name in ("cluster", "cpus_per_cell", "gpus_per_cell", "retries")}
    if where["cluster"]:  # nodes know no directory of this process
        out, layout = out.absolute(), layout and layout.absolute()
    cells = grid(env, out, options, settings=settings, ablate=ablate, preset=preset, layout=layout)
    with _nodes(where, jobs) as nodes:
        _sweep(cells, out, nodes, nodes.at_once if nodes else jobs or _default_jobs(), apart, dry_run)


@contextlib.contextmanager
def _nodes(where: Mapping[str, Any], jobs: int | None) -> Iterator["Cluster | None"]:
    """Where to train, by the options that start at ``--cluster``; None: on this machine."""
    if not where["cluster"]:
        for name, value in where.items():
            if value is not None:
                raise UsageError(f"--{name.replace('_', '-')} goes with --cluster")
        yield None
        return
    from training.sweep import ray_cluster  # ray

    need = {"cpus": where["cpus_per_cell"], "gpus": where["gpus_per_cell"], "retries": where["retries"]}
    with ray_cluster.connect(where["cluster"], **need, most=jobs) as nodes:
        yield nodes


def _sweep(cells: Sequence[Cell], out: Path, nodes: "Cluster | None", at_once: int, apart: bool, dry_run: bool) -> None:
    """Train the cells and tell how each ended; or tell what they would cost."""
    begun = [cell for cell in cells if cell.begun]
    finished = [cell for cell in begun if cell.finished]
    groups = grouped(cells, at_once, apart=apart)
    if dry_run:
        click.echo(_plan(cells, groups))
        return
    click.echo(
        f"{len(cells)} cells in {out}: {len(finished)} finished, {len(begun) - len(finished)} broken off, which go on, "
        f"{len(cells) - len(begun)} new"
    )
    logs = out / process_pool.LOGS
    try:
        failed = train_groups(cells, groups, logs, at_once, nodes)
    except KeyboardInterrupt:
        done = sum(cell.finished for cell in cells)
        click.echo(f"\n{done} of {len(cells)} cells are finished; the same command goes on with the others.", err=True)
        raise
    width = max(len(cell.name) for cell in cells)
    click.echo("\n".join([f"\n{'cell':{width}}", *(f"{cell.name:{width}}  {_result(cell, failed)}" for cell in cells)]))
    if failed:
        raise CrlvizError(
            f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}; their logs are in {logs}, and the same "
            "command tries them again"
        )


def _plan(cells: Sequence[Cell], groups: Sequence[Group]) -> str:
    """What a sweep would train, as a table of text."""
    from training.run.compiled import algorithm  # brax

    made: dict[str, Any] = {}
    costs: dict[Any, dict[str, int]] = {}
    process = {cell.name: str(number) for number, group in enumerate(groups, 1) for cell in group.cells}
    width = max(len(cell.name) for cell in cells)
    lines = [f"{'cell':{width}}{'parameters':>13}{'FLOPs/update':>14}{'updates':>12}{'env steps':>14}{'process':>10}"]
    for cell in cells:
        config = cell.config
        world = f"{config.env} {config.layout} {config.env_options}"
        if world not in made:
            made[world] = envs.make(config.env, layout=config.layout or None, **config.env_options)
        method, counts = algorithm(config, made[world]), schedule(config)
        key = method, config.batch_size  # seeds cost the same
        costs[key] = cost = costs.get(key) or method.cost(config.batch_size)
        lines.append(
            f"{cell.name:{width}}{cost['parameters']:13,}{cost['flops_per_update']:14.3g}"
            f"{counts.gradient_steps(config, counts.steps):12,}{cell.total:14,}{process.get(cell.name, 'finished'):>10}"
        )
    left = sum(cell.total for cell in cells if cell.name in process)
    lines.append(
        f"{len(cells)} cells, {len(cells) - len(process)} of them finished; {sum(cell.total for cell in cells):,} "
        f"environment steps, {left:,} of them to go"
    )
    return "\n".join(lines)
