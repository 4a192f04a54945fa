"""``crlviz sweep``: train every combination of settings, a run directory each, in processes of their own."""

import contextlib
import csv
import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from crlviz import checkpoints, envs, processes
from crlviz.errors import CrlvizError, UsageError
from training import config as configs
from training.config import TrainConfig, from_options, schedule

# What --ablate takes out of actor and critic, as a field and its value (paper figures 5 and 16).
ABLATIONS = {"residual": ("residual", "false"), "layer-norm": ("layer_norm", "false"), "swish": ("activation", "relu")}
_LAST = 5  # a run's single number is the mean of its last five evaluations (paper section 4)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep. Cells that differ in their seed alone stand together.

    Attributes:
      name: of its directory: its depth and seed, and where it leaves its preset.
      out: its run directory.
      config: what it is told.
      arguments: what one types after ``crlviz`` to train it.
    """

    name: str
    out: Path
    config: TrainConfig
    arguments: tuple[str, ...]

    @property
    def total(self) -> int:
        """Environment steps of the whole run."""
        counts = schedule(self.config)
        return counts.env_steps(self.config, counts.steps)

    @property
    def rows(self) -> list[dict[str, str]]:
        """Its evaluations so far."""
        try:
            with open(self.out / "metrics.csv", newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file))
        except OSError:
            return []

    @property
    def done(self) -> int:
        """Environment steps of its last evaluation."""
        rows = self.rows
        return int(rows[-1]["env_steps"] or 0) if rows else 0

    @property
    def finished(self) -> bool:
        from training.trainer import finished  # brax

        return self.begun and finished(self.out)

    @property
    def begun(self) -> bool:
        """Whether its directory holds this very run, finished or not.

        Raises:
          UsageError: the directory holds something else.
        """
        if not (self.out / "config.json").is_file():
            if self.out.exists() and (not self.out.is_dir() or any(p.name[0] != "." for p in self.out.iterdir())):
                raise UsageError(f"{self.out} exists and is no run directory; give another directory to --out")
            return False
        there, here = (
            flatten_dict(dataclasses.asdict(config), sep=".")
            for config in (configs.load(checkpoints.read_config(self.out)["config"]), self.config)
        )
        for name in {**here, **there}:
            then, now = there.get(name), here.get(name)  # an environment's options may be on one side alone
            if name not in configs.KEEPING and then != now:
                raise UsageError(
                    f"{self.out} holds a run with other settings: {name} is {then} there and {now} in this "
                    "sweep; give another directory to --out"
                )
        return True

    @property
    def job(self) -> tuple[str, ...]:
        """What to type after ``crlviz`` now: a run that was broken off goes on from its last saved state."""
        return ("train", "--resume", str(self.out)) if self.begun else self.arguments


def grid(
    env: str,
    out: Path,
    options: Mapping[str, str | None],
    *,
    settings: Sequence[str] = (),
    ablate: str | None = None,
    preset: str | None = None,
    layout: Path | None = None,
) -> list[Cell]:
    """The cells of a sweep, checked; seeds vary fastest.

    Args:
      env: environment ids with commas between.
      out: the directory of their run directories.
      options: values of the options of ``crlviz train`` by name, with commas between, 0-4 for 0,1,2,3,4; None: not
        given.
      settings: ``NAME=VALUE[,VALUE...]``.
      ablate: keys of ``ABLATIONS`` with commas between: each is left out in turn, besides the full network.
      preset: settings to start from.
      layout: a maze of one's own.

    Raises:
      UsageError: a value out of range, or two cells of one name.
    """
    axes = {"env": _values("ENV", env)}
    axes |= {name: _values(name, text) for name, text in options.items() if text is not None}
    for setting in settings:
        name, equals, text = setting.partition("=")
        axes[f"{name}{equals}"] = _values(name, text) if equals else [""]
    axes["ablate"] = ["", *(_values("ablate", ablate) if ablate else [])]
    axes["seed"] = axes.pop("seed", ["0"])  # last, so that it varies fastest
    various = [name for name, values in axes.items() if len(values) > 1]
    cells: dict[str, Cell] = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        given = {name: value for name, value in chosen.items() if name in options or name == "seed"}
        sets = [name + value for name, value in chosen.items() if name not in (*given, "env", "ablate")]
        sets += _without(chosen["ablate"])
        id = chosen["env"]
        config = from_options(id, preset, given, sets, layout)
        envs.check(id, config.layout or None)
        if config.eval_env:
            envs.check(config.eval_env)
        schedule(config)
        name = _name(config, from_options(id, preset, layout=layout), {name: chosen[name] for name in various})
        typed = ["train", id, *(["--preset", preset] if preset else []), *(["--layout", str(layout)] if layout else [])]
        typed += [text for name, value in given.items() for text in (_flag(name), value)]
        typed += [text for setting in sets for text in ("--set", setting)]
        cell = Cell(name, out / name, config, (*typed, "--out", str(out / name)))
        if cells.setdefault(name, cell).config != config:
            raise UsageError(f"two cells of this sweep would be called {name}; sweep them into two directories")
    return list(cells.values())


def _values(name: str, text: str) -> list[str]:
    """``4,8`` or ``0-4`` as single values."""
    values: list[str] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        if dash and low.isdigit() and high.isdigit():
            values += map(str, range(int(low), int(high) + 1))
        else:
            values.append(part.strip())
    if not all(values) or not values:
        raise UsageError(f"{_flag(name)} takes values with commas between, or a range as 0-4, not {text!r}")
    return list(dict.fromkeys(values))


def _flag(name: str) -> str:
    return name if name == "ENV" else f"--{name.replace('_', '-')}"


def _without(part: str) -> list[str]:
    """The settings that leave a part of the network out."""
    if part and part not in ABLATIONS:
        raise UsageError(f"--ablate takes {', '.join(ABLATIONS)}, not {part!r}")
    return [f"{network}.{'='.join(ABLATIONS[part])}" for network in ("actor", "critic") if part]


def _name(config: TrainConfig, plain: TrainConfig, various: Mapping[str, str]) -> str:
    """Depth, seed, and where a cell leaves its preset: the same run has the same name when a sweep grows."""
    actor, critic = config.actor, config.critic
    parts = [config.env] if "env" in various else []
    parts += [f"depth{critic.depth}"] if actor.depth == critic.depth else [f"actor{actor.depth}-critic{critic.depth}"]
    if (actor.width, critic.width) != (plain.actor.width, plain.critic.width):
        parts += [f"width{critic.width}"] if actor.width == critic.width else []
    if config.batch_size != plain.batch_size:
        parts.append(f"batch{config.batch_size}")
    if various.get("ablate"):
        parts.append(f"no-{various['ablate']}")
    named = ("env", "depth", "actor_depth", "critic_depth", "width", "batch_size", "ablate", "seed", "seed=")
    parts += [f"{name.removesuffix('=')}={value}" for name, value in various.items() if name not in named]
    return "-".join([*parts, f"seed{config.seed}"])


def train_cells(cells: Sequence[Cell], logs: Path, at_once: int) -> dict[str, str]:
    """Train the cells that are not finished; those that were broken off go on.

    Args:
      cells: from ``grid``.
      logs: directory of what each prints.
      at_once: how many train together, on disjoint cores.

    Returns:
      Of each cell that failed, its name and why.
    """
    waiting = {cell.name: cell for cell in cells if not cell.finished}
    jobs = [processes.Job(cell.job, logs / f"{cell.name}.txt") for cell in waiting.values()]
    by_job = dict(zip(jobs, waiting.values(), strict=True))
    failed: dict[str, str] = {}
    ended_steps = sum(cell.total for cell in cells if cell.name not in waiting)
    # Runs that share an accelerator share its memory; on a CPU this says nothing.
    shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / at_once:.2f}"} if at_once > 1 else {}
    bar = tqdm(total=sum(cell.total for cell in cells), initial=ended_steps, unit="step", unit_scale=True, disable=None)
    with bar, contextlib.closing(processes.run(jobs, at_once, shared)) as ticks:
        for running, ended in ticks:
            for job, code in ended:
                cell = by_job[job]
                ended_steps += cell.total
                if code or not cell.finished:
                    failed[cell.name] = job.last_words
                tqdm.write(f"{cell.name}: {_result(cell, failed)}")
                del waiting[cell.name]
            bar.n = ended_steps + sum(by_job[job].done for job in running)
            bar.set_postfix_str(f"{len(cells) - len(waiting)} of {len(cells)} cells", refresh=False)
            bar.refresh()
    return failed


def _result(cell: Cell, failed: Mapping[str, str]) -> str:
    if cell.name in failed:
        return f"failed: {failed[cell.name]}"
    last = cell.rows[-_LAST:]
    success, steps = (sum(float(row[name]) for row in last) / len(last) for name in ("success", "time_at_goal"))
    return f"success {success:.2f}, time at goal {steps:.0f}, {float(last[-1]['train_seconds']):.0f} s of training"


def _default_jobs() -> int:
    """One run at a time on an accelerator, else one a core. Asked in a process of its own, which frees the device."""
    done = subprocess.run(
        [sys.executable, "-c", "import jax; print(jax.default_backend())"], capture_output=True, text=True, check=False
    )
    return len(processes.cores()) if done.stdout.strip() in ("cpu", "") else 1


@click.command()
@click.argument("env")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the run directories.")
@click.option(
    "--preset", help="Settings to start from: paper, laptop or smoke.  [default: laptop for point, else paper]"
)
@click.option("--depth", help="Layers inside residual blocks, of actor and critic.")
@click.option("--actor-depth", help="The actor's alone.")
@click.option("--critic-depth", help="The critic encoders' alone.")
@click.option("--width", help="Units of each layer.")
@click.option("--seed", default="0", show_default=True, help="Of everything random.")
@click.option("--batch-size", help="Rows of an update.")
@click.option("--env-steps", help="Steps in total, over all environments.")
@click.option("--eval-env", help="Evaluate in another environment.")
@click.option("--ablate", help="Also without each of these: residual, layer-norm, swish (ReLU in its place).")
@click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE[,VALUE...]", help="Any other setting.")
@click.option(
    "--jobs", type=click.IntRange(1), help="Cells that train together.  [default: 1 on a GPU, else all cores]"
)
@click.option("--dry-run", is_flag=True, help="Print the cells and what they cost; train nothing.")
def command(env, out, preset, ablate, layout, settings, jobs, dry_run, **options) -> None:
    """Train every combination of settings: ENV and each option take several values, 4,8,16 or 0-4.

    A run directory a cell is made in OUT, each trained by a process of its own. Cells that OUT holds finished are
    skipped, so the same command goes on after a failure or a Ctrl-C, and a larger one adds to it.

    
    Example: crlviz sweep point_big_maze --depth 4,8,16 --seed 0-4 --out runs
    """
    import jax

    jax.config.update("jax_platforms", "cpu")  # this process only counts: the accelerator is for the runs
    cells = grid(env, out, options, settings=settings, ablate=ablate, preset=preset, layout=layout)
    begun = [cell for cell in cells if cell.begun]
    finished = [cell for cell in begun if cell.finished]
    if dry_run:
        click.echo(_plan(cells, finished))
        return
    click.echo(
        f"{len(cells)} cells in {out}: {len(finished)} finished, {len(begun) - len(finished)} broken off, which go on, "
        f"{len(cells) - len(begun)} new"
    )
    logs = out / processes.LOGS
    try:
        failed = train_cells(cells, logs, jobs or _default_jobs())
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


def _plan(cells: Sequence[Cell], finished: Sequence[Cell]) -> str:
    """What a sweep would train, as a table of text."""
    from training.programs import algorithm  # brax

    made: dict[str, Any] = {}
    costs: dict[Any, dict[str, int]] = {}
    width = max(len(cell.name) for cell in cells)
    lines = [f"{'cell':{width}}{'parameters':>13}{'FLOPs/update':>14}{'updates':>12}{'env steps':>14}"]
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
            f"{counts.gradient_steps(config, counts.steps):12,}{cell.total:14,}"
            + ("  finished" if cell in finished else "")
        )
    left = sum(cell.total for cell in cells if cell not in finished)
    lines.append(
        f"{len(cells)} cells, {len(finished)} of them finished; {sum(cell.total for cell in cells):,} environment "
        f"steps, {left:,} of them to go"
    )
    return "\n".join(lines)
