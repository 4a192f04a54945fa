"""Write what the first updates of CRL do from each start of the networks.

    python examples/where_depth_pays/first_updates.py --out examples/where_depth_pays/first_updates.csv

The settings are those of the laptop preset for the swimmer, with networks of width 64. A batch has standard normal
states and goals, and actions uniform in (-1, 1). Seeds are 0, and all starts get the same batches. An update's row
tells of the networks before it.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from crlviz.algorithms.batches import Batch
from crlviz.checkpoints import atomic_files
from crlviz.networks.config import STARTS
from training.config import from_options
from training.trainer import build

DEPTHS, WIDTH, UPDATES = (16, 1024), 64, 6
MEASURES = ("entropy", "actor_loss", "critic_loss", "actor_gradient")


def batches(algorithm: Any, rows: int) -> Iterator[Batch]:
    """Random batches of so many rows, the same ones at each call."""
    rng, critic = np.random.default_rng(0), algorithm.critic
    while True:
        state, goal = (rng.standard_normal((rows, size), np.float32) for size in (critic.state_size, critic.goal_size))
        yield Batch(state, rng.uniform(-1, 1, (rows, critic.action_size)).astype(np.float32), goal)


def first_updates(start: str, depth: int, width: int = WIDTH, updates: int = UPDATES) -> pd.DataFrame:
    """A row for each update: its depth, start and number from 1, and ``MEASURES``."""
    settings = [f"{network}.start={start}" for network in ("actor", "critic")]
    config = from_options("swimmer", None, {"depth": depth, "width": width}, settings)
    algorithm: Any = build(config).algorithm
    learner, update, rows = jax.jit(algorithm.init)(jax.random.key(0)), jax.jit(algorithm.update), []
    for number, batch in zip(range(1, updates + 1), batches(algorithm, config.batch_size), strict=False):
        learner, metrics = update(learner, jax.random.key(number), batch)
        rows.append(
            {"depth": depth, "start": start, "update": number} | {name: float(metrics[name]) for name in MEASURES}
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    out = parser.parse_args().out
    found = pd.concat([first_updates(start, depth) for depth in DEPTHS for start in STARTS])
    atomic_files.write(out, found.to_csv(index=False, float_format="%.6g").encode())


if __name__ == "__main__":
    main()
