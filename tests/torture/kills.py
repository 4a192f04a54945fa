"""Kill runs with SIGKILL at random moments and go on with them: each must end where one that was never killed ends.

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

AT_START = 0.1  # share of the kills that come while a run is still starting up
LONGEST = 2.5  # seconds of training before the others, at most


@click.command()
@click.option("--count", default=100, show_default=True, help="Kills altogether.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(count: int, seed: int) -> None:
    """Print a table; exit code 1 if a run did not end as it should."""
    with tempfile.TemporaryDirectory() as folder:
        table, wrong = torture(count, seed, Path(folder))
    for name, number in table.items():
        click.echo(f"{name:55}{number:6}")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Kill ``count`` times in all; counts of what happened, and what went wrong."""
    chance, table, wrong = random.Random(seed), Counter[str](), list[str]()
    reference = folder / "reference"
    code, words = runs.finish(runs.start(reference))
    if code:
        return table, [f"the uninterrupted run failed: {words}"]
    table["kills"] = 0
    while table["kills"] < count:
        run = folder / f"run{table['runs']}"
        table["runs"] += 1
        while table["kills"] < count and (moment := _killed(run, chance)):
            table["kills"] += 1
            table[f"  {moment}"] += 1
        code, words = runs.finish(runs.start(run))
        found = [f"exit code {code}: {words}"] if code else runs.differences(run, reference)
        wrong += [f"{run.name}: {what}" for what in found]
        table["runs that ended as the uninterrupted one"] += not found
    return table, wrong


def _killed(run: Path, chance: random.Random) -> str | None:
    """Train until a random moment and kill; what it was doing, or None if it ended before."""
    began, process = time.time(), runs.start(run)
    starting = chance.random() < AT_START
    if starting:
        time.sleep(chance.uniform(0, 6))
    elif runs.wait_until_training(process, run, began):
        time.sleep(chance.uniform(0, LONGEST))
    process.kill()
    if process.wait() == 0:
        return None
    if list(run.rglob("*.part")):
        return "while writing"
    return "while starting" if starting else "between two writes"


if __name__ == "__main__":
    main()
