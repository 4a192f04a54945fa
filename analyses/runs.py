"""Runs as data: learning curves, final scores and costs of run directories, grouped over seeds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from crlviz import datasets
from crlviz.errors import CrlvizError

LAST = 5  # a run's single number is the mean of its last five evaluations (paper section 4)


def compute(paths: Sequence[str | Path]) -> xr.Dataset:
    """Curves and costs of runs.

    Args:
      paths: run directories.

    Returns:
      Dataset. Over ``run`` and ``evaluation``: ``success`` (share of evaluation episodes that reach their goal),
      ``time_at_goal`` (steps), and with them ``env_steps``, ``gradient_steps``, ``train_seconds`` (collecting and
      updating alone). Over ``run``: ``score`` (mean success of the last five evaluations), ``score_time_at_goal``,
      ``parameters`` (of actor and critic). Coordinates ``depth``, ``width``, ``seed``, and ``group``: what a run
      differs in from others but for its seed. Runs with fewer evaluations end in NaN.

    Raises:
      CrlvizError: a path is not a run directory with a metrics.csv.
    """
    from crlviz.agent import load_all  # jax, which reading a table does not need
    from crlviz.networks import parameter_count

    agents = load_all(paths)
    tables = [metrics(Path(path)) for path in paths]
    names = [name for name in datasets.differing(agents) if name != "seed"] or ["depth"]
    groups = [datasets.label({name: agent.facts[name] for name in names}) for agent in agents]
    longest = max(len(table) for table in tables)

    def curve(column: str, long_name: str, units: str):
        values = np.full((len(tables), longest), np.nan)
        for row, table in zip(values, tables, strict=True):
            row[: len(table)] = table[column]
        return ("run", "evaluation"), values, {"long_name": long_name, "units": units}

    def score(column: str, long_name: str, units: str):
        return "run", [table[column].tail(LAST).mean() for table in tables], {"long_name": long_name, "units": units}

    parameters = [parameter_count(agent.params) for agent in agents]
    return xr.Dataset(
        {
            "success": curve("success", "share of evaluation episodes that reach their goal", "1"),
            "time_at_goal": curve("time_at_goal", "time at goal", "steps"),
            "env_steps": curve("env_steps", "environment steps", "1"),
            "gradient_steps": curve("gradient_steps", "updates", "1"),
            "train_seconds": curve("train_seconds", "seconds of collecting and updating", "s"),
            "score": score("success", f"success, mean of the last {LAST} evaluations", "1"),
            "score_time_at_goal": score("time_at_goal", f"time at goal, mean of the last {LAST} evaluations", "steps"),
            "parameters": ("run", parameters, {"long_name": "parameters of actor and critic", "units": "1"}),
        },
        coords={
            "run": np.arange(len(agents)),
            "group": ("run", groups),
            **{name: ("run", [agent.facts[name] for agent in agents]) for name in ("depth", "width", "seed")},
        },
        attrs={"checkpoints": "\n".join(str(agent.source) for agent in agents), "env": agents[0].facts["env"]},
    )


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
