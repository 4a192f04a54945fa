"""Distributions of runs' scores over tasks: performance profiles and probabilities of improvement.

After Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice", and its library
rliable: every task counts the same, and intervals come from a bootstrap that draws seeds anew within each task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims
from analyses.common.metrics import METRICS
from analyses.common.runs import vary
from crlviz import charts, datasets

FEWEST = 10  # least number of scores for the distribution of a group
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_POINTS = 101
_WIDTH, _HEIGHT = 400, 240  # pixels
Scores = Mapping[str, np.ndarray]  # task -> a score of each seed


def profile(scores: Scores, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of runs with a score above each level [L], the mean over tasks; and its interval, low and high [L]."""

    def shares(*tasks: np.ndarray) -> np.ndarray:
        return np.mean([(task[..., None, :] > levels[:, None]).mean(-1) for task in tasks], axis=0)

    return _with_interval(shares, list(scores.values()))


def improvement(scores: Scores, others: Scores) -> tuple[float, float, float]:
    """The probability that a run scores above another one of the same task, the mean over tasks, and its interval.

    Draws count half (the statistic of Mann and Whitney).

    Args:
      scores, others: of the same tasks.
    """
    count = len(scores)

    def probability(*tasks: np.ndarray) -> np.ndarray:
        pairs = zip(tasks[:count], tasks[count:], strict=True)
        return np.mean([_above(a[..., :, None] - b[..., None, :]) for a, b in pairs], axis=0)

    value, low, high = _with_interval(probability, [*scores.values(), *(others[task] for task in scores)])
    return float(value), float(low), float(high)


def _above(difference: np.ndarray) -> np.ndarray:
    """The share [...] of differences [..., N, M] that are positive; zeros count half."""
    return ((difference > 0) + 0.5 * (difference == 0)).mean((-1, -2))


