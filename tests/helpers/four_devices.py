"""``python -m tests.helpers.four_devices FOLDER``: train on four CPU devices, for ``tests/training/test_sharding.py``.

Runs in its own process, because XLA_FLAGS must ask for four CPU devices before jax is imported. Writes run directories
and ``told.json``.
"""

import functools
import json
import math
import os
import re
import signal
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import jax
import pytest

from tests.helpers.toys import send, toy_config
from training import sharding, trainer
from training.run import compiled, signals
from training.run.runner import Run

# The buffer has far more rows than any other array.
SETTINGS = {"num_envs": 8, "env_steps": 8 * 10 * 7, "batch_size": 32, "replay_steps": 2_000, "eval_episodes": 8}
SETTINGS |= {"actor__width": 32, "critic__width": 32, "seed": 3}


def collectives(text: str) -> list[tuple[str, list[int]]]:
    """Collective operations in a compiled program's HLO text: the name and the sizes of the results of each."""
    operations = []
    for line in text.splitlines():
        match = re.search(r"= (.*?) (all-\w+|collective-\w+|reduce-scatter|ragged-\S+?)(-start)?\(", line)
        if match:
            shapes = re.findall(r"\w\[([\d,]*)\]", match[1])
            operations.append((match[2], [math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes]))
    return operations


def in_conditionals(text: str) -> list[str]:
    """Names of the collective operations in the branches of a compiled program's conditionals."""
    bodies, name = {}, ""
    for line in text.splitlines():
        if begun := re.match(r"(?:ENTRY )?%(\S+) .*{$", line):
            name = begun[1]
        bodies[name] = bodies.get(name, "") + line + "\n"
    branches = " ".join(re.findall(r"(?:branch_computations={|(?:true|false)_computation=)([^}\n]*)", text))
    reached, waiting = set(), set(re.findall(r"%([\w.-]+)", branches))
    while waiting := waiting & bodies.keys() - reached:
        reached |= waiting
        waiting = {name for each in waiting for name in re.findall(r"%([\w.-]+)", bodies[each])}
    return [operation for each in sorted(reached) for operation, _ in collectives(bodies[each])]


def stopped(folder: Path, config, count: str) -> Path:
    """Train on ``count`` devices and stop the run by a signal in its second training step."""
    real = Run.advance

    def step(self):
        if self.step == 1:
            send(signal.SIGTERM)
        real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "advance", step)
        with pytest.raises(signals.Stopped):
            trainer.train(config, folder, progress=False, devices=sharding.select(count))
    return folder


def main(folder: Path) -> None:
    compiled.compiled = functools.cache(compiled.compiled)
    config = toy_config(**SETTINGS)
    for count in ("1", "4"):
        trainer.train(config, folder / f"on{count}", progress=False, devices=sharding.select(count))
        other = toy_config(**SETTINGS, algorithm="sac+her")  # its batches hold all that batches can but pairs
        trainer.train(other, folder / f"sac-on{count}", progress=False, devices=sharding.select(count))
    for begun, ended in (("1", "4"), ("4", "1"), ("4", "4")):
        run = stopped(folder / f"from{begun}to{ended}", config, begun)
        trainer.resume(run, progress=False, devices=sharding.select(ended))
    compiled.at_once = lambda: True
    seeds = {seed: folder / f"together{seed}" for seed in (3, 4)}
    trainer.train_seeds(config, seeds, progress=False, devices=sharding.select("4"))
    one, four = (compiled.compiled(config, 1, sharding.select(count)) for count in ("1", "4"))
    results = {
        "rows": config.num_envs * config.replay_steps,
        "collectives": collectives(four.collect.as_text()) + collectives(four.learn.as_text()),
        "in_conditionals": in_conditionals(four.collect.as_text()) + in_conditionals(four.learn.as_text()),
        "flops": {
            name: [getattr(made, name).cost_analysis()["flops"] for made in (one, four)]
            for name in ("collect", "learn", "evaluate_policy")
        },
        "memory": [one.memory, four.memory],
    }
    state = four.start([0], [0])
    results["lies"] = {
        jax.tree_util.keystr(path): [list(leaf.shape), list(leaf.addressable_shards[0].data.shape)]
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    (folder / "told.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
