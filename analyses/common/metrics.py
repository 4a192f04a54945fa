"""The scores of runs: names, words, and whether they were measured."""

import numpy as np
import xarray as xr

from crlviz.errors import UsageError

METRICS = {
    "time_at_goal": "time at goal (steps)",
    "success": "goals reached (share)",
    "held_out_accuracy": "held-out accuracy (share)",
    "held_out_action_error": "held-out action error",
}


def check_measured(dataset: xr.Dataset, metric: str) -> None:
    """Check that some run has a score.

    Raises:
      UsageError: none has; the message names those that they have.
    """
    if f"score_{metric}" not in dataset or np.isfinite(dataset[f"score_{metric}"]).any():
        return
    known = [name for name in METRICS if f"score_{name}" in dataset and np.isfinite(dataset[f"score_{name}"]).any()]
    raise UsageError(f"{metric} was not measured in these runs; give --metric {' or '.join(known)}")
