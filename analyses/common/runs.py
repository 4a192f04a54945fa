"""Learning curves, final scores and costs of run directories as a Dataset, grouped over seeds."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.common.metrics import MEANINGS, METRICS
from crlviz import charts, datasets
from crlviz.checkpoints.metrics_table import LAST
from crlviz.checkpoints.run_directory import RunDirectory, by_number, runs_in
from crlviz.errors import CrlvizError
from crlviz.processes import process_pool

if TYPE_CHECKING:
    from crlviz.agent import Agent

_STALL = 3  # an interval longer than this multiple of the run's median for as many steps is a stall
# Settings that distinguish runs, besides task and seed.
FACTORS = ("algorithm", "depth", "width", "actor_depth", "actor_width", "network", "batch_size", "others", "trained")


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Find the run directories at paths, sorted by name, with numbers in numeric order (4 before 16).

    Args:
      paths: run directories, or directories that hold some, as ``crlviz sweep`` and ``train --seed 0-4`` make them. A
        path without runs is left out with a warning, because a shell wildcard may include it.

    Raises:
      CrlvizError: a path does not exist, or no path holds a run.
    """
    found: list[Path] = []
    rejected = []
    for path in map(Path, paths):
        if not path.exists():
            raise CrlvizError(f"there is no {path}")
        inside = [path] if RunDirectory(path).exists() else runs_in(path)
        found += inside
        if not inside and path.name != process_pool.LOGS:
            rejected.append(f"{path} is not a run directory (no config.json) and holds none")
    if rejected and not found:
        raise CrlvizError(rejected[0])
    for reason in rejected:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return sorted(found, key=by_number)


