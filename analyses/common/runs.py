"""Runs as data: learning curves, final scores and costs of run directories, grouped over seeds."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from crlviz import charts, datasets
from crlviz.checkpoints import run_directory
from crlviz.errors import CrlvizError
from crlviz.processes import process_pool

if TYPE_CHECKING:
    from crlviz.agent import Agent

LAST = 5  # a run's single number is the mean of its last five evaluations (paper section 4)
_STALL = 3  # an interval that took so many times as long as the run's median for as many steps is no training
METRICS = {"time_at_goal": "time at goal (steps)", "success": "goals reached (share)"}

# What tells runs apart besides task and seed.
FACTORS = ("algorithm", "depth", "width", "actor_depth", "actor_width", "network", "batch_size", "others", "trained")


def find(paths: Sequence[str | Path]) -> list[Path]:
    """The run directories at paths, in the order of their names, 4 before 16.

    Args:
      paths: run directories, or directories that hold some, as ``crlviz sweep`` and ``train --seeds`` make them. One
        that holds none is left out with a warning, as a star of the shell may give it.

    Raises:
      CrlvizError: nothing at a path, or no path holds a run.
    """
    found: list[Path] = []
    without = []
    for path in map(Path, paths):
        if not path.exists():
            raise CrlvizError(f"there is no {path}")
        inside = [path] if (path / "config.json").is_file() else run_directory.runs_in(path)
        found += inside
        if not inside and path.name != process_pool.LOGS:
            without.append(f"{path} is no run directory (no config.json) and holds none")
    if without and not found:
        raise CrlvizError(without[0])
    for words in without:
        warnings.warn(f"left out: {words}", stacklevel=2)
    return sorted(found, key=run_directory.by_number)


def collect(paths: Sequence[str | Path]) -> xr.Dataset:
    """``compute`` of all runs at paths (as ``find`` takes them), sorted by what they differ in."""
    return compute(find(paths)).sortby(["env", *FACTORS, "seed"])


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Curves, scores and costs of runs.

    Args:
      paths: run directories. One that cannot be read, or has no learning curve, is left out with a warning.

    Returns:
      Dataset. Over ``run`` and ``evaluation``: ``success`` (share of evaluation episodes that reach their goal),
      ``time_at_goal`` (steps), and with them ``env_steps``, ``gradient_steps``, ``train_seconds`` (collecting and
      updating alone, stalls as ``clock`` counts them; of seeds that a GPU trained at once, each one's share). Over
      ``run``: ``score_success`` and ``score_time_at_goal`` (means of the last five evaluations), ``stalled_seconds``
      (measured, and left out of ``train_seconds``), ``parameters`` (of actor and critic) and
      ``flops_per_update`` (of an update's matrix products; NaN for runs whose config.json does not tell). Coordinates
      of ``run``: ``env``, ``seed``, the ``FACTORS``, every other setting in which some runs differ, ``together`` (how
      many seeds a GPU trained at once), and ``group``: the factors in which some runs differ, as words. Runs seldom
      form a full grid, so ``run`` is one dimension. Runs with fewer evaluations end in NaN.

    Raises:
      CrlvizError: no path is a run directory with a metrics.csv.
      UsageError: two runs that differ in nothing.
    """
    from crlviz.agent import load, readable  # jax, which reading a table does not need
    from crlviz.networks.residual import parameter_count

    whole = readable(list(map(Path, paths)), lambda path: (load(path), metrics(path)))
    paths, agents, tables = (list(column) for column in zip(*((path, *read) for path, read in whole), strict=True))
    clocks = [clock(table) for table in tables]
    tables = [table.assign(train_seconds=seconds) for table, (seconds, _) in zip(tables, clocks, strict=True)]
    longest = max(len(table) for table in tables)
    differing = datasets.check_differing(agents)  # a run given twice would count as two seeds
    # Two mazes of one's own are two tasks, though both are called point_maze.
    tasks = [" ".join(filter(None, [agent.facts["env"], agent.facts.get("layout", "")])) for agent in agents]
    others = _others(agents, tasks)
    facts = [
        agent.facts | {"env": task, "others": other} for agent, task, other in zip(agents, tasks, others, strict=True)
    ]
    names = [name for name in differing if name in datasets.FACTS and name not in ("seed", "env")]
    groups = []
    for fact in facts:
        follows = [f"actor_{shape}" for shape in ("depth", "width") if fact[shape] == fact[f"actor_{shape}"]]
        words = datasets.label({name: fact[name] for name in names if name not in follows})
        groups.append(", ".join(filter(None, [words, fact["others"]])) or datasets.label({"depth": fact["depth"]}))

    def curve(column: str, long_name: str, units: str):
        values = np.full((len(tables), longest), np.nan)
        for row, table in zip(values, tables, strict=True):
            row[: len(table)] = table[column]
        return ("run", "evaluation"), values, {"long_name": long_name, "units": units}

    def score(column: str, long_name: str, units: str):
        return "run", [table[column].tail(LAST).mean() for table in tables], {"long_name": long_name, "units": units}

    def each(name: str, long_name: str):
        return "run", [fact[name] for fact in facts], {"long_name": long_name, "units": "1"}

    parameters = [parameter_count(agent.params) for agent in agents]
    flops = [_flops(Path(path)) for path in paths]
    together = [len(run_directory.read_config(Path(path)).get("together", [None])) for path in paths]
    dataset = xr.Dataset(
        {
            "success": curve("success", "share of evaluation episodes that reach their goal", "1"),
            "time_at_goal": curve("time_at_goal", "time at goal", "steps"),
            "env_steps": curve("env_steps", "environment steps", "1"),
            "gradient_steps": curve("gradient_steps", "updates", "1"),
            "train_seconds": curve("train_seconds", "seconds of collecting and updating", "s"),
            "score_success": score("success", f"success, mean of the last {LAST} evaluations", "1"),
            "score_time_at_goal": score("time_at_goal", f"time at goal, mean of the last {LAST} evaluations", "steps"),
            "stalled_seconds": (
                "run",
                [stalled for _, stalled in clocks],
                {"long_name": "seconds that the machine stalled, left out of train_seconds", "units": "s"},
            ),
            "parameters": ("run", parameters, {"long_name": "parameters of actor and critic", "units": "1"}),
            "flops_per_update": ("run", flops, {"long_name": "FLOPs an update, matrix products", "units": "1"}),
        },
        coords={
            "run": np.arange(len(agents)),
            "group": ("run", groups, {"long_name": "what a run differs in from others but for task and seed"}),
            "env": each("env", "task"),
            "seed": each("seed", "seed"),
            "algorithm": each("algorithm", "algorithm"),
            "depth": each("depth", "depth of the critic's encoders"),
            "width": each("width", "width of the critic's encoders"),
            "actor_depth": each("actor_depth", "depth of the actor"),
            "actor_width": each("actor_width", "width of the actor"),
            "network": each("network", "what the network lacks of the paper's"),
            "batch_size": each("batch_size", "rows of an update"),
            "others": each("others", "other settings in which runs of a task differ"),
            "trained": each("env_steps", "environment steps of the newest checkpoint"),
            "together": ("run", together, {"long_name": "seeds trained at once", "units": "1"}),
        }
        | {name: ("run", datasets.values(agents, name)) for name in differing if name not in datasets.FACTS},
        attrs={
            "checkpoints": "\n".join(str(agent.source) for agent in agents),
            "env": ", ".join(dict.fromkeys(fact["env"] for fact in facts)),
        },
    )
    return datasets.described(dataset)