def _with_interval(
    statistic: Callable[..., np.ndarray], samples: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic [...] of samples [N], [M], ... and its percentile interval; each sample is drawn anew on its own."""
    rng = np.random.default_rng(0)
    drawn = [sample[rng.integers(len(sample), size=(_RESAMPLES, len(sample)))] for sample in samples]
    outside = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(statistic(*drawn), [outside, 1 - outside], axis=0)
    return statistic(*samples), low, high


def scores_by_depth(dataset: xr.Dataset, metric: str) -> dict[int, dict[str, np.ndarray]]:
    """Depth -> task -> the final score of each seed, of tasks that all depths share.

    Times at the goal are shares of the task's highest score, because tasks have episodes of different lengths.

    Args:
      dataset: from ``analyses.common.runs.compute``.
      metric: a key of ``METRICS``.

    Returns:
      Empty if there are several algorithms, one depth, or a depth with fewer than ``FEWEST`` scores.
    """
    if len(np.unique(dataset.algorithm)) > 1:
        return {}
    part = vary(dataset, "depth")
    table = part[f"score_{metric}"].to_dataframe()[["env", "depth", f"score_{metric}"]]
    table.columns = pd.Index(["task", "depth", "score"])
    depths = sorted(set(table.depth))
    table = table.groupby("task").filter(lambda own: set(own.depth) == set(depths))
    if metric != "success":
        table["score"] /= table.groupby("task").score.transform("max").clip(lower=1e-12)
    if len(depths) < 2 or table.empty or table.groupby("depth").size().min() < FEWEST:
        return {}
    return {
        int(depth): {str(task): group.score.to_numpy() for task, group in own.groupby("task")}
        for depth, own in table.groupby("depth")
    }


def plot(by_depth: Mapping[int, Scores], metric: str) -> alt.TopLevelMixin:
    """Draw the profile of each depth, and the probability that a run of the deepest scores above one of each other.

    Args:
      by_depth: from ``scores_by_depth``; not empty.
      metric: a key of ``METRICS``.
    """
    names = {depth: datasets.FACTS["depth"].format(depth) for depth in by_depth}
    shades = alt.Scale(domain=list(names.values()), range=[charts.depth_color(depth) for depth in names])
    deepest = max(by_depth)
    won = {depth: improvement(by_depth[deepest], scores) for depth, scores in by_depth.items() if depth != deepest}
    return charts.row(
        _profiles(by_depth, names, shades, metric),
        _improvements({names[depth]: numbers for depth, numbers in won.items()}, names[deepest], shades),
    )


def _profiles(by_depth: Mapping[int, Scores], names: Mapping[int, str], shades: alt.Scale, metric: str) -> Any:
    levels = np.linspace(0, 1, _POINTS)
    rows = []
    for depth, scores in by_depth.items():
        for level, value, low, high in zip(levels, *profile(scores, levels), strict=True):
            rows.append({"group": names[depth], "score": level, "value": value, "low": low, "high": high})
    title = METRICS[metric] if metric == "success" else "share of the task's highest time at goal"
    x = alt.X("score:Q", title=title, axis=charts.number_axis(tickCount=6))
    y = alt.Y("value:Q", title="runs above it (share)", scale=alt.Scale(domain=[0, 1]))
    color = alt.Color("group:N", sort=None, scale=shades, legend=charts.legend())
    base = alt.Chart(pd.DataFrame(rows)).encode(x=x, color=color)
    return alt.layer(
        base.mark_area(opacity=0.14, interpolate="step-before").encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(interpolate="step-before").encode(y=y),
    ).properties(width=_WIDTH, height=_HEIGHT, title=charts.panel_title(_profile_title(by_depth, names), _WIDTH, 2))


def _profile_title(by_depth: Mapping[int, Scores], names: Mapping[int, str]) -> str:
    """What share of the deepest and the shallowest runs is above the middle of all scores."""
    every = np.concatenate([score for scores in by_depth.values() for score in scores.values()])
    middle = np.array([np.median(every)])
    shares = {depth: profile(by_depth[depth], middle)[0].item() for depth in (max(by_depth), min(by_depth))}
    listed = " and ".join(f"{claims.number(share, '.0%')} of {names[depth]}" for depth, share in shares.items())
    return f"{claims.number(middle.item(), '.2f')}, the middle of all scores, is passed by {listed}"


def _improvements(won: Mapping[str, tuple[float, float, float]], deepest: str, shades: alt.Scale) -> Any:
    data = pd.DataFrame([{"group": name, "value": v, "low": low, "high": high} for name, (v, low, high) in won.items()])
    x = alt.X("value:Q", title="probability", scale=alt.Scale(domain=[0, 1]), axis=charts.number_axis(tickCount=5))
    y = alt.Y("group:N", sort=None, title=None, axis=alt.Axis(labelLimit=0))
    color = alt.Color("group:N", scale=shades, legend=None)
    base = alt.Chart(data).encode(y=y, color=color)
    first = next(iter(won))
    value = claims.number(won[first][0], ".2f")
    title = f"A run of {deepest} scores above one of {first} with probability {value}"
    even = alt.Chart(pd.DataFrame({"value": [0.5]})).mark_rule(strokeDash=[4, 4]).encode(x=x)
    return alt.layer(
        even,
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(size=100, filled=True, opacity=1).encode(x=x, tooltip=["group", "value", "low", "high"]),
    ).properties(
        width=_WIDTH * 3 // 4,
        height=max(charts.font(40), charts.font(32) * len(won)),
        title=charts.panel_title(title, _WIDTH * 3 // 4, 2),
    )


HOW_TO_READ = (
    "Profiles: the share of runs above a score, every task counting the same; a curve above another wins at every "
    "score. Beside them the probability that a run of the deepest network scores above one of another depth on the "
    "same task; on the dashed line neither wins. Bands and bars: 95 % of 2,000 bootstrap samples, in which the seeds "
    "of each task are drawn anew. A bar without a length: every run of one is above every run of the other."
)
