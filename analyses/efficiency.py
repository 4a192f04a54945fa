"""What does depth buy at equal updates, equal parameters and equal seconds? (paper figure 4)"""

import altair as alt
import pandas as pd
import xarray as xr

from analyses.runs import LAST, compute
from analyses.scaling import styles
from crlviz import statistics

COSTS = {"updates": "updates", "parameters": "parameters of actor and critic", "seconds": "training seconds"}


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """A row a group: its seeds' scores, their interquartile mean and 95 % interval, and what they cost on average.

    Args:
      dataset: from ``compute``.
    """
    rows = []
    for group in dict.fromkeys(dataset.group.values.tolist()):
        part = dataset.isel(run=dataset.group.values == group)
        scores = part.score.values
        low, high = statistics.interval(scores) or (None, None)
        rows.append(
            {
                "group": group,
                "scores": [float(score) for score in scores],
                "score": statistics.interquartile_mean(scores),
                "low": low,
                "high": high,
                "time_at_goal": statistics.interquartile_mean(part.score_time_at_goal.values),
                "updates": float(part.gradient_steps.max("evaluation").mean()),
                "parameters": float(part.parameters.mean()),
                "seconds": float(part.train_seconds.max("evaluation").mean()),
            }
        )
    return pd.DataFrame(rows)


def plot(dataset: xr.Dataset, *, size: int = 230) -> alt.TopLevelMixin:
    """Final success of each group against each cost, with its seeds as small marks and a 95 % interval."""
    groups = table(dataset)
    seeds = groups.explode("scores").rename(columns={"scores": "seed_score"})
    style, order = styles(dataset), groups.group.tolist()
    legend = alt.Legend(orient="bottom", columns=1, title=None, labelLimit=400, symbolOpacity=1)
    colour = alt.Color("group:N", sort=order, scale=style["colour"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    panels = []
    for cost, title in COSTS.items():
        x = alt.X(
            f"{cost}:Q",
            title=title,
            scale=alt.Scale(type="log", nice=False, padding=25),
            axis=alt.Axis(format=".2~s", grid=False, tickCount=4),
        )
        score = alt.Scale(domain=[0, 1])
        layers = [
            alt.Chart(seeds)
            .mark_point(size=22, opacity=0.5)
            .encode(x=x, y=alt.Y("seed_score:Q", scale=score), color=colour, shape=shape),
            alt.Chart(groups.dropna(subset=["low"]))
            .mark_rule(strokeWidth=1.5)
            .encode(x=x, y="low:Q", y2="high:Q", color=colour),
            alt.Chart(groups)
            .mark_point(size=130, filled=True, opacity=1)
            .encode(
                x=x,
                y=alt.Y("score:Q", title="goals reached (share)", scale=score),
                color=colour,
                shape=shape,
                tooltip=["group:N", "score:Q", f"{cost}:Q"],
            ),
        ]
        panels.append(alt.layer(*layers).properties(width=size, height=240, title=f"against {cost}"))
    counts = {len(scores) for scores in groups.scores}
    note = (
        "One seed, so no interval."
        if counts == {1}
        else f"{min(counts)} seeds: interquartile mean and 95 % bootstrap interval."
    )
    return alt.hconcat(*panels).properties(
        title=alt.TitleParams("What the goals reached cost", subtitle=f"Mean of the last {LAST} evaluations. {note}")
    )


__all__ = ["COSTS", "compute", "plot", "table"]
