"""Statistics over few seeds: the interquartile mean and its bootstrap interval (Agarwal et al. 2021)."""

from collections.abc import Sequence

import numpy as np


def interquartile_mean(scores: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half of scores [N]; of three or fewer, of all."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(scores, float), 0.25))


def interval(scores: Sequence[float] | np.ndarray, *, seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the interquartile mean of scores [N]; None for a single score."""
    from scipy.stats import bootstrap, trim_mean

    scores = np.asarray(scores, float)
    if len(scores) < 2:
        return None

    def statistic(samples, axis):
        return trim_mean(samples, 0.25, axis=axis)

    found = bootstrap((scores,), statistic, method="percentile", n_resamples=5000, rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