def metrics(run: Path) -> pd.DataFrame:
    """A run's metrics.csv: a row an evaluation."""
    try:
        table = pd.read_csv(run / "metrics.csv")
    except FileNotFoundError:
        raise CrlvizError(f"{run} has no metrics.csv, so no learning curve; an imported run has none") from None
    except (OSError, ValueError) as error:
        raise CrlvizError(f"{run / 'metrics.csv'} cannot be read: {error}") from None
    if not len(table) or not {"success", "time_at_goal", "env_steps"} <= set(table.columns):
        raise CrlvizError(f"{run / 'metrics.csv'} is not a table of evaluations")
    return table


def clock(table: pd.DataFrame) -> tuple[np.ndarray, float]:
    """Seconds of training at each evaluation [N], without those of a machine that stalled, and how many those were.

    Between two evaluations a run takes about as long for as many updates each time. An interval that took more than
    three times the run's median for its updates (for its environment steps, in a run without updates) was interrupted:
    another program had the core, or the machine slept. It is counted at the median.

    Args:
      table: from ``metrics``; of fewer than three intervals none is called a stall.
    """
    seconds = table.train_seconds.to_numpy(float)
    steps = np.diff(table.gradient_steps.to_numpy(float))
    if not (steps > 0).any():
        steps = np.diff(table.env_steps.to_numpy(float))
    took, worked = np.diff(seconds), steps > 0
    if worked.sum() < 3:
        return seconds, 0.0
    usual = steps * np.median(took[worked] / steps[worked])
    stalls = worked & (took > _STALL * usual)
    if not stalls.any():
        return seconds, 0.0
    counted = np.where(stalls, usual, took)
    return seconds[0] + np.concatenate([[0.0], np.cumsum(counted)]), float((took - counted).sum())


