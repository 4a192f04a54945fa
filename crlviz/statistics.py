"""Statistics over few seeds: interquartile means and their stratified bootstrap intervals (Agarwal et al. 2021)."""

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 5000


def interquartile_mean(scores: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half of scores [N]; of three or fewer, of all."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(scores, float), 0.25))


def interval(
    scores: Sequence[float] | np.ndarray, tasks: Sequence[str] | np.ndarray | None = None, *, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the interquartile mean of scores [N].

    Args:
      scores: a number a run.
      tasks: the task of each [N], whose seeds are drawn anew apart from those of other tasks; None: all of one task.
      seed: of the resampling.

    Returns:
      (low, high), or None where a task has a single seed.
    """
    return contrast([scores], [1.0], None if tasks is None else [tasks], seed=seed)[1]


def contrast(
    groups: Sequence[Sequence[float] | np.ndarray],
    weights: Sequence[float],
    tasks: Sequence[Sequence[str] | np.ndarray] | None = None,
    *,
    seed: int = 0,
) -> tuple[float, tuple[float, float] | None]:
    """A weighted sum of the interquartile means of groups, and its 95 % stratified bootstrap interval.

    Weights (1, -1) make it the difference of two groups; weights of interpolation, a point between groups.

    Args:
      groups: the scores of each group, a number a run.
      weights: one a group.
      tasks: for each group the task of each score; None: all of one task.
      seed: of the resampling.

    Returns:
      The sum and (low, high); None in its place where a group has a task with a single seed.
    """
    from scipy.stats import bootstrap, trim_mean

    value = float(sum(weight * interquartile_mean(group) for weight, group in zip(weights, groups, strict=True)))
    strata = [_by_task(group, None if tasks is None else tasks[n]) for n, group in enumerate(groups)]
    if any(len(stratum) < 2 for group in strata for stratum in group):
        return value, None
    ends = np.cumsum([len(group) for group in strata])[:-1]

    # scipy draws each of several samples anew apart from the others: that is the stratified bootstrap.
    def statistic(*samples, axis):
        parts = np.split(np.arange(len(samples)), ends)
        middles = (trim_mean(np.concatenate([samples[k] for k in part], axis), 0.25, axis=axis) for part in parts)
        return sum(weight * middle for weight, middle in zip(weights, middles, strict=True))

    found = bootstrap(
        [stratum for group in strata for stratum in group],
        statistic,
        method="percentile",
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return value, (float(found.low), float(found.high))


def _by_task(scores: Sequence[float] | np.ndarray, tasks: Sequence[str] | np.ndarray | None) -> list[np.ndarray]:
    scores = np.asarray(scores, float)
    if tasks is None:
        return [scores]
    return [scores[np.asarray(tasks) == task] for task in dict.fromkeys(np.asarray(tasks).tolist())]
