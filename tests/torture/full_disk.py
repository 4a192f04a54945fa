"""Runs that lose their disk: they end with one sentence, exit code 1 and intact checkpoints, and can be resumed.

    python -m tests.torture.full_disk --count 20

Three methods, each at random times: a file size limit (RLIMIT_FSIZE) set on the running process; a small tmpfs that
fills up (where this user may mount one); the run directory removed.
"""

import contextlib
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from crlviz.checkpoints.checkpoint import open_checkpoint
from crlviz.checkpoints.run_directory import RunDirectory
from tests.torture import runs

LONGEST = 2.5  # maximum seconds of training before the disk is lost
TMPFS_MEGABYTES = 40
SMALLEST, LARGEST = 100, 6_000_000  # range of the file size limit in bytes: below metrics.csv to about the whole state


@click.command()
@click.option("--count", default=20, show_default=True, help="Number of runs.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random times.")
def main(count: int, seed: int) -> None:
    """Print a table; exit code 1 if a run did not end as expected."""
    with tempfile.TemporaryDirectory() as folder, tmpfs(Path(folder)) as small:
        if not small:
            click.echo("no tmpfs can be mounted here, so that method is skipped")
        table, wrong = torture(count, seed, Path(folder), small)
    for name, number in table.items():
        click.echo(f"{name:75}{number:6}")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path, small: Path | None) -> tuple[Counter[str], list[str]]:
    """Take the disk from ``count`` runs; return counts of outcomes, and faults."""
    rng, table, wrong = random.Random(seed), Counter[str](), list[str]()
    reference = folder / "reference"
    code, words = runs.finish(runs.start(reference))
    if code:
        return table, [f"the uninterrupted run failed: {words}"]
    methods: list[tuple[str, Path, Callable]] = [
        ("a file may not grow (RLIMIT_FSIZE)", folder, _limit),
        ("the directory is removed", folder, _remove),
    ]
    if small:
        methods.insert(1, ("the disk is full (tmpfs)", small, _fill))
    for number, (name, place, starve) in zip(range(count), itertools.cycle(methods), strict=False):
        run = place / f"run{number}"
        code, words = _starve(run, starve, rng)
        if code == 0:
            table[f"{name}: finished before"] += 1
            continue
        faults = _faults(code, words, run)
        if starve is not _remove:
            (place / "filler").unlink(missing_ok=True)
            if not faults and runs.finish(runs.start(run))[0]:
                faults.append("it cannot be resumed")
            faults = faults or runs.differences(run, reference)
            shutil.rmtree(run)
        table[f"{name}: one sentence{', nothing lost' if starve is not _remove else ''}"] += not faults
        wrong += [f"{name}, {run.name}: {fault}" for fault in faults]
    return table, wrong


def _starve(run: Path, starve: Callable, rng: random.Random) -> tuple[int, str]:
    """Start a run and take its disk away at a random time; exit code and last words."""
    began, process = time.time(), runs.start(run)
    if runs.wait_until_training(process, run, began):
        time.sleep(rng.uniform(0, LONGEST))
        starve(process, run, rng)
    return runs.finish(process)


def _limit(process: subprocess.Popen, run: Path, rng: random.Random) -> None:
    import resource

    size = int(SMALLEST * (LARGEST / SMALLEST) ** rng.random())
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill(process: subprocess.Popen, run: Path, rng: random.Random) -> None:
    with contextlib.suppress(OSError), open(run.parent / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(2**16))


def _remove(process: subprocess.Popen, run: Path, rng: random.Random) -> None:
    while run.exists():  # the run may write a file while others are removed
        shutil.rmtree(run, ignore_errors=True)


def _faults(code: int, words: str, run: Path) -> list[str]:
    """Faults in how a run without a disk ended."""
    faults = [] if code == 1 else [f"exit code {code}"]
    lines = words.splitlines()
    if len(lines) != 1 or not lines[0].startswith("Error: cannot ") or str(run) not in lines[0]:
        faults.append(f"not one sentence that names a file: {words}")
    if not run.exists():
        return faults
    faults += [f"left over: {path.name}" for path in run.rglob("*.part")]
    for steps in RunDirectory(run).checkpoint_steps():
        checkpoint = open_checkpoint(run / "checkpoints" / str(steps))
        for network in ("actor", "critic"):
            checkpoint.read(network)  # raises an error if it is damaged
    return faults


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[Path | None]:
    """Mount a small tmpfs; yields its path, or None if this user may not mount one."""
    place = folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MEGABYTES}m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


if __name__ == "__main__":
    main()
