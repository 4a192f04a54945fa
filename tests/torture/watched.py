"""Alternate training with and without --watch: the page may slow training by at most 5%.

python -m tests.torture.watched --pairs 4
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from analyses.common.runs import metrics

MAX_RATIO = 1.05


@click.command()
@click.option("--pairs", default=4, show_default=True, help="Number of pairs of a run with --watch and one without.")
@click.option("--env", default="point_big_maze", show_default=True, help="Environment.")
@click.option("--depth", default=16, show_default=True, help="Depth of the networks.")
@click.option("--env-steps", default=1_200_000, show_default=True, help="Environment steps of each run.")
def main(pairs: int, env: str, depth: int, env_steps: int) -> None:
    """Print seconds and their ratio for each pair; exit code 1 if the median ratio is over 1.05."""
    click.echo(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            seconds = {}
            for watch in (pair % 2 == 0, pair % 2 == 1):  # alternate the order, as the machine's load may change
                run = Path(folder) / f"{pair}-{watch}"
                seconds[watch] = _seconds(run, env, depth, env_steps, watch)
            ratios.append(seconds[True] / seconds[False])
            click.echo(f"with {seconds[True]:6.1f} s, without {seconds[False]:6.1f} s, ratio {ratios[-1]:.3f}")
    click.echo(f"median ratio {statistics.median(ratios):.3f}; load {os.getloadavg()[0]:.1f}")
    sys.exit(statistics.median(ratios) > MAX_RATIO)


def _seconds(run: Path, env: str, depth: int, env_steps: int, watch: bool) -> float:
    """Seconds of training, from the first evaluation to the last."""
    command = [sys.executable, "-m", "crlviz", "train", env, "--out", run, "--depth", depth, "--env-steps", env_steps]
    subprocess.run([*map(str, command), *(["--watch"] if watch else [])], check=True, capture_output=True)
    wall = metrics(run).wall_seconds
    return float(wall.iloc[-1] - wall.iloc[0])


if __name__ == "__main__":
    main()