def table(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """A row a group: its seeds' ``scores``, their mean ``score``, and what its runs cost on average.

    Args:
      dataset: from ``compute``, of one task.
      metric: a key of ``METRICS``.
    """
    rows = []
    for group in dict.fromkeys(dataset.group.values.tolist()):
        part = dataset.isel(run=dataset.group.values == group)
        scores = part[f"score_{metric}"].values
        rows.append(
            {"group": group}
            | {name: part[name].values[0] for name in FACTORS if name != "others"}
            | {
                "seeds": len(np.unique(part.seed)),
                "scores": [float(score) for score in scores],
                "score": float(np.mean(scores)),
                "updates": float(part.gradient_steps.max("evaluation").mean()),
                "parameters": float(part.parameters.mean()),
                "flops": float(part.flops_per_update.mean()),
                "seconds": float(part.train_seconds.max("evaluation").mean()),
            }
        )
    return pd.DataFrame(rows)


def vary(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """The runs that differ in these factors alone: of each task, those of the richest such sweep.

    Richest is where most of the factors vary, then where they take most values, then what is not ablated.

    Args:
      dataset: from ``compute``.
      names: of ``FACTORS``.
    """
    fixed = [name for name in FACTORS if name not in names]
    columns = {name: dataset[name].values.tolist() for name in ("env", *FACTORS)}
    for shape in ("depth", "width"):  # an actor that follows the critic does not vary on its own
        if f"actor_{shape}" in fixed:
            both = zip(columns[f"actor_{shape}"], columns[shape], strict=True)
            columns[f"actor_{shape}"] = [None if actor == critic else actor for actor, critic in both]
    sweeps: dict[tuple, dict[tuple, list[int]]] = {}
    for run in range(dataset.sizes["run"]):
        sweep = sweeps.setdefault((columns["env"][run],), {})
        sweep.setdefault(tuple(columns[name][run] for name in fixed), []).append(run)

    def richness(members: list[int]) -> tuple[int, ...]:
        values = [tuple(columns[name][run] for name in names) for run in members]
        varying = sum(len(set(column)) > 1 for column in zip(*values, strict=True))
        whole = sum(columns["network"][run] == "full network" for run in members)
        return varying, len(set(values)), whole, len(members)

    chosen = [run for sweep in sweeps.values() for run in max(sweep.values(), key=richness)]
    return dataset.isel(run=sorted(chosen))


def relabel(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """The same runs, their groups named by those of these ``FACTORS`` in which they differ, or the first."""
    words = datasets.FACTS | {"trained": datasets.FACTS["env_steps"], "others": "{}"}
    told = [name for name in names if len(np.unique(dataset[name])) > 1] or list(names[:1])
    columns = [[words[name].format(value) for value in dataset[name].values] for name in told]
    return dataset.assign_coords(group=("run", [", ".join(parts) for parts in zip(*columns, strict=True)]))


def seeds(dataset: xr.Dataset) -> str:
    """How many seeds stand behind a picture of runs, and what its marks are (``charts.seed_note``)."""
    pairs = [f"{group}\n{env}" for group, env in zip(dataset.group.values, dataset.env.values, strict=True)]
    return charts.seed_note(np.unique(pairs, return_counts=True)[1].tolist())


def stalls(dataset: xr.Dataset) -> str:
    """How many of these runs the machine interrupted, and what became of those seconds; else nothing."""
    if "stalled_seconds" not in dataset or not (dataset.stalled_seconds > 0).any():
        return ""
    found = dataset.stalled_seconds.values[dataset.stalled_seconds.values > 0]
    number = "One run" if len(found) == 1 else f"{len(found)} runs"
    return (
        f"{number} stalled, for {found.sum():,.0f} s in all, which are not counted: between two evaluations lay more "
        f"than {_STALL} times the run's median."
    )


def shares(dataset: xr.Dataset) -> str:
    """What the seconds of these runs are, where some were trained at once with other seeds; else nothing."""
    counts = sorted(set(dataset.together.values.tolist())) if "together" in dataset.coords else [1]
    if counts == [1]:
        return ""
    note = "Seconds of seeds that a GPU trained at once are each one's share"
    if len(counts) == 1:
        return f"{note}, one of {counts[0]}."
    return f"{note}; here {' or '.join(map(str, counts))} trained at once, so seconds do not compare between them."


def _others(agents: Sequence["Agent"], tasks: Sequence[str]) -> list[str]:
    """Of each agent, the other settings in which some agents of its task differ: ``gamma 0.9``."""
    rivals = {task: [agent for agent, its in zip(agents, tasks, strict=True) if its == task] for task in tasks}
    names = {
        task: [name for name in datasets.differing(them) if name not in datasets.FACTS] for task, them in rivals.items()
    }
    facts = [
        {name: agent.facts.get(name, "unknown") for name in names[task] if name != "layout"}
        for agent, task in zip(agents, tasks, strict=True)
    ]
    return datasets.labels(facts)


def _flops(run: Path) -> float:
    cost = run_directory.read_config(run).get("cost")
    return float(cost["flops_per_update"]) if isinstance(cost, dict) and "flops_per_update" in cost else np.nan
