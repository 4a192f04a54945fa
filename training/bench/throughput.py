"""How quick is a machine at a run's updates and environment steps? This one, others that were measured, the paper's."""

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
    """What a machine does in a second.

    Attributes:
      updates: of the run's own size, sampling and relabelling included.
      env_steps: over all environments together.
      source: where the numbers come from, for the reader.
    """

    updates: float
    env_steps: float
    source: str


def measure(config: Any, seconds: float = 3.0) -> Rates:
    """Updates and environment steps a second on this machine, at the run's own sizes; compiling is left out.

    Args:
      config: a ``TrainConfig``.
      seconds: to measure each part for.
    """
    import jax

    from training.bench.timing import step_parts

    parts = step_parts(config, seconds)
    stepping = parts["physics"] + parts["policy"] + parts["insert"]
    return Rates(
        updates=config.updates / (sum(parts.values()) - stepping),
        env_steps=config.unroll * config.num_envs / stepping,
        source=f"measured now on {jax.devices()[0].device_kind}",
    )


def read(path: Path, env: str) -> dict[str, Any]:
    """What ``crlviz bench --env ENV --json`` wrote, here or elsewhere.

    Raises:
      UsageError: no such file, not of ``crlviz bench``, or of another environment.
    """
    again = f"write one there with: crlviz bench --env {env} --json {path.name}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        of, sizes = found["env"], found["updates"]
        complete = bool(found["machine"]["device"] and sizes)
        complete &= all({"flops", "ours_updates_per_second"} <= row.keys() for row in sizes)
        complete &= found["num_envs"] > 0 and isinstance(found["remat"], bool)
        complete &= found["env_steps_per_second"] > 0 and found["sampling"]["ours_rows_per_second"] > 0
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); {again}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        complete, of = False, env
    if not complete:
        raise UsageError(f"{path} is not what crlviz bench --json writes; {again}")
    if of != env:
        raise UsageError(f"{path} has the environment steps of {of}, not of {env}; {again}")
    return found


def of_bench(found: Mapping[str, Any], config: Any, flops: int) -> Rates:
    """The rates of a run on the machine that was measured.

    The seconds of an update whose size was not measured lie on the line between its neighbors in FLOPs. Beyond the
    largest they are in proportion to FLOPs; below the smallest too, but for what the line through the two smallest says
    that any update takes. The environment steps are of random actions: what the policy takes while collecting is left
    out.

    Args:
      found: of ``read``.
      config: a ``TrainConfig``.
      flops: of an update of it.
    """
    import numpy as np

    rows = sorted(found["updates"], key=lambda row: row["flops"])
    counts, seconds = zip(*((row["flops"], 1 / row["ours_updates_per_second"]) for row in rows), strict=True)
    updating = float(np.interp(flops, counts, seconds)) * max(flops / counts[-1], 1.0)
    if flops < counts[0]:
        always = 0.0
        if len(set(counts[:2])) == 2:
            always = float(
                np.clip(seconds[0] - counts[0] * np.diff(seconds[:2]) / np.diff(counts[:2]), 0, seconds[0])[0]
            )
        updating = always + (seconds[0] - always) * flops / counts[0]
    envs, remat = found["num_envs"], found["remat"]
    sampling = config.batch_size / found["sampling"]["ours_rows_per_second"]
    return Rates(
        updates=1 / (updating + sampling),
        env_steps=found["env_steps_per_second"],
        source=f"by crlviz bench on {found['machine']['device']}, "
        + ("at this size" if flops in counts else f"from {len(counts)} other sizes")
        + (f", the smallest with {counts[0] / flops:,.1f} times its FLOPs" if flops < counts[0] else "")
        + (f" and {envs} environments instead of {config.num_envs}" if envs != config.num_envs else "")
        + (f", {'with' if remat else 'without'} rematerialisation" if remat != config.critic.remat else ""),
    )


def paper_hours(env: str, depth: int) -> list[tuple[float, str]]:
    """Hours of the authors' code on one 80 GB GPU for that environment and depth, each with its source."""
    with resources.files("training.bench").joinpath("paper_hours.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["env"] == env and int(row["depth"]) == depth]
    return [(float(row["hours"]), row["source"]) for row in rows]
