"""What did doubling depth buy against doubling width, at equal updates, equal parameters and equal seconds?

The three can disagree: a deeper network may score more after as many updates and less after as many seconds. Networks
that were trained are compared, of one task and trained for as long, and none between them.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from analyses.common.runs import LAST, vary
from crlviz import statistics

Network = tuple[int, int]  # depth and width
_WORDS = {"success": ("success", ".2f"), "time_at_goal": ("time at goal", ".3g")}
_LARGEST = {"success": 1.0}  # difference that there can be, of a share
_AS_MANY = 0.1  # two networks whose parameters differ by less have as many


def lines(dataset: xr.Dataset) -> dict[str, dict[Network, xr.Dataset]]:
    """The runs over depth at one width and over width at one depth, by network, the smallest first.

    All were trained for as many environment steps: of several such, those that make two lines, then the most networks,
    then the longest trained.

    Args:
      dataset: from ``analyses.sweeps.efficiency.compute``, of one task.

    Returns:
      ``{"depth": {(4, 64): ..., (8, 64): ...}, "width": ...}``; a line with a single network is left out.
    """
    found = []
    for trained in np.unique(dataset.trained):
        alike = dataset.isel(run=dataset.trained.values == trained)
        both = {name: line for name in ("depth", "width") if len(line := _line(alike, name)) > 1}
        found.append((len(both), sum(map(len, both.values())), trained, both))
    return max(found, key=lambda each: each[:3])[3]


def _line(dataset: xr.Dataset, name: str) -> dict[Network, xr.Dataset]:
    part = vary(dataset, name)
    networks = list(zip(part.depth.values.tolist(), part.width.values.tolist(), strict=True))
    return {network: part.isel(run=[n == network for n in networks]) for network in sorted(set(networks))}


def compare(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """What doubling depth bought against doubling width, task by task.

    Both lines start at the network that they share. A deeper one is compared with a wider one: the largest two after as
    many doublings (equal updates), the largest two whose parameters differ by less than a tenth (equal parameters), and
    the first of these pairs that there is with every run cut off at the seconds that the fastest took (equal seconds,
    where all were trained in as large groups of seeds at once).
    What would take a network that was not trained is not compared.

    Args:
      dataset: from ``analyses.sweeps.efficiency.compute``: runs that differ in shape and training time alone.
      metric: ``time_at_goal`` or ``success``.

    Returns:
      A row for each task (``env``) and what is ``equal`` (updates, parameters or seconds): the mean scores of the
      shared network (``base``), of ``depth`` and of ``width``; the ``difference`` of the latter two with its ``low``,
      ``high`` and ``verdict`` as ``statistics.compare`` tells them for so many rows; ``deep`` and ``wide``, both in
      words; and the ``sentence``. No rows where there are no two lines from one network, or none equal in anything.
    """
    tasks = {task: dataset.isel(run=dataset.env.values == task) for task in dict.fromkeys(dataset.env.values.tolist())}
    pairs = [(task, equal, found) for task, part in tasks.items() for equal, found in _pairs(part).items()]
    rows = []
    for task, equal, (base, deep, wide, parts) in pairs:
        networks = (base, deep, wide)
        seconds = min(float(parts[network].train_seconds.max("evaluation").min()) for network in networks)
        scores = [
            score_at(parts[network], metric, seconds)
            if equal == "seconds"
            else parts[network][f"score_{metric}"].values
            for network in networks
        ]
        found = statistics.compare(scores[1], scores[2], len(pairs), _LARGEST.get(metric, math.inf))
        row = {"env": task, "equal": equal} | dict(zip(("base", "depth", "width"), map(np.mean, scores), strict=True))
        row |= {name: getattr(found, name) for name in ("difference", "low", "high", "verdict")}
        row["deep"], row["wide"] = (f"depth {depth}, width {width}" for depth, width in (deep, wide))
        fact = _fact(row, metric, networks, [float(parts[n].parameters.mean()) for n in networks], seconds)
        form = _WORDS[metric][1]
        verdict = found.words("deeper is better: depth minus width", "wider is better: depth minus width", form)
        where = f"{task}: " if len(tasks) > 1 else ""
        rows.append(row | {"sentence": f"{where}{fact}: {verdict}."})
    return pd.DataFrame(rows)


def _pairs(dataset: xr.Dataset) -> dict[str, tuple[Network, Network, Network, dict[Network, xr.Dataset]]]:
    """The networks compared in one task, by what is equal: the shared one, the deeper, the wider, and all runs."""
    found = lines(dataset)
    shared = set(found.get("depth", {})) & set(found.get("width", {}))
    if not shared:
        return {}
    base = min(shared)
    deep, wide = ([network for network in found[name] if network > base] for name in ("depth", "width"))
    parts = {**found["width"], **found["depth"]}

    def largest(alike) -> tuple[Network, Network] | None:
        return max(((d, w) for d, w in itertools.product(deep, wide) if alike(d, w)), default=None)

    def as_many_parameters(d: Network, w: Network) -> bool:
        sizes = [float(parts[network].parameters.mean()) for network in (d, w)]
        return max(sizes) < (1 + _AS_MANY) * min(sizes)

    updates = largest(lambda d, w: d[0] * base[1] == w[1] * base[0])
    parameters = largest(as_many_parameters)
    seconds = updates or parameters
    if seconds and "together" in dataset.coords:  # seconds of seeds that a GPU trained at once are shares
        at_once = {n for network in (base, *seconds) for n in parts[network].together.values.tolist()}
        seconds = seconds if len(at_once) == 1 else None
    chosen = {"updates": updates, "parameters": parameters, "seconds": seconds}
    return {equal: (base, *pair, parts) for equal, pair in chosen.items() if pair}


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


def _fact(row: Mapping, metric: str, networks: Sequence[Network], sizes: Sequence[float], seconds: float) -> str:
    """What was measured, without a verdict."""
    (depth, width), deep, wide = networks
    word, form = _WORDS[metric]
    start, deeper, wider = (format(row[name], form) for name in ("base", "depth", "width"))
    of_depth, of_width = f"depth ({depth} to {deep[0]})", f"width ({width} to {wide[1]})"
    if row["equal"] == "updates":
        doublings = np.log2(deep[0] / depth)
        times = "a doubling" if doublings == 1 else f"{doublings:.2g} doublings"
        return f"At equal updates, {times} of {of_depth} took {word} from {start} to {deeper}, of {of_width} to {wider}"
    if row["equal"] == "parameters":
        return (
            f"At equal parameters ({sizes[1]:,.0f} and {sizes[2]:,.0f}), {word} is {deeper} when they go into "
            f"{of_depth}, {wider} when they go into {of_width}, from {start}"
        )
    return (
        f"After equal training seconds ({seconds:.3g}), read off the learning curves, {word} is {deeper} at depth "
        f"{deep[0]}, {wider} at width {wide[1]} and {start} at depth {depth} with width {width}"
    )
