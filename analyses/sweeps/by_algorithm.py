"""Who gains from depth, and at what cost? Several algorithms over depth (paper figures 12 and 13, tables 5 and 6)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, metrics
from analyses.common.runs import vary
from analyses.sweeps.depth_vs_width import score_at
from crlviz import statistics


def parts(dataset: xr.Dataset) -> dict[str, dict[int, xr.Dataset]]:
    """The runs of one task that differ in algorithm, depth and seed alone: algorithm -> depth -> runs.

    Algorithms are in the order of the registry, if the Dataset is; depths are in order.
    """
    chosen = vary(dataset, "algorithm", "depth")
    result: dict[str, dict[int, xr.Dataset]] = {}
    for algorithm in dict.fromkeys(chosen.algorithm.values.tolist()):
        own = chosen.isel(run=chosen.algorithm.values == algorithm)
        result[algorithm] = {
            depth: own.isel(run=own.depth.values == depth) for depth in sorted(set(own.depth.values.tolist()))
        }
    return result


def several(dataset: xr.Dataset) -> bool:
    """Whether the runs are of several algorithms."""
    return len(set(dataset.algorithm.values.tolist())) > 1


def tasks(dataset: xr.Dataset) -> dict[str, xr.Dataset]:
    """The runs of each task."""
    return {task: dataset.isel(run=dataset.env.values == task) for task in dict.fromkeys(dataset.env.values.tolist())}


def gains(
    dataset: xr.Dataset, metric: str = "time_at_goal", equals: Sequence[str] = ("updates", "seconds")
) -> pd.DataFrame:
    """What depth gained each algorithm, after as many updates and after as many seconds.

    An algorithm's deepest network is compared with its shallowest. At equal seconds both are cut off at the training
    time of the fastest of their runs; left out if they trained different numbers of seeds at once. Algorithms are never
    compared with each other here.

    Args:
      dataset: from ``analyses.common.runs.compute``.
      metric: ``time_at_goal`` or ``success``.
      equals: quantities to hold equal.

    Returns:
      One row for each task (``env``), ``algorithm`` and quantity held ``equal`` (updates or seconds): ``shallow`` and
      ``deep`` (depths); the mean scores ``before`` and ``after``; their ``difference`` with its ``low``, ``high`` and
      ``verdict`` from ``statistics.compare``, corrected for the number of rows; the ``seconds`` of the cut (NaN at
      equal updates); and the verdict in few ``words`` and in a ``sentence``. Empty if no algorithm has several depths.
    """
    rows: list[dict[str, Any]] = []
    by_task = {task: parts(part) for task, part in tasks(dataset).items()}
    for task, algorithms in by_task.items():
        for algorithm, depths in algorithms.items():
            if len(depths) < 2:
                continue
            shallow, deep = min(depths), max(depths)
            pair = depths[shallow], depths[deep]
            of = {"env": task, "algorithm": algorithm, "shallow": shallow, "deep": deep}
            if "updates" in equals:
                scores = [_final(p, metric) for p in pair]
                rows.append(of | {"equal": "updates", "seconds": math.nan, "scores": scores})
            if "seconds" in equals and len({n for p in pair for n in np.asarray(p.together).tolist()}) == 1:
                seconds = min(float(p.train_seconds.max("evaluation").min()) for p in pair)
                scores = [score_at(p, metric, seconds) for p in pair]
                rows.append(of | {"equal": "seconds", "seconds": seconds, "scores": scores})
    for row in rows:
        before, after = row.pop("scores")
        result = statistics.compare(after, before, len(rows), metrics.largest(dataset, metric))
        row |= {"before": float(before.mean()), "after": float(after.mean())}
        row |= {name: getattr(result, name) for name in ("difference", "low", "high", "verdict")}
        row["words"] = result.brief(*claims.GAINS)
        row["sentence"] = _sentence(row, result, metric, several_tasks=len(by_task) > 1)
    return pd.DataFrame(rows)


def _final(part: xr.Dataset, metric: str) -> np.ndarray:
    return np.asarray(part[f"score_{metric}"].values, float)


def _sentence(row: dict, result: statistics.Comparison, metric: str, several_tasks: bool) -> str:
    """A row of ``gains`` in words."""
    what, form = {"success": ("success", ".2f"), "time_at_goal": ("time at goal", ".3g")}[metric]
    where = f"{row['env']}, " * several_tasks + row["algorithm"]
    at = "equal updates" if row["equal"] == "updates" else f"equal training seconds ({row['seconds']:.3g})"
    verdict = result.words("deeper is better: deep minus shallow", "shallower is better: deep minus shallow", form)
    return (
        f"{where}: at {at}, {what} is {row['before']:{form}} at depth {row['shallow']} and {row['after']:{form}} at "
        f"depth {row['deep']}: {verdict}."
    )


def gains_claim(rows: pd.DataFrame, equal: str = "updates") -> str:
    """The verdicts of ``gains`` for one quantity in a sentence; empty if there are none."""
    if not len(rows):
        return ""
    rows = rows[rows.equal == equal]
    everywhere = rows.groupby("algorithm").env.nunique()
    parts = []
    for words, said in rows.groupby("words", sort=False):
        tasks_of = said.groupby("algorithm", sort=False).env.agg(list).items()
        names = [name + f" ({', '.join(own)})" * (len(own) < int(everywhere[name])) for name, own in tasks_of]
        parts.append(f"{words} for {'any algorithm' if len(said) == len(rows) > 1 else claims.listed(names)}")
    return claims.capital("; ".join(parts))


def against_first(dataset: xr.Dataset, metric: str = "time_at_goal", looks: int = 1) -> str:
    """The first algorithm of the registry against each other one, at the largest depth that both have, in a sentence.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task, sorted by ``collect``.
      metric: ``time_at_goal`` or ``success``.
      looks: number of such sentences on the page.
    """
    (first, own), *others = parts(dataset).items()
    pairs = {name: max(set(own) & set(depths)) for name, depths in others if set(own) & set(depths)}
    said: dict[int, dict[str, list[str]]] = {}
    for name, depth in pairs.items():
        a, b = (_final(depths[depth], metric) for depths in (own, dict(others)[name]))
        result = statistics.compare(a, b, len(pairs) * looks, metrics.largest(dataset, metric))
        words = result.brief(f"{first} is above", f"{first} is below")
        words = words if result.verdict else f"{words} between {first} and"
        said.setdefault(depth, {}).setdefault(words, []).append(name)
    at_depth = [
        f"at depth {depth}, " + ", ".join(f"{words} {claims.listed(names)}" for words, names in sorted(found.items()))
        for depth, found in said.items()
    ]
    return claims.capital("; ".join(at_depth))


def hours(dataset: xr.Dataset) -> pd.DataFrame:
    """Seconds of training of the runs of one task (paper table 5).

    Returns:
      One row for each algorithm and depth: ``seconds`` (mean over seeds), ``lowest`` and ``highest``, ``updates``,
      and ``values`` (a list, the seconds of each seed).
    """
    rows = []
    for algorithm, depths in parts(dataset).items():
        for depth, part in depths.items():
            values = part.train_seconds.max("evaluation").values.tolist()
            row = {"algorithm": algorithm, "depth": depth, "seconds": float(np.mean(values)), "values": values}
            row |= {"lowest": min(values), "highest": max(values)}
            rows.append(row | {"updates": float(part.gradient_steps.max("evaluation").mean())})
    return pd.DataFrame(rows)


def passes(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """When the deepest network of the first algorithm passes the final score of each other one (paper table 6).

    The other algorithm has its usual size here: its smallest depth. A seed passes at its first evaluation above that
    algorithm's final score, a mean over seeds. So a score of 0 is passed by the first goal that is reached.

    Args:
      dataset: from ``analyses.common.runs.compute``, of one task, sorted by ``collect``.
      metric: ``time_at_goal`` or ``success``.

    Returns:
      One row for each other algorithm: ``algorithm``, ``depth``, its final ``score``, ``whole`` (seconds of its whole
      run, mean over seeds), ``first`` and ``first_depth``, ``values`` (the seconds at which each of its seeds passes;
      NaN if it never does), ``passed`` (how many do) and ``seeds``.
    """
    (first, own), *others = parts(dataset).items()
    deepest = own[max(own)]
    rows = []
    for name, depths in others:
        part = depths[min(depths)]
        score = float(_final(part, metric).mean())
        values = [
            next((float(s) for s, v in zip(seconds, curve, strict=True) if v > score), math.nan)
            for seconds, curve in zip(deepest.train_seconds.values, deepest[metric].values, strict=True)
        ]
        rows.append(
            {"algorithm": name, "depth": min(depths), "score": score, "first": first, "first_depth": max(own)}
            | {"whole": float(part.train_seconds.max("evaluation").mean()), "values": values}
            | {"passed": int(np.isfinite(values).sum()), "seeds": len(values)}
        )
    return pd.DataFrame(rows)


__all__ = ["against_first", "gains", "gains_claim", "hours", "parts", "passes", "several", "tasks"]
