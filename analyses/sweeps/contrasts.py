"""What the panels of ``analyses.sweeps.scaling_panels`` compare: the scores of a first and a last group."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from analyses.common import runs
from analyses.common.curve_area import area
from crlviz import datasets


class Contrast(NamedTuple):
    """Scores of groups; the first and the last group are compared.

    Attributes:
      scores: name of a group -> a score of each seed.
      where: where they were measured: "at depth 16"; empty: at the end.
      looks: number of comparisons that the panel makes.
    """

    scores: Mapping[str, Sequence[float]]
    where: str = ""
    looks: int = 1


def by_value(part: xr.Dataset, name: str, metric: str, values: str = "") -> dict[str, list[float]]:
    """The seeds' scores for each value of a factor, smallest first; ``values``: which variable holds them."""
    scores: dict[Any, list[float]] = {}
    chosen = part[values or f"score_{metric}"].values
    for value, score in sorted(zip(part[name].values.tolist(), chosen, strict=True), key=lambda pair: pair[0]):
        scores.setdefault(datasets.FACTS[name].format(value), []).append(float(score))
    return scores


def training(part: xr.Dataset, metric: str) -> list[Contrast]:
    """The mean score of all training, by depth."""
    part = runs.relabel(part, "depth").sortby("depth")
    areas = by_value(part.assign(area=area(part, metric)), "depth", metric, "area")
    return [Contrast(areas, "on average of all training")]


def depths(part: xr.Dataset, metric: str) -> list[Contrast]:
    """The final score by depth."""
    return [Contrast(by_value(part, "depth", metric), "at the end")]


def ablations(part: xr.Dataset, metric: str) -> list[Contrast]:
    """The full network against each other one, at the largest depth that has several; the largest difference first."""
    scores, where = _deepest(part, "network", metric)
    full = scores.pop("full network", [])
    order = sorted(scores, key=lambda name: -abs(np.mean(scores[name]) - np.mean(full)))
    return [Contrast({"full network": full, name: scores[name]}, where, len(scores)) for name in order]


def batches(part: xr.Dataset, metric: str) -> list[Contrast]:
    """The batch sizes at the largest depth that has several."""
    return [Contrast(*_deepest(part, "batch_size", metric))]


def actor_or_critic(part: xr.Dataset, metric: str) -> list[Contrast]:
    """The deepest actor with the shallowest critic against the other way round; nothing if one was not trained."""
    low, high = int(part.depth.min()), int(part.depth.max())
    scores = {}
    for critic, actor in ((high, low), (low, high)):
        chosen = (part.depth.values == critic) & (part.actor_depth.values == actor)
        scores[f"actor {actor}, critic {critic}"] = part[f"score_{metric}"].values[chosen].tolist()
    return [Contrast(scores)] if all(scores.values()) else []


def _deepest(part: xr.Dataset, name: str, metric: str) -> tuple[dict[str, list[float]], str]:
    """Scores at the largest depth that has several values of a factor, and the words "at depth 16"."""
    for depth in sorted(set(part.depth.values.tolist()), reverse=True):
        scores = by_value(part.isel(run=part.depth.values == depth), name, metric)
        if len(scores) > 1:
            return scores, f"at depth {depth}"
    return {}, ""
