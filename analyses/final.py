"""What did each network reach in the end, beside what the paper's reached? (paper table 1, figure 16)"""

from importlib import resources

import pandas as pd
import xarray as xr

from analyses import runs

_SCORES = {"time_at_goal": "time at goal", "success": "success"}


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """A row for each task and group, and for each group over all tasks where there are several.

    Scores are interquartile means over seeds (and tasks) of the mean of the last five evaluations, with 95 % stratified
    bootstrap intervals, NaN with one seed.

    Args:
      dataset: from ``analyses.runs.compute``.

    Returns:
      Columns ``task``, ``network`` (what the group differs in), ``seeds``, ``time_at_goal``, ``success`` and their
      ``..._low`` and ``..._high``, ``parameters``, ``flops_per_update``, ``updates``, ``train_seconds``, and ``paper``:
      its time at goal with its standard error, at width 256, where the task, depth and architecture are the paper's.
    """
    tasks = list(dict.fromkeys(dataset.env.values.tolist()))
    parts = {task: dataset.isel(run=dataset.env.values == task) for task in tasks}
    if len(tasks) > 1:
        parts["all tasks"] = dataset
    paper = paper_numbers()
    rows = []
    for task, part in parts.items():
        tables = {metric: runs.table(part, metric).to_dict("records") for metric in _SCORES}
        for at_goal, success in zip(*tables.values(), strict=True):
            rows.append(
                {"task": task, "network": at_goal["group"], "seeds": at_goal["seeds"]}
                | {"time_at_goal": at_goal["score"]}
                | {f"time_at_goal_{end}": at_goal[end] for end in ("low", "high")}
                | {"success": success["score"]}
                | {f"success_{end}": success[end] for end in ("low", "high")}
                | {"parameters": at_goal["parameters"], "flops_per_update": at_goal["flops"]}
                | {"updates": at_goal["updates"], "train_seconds": at_goal["seconds"]}
                | {"paper": _of_paper(paper, task, at_goal)}
            )
    return pd.DataFrame(rows)


def paper_numbers() -> pd.DataFrame:
    """The paper's time at goal by env, depth and network, with standard errors where it tells them, and the source."""
    with resources.files("analyses").joinpath("paper_numbers.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def markdown(table: pd.DataFrame) -> str:
    """A table from ``table`` as Markdown."""
    head = ["task", "network", "seeds", *_SCORES.values(), "parameters", "FLOPs/update", "updates", "seconds", "paper"]
    lines = [" | ".join(["", *head, ""]).strip(), "|" + " --- |" * len(head)]
    for row in table.to_dict("records"):
        cells = [row["task"], row["network"], str(row["seeds"])]
        cells += [_with_interval(row, "time_at_goal", ".1f"), _with_interval(row, "success", ".2f")]
        cells += [
            f"{row['parameters']:,.0f}",
            "" if pd.isna(row["flops_per_update"]) else f"{row['flops_per_update']:.3g}",
        ]
        cells += [f"{row['updates']:,.0f}", f"{row['train_seconds']:.0f}", row["paper"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_interval(row: dict, name: str, form: str) -> str:
    score = format(row[name], form)
    if pd.isna(row[f"{name}_low"]):
        return f"{score} (one seed)"
    return f"{score} ({row[f'{name}_low']:{form}} to {row[f'{name}_high']:{form}})"


def _of_paper(paper: pd.DataFrame, task: str, row: dict) -> str:
    if row["depth"] != row["actor_depth"] or row["algorithm"] != "crl":
        return ""
    same = paper[(paper.env == task) & (paper.depth == row["depth"]) & (paper.network == row["network"])]
    if same.empty:
        return ""
    found = same.iloc[0]
    error = "" if pd.isna(found.standard_error) else f" +- {found.standard_error:g}"
    return f"{found.time_at_goal:g}{error} ({found.source})"
