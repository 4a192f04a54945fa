"""What did doubling depth buy against doubling width, at equal updates, equal parameters and equal seconds?

The three can disagree: a deeper network may score more after as many updates and less after as many seconds.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.runs import LAST, vary
from crlviz import statistics

Network = tuple[int, int]  # depth and width
_WORDS = {"success": ("success", ".2f"), "time_at_goal": ("time at goal", ".3g")}


def lines(dataset: xr.Dataset) -> dict[str, dict[Network, xr.Dataset]]:
    """The runs over depth at one width and over width at one depth, by network, the smallest first.

    Args:
      dataset: from ``analyses.runs.compute``.

    Returns:
      ``{"depth": {(4, 64): ..., (8, 64): ...}, "width": ...}``; a line with a single network is left out.
    """
    found = {}
    for name in ("depth", "width"):
        part = vary(dataset, name)
        networks = list(zip(part.depth.values.tolist(), part.width.values.tolist(), strict=True))
        line = {network: part.isel(run=[n == network for n in networks]) for network in sorted(set(networks))}
        if len(line) > 1:
            found[name] = line
    return found


def compare(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """What doubling depth bought against doubling width.

    Both lines start at the network that they share. Each is read at the farthest place that both reach, between two
    networks by interpolation over the logarithm: after as many doublings (equal updates), with as many parameters, and
    after as many doublings again with every run cut off at the seconds that the fastest took (equal seconds).

    Args:
      dataset: from ``analyses.runs.compute``.
      metric: ``time_at_goal`` or ``success``.

    Returns:
      A row for each of ``equal`` updates, parameters and seconds: the scores of the shared network (``base``), of
      ``depth`` and of ``width``; ``gain_depth`` and ``gain_width`` over the base, and their ``difference``; the 95 %
      intervals of these three (``..._low`` and ``..._high``, NaN with one seed); and the ``sentence``. No rows where
      the runs hold no two lines from one network.
    """
    found = lines(dataset)
    shared = set(found.get("depth", {})) & set(found.get("width", {}))
    if not shared:
        return pd.DataFrame()
    base = min(shared)
    deep, wide = ([network for network in found[name] if network >= base] for name in ("depth", "width"))
    parts = {**found["depth"], **found["width"]}
    doublings = {(d, w): float(np.log2(d / base[0]) + np.log2(w / base[1])) for d, w in parts}
    sizes = {network: float(np.log2(part.parameters.mean())) for network, part in parts.items()}
    rows = []
    for equal, place in (("updates", doublings), ("parameters", sizes), ("seconds", doublings)):
        reach = min(place[deep[-1]], place[wide[-1]])
        if reach <= place[base]:
            return pd.DataFrame()
        by_depth, by_width = (_weights(line, place, reach) for line in (deep, wide))
        used = {network: parts[network] for network in {base: 1.0} | by_depth | by_width}
        seconds = min(float(part.train_seconds.max("evaluation").min()) for part in used.values())
        scores = {
            network: score_at(part, metric, seconds) if equal == "seconds" else part[f"score_{metric}"].values
            for network, part in used.items()
        }
        tasks = {network: part.env.values for network, part in used.items()}
        row: dict = {"equal": equal}
        for name, plus, minus in (
            ("base", {base: 1.0}, {}),
            ("depth", by_depth, {}),
            ("width", by_width, {}),
            ("gain_depth", by_depth, {base: 1.0}),
            ("gain_width", by_width, {base: 1.0}),
            ("difference", by_depth, by_width),
        ):
            weights = [plus.get(network, 0.0) - minus.get(network, 0.0) for network in used]
            row[name], interval = statistics.contrast(list(scores.values()), weights, list(tasks.values()))
            if minus:
                row[f"{name}_low"], row[f"{name}_high"] = interval or (np.nan, np.nan)
        ends = _end(by_depth)[0], _end(by_width)[1]
        budget = {"updates": reach, "parameters": 2**reach, "seconds": seconds}[equal]
        rows.append(row | {"sentence": _sentence(row, metric, budget, base, ends)})
    return pd.DataFrame(rows)


def score_at(dataset: xr.Dataset, metric: str, seconds: float) -> np.ndarray:
    """Each run's score [run], had it stopped after so many training seconds.

    Of the learning curve up to then, the mean over the share that the last five evaluations are of a whole run; between
    two evaluations the curve is a straight line.
    """
    scores = []
    for curve, clock in zip(dataset[metric].values, dataset.train_seconds.values, strict=True):
        there = np.isfinite(curve)
        count = max(int(there.sum()) - 1, 1)  # the first evaluation comes before any update
        places = seconds * (1 - np.arange(min(LAST, count)) / count)
        scores.append(np.interp(places, clock[there], curve[there]).mean())
    return np.array(scores)


def _weights(line: Sequence[Network], place: Mapping[Network, float], at: float) -> dict[Network, float]:
    """How much each network of a line weighs in its interpolation at a place."""
    places = [place[network] for network in line]
    weights = {network: float(np.interp(at, places, row)) for network, row in zip(line, np.eye(len(line)), strict=True)}
    return {network: weight for network, weight in weights.items() if weight}


def _end(weights: Mapping[Network, float]) -> tuple[int, int]:
    """Depth and width of the network at an interpolated place."""
    logs = sum(weight * np.log2(network) for network, weight in weights.items())
    depth, width = np.round(2**logs).astype(int).tolist()
    return depth, width


def _sentence(row: Mapping, metric: str, budget: float, base: Network, ends: Sequence[int]) -> str:
    word, form = _WORDS[metric]
    start, depth, width = (format(row[name], form) for name in ("base", "depth", "width"))
    deeper, wider = f"depth ({base[0]} to {ends[0]})", f"width ({base[1]} to {ends[1]})"
    if row["equal"] == "updates":
        times = "a doubling" if budget == 1 else f"{budget:.2g} doublings"
        fact = f"At equal updates, {times} of {deeper} took {word} from {start} to {depth}, of {wider} to {width}"
    elif row["equal"] == "parameters":
        fact = (
            f"At equal parameters ({budget:,.0f}), {word} is {depth} when they go into {deeper}, {width} when they go "
        )
        fact += f"into {wider}, from {start}"
    else:
        fact = f"After equal training seconds ({budget:.3g}), {word} is {depth} at depth {ends[0]}, {width} at width "
        fact += f"{ends[1]} and {start} at depth {base[0]} with width {base[1]}"
    low, high = row["difference_low"], row["difference_high"]
    if np.isnan(low):
        return f"{fact}; one seed, so this is a picture and no claim."
    verdict = "deeper is better" if low > 0 else "wider is better" if high < 0 else "no difference told"
    gap = f"depth minus width {row['difference']:+{form}}, 95 % interval {low:+{form}} to {high:+{form}}"
    return f"{fact}: {verdict} ({gap})."