def collect(paths: Sequence[str | Path]) -> xr.Dataset:
    """``find`` the runs at paths and ``compute`` their Dataset, sorted by task, factors and seed."""
    dataset = compute(find(paths))
    places = xr.DataArray([datasets.algorithm_order(name) for name in dataset.algorithm.values], dims="run")
    return dataset.sortby([dataset.env, places, *(dataset[name] for name in (*FACTORS[1:], "seed"))])


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Learning curves, scores and costs of runs.

    Args:
      paths: run directories. One that cannot be read, or has no learning curve, is left out with a warning.

    Returns:
      Dataset over ``run`` and ``evaluation``. Runs seldom form a full grid, so ``run`` is one dimension. Runs with
      fewer evaluations are padded with NaN.

      Over both: ``success`` (share of evaluation episodes that reach their goal), ``time_at_goal`` (steps),
      ``held_out_accuracy`` and ``held_out_action_error`` (NaN without a data set; with one, ``env_steps`` is NaN, and
      without an evaluation environment the scores are NaN too), ``env_steps``, ``gradient_steps`` and ``train_seconds``
      (collecting and updating only, without stalls, see ``clock``; for seeds that a GPU trained at once, each seed's
      share).

      Over ``run``: ``score_success`` and ``score_time_at_goal`` (means of the last five evaluations),
      ``stalled_seconds`` (left out of ``train_seconds``), ``parameters`` (of actor and critic) and
      ``flops_per_update`` (matrix products of an update; NaN for runs whose config.json does not record it).

      Coordinates of ``run``: ``env``, ``seed``, the ``FACTORS``, every other setting in which some runs differ,
      ``together`` (number of seeds that a GPU trained at once), ``collector_depth`` (if a run is fed by a collector;
      0: it acts itself), and ``group``: the factors in which some runs differ, in words.

    Raises:
      CrlvizError: no path is a run directory with a metrics.csv.
      UsageError: two runs have the same settings and seed.
    """
    from crlviz.agent import load, readable  # imports jax, which this module's readers of tables do not need

    loaded = readable(list(map(Path, paths)), lambda path: (load(path), metrics(path)))
    paths, agents, tables = (list(column) for column in zip(*((path, *read) for path, read in loaded), strict=True))
    differing = datasets.check_differing(agents)  # a run given twice would count as two seeds
    clocks = [clock(table) for table in tables]
    tables = [table.assign(train_seconds=seconds) for table, (seconds, _) in zip(tables, clocks, strict=True)]
    stalled = [seconds for _, seconds in clocks]
    tasks = _tasks(agents)
    within = _differing_within(agents, tasks)
    facts = [
        agent.facts | {"env": task, "others": other, "trained": agent.env_steps}
        for agent, task, other in zip(agents, tasks, _others(agents, tasks, within), strict=True)
    ]
    together = [len(RunDirectory(path).read_config().get("together", [None])) for path in paths]
    collectors = [agent.facts.get("collector_depth", 0) for agent in agents]
    dataset = xr.Dataset(
        _curves(tables) | _scores(tables) | _costs(agents, paths, stalled),
        coords={
            "run": np.arange(len(agents)),
            "group": ("run", _groups(facts, set().union(*within.values())), {"long_name": MEANINGS["group"]}),
            "together": ("run", together, {"long_name": MEANINGS["together"], "units": "1"}),
        }
        | {
            name: ("run", [fact[name] for fact in facts], {"long_name": MEANINGS[name], "units": "1"})
            for name in ("env", "seed", *FACTORS)
        }
        | {name: ("run", datasets.values(agents, name)) for name in differing if name not in datasets.FACTS}
        | ({"collector_depth": ("run", collectors)} if any(collectors) else {}),
        attrs={
            "checkpoints": "\n".join(str(agent.source) for agent in agents),
            "env": ", ".join(dict.fromkeys(tasks)),
            "settings": _settings(agents),
            **_episode_length(agents),
        },
    )
    return datasets.described(dataset)


def _episode_length(agents: Sequence["Agent"]) -> dict[str, int]:
    """The most steps of an episode, by the name of the attribute; empty if a run had no environment."""
    lengths = [
        agent.config.get("episode_length") or (agent.env.episode_length if agent.config["env"] else 0)
        for agent in agents
    ]
    return {"episode_length": max(lengths)} if all(lengths) else {}


def _settings(agents: Sequence["Agent"]) -> str:
    """What the algorithms were trained with; empty for a single one.

    These are the discounts and the learning rate, because the paper does not publish its baselines' values, and every
    setting of the algorithm that differs from its default.
    """
    used: dict[str, dict[str, list[str]]] = {}
    for agent in agents:
        algorithm, config = agent.facts["algorithm"], agent.algorithm.config
        told = {"gamma": agent.facts.get("gamma", "unknown")} | {
            field.name: getattr(config, field.name)
            for field in dataclasses.fields(config)
            if field.name in ("discount", "learning_rate") or getattr(config, field.name) != field.default
        }
        own = used.setdefault(algorithm, {})
        for name, value in told.items():
            own.setdefault(name.replace("_", " "), []).append(f"{value}".lower())
    texts = []
    for algorithm in sorted(used, key=datasets.algorithm_order):
        values = [f"{name} {' or '.join(dict.fromkeys(found))}" for name, found in used[algorithm].items()]
        texts.append(f"{algorithm}: {', '.join(values)}")
    return f"Settings: {'; '.join(texts)}." if len(used) > 1 else ""


def _tasks(agents: Sequence["Agent"]) -> list[str]:
    """The task of each agent. Two custom layouts are two tasks, although both environments are called point_maze."""
    return [" ".join(filter(None, [agent.facts["env"], agent.facts.get("layout", "")])) for agent in agents]


def _groups(facts: Sequence[dict[str, Any]], differing: set[str]) -> list[str]:
    """The group of each run: the factors in which runs of a task differ, in words; without any, its depth."""
    names = [name for name in datasets.FACTS if name in differing and name not in ("seed", "env")]
    groups = []
    for fact in facts:
        redundant = [f"actor_{shape}" for shape in ("depth", "width") if fact[shape] == fact[f"actor_{shape}"]]
        label = datasets.label({name: fact[name] for name in names if name not in redundant})
        groups.append(", ".join(filter(None, [label, fact["others"]])) or datasets.label({"depth": fact["depth"]}))
    return groups


def _curves(tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Variables over run and evaluation, padded with NaN."""
    longest = max(len(table) for table in tables)

    def curve(column: str) -> np.ndarray:
        values = np.full((len(tables), longest), np.nan)
        for row, table in zip(values, tables, strict=True):
            if column in table:
                row[: len(table)] = table[column]
        return values

    units = {"time_at_goal": "steps", "train_seconds": "s"}
    names = (*METRICS, "env_steps", "gradient_steps", "train_seconds")
    return {
        name: (("run", "evaluation"), curve(name), {"long_name": MEANINGS[name], "units": units.get(name, "1")})
        for name in names
    }


