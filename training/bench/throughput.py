"""Throughput of a run in updates and environment steps: measured here, from a benchmark file, or from the paper."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from crlviz.errors import UsageError


@dataclass(frozen=True)
class Rates:
    """Throughput of a machine, per second.

    Attributes:
      updates: updates of the run's size, including sampling and relabeling.
      env_steps: environment steps, summed over all environments.
      source: where the numbers come from, as text for the user.
    """

    updates: float
    env_steps: float
    source: str


def measure(config: Any, seconds: float = 3.0) -> Rates:
    """Measure throughput on this machine at the sizes of the run, without compile time.

    Args:
      config: a ``TrainConfig``.
      seconds: minimum duration of the measurement.
    """
    import jax

    from training.bench.step_timing import step_parts

    parts = step_parts(config, seconds)
    stepping = parts["physics"] + parts["policy"] + parts["insert"]
    return Rates(
        updates=config.updates / (sum(parts.values()) - stepping),
        env_steps=config.unroll * config.num_envs / stepping,
        source=f"measured now on {jax.devices()[0].device_kind}",
    )


def read(path: Path, env: str, algorithm: str = "crl") -> dict[str, Any]:
    """Read and check a file of ``crlviz bench --env ENV --json`` from this or another machine.

    Raises:
      UsageError: the file cannot be read, is not from ``crlviz bench``, or is for another environment or algorithm.
    """
    option = f" --algorithm {algorithm}" if algorithm != "crl" else ""
    remedy = f"write one on that machine with: crlviz bench{option} --env {env} --json {path.name}"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if "target" in results:
            raise UsageError(f"{path} counts what a card would do (bench --device) and has no measured rates; {remedy}")
        measured_env, rows = results["env"], results["updates"]
        complete = bool(results["machine"]["device"] and rows)
        complete &= all({"flops", "ours_updates_per_second"} <= row.keys() for row in rows)
        complete &= results["num_envs"] > 0 and isinstance(results["remat"], bool)
        complete &= results["env_steps_per_second"] > 0 and results["sampling"]["ours_rows_per_second"] > 0
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        complete, measured_env = False, env
    if not complete:
        raise UsageError(f"{path} is not a file that crlviz bench --json wrote; {remedy}")
    measured = results.get("algorithm", "crl")  # an older crlviz knew only that
    if measured != algorithm:
        raise UsageError(f"{path} has the throughput of {measured}, not of {algorithm}; {remedy}")
    if measured_env != env:
        raise UsageError(f"{path} has the throughput of {measured_env}, not of {env}; {remedy}")
    return results


def updates_per_second(row: Mapping[str, Any]) -> float:
    """The rate of crlviz's faster path, which a run takes; ``row`` is one of ``updates`` of a benchmark."""
    return max(row["ours_updates_per_second"], row.get("fused_updates_per_second") or 0.0)


def of_bench(results: Mapping[str, Any], config: Any, flops: int) -> Rates:
    """Predict the throughput of a run from a benchmark of the machine.

    The seconds of an update are linear in FLOPs between the two nearest measured sizes. Above the largest size they are
    proportional to FLOPs. Below the smallest size they are a constant, extrapolated from the two smallest sizes, plus a
    part proportional to FLOPs. Environment steps were measured with random actions, so the time of the policy is not
    included.

    Args:
      results: from ``read``.
      config: a ``TrainConfig``.
      flops: FLOPs of one update of the run.
    """
    import numpy as np

    rows = sorted(results["updates"], key=lambda row: row["flops"])
    counts, seconds = zip(*((row["flops"], 1 / updates_per_second(row)) for row in rows), strict=True)
    updating = float(np.interp(flops, counts, seconds)) * max(flops / counts[-1], 1.0)
    if flops < counts[0]:
        constant = 0.0
        if len(set(counts[:2])) == 2:
            constant = float(
                np.clip(seconds[0] - counts[0] * np.diff(seconds[:2]) / np.diff(counts[:2]), 0, seconds[0])[0]
            )
        updating = constant + (seconds[0] - constant) * flops / counts[0]
    envs, remat = results["num_envs"], results["remat"]
    sampling = config.batch_size / results["sampling"]["ours_rows_per_second"]
    return Rates(
        updates=1 / (updating + sampling),
        env_steps=results["env_steps_per_second"],
        source=f"by crlviz bench on {results['machine']['device']}, "
        + ("at this size" if flops in counts else f"from {len(counts)} other sizes")
        + (f", the smallest with {counts[0] / flops:,.1f} times its FLOPs" if flops < counts[0] else "")
        + (f" and {envs} environments instead of {config.num_envs}" if envs != config.num_envs else "")
        + (f", {'with' if remat else 'without'} rematerialization" if remat != config.critic.remat else ""),
    )


def paper_hours(algorithm: str, env: str, depth: int) -> list[tuple[float, str]]:
    """Hours and source of each time that the paper reports for an algorithm's run, on one 80 GB GPU."""
    with resources.files("training.bench").joinpath("paper_hours.csv").open(encoding="utf-8") as file:
        wanted = {"algorithm": algorithm, "env": env, "depth": str(depth)}
        rows = [row for row in csv.DictReader(file) if wanted.items() <= row.items()]
    return [(float(row["hours"]), row["source"]) for row in rows]
