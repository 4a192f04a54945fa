"""Damaged saved states: none is resumed silently, none ends in a traceback, none takes over 5 seconds or 2 GiB.

    python -m tests.torture.states --count 200

Each case is a copy of a stopped run whose saved state has one kind of damage. The state is read as for resuming, and
verified.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.interchange import inspection
from tests.helpers.toys import begun, toy_config, untrained_run
from tests.torture import damage
from tests.torture.bounds import Table, attempt, limit_memory
from training.run import saved_state as states
from training.run.building import build
from training.run.saved_state import Counters

STEP = 160
_FILES = ("state.safetensors", "manifest.json")


class Case(damage.Case):
    """A case that damages the saved state, whose only JSON file is its manifest."""

    def __init__(self, run: Path, other: Path, rng: random.Random):
        super().__init__(run, other, rng)
        self.target = run / "state" / str(STEP)
        self.config = self.manifest = self.target / "manifest.json"

    def any_file(self) -> Path:
        return self.target / self.rng.choice(_FILES)


def swap(case: Case) -> None:
    """Replace the state by another run's or part of it, or rename it."""
    other = case.other / "state" / str(STEP)
    case.rng.choice(
        [
            lambda: shutil.copytree(other, case.target, dirs_exist_ok=True),
            lambda: shutil.copy(other / _FILES[0], case.target),
            lambda: shutil.copy(other / _FILES[1], case.target),
            lambda: case.target.rename(case.target.with_name(str(STEP + 40))),
        ]
    )()


def nonsense(case: Case) -> None:
    """Impossible contents with valid checksums. Verifying checks only the checksums."""
    content = json.loads(case.manifest.read_text())
    content.pop("sha256")
    content |= case.rng.choice(
        [
            {"format": case.rng.choice([0, 1, 3, 99, True])},
            {"env_steps": case.rng.choice([-1, "160", 120, None, 10**30])},
            {"settings": case.rng.choice(["0" * 64, None, 5])},
            {"files": case.rng.choice([{}, [], None, {"../x": {}}, {"state.safetensors": 5}])},
            {"replay": False},
            {"counters": case.rng.choice([[], None, {"steps": 1}, "x"])},
            {"counters": content["counters"] | {"step": case.rng.choice(["1", None, 1.0, True, []])}},
            {"counters": content["counters"] | {"wall_seconds": case.rng.choice(["1", None, [], True])}},
            {"counters": content["counters"] | {"sums": case.rng.choice([[], None, 5])}},
        ]
    )
    case.manifest.write_bytes(checked_json.encode(content))


KINDS: dict[str, Callable[[Any], None]] = {
    "truncated": damage.truncate,
    "bits flipped": damage.flip_bits,
    "a range overwritten": damage.overwrite,
    "a file missing or replaced": damage.remove,
    "JSON edited": damage.edit,
    "JSON malformed": damage.spoil,
    "another run's, or in another place": swap,
    "bad contents, valid checksums": nonsense,
}


def _run(folder: Path, seed: int) -> Path:
    """An unfinished run with a saved state."""
    config = toy_config(seed=seed)
    run = untrained_run(folder, config, [90, 1000])
    state = jax.jit(partial(begun, build(config)))(jax.random.key(seed))
    states.write(RunDirectory(run), STEP, states.snapshot(state), Counters(step=1, sums={"critic_loss": 0.5}))
    return run


def main(count: int, seed: int) -> None:
    rng, table = random.Random(seed), Table()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pristine, other = _run(folder / "pristine", 0), _run(folder / "other", 1)
        example = jax.eval_shape(partial(begun, build(toy_config())), jax.random.key(0))
        states.read([states.verify(RunDirectory(pristine), pristine / "state" / str(STEP))], example)
        limit_memory()
        while sum(table.kinds.values()) < count:
            kind = list(KINDS)[sum(table.kinds.values()) % len(KINDS)]
            run = Path(shutil.copytree(pristine, folder / "run"))
            KINDS[kind](Case(run, other, rng))
            if not damage.same(run, pristine):
                table.add(kind, *_check(run, kind, example))
            shutil.rmtree(run)
    table.finish("refused")


def _check(run: Path, kind: str, example: Any) -> tuple[str, float]:
    """Faults in how the damage was handled, and the seconds of the slower of two reads."""
    read, first = attempt(
        lambda: states.read([states.verify(RunDirectory(run), RunDirectory(run).newest_state())], example)
    )
    found: list[str] = []
    verified, second = attempt(lambda: found.extend(fault for _, fault in inspection.check(run) if fault))
    faults = [f"resume: {read}"] * (read != "refused")
    if not found and verified != "refused" and KINDS[kind] is not nonsense:
        faults.append(f"verify: {verified}")
    return "; ".join(faults), max(first, second)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