def _scores(tables: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """The scores of each run."""

    def score(column: str) -> tuple[Any, ...]:
        values = [table[column].tail(LAST).mean() if column in table else np.nan for table in tables]
        long_name = f"{METRICS[column].partition(' (')[0]}, mean of the last {LAST} evaluations"
        return "run", values, {"long_name": long_name, "units": "steps" if column == "time_at_goal" else "1"}

    return {f"score_{column}": score(column) for column in METRICS}


def _costs(agents: Sequence["Agent"], paths: Sequence[Path], stalled: Sequence[float]) -> dict[str, Any]:
    """What each run cost; ``stalled`` are seconds."""
    from crlviz.networks.residual import parameter_count

    parameters = [parameter_count(agent.params) for agent in agents]
    flops = [_flops(path) for path in paths]
    return {
        name: ("run", values, {"long_name": MEANINGS[name], "units": units})
        for name, values, units in (
            ("stalled_seconds", stalled, "s"),
            ("parameters", parameters, "1"),
            ("flops_per_update", flops, "1"),
        )
    }


def metrics(run: Path) -> pd.DataFrame:
    """Read a run's metrics.csv: one row for each evaluation.

    Raises:
      CrlvizError: the file is missing, cannot be read, or is not a table of evaluations.
    """
    directory = RunDirectory(run)
    if not directory.metrics_file.exists():
        raise CrlvizError(f"{run} has no metrics.csv, so no learning curve; an imported run has none")
    try:
        table = pd.DataFrame(directory.read_metrics()).apply(pd.to_numeric)
    except ValueError as error:
        raise CrlvizError(f"{directory.metrics_file} is not a table of evaluations ({error})") from None
    if not len(table) or not {"success", "time_at_goal", "env_steps"} <= set(table.columns):
        raise CrlvizError(f"{directory.metrics_file} is not a table of evaluations")
    return table


def clock(table: pd.DataFrame) -> tuple[np.ndarray, float]:
    """Training seconds at each evaluation [N] without stalls of the machine, and the number of stalled seconds.

    A run needs about the same time for the same number of updates. If an interval between two evaluations took more
    than three times the run's median time per update (per environment step, in a run without updates), the run was
    interrupted: another program used the core, or the machine slept. Such an interval counts as the median.

    Args:
      table: from ``metrics``. With fewer than three intervals, nothing counts as a stall.
    """
    seconds = table.train_seconds.to_numpy(float)
    steps = np.diff(table.gradient_steps.to_numpy(float))
    if not (steps > 0).any():
        steps = np.diff(table.env_steps.to_numpy(float))
    durations, trained = np.diff(seconds), steps > 0
    if trained.sum() < 3:
        return seconds, 0.0
    expected = steps * np.median(durations[trained] / steps[trained])
    stalled = trained & (durations > _STALL * expected)
    if not stalled.any():
        return seconds, 0.0
    counted = np.where(stalled, expected, durations)
    return seconds[0] + np.concatenate([[0.0], np.cumsum(counted)]), float((durations - counted).sum())


def table(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """One row for each group.

    Args:
      dataset: from ``compute``, of one task.
      metric: a key of ``METRICS``.

    Returns:
      Columns ``group``, the ``FACTORS`` (without others), ``seeds`` (their number), ``scores`` (a list, one score for
      each seed), ``score`` (their mean), and the mean costs of the runs: ``gradient_steps``, ``parameters``, ``flops``
      (per update) and ``seconds``.
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
                "gradient_steps": float(part.gradient_steps.max("evaluation").mean()),
                "parameters": float(part.parameters.mean()),
                "flops": float(part.flops_per_update.mean()),
                "seconds": float(part.train_seconds.max("evaluation").mean()),
            }
        )
    return pd.DataFrame(rows)


def vary(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """Select the runs that differ in the given factors only: for each task, the largest such sweep.

    Sweeps are ranked by the number of factors that vary. Ties are broken by the number of combinations of values, then
    by the number of runs with the full network, then by the number of runs. Remaining ties go to the algorithm listed
    first in the registry.

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

    def rank(members: list[int]) -> tuple[int, ...]:
        values = [tuple(columns[name][run] for name in names) for run in members]
        varying = sum(len(set(column)) > 1 for column in zip(*values, strict=True))
        unablated = sum(columns["network"][run] == "full network" for run in members)
        first = min(datasets.algorithm_order(columns["algorithm"][run]) for run in members)
        return varying, len(set(values)), unablated, len(members), -first

    chosen = [run for sweep in sweeps.values() for run in max(sweep.values(), key=rank)]
    return dataset.isel(run=sorted(chosen))


def relabel(dataset: xr.Dataset, *names: str) -> xr.Dataset:
    """Name the groups after the given ``FACTORS`` that vary between the runs, or after the first if none does."""
    formats = datasets.FACTS | {"trained": datasets.FACTS["env_steps"], "others": "{}"}
    varying = [name for name in names if len(np.unique(dataset[name])) > 1] or list(names[:1])
    columns = [[formats[name].format(value) for value in dataset[name].values] for name in varying]
    return dataset.assign_coords(group=("run", [", ".join(parts) for parts in zip(*columns, strict=True)]))


def seeds(dataset: xr.Dataset) -> str:
    """A note on the number of seeds in a picture of runs and on its marks (``charts.seed_note``)."""
    pairs = [f"{group}\n{env}" for group, env in zip(dataset.group.values, dataset.env.values, strict=True)]
    return charts.seed_note(np.unique(pairs, return_counts=True)[1].tolist())


def stalls(dataset: xr.Dataset) -> str:
    """A note on the number of stalled runs and seconds; empty if no run stalled."""
    if "stalled_seconds" not in dataset or not (dataset.stalled_seconds > 0).any():
        return ""
    stalled = dataset.stalled_seconds.values[dataset.stalled_seconds.values > 0]
    number = "One run" if len(stalled) == 1 else f"{len(stalled)} runs"
    return (
        f"{number} stalled, for {stalled.sum():,.0f} s in all, which are not counted: an interval between two "
        f"evaluations took more than {_STALL} times the run's median."
    )


def shares(dataset: xr.Dataset) -> str:
    """A note on the seconds of runs whose seeds were trained at once; empty if there are none."""
    counts = sorted(set(dataset.together.values.tolist())) if "together" in dataset.coords else [1]
    if counts == [1]:
        return ""
    note = "For seeds that a GPU trained at once, seconds are each seed's share"
    if len(counts) == 1:
        return f"{note}, one of {counts[0]}."
    return f"{note}; here {' or '.join(map(str, counts))} trained at once, so seconds do not compare between them."


def _differing_within(agents: Sequence["Agent"], tasks: Sequence[str]) -> dict[str, list[str]]:
    """For each task, the facts in which its agents differ."""
    pairs = list(zip(agents, tasks, strict=True))
    return {task: datasets.differing([agent for agent, own in pairs if own == task]) for task in set(tasks)}


def _others(agents: Sequence["Agent"], tasks: Sequence[str], within: Mapping[str, list[str]]) -> list[str]:
    """For each agent, the settings outside ``FACTS`` in which agents of its task differ, such as ``gamma 0.9``."""
    names = {task: [name for name in own if name not in datasets.FACTS] for task, own in within.items()}
    facts = [
        {name: agent.facts.get(name, "unknown") for name in names[task] if name != "layout"}
        for agent, task in zip(agents, tasks, strict=True)
    ]
    return datasets.labels(facts)


def _flops(run: Path) -> float:
    """FLOPs of an update as config.json records them; NaN if it does not."""
    cost = RunDirectory(run).read_config().get("cost")
    return float(cost["flops_per_update"]) if isinstance(cost, dict) and "flops_per_update" in cost else np.nan
