"""Ask sweeps to stop at random moments of their, and their runs', first seconds: all must save what there is and end.

python -m tests.torture.interrupts --count 40
"""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from crlviz.processes import interrupts
from tests.torture import runs

LATEST = 8.0  # seconds after the start, or after the first run has begun
TRAINING = 0.25  # share of those that wait for that
PATIENCE = 60.0  # seconds that stopping may take on a busy one; the runs would train for an hour
SETTINGS = runs.SETTINGS | {"env_steps": 100_000_000}


@click.command()
@click.option("--count", default=40, show_default=True, help="Sweeps of two runs.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(count: int, seed: int) -> None:
    """Print how the runs ended; exit code 1 if one did not as it should."""
    with tempfile.TemporaryDirectory() as folder:
        wrong = torture(count, seed, Path(folder))
        saved = sum("stopped at" in log.read_text() for log in Path(folder).glob("*/logs/*"))
    click.echo(f"{count} sweeps interrupted; {saved} runs had begun and saved; {len(wrong)} things went wrong")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path) -> list[str]:
    """Interrupt so many sweeps; what went wrong."""
    chance, wrong = random.Random(seed), []
    for number in range(count):
        moment = LATEST * (number + chance.random()) / count
        sent = chance.choice(interrupts.SIGNALS)
        found = _interrupted(folder / f"sweep{number}", moment, sent, training=number >= (1 - TRAINING) * count)
        wrong += [f"{signal.Signals(sent).name} after {moment:.2f} s: {what}" for what in found]
    return wrong


def _interrupted(out: Path, moment: float, sent: int, *, training: bool) -> list[str]:
    options = [f"--set={name}={value}" for name, value in SETTINGS.items()]
    command = [sys.executable, "-m", "crlviz", "sweep", "point_u_maze", *options]
    sweep = subprocess.Popen(
        [*command, "--seed", "0,1", "--apart", "--jobs", "2", "--out", str(out)],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    began = time.monotonic()
    while training and not list(out.glob("*/config.json")) and time.monotonic() < began + PATIENCE:
        time.sleep(0.02)
    time.sleep(moment)
    sweep.send_signal(sent)
    try:
        said, _ = sweep.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        sweep.kill()
        sweep.communicate()
        return [f"did not end in {PATIENCE:.0f} s; {log.name}: {log.read_text()}" for log in out.glob("logs/*")]
    # Before crlviz itself runs, Python's own way to end.
    wrong = [] if sweep.returncode in (128 + sent, -sent) else [f"exit code {sweep.returncode}: {said}"]
    for log in out.glob("logs/*"):
        words = log.read_text().strip()
        if not re.search(r"(^Interrupted\.|^stopped at environment step [\d,]+; go on with: .*)$", words, re.MULTILINE):
            wrong.append(f"{log.name}: {words or 'nothing'}")
        if "Traceback" in words or "ignored" in words:
            wrong.append(f"{log.name}: {words}")
    wrong += [f"{path.parent} lives on" for path in Path("/proc").glob("[0-9]*/cmdline") if _is_of(path, out)]
    return wrong


def _is_of(cmdline: Path, out: Path) -> bool:
    try:
        return str(out).encode() in cmdline.read_bytes()
    except OSError:  # it has ended
        return False


if __name__ == "__main__":
    main()
