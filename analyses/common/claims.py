"""Titles that say what a picture shows, computed from its scores."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from crlviz import statistics

_LISTED = 4  # groups named in a title


def about(
    scores: Mapping[str, Sequence[float]],
    what: str,
    reaches: str,
    form: str = ".2f",
    largest: float = math.inf,
    comparisons: int = 1,
) -> str:
    """What the seeds of groups say about a score: "Depth 16 reaches 61 % of its goals, against 48 % (depth 4)".

    The first and the last group are compared, by ``statistics.compare``. Without a significant difference, or with
    fewer than three seeds, the sentence gives only the numbers. It names the groups of which a seed has no score.

    Args:
      scores: name of a group -> a score of each seed; shallow first.
      what: the score in words: "goals reached".
      reaches: what a group with a higher score does, with {} for its score: "reaches {} of its goals".
      form: format specification of a score.
      largest: the largest possible difference of two scores.
      comparisons: number of verdicts in the picture.
    """
    known = {name: [v for v in values if math.isfinite(v)] for name, values in scores.items()}
    known = {name: values for name, values in known.items() if values}
    if not known:
        return f"{capital(what)}: none was measured"
    lacking = f"; {left_out}" if (left_out := unmeasured(scores)) else ""
    means = {name: number(float(np.mean(values)), form) for name, values in known.items()}
    order = sorted(known, key=lambda name: -np.mean(known[name]))
    if len(known) > 1:
        first, *_, last = known
        result = statistics.compare(known[last], known[first], comparisons, largest)
        high, low = (last, first) if result.difference > 0 else (first, last)
        if result.verdict:
            return f"{capital(high)} {reaches.format(means[high])}, against {means[low]} ({low}){lacking}"
        if verdict := undecided(result):
            return f"{capital(what)}: {means[high]} ({high}), {means[low]} ({low}); {verdict}{lacking}"
    shown = ", ".join(f"{means[name]} ({name})" for name in order[:_LISTED])
    more = f" and {len(order) - _LISTED} more" if len(order) > _LISTED else ""
    few = ", too few seeds to compare" if lacking and len(known) > 1 else ""
    return f"{capital(what)}: {shown}{more}{lacking}{few}"


def undecided(result: statistics.Comparison) -> str:
    """That seeds do not decide, in words: "3 seeds cannot tell them apart"; empty if they do, or are below three."""
    if result.verdict or math.isnan(result.low):
        return ""
    return (
        f"{result.seeds} seeds {'are too few to tell' if math.isinf(result.detectable) else 'cannot tell them apart'}"
    )


def unmeasured(scores: Mapping[str, Sequence[float]]) -> str:
    """Which groups have seeds without a score: "depth 4: 2 of 3 seeds"; empty if none has."""
    counts = {name: (int(np.isfinite(values).sum()), len(values)) for name, values in scores.items()}
    return ", ".join(f"{name}: {found} of {count} seeds" for name, (found, count) in counts.items() if found < count)


def of_metric(
    scores: Mapping[str, Sequence[float]],
    metric: str,
    comparisons: int = 1,
    where: str = "",
    longest: float = math.inf,
) -> str:
    """``about`` for a metric of runs, such as ``success`` (shares).

    ``where`` follows the score's name; ``longest``: steps of an episode, the largest difference in time at goal.
    """
    where = f" {where}" * bool(where)
    if metric == "held_out_accuracy":
        words, reaches, form, largest = "held-out accuracy", "has a held-out accuracy of {}", ".1%", 1.0
    elif metric == "held_out_action_error":
        words, reaches, form, largest = "held-out action error", "errs by {} in held-out actions", ".3g", math.inf
    elif metric == "success":
        words, reaches, form, largest = "goals reached", "reaches {} of its goals", ".0%", 1.0
    else:
        words, reaches, form, largest = "steps at the goal", "stays at its goal for {} steps", ".3g", longest
    return about(scores, words + where, reaches + where, form, largest=largest, comparisons=comparisons)


def gains(
    scores: Mapping[str, Mapping[int, Sequence[float]]], comparisons: int = 1, largest: float = math.inf
) -> dict[str, statistics.Comparison]:
    """For each algorithm, the scores at its largest depth against those at its smallest, corrected for all of them.

    Args:
      scores: algorithm -> depth -> a score of each seed. An algorithm with one depth is left out.
      comparisons: number of verdicts of this kind that the page has for each algorithm.
      largest: the largest possible difference of two scores.
    """
    known = {name: depths for name, depths in scores.items() if len(depths) > 1}
    return {
        name: statistics.compare(depths[max(depths)], depths[min(depths)], len(known) * comparisons, largest)
        for name, depths in known.items()
    }


GAINS = ("deeper is better", "shallower is better")  # the words for a verdict of ``gains``


def of_gains(verdicts: Mapping[str, statistics.Comparison]) -> str:
    """The verdicts of ``gains`` in a sentence: "Deeper is better for crl; no difference found for gcbc and sac"."""
    by_words: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        by_words.setdefault(verdict.brief(*GAINS), []).append(name)
    if len(verdicts) > 1 == len(by_words):
        return capital(f"{next(iter(by_words))} for any algorithm")
    return capital("; ".join(f"{words} for {listed(names)}" for words, names in by_words.items()))


def listed(names: Sequence[str]) -> str:
    """The names with commas and an "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def number(value: float, form: str) -> str:
    """A number in a format; percent with a space before the sign."""
    return format(value, form).replace("%", " %")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
