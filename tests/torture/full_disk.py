"""Take the disk away from runs: one sentence, exit code 1, the last checkpoint whole, and all goes on afterwards.

    python -m tests.torture.full_disk --count 20

Three ways, each at random moments: a limit on the size of a file (RLIMIT_FSIZE) set under a running process; a small
tmpfs that fills up (where this user may mount one); the run directory removed.
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

from crlviz.checkpoints import run_directory
from tests.torture import runs

LONGEST = 2.5  # seconds of training before the disk goes, at most
TMPFS_MEGABYTES = 40
SMALLEST, LARGEST = 100, 6_000_000  # bytes a file may have: from less than metrics.csv to about the whole state


@click.command()
@click.option("--count", default=20, show_default=True, help="Runs in all.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(count: int, seed: int) -> None:
    """Print a table; exit code 1 if a run did not end as it should."""
    with tempfile.TemporaryDirectory() as folder, tmpfs(Path(folder)) as small:
        if not small:
            click.echo("no tmpfs can be mounted here, so that way is left out")
        table, wrong = torture(count, seed, Path(folder), small)
    for name, number in table.items():
        click.echo(f"{name:75}{number:6}")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path, small: Path | None) -> tuple[Counter[str], list[str]]:
    """Starve ``count`` runs; counts of what happened, and what went wrong."""
    chance, table, wrong = random.Random(seed), Counter[str](), list[str]()
    reference = folder / "reference"
    code, words = runs.finish(runs.start(reference))
    if code:
        return table, [f"the uninterrupted run failed: {words}"]
    ways: list[tuple[str, Path, Callable]] = [
        ("a file may not grow (RLIMIT_FSIZE)", folder, _limit),
        ("the directory is removed", folder, _remove),
    ]
    if small:
        ways.insert(1, ("the disk is full (tmpfs)", small, _fill))
    for number, (name, place, starve) in zip(range(count), itertools.cycle(ways), strict=False):
        run = place / f"run{number}"
        code, words = _starved(run, starve, chance)
        if code == 0:
            table[f"{name}: finished before"] += 1
            continue
        found = _complaints(code, words, run)
        if starve is not _remove:
            (place / "filler").unlink(missing_ok=True)
            if not found and runs.finish(runs.start(run))[0]:
                found.append("it does not go on")
            found = found or runs.differences(run, reference)
            shutil.rmtree(run)
        table[f"{name}: one sentence{', nothing lost' if starve is not _remove else ''}"] += not found
        wrong += [f"{name}, {run.name}: {what}" for what in found]
    return table, wrong


def _starved(run: Path, starve: Callable, chance: random.Random) -> tuple[int, str]:
    began, process = time.time(), runs.start(run)
    if runs.wait_until_training(process, run, began):
        time.sleep(chance.uniform(0, LONGEST))
        starve(process, run, chance)
    return runs.finish(process)


def _limit(process: subprocess.Popen, run: Path, chance: random.Random) -> None:
    import resource

    size = int(SMALLEST * (LARGEST / SMALLEST) ** chance.random())
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _fill(process: subprocess.Popen, run: Path, chance: random.Random) -> None:
    with contextlib.suppress(OSError), open(run.parent / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(2**16))


def _remove(process: subprocess.Popen, run: Path, chance: random.Random) -> None:
    while run.exists():  # a file may appear while others are removed
        shutil.rmtree(run, ignore_errors=True)


def _complaints(code: int, words: str, run: Path) -> list[str]:
    """What is wrong with how a starved run ended."""
    found = [] if code == 1 else [f"exit code {code}"]
    lines = words.splitlines()
    if len(lines) != 1 or not lines[0].startswith("Error: cannot ") or str(run) not in lines[0]:
        found.append(f"not one sentence that names a file: {words}")
    if not run.exists():
        return found
    found += [f"left over: {path.name}" for path in run.rglob("*.part")]
    for steps in run_directory.all_steps(run):
        checkpoint = run_directory.find(run / "checkpoints" / str(steps))
        for network in ("actor", "critic"):
            run_directory.read(checkpoint, network)  # raises if it is not whole
    return found


@contextlib.contextmanager
def tmpfs(folder: Path) -> Iterator[Path | None]:
    """A small disk in memory, or None where this user may not mount one."""
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
