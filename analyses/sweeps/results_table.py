"""Final scores of each network next to those of the paper (paper table 1, figure 16)."""

from importlib import resources

import pandas as pd
import xarray as xr

from analyses.common import runs
from analyses.common.curve_area import area

_SCORES = {"time_at_goal": "time at goal", "success": "success"}


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row for each task and group; if all groups share several tasks, also one for each group over those tasks.

    A score is the mean over seeds of the mean of the last five evaluations; over tasks, the mean of the tasks' scores.
    Only tasks that all groups share are averaged, so that no group is averaged over easier tasks than another.

    Args:
      dataset: from ``analyses.common.runs.compute``.

    Returns:
      Columns ``task``, ``network`` (the group), ``seeds`` (their number), ``time_at_goal``, ``success`` and their
      ``..._lowest`` and ``..._highest`` (over seeds; NaN over tasks), ``..._area`` (mean over all of training),
      ``parameters``, ``flops_per_update``, ``gradient_steps``, ``train_seconds``, and ``paper``: the paper's time at
      goal with its standard error, at width 256, if task, depth and architecture match; else empty.
    """
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    paper = paper_numbers()
    rows = []
    for task in tasks:
        part = dataset.isel(run=dataset.env.values == task)
        areas = {name: area(part, name).values for name in _SCORES}
        tables = {metric: runs.table(part, metric).to_dict("records") for metric in _SCORES}
        for at_goal, success in zip(*tables.values(), strict=True):
            rows.append(
                {"task": task, "network": at_goal["group"], "seeds": at_goal["seeds"]}
                | _score("time_at_goal", at_goal)
                | _score("success", success)
                | {f"{name}_area": areas[name][part.group.values == at_goal["group"]].mean() for name in _SCORES}
                | {"parameters": at_goal["parameters"], "flops_per_update": at_goal["flops"]}
                | {"gradient_steps": at_goal["gradient_steps"], "train_seconds": at_goal["seconds"]}
                | {"paper": _of_paper(paper, task, at_goal)}
            )
    by_task = pd.DataFrame(rows)
    groups = set(by_task.network)
    shared = [task for task in tasks if set(by_task.network[by_task.task == task]) == groups]
    if len(shared) < 2:
        return by_task
    part = by_task[by_task.task.isin(shared)].drop(columns=["task", "paper"])
    over_tasks = part.groupby("network", sort=False).mean().reset_index()
    ranges = [f"{name}_{end}" for name in _SCORES for end in ("lowest", "highest")]
    name = "all tasks" if len(shared) == len(tasks) else f"mean of {', '.join(shared)}"
    over_tasks = over_tasks.assign(task=name, paper="", **dict.fromkeys(ranges, float("nan")))
    over_tasks["seeds"] = part.groupby("network", sort=False).seeds.min().values
    return pd.concat([by_task, over_tasks[by_task.columns]], ignore_index=True)


def _score(name: str, row: dict) -> dict:
    """A score with its lowest and highest seed, as columns of the table."""
    return {name: row["score"], f"{name}_lowest": min(row["scores"]), f"{name}_highest": max(row["scores"])}


def paper_numbers() -> pd.DataFrame:
    """The paper's time at goal by algorithm, env, depth and network: with standard errors, if given, and the source."""
    with resources.files("analyses.sweeps").joinpath("paper_numbers.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def markdown(table: pd.DataFrame) -> str:
    """A table from ``table`` as Markdown; the lowest and highest seed follow each score in parentheses."""
    head = [
        "task",
        "network",
        "seeds",
        *_SCORES.values(),
        "success in all training",
        "parameters",
        "FLOPs/update",
        "updates",
        "seconds",
        "paper",
    ]
    lines = [" | ".join(["", *head, ""]).strip(), "|" + " --- |" * len(head)]
    for row in table.to_dict("records"):
        cells = [row["task"], row["network"], str(row["seeds"])]
        cells += [_with_range(row, "time_at_goal", ".1f"), _with_range(row, "success", ".2f")]
        cells += [
            f"{row['success_area']:.2f}",
            f"{row['parameters']:,.0f}",
            "" if pd.isna(row["flops_per_update"]) else f"{row['flops_per_update']:.3g}",
        ]
        cells += [f"{row['gradient_steps']:,.0f}", f"{row['train_seconds']:.0f}", row["paper"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_range(row: dict, name: str, number_format: str) -> str:
    """A score in words, with its lowest and highest seed."""
    score = format(row[name], number_format)
    if pd.isna(row[f"{name}_lowest"]):
        return score
    if row["seeds"] == 1:
        return f"{score} (one seed)"
    return f"{score} ({row[f'{name}_lowest']:{number_format}} to {row[f'{name}_highest']:{number_format}})"


def _of_paper(paper: pd.DataFrame, task: str, row: dict) -> str:
    """The paper's time at goal for the same task, depth and network in words; empty if it gives none."""
    if row["depth"] != row["actor_depth"]:
        return ""
    same = paper[paper.env == task]
    for name in ("algorithm", "depth", "network"):
        same = same[same[name] == row[name]]
    if same.empty:
        return ""
    match = same.iloc[0]
    error = "" if pd.isna(match.standard_error) else f" +- {match.standard_error:g}"
    return f"{match.time_at_goal:g}{error} ({match.source})"
