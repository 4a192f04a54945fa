"""The area under learning curves: the score of a run over all of its training, not only at its end."""

import numpy as np
import xarray as xr


def area(dataset: xr.Dataset, metric: str) -> xr.DataArray:
    """The area under each run's curve over environment steps, by the trapezoidal rule, divided by their number.

    That is the mean score over training, in the score's units. With one evaluation it is the score.

    Args:
      dataset: from ``analyses.common.runs.compute``.
      metric: a key of ``METRICS``.
    """
    values = []
    for steps, scores in zip(dataset.env_steps.values, dataset[metric].values, strict=True):
        known = np.isfinite(steps) & np.isfinite(scores)
        x, y = steps[known], scores[known]
        values.append(np.trapezoid(y, x) / (x[-1] - x[0]) if len(x) > 1 else y.mean())
    attrs = {"long_name": f"{dataset[metric].attrs['long_name']}, mean over training"}
    return xr.DataArray(values, dims="run", attrs=attrs | {"units": dataset[metric].attrs["units"]})
