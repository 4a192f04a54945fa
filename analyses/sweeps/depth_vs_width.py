"""What did doubling depth buy, compared with doubling width, at equal updates, equal parameters and equal seconds?

The three can disagree: a deeper network may score higher after the same updates and lower after the same seconds. Only
trained networks are compared, never interpolated ones: networks of one task, trained for the same environment steps.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import metrics
from analyses.common.runs import LAST, vary
from crlviz import statistics

Network = tuple[int, int]  # depth and width
_WORDS = {"success": ("success", ".2f"), "time_at_goal": ("time at goal", ".3g")}
_TOLERANCE = 0.1  # two networks count as equal if their parameters differ by less than this share


def by_kind(dataset: xr.Dataset) -> dict[tuple[str, str], xr.Dataset]:
    """The runs of each task and algorithm; only runs of the same task and algorithm are compared."""
    kinds = list(zip(dataset.env.values.tolist(), dataset.algorithm.values.tolist(), strict=True))
    return {kind: dataset.isel(run=[own == kind for own in kinds]) for kind in dict.fromkeys(kinds)}


def lines(dataset: xr.Dataset) -> dict[str, dict[Network, xr.Dataset]]:
    """The runs over depth at one width and over width at one depth, by network, smallest first.

    All these runs were trained for the same number of environment steps. If there are several such numbers, the choice
    is the one with both lines, then the one with the most networks, then the largest.

    Args:
      dataset: from ``analyses.sweeps.efficiency.compute``, of one task and algorithm.

    Returns:
      ``{"depth": {(4, 64): ..., (8, 64): ...}, "width": ...}``; a line with a single network is left out.
    """
    candidates = []
    for trained in np.unique(dataset.trained):
        part = dataset.isel(run=dataset.trained.values == trained)
        both = {name: line for name in ("depth", "width") if len(line := _line(part, name)) > 1}
        candidates.append((len(both), sum(map(len, both.values())), trained, both))
    return max(candidates, key=lambda candidate: candidate[:3])[3]


def _line(dataset: xr.Dataset, name: str) -> dict[Network, xr.Dataset]:
    """The runs that differ in one factor alone, by network, smallest first."""
    part = vary(dataset, name)
    networks = list(zip(part.depth.values.tolist(), part.width.values.tolist(), strict=True))
    return {network: part.isel(run=[n == network for n in networks]) for network in sorted(set(networks))}


def compare(dataset: xr.Dataset, metric: str = "time_at_goal") -> pd.DataFrame:
    """Compare the gain from doubling depth with the gain from doubling width, for each task and algorithm.

    Both lines start at the network that they share. A deeper network is compared with a wider one:

    - equal updates: the largest two after the same number of doublings;
    - equal parameters: the largest two whose parameters differ by less than 10 %;
    - equal seconds: the first of these pairs that exists, with every run cut off at the training time of the fastest.
      Left out if the runs trained different numbers of seeds at once.

    A comparison that needs a network that was not trained is left out.

    Args:
      dataset: from ``analyses.sweeps.efficiency.compute``: runs that differ in shape and training time alone.
      metric: ``time_at_goal`` or ``success``.

    Returns:
      One row for each task (``env``), ``algorithm`` and quantity held ``equal`` (updates, parameters or seconds).
      Columns: the mean scores of the shared network (``base``), of the deeper (``depth``) and of the wider one
      (``width``); the ``difference`` of the latter two with its ``low``, ``high`` and ``verdict`` from
      ``statistics.compare``, corrected for the number of rows; ``deep`` and ``wide``, the two networks in words; the
      verdict in few ``words`` and in a ``sentence``. Empty if no two lines share a network, or no pair is equal in
      anything.
    """
    kinds = by_kind(dataset)
    pairs = [(kind, equal, pair) for kind, part in kinds.items() for equal, pair in _pairs(part).items()]
    several = [len({kind[k] for kind in kinds}) > 1 for k in (0, 1)]
    rows = []
    for (task, algorithm), equal, (base, deep, wide, parts) in pairs:
        networks = (base, deep, wide)
        seconds = min(float(parts[network].train_seconds.max("evaluation").min()) for network in networks)
        scores = [
            score_at(parts[network], metric, seconds)
            if equal == "seconds"
            else parts[network][f"score_{metric}"].values
            for network in networks
        ]
        comparison = statistics.compare(scores[1], scores[2], len(pairs), metrics.largest(dataset, metric))
        row = {"env": task, "algorithm": algorithm, "equal": equal}
        row |= dict(zip(("base", "depth", "width"), map(np.mean, scores), strict=True))
        row |= {name: getattr(comparison, name) for name in ("difference", "low", "high", "verdict")}
        row["deep"], row["wide"] = (f"depth {depth}, width {width}" for depth, width in (deep, wide))
        measured = _measured(row, metric, networks, [float(parts[n].parameters.mean()) for n in networks], seconds)
        number_format = _WORDS[metric][1]
        verdict = comparison.words(
            "deeper is better: depth minus width", "wider is better: depth minus width", number_format
        )
        named = [name for name, varies in zip((task, algorithm), several, strict=True) if varies]
        prefix = f"{', '.join(named)}: " if named else ""
        row["words"] = comparison.brief("deeper is better", "wider is better")
        rows.append(row | {"sentence": f"{prefix}{measured}: {verdict}."})
    return pd.DataFrame(rows)


def claim(compared: pd.DataFrame) -> str:
    """The verdicts of ``compare`` in one sentence; empty if it has no rows.

    Which is better, at what equal cost, and in how many of the tasks (and algorithms) if there are several.
    """
    if not len(compared):
        return ""
    kinds, parts = len(compared[["env", "algorithm"]].drop_duplicates()), []
    of = f"{kinds} tasks" if compared.algorithm.nunique() == 1 else f"{kinds} pairs of task and algorithm"
    for words, rows in compared.groupby("words", sort=False):
        counts = rows.groupby("equal", sort=False).size().items()
        at = [f"{equal}" + f" ({number} of {of})" * (kinds > 1) for equal, number in counts]
        said = {"no difference found": "no difference between depth and width found"}.get(str(words), str(words))
        said, _, rest = said.partition(": ")
        listed = ", ".join(at[:-1]) + " and " * (len(at) > 1) + at[-1]
        parts.append(f"{said} at equal {listed}" + f": {rest}" * bool(rest))
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:]


def _pairs(dataset: xr.Dataset) -> dict[str, tuple[Network, Network, Network, dict[Network, xr.Dataset]]]:
    """Networks to compare in one task, by what is equal: the shared, deeper and wider network, and the runs of all."""
    by_factor = lines(dataset)
    shared = set(by_factor.get("depth", {})) & set(by_factor.get("width", {}))
    if not shared:
        return {}
    base = min(shared)
    deep, wide = ([network for network in by_factor[name] if network > base] for name in ("depth", "width"))
    parts = {**by_factor["width"], **by_factor["depth"]}

    def largest(equal: Callable[[Network, Network], bool]) -> tuple[Network, Network] | None:
        return max(((d, w) for d, w in itertools.product(deep, wide) if equal(d, w)), default=None)

    def equal_parameters(d: Network, w: Network) -> bool:
        sizes = [float(parts[network].parameters.mean()) for network in (d, w)]
        return max(sizes) < (1 + _TOLERANCE) * min(sizes)

    updates = largest(lambda d, w: d[0] * base[1] == w[1] * base[0])
    parameters = largest(equal_parameters)
    seconds = updates or parameters
    if seconds and "together" in dataset.coords:  # seeds trained at once on a GPU share its seconds
        group_sizes = {n for network in (base, *seconds) for n in parts[network].together.values.tolist()}
        seconds = seconds if len(group_sizes) == 1 else None
    chosen = {"updates": updates, "parameters": parameters, "seconds": seconds}
    return {equal: (base, *pair, parts) for equal, pair in chosen.items() if pair}


def score_at(dataset: xr.Dataset, metric: str, seconds: float) -> np.ndarray:
    """The score of each run [run] if its training had stopped after ``seconds``.

    A run's score is the mean of its last five evaluations. Here it is the mean of as many points, at the same
    fractions of the shortened run, on the learning curve interpolated linearly over training seconds.
    """
    scores = []
    for curve, clock in zip(dataset[metric].values, dataset.train_seconds.values, strict=True):
        known = np.isfinite(curve)
        count = max(int(known.sum()) - 1, 1)  # the first evaluation comes before any update
        times = seconds * (1 - np.arange(min(LAST, count)) / count)
        scores.append(np.interp(times, clock[known], curve[known]).mean())
    return np.array(scores)


def _measured(
    row: Mapping[str, Any], metric: str, networks: Sequence[Network], sizes: Sequence[float], seconds: float
) -> str:
    """The measured scores in words, without a verdict."""
    (depth, width), deep, wide = networks
    word, number_format = _WORDS[metric]
    start, deeper, wider = (format(row[name], number_format) for name in ("base", "depth", "width"))
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
