"""The scores of runs: names, words, and whether they were measured."""

import math

import numpy as np
import xarray as xr

from crlviz.errors import UsageError

METRICS = {
    "time_at_goal": "time at goal (steps)",
    "success": "goals reached (share)",
    "held_out_accuracy": "held-out accuracy (share)",
    "held_out_action_error": "held-out action error",
}
# long_name of the variables and coordinates of a Dataset of runs.
MEANINGS = {
    "success": "share of evaluation episodes that reach their goal",
    "time_at_goal": "time at goal",
    "held_out_accuracy": "share of held-out rows whose own goal has the largest logit of a batch",
    "held_out_action_error": "root of the mean squared error of actions on held-out rows",
    "env_steps": "environment steps",
    "gradient_steps": "updates",
    "train_seconds": "seconds of collecting and updating",
    "stalled_seconds": "seconds that the machine stalled, left out of train_seconds",
    "parameters": "parameters of actor and critic",
    "flops_per_update": "FLOPs an update, matrix products",
    "group": "what a run differs in from others but for task and seed",
    "env": "task",
    "seed": "seed",
    "algorithm": "algorithm",
    "depth": "depth of the critic's encoders",
    "width": "width of the critic's encoders",
    "actor_depth": "depth of the actor",
    "actor_width": "width of the actor",
    "network": "what the network lacks of the paper's",
    "batch_size": "rows of an update",
    "others": "other settings in which runs of a task differ",
    "trained": "environment steps of the newest checkpoint",
    "together": "seeds trained at once",
}


def largest(dataset: xr.Dataset, metric: str) -> float:
    """The largest possible difference of two scores: 1 for shares, for time at goal the steps of an episode.

    Infinite where none is known, as for runs of an older crlviz's netCDF.
    """
    bounds = {"success": 1.0, "held_out_accuracy": 1.0, "time_at_goal": dataset.attrs.get("episode_length", math.inf)}
    return float(bounds.get(metric, math.inf))


def check_measured(dataset: xr.Dataset, metric: str) -> None:
    """Check that some run has a score.

    Raises:
      UsageError: no run has it; the message names the available scores.
    """
    if f"score_{metric}" not in dataset or np.isfinite(dataset[f"score_{metric}"]).any():
        return
    known = [name for name in METRICS if f"score_{name}" in dataset and np.isfinite(dataset[f"score_{name}"]).any()]
    raise UsageError(f"{metric} was not measured in these runs; give --metric {' or '.join(known)}")
