"""A model of a program's time on a GPU: three lower bounds, from its launches, its bytes and its FLOPs.

The bounds are not measurements. ``model_checks.csv`` lists times measured on a card beside the model's times. The
model's time is the largest bound. The model ignores how well a kernel fills a card: a kernel of few programs that wait
for memory takes longer than its bytes and FLOPs suggest.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from training.bench.cards import Card

LAUNCH_SECONDS = 3e-6  # one launch after another in a stream takes 2 to 4 microseconds, whatever it computes


@dataclass(frozen=True)
class Work:
    """What a program gives a GPU to do.

    Attributes:
      kernels: launches.
      bytes: read and written by all kernels, as if nothing stayed in a cache.
      flops: FLOPs of the networks' matrix products.
    """

    kernels: int
    bytes: int
    flops: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.kernels + other.kernels, self.bytes + other.bytes, self.flops + other.flops)

    def __mul__(self, times: int) -> "Work":
        return Work(times * self.kernels, times * self.bytes, times * self.flops)


def seconds(work: Work, card: Card, precision: str) -> dict[str, float]:
    """Seconds of the work for each term, ``launches``, ``bytes`` and ``FLOPs``, if only this term took time.

    Args:
      precision: of the matrix products, as in the setting ``precision``.
    """
    return {
        "launches": work.kernels * LAUNCH_SECONDS,
        "bytes": work.bytes / card.bandwidth,
        "FLOPs": work.flops / card.flops[precision],
    }


def checked() -> str:
    """How measured times compared with the model's on the card that ``model_checks.csv`` lists last, as a sentence."""
    with resources.files("training.bench").joinpath("model_checks.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return "The model was not checked on any card yet."
    last = rows[-1]
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row["card"] == last["card"]:
            ratios.setdefault(row["what"], []).append(float(row["measured_ms"]) / float(row["modeled_ms"]))
    found = (
        f"{what} took {min(values):.2g}" + (f" to {max(values):.2g}" if len(values) > 1 else "")
        for what, values in ratios.items()
    )
    return f"Checked on {last['card']} (jax {last['jax']}): {', '.join(found)} times as long as the model says."


def calls(config: Any) -> dict[str, int]:
    """How often a run calls each of its programs; ``config`` is a ``TrainConfig``."""
    counts = config.schedule
    collects = counts.prefill_unrolls + counts.steps
    return {
        "collect": collects,
        "learn": counts.steps,
        "evaluate": counts.epochs + 1,
        "reset": 1 + collects * config.redraw_goals,
    }


def hours(config: Any, programs: Mapping[str, Mapping[str, Any]], card: Card) -> dict[str, float]:
    """Hours of a run on a card, as ``seconds`` of all its programs; ``programs`` is from ``device_programs.plan``."""
    total = sum((_work(programs[name]) * count for name, count in calls(config).items()), Work(0, 0, 0))
    return {term: value / 3600 for term, value in seconds(total, card, config.precision).items()}


def describe(config: Any, programs: Mapping[str, Mapping[str, Any]], card: Card) -> list[str]:
    """Lines of text: what each program launches, and the hours that follow.

    Args:
      config: a ``TrainConfig``.
      programs: from ``device_programs.plan``.
      card: the card they were compiled for.
    """
    collect, learn, update = programs["collect"], programs["learn"], programs.get("update")
    notes = {
        "collect": f"physics {collect['physics']:,}, policy and buffer {collect['kernels'] - collect['physics']:,}",
        "learn": f"{config.updates} updates of {update['kernels']:,}, and sampling" if update else "",
        "evaluate": f"{config.eval_episodes} episodes",
        "reset": "in each training step" if config.redraw_goals else "once",
    }
    lines = ["a call of each program", f"  {'':10}{'launches':>12}{'GB':>10}{'TFLOPs':>10}{'waits':>7}{'calls':>9}"]
    for name, count in calls(config).items():
        each = programs[name]
        lines.append(
            f"  {name:10}{each['kernels']:12,}{each['bytes'] / 1e9:10.4g}{each['flops'] / 1e12:10.3g}"
            f"{each['waits']:7,}{count:9,}  {notes[name]}".rstrip()
        )
    if any(programs[name]["waits"] for name in notes):
        lines.append(
            "  waits: loops with an iteration count known only to the card (a physics engine's solver); one iteration "
            "of each is counted, and the device waits for the host after each"
        )
    step = collect["kernels"] + learn["kernels"] + config.redraw_goals * programs["reset"]["kernels"]
    if update:
        lines.append(f"an update launches {update['kernels']:,} kernels, a training step {step:,}")
    terms = hours(config, programs, card)
    largest = max(terms, key=lambda term: terms[term])
    rates = {
        "launches": f"at {LAUNCH_SECONDS * 1e6:.0f} us each",
        "bytes": f"at {card.bandwidth / 1e12:.3g} TB/s, as if no cache held any",
        "FLOPs": f"at {card.flops[config.precision] / 1e12:.3g} TFLOP/s, the networks' products in {config.precision}",
    }
    lines += ["", "hours by a model, not measured: if nothing took time but"]
    lines += [f"  {term:10}{duration(value):>12}  {rates[term]}" for term, value in terms.items()]
    return [*lines, f"The {largest} dominate: about {duration(terms[largest])} in all. {checked()}"]


def _work(program: Mapping[str, Any]) -> Work:
    return Work(program["kernels"], program["bytes"], program["flops"])


def duration(hours: float) -> str:
    """A number of hours as text, in days, hours, minutes or seconds."""
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
