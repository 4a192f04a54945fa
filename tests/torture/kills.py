"""Kill runs with SIGKILL at random times and resume them: each must end like a run that was never killed.

python -m tests.torture.kills --count 100
"""

import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from tests.torture import runs

AT_START = 0.1  # fraction of kills while a run is still starting
LONGEST = 2.5  # maximum seconds of training before the other kills


@click.command()
@click.option("--count", default=100, show_default=True, help="Total number of kills.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random times.")
def main(count: int, seed: int) -> None:
    """Print a table; exit code 1 if a run did not end as expected."""
    with tempfile.TemporaryDirectory() as folder:
        table, wrong = torture(count, seed, Path(folder))
    for name, number in table.items():
        click.echo(f"{name:55}{number:6}")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Kill runs ``count`` times in total; return counts of outcomes, and faults."""
    rng, table, wrong = random.Random(seed), Counter[str](), list[str]()
    reference = folder / "reference"
    code, words = runs.finish(runs.start(reference))
    if code:
        return table, [f"the uninterrupted run failed: {words}"]
    table["kills"] = 0
    while table["kills"] < count:
        run = folder / f"run{table['runs']}"
        table["runs"] += 1
        while table["kills"] < count and (moment := _kill(run, rng)):
            table["kills"] += 1
            table[f"  {moment}"] += 1
        code, words = runs.finish(runs.start(run))
        faults = [f"exit code {code}: {words}"] if code else runs.differences(run, reference)
        wrong += [f"{run.name}: {fault}" for fault in faults]
        table["runs that ended as the uninterrupted one"] += not faults
    return table, wrong


def _kill(run: Path, rng: random.Random) -> str | None:
    """Train and kill at a random time; return what the run was doing, or None if it ended before."""
    began, process = time.time(), runs.start(run)
    starting = rng.random() < AT_START
    if starting:
        time.sleep(rng.uniform(0, 6))
    elif runs.wait_until_training(process, run, began):
        time.sleep(rng.uniform(0, LONGEST))
    process.kill()
    if process.wait() == 0:
        return None
    if list(run.rglob("*.part")):
        return "while writing"
    return "while starting" if starting else "between two writes"


if __name__ == "__main__":
    main()
