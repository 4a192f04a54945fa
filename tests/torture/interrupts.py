"""Signal sweeps at random times, while they or their runs start: all must save what they have and exit.

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

LATEST = 8.0  # maximum seconds after the start, or after the first run has started
TRAINING = 0.25  # fraction of sweeps that are interrupted after the first run has started
PATIENCE = 60.0  # seconds that stopping may take on a busy machine; the runs would train for an hour
SETTINGS = runs.SETTINGS | {"env_steps": 100_000_000}


@click.command()
@click.option("--count", default=40, show_default=True, help="Number of sweeps, of two runs each.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random times.")
def main(count: int, seed: int) -> None:
    """Print how the runs ended; exit code 1 if one did not end as expected."""
    with tempfile.TemporaryDirectory() as folder:
        wrong = torture(count, seed, Path(folder))
        saved = sum("stopped at" in log.read_text() for log in Path(folder).glob("*/logs/*"))
    click.echo(f"{count} sweeps interrupted; {saved} runs had started and saved; {len(wrong)} faults")
    for line in wrong:
        click.echo(line, err=True)
    sys.exit(bool(wrong))


def torture(count: int, seed: int, folder: Path) -> list[str]:
    """Interrupt ``count`` sweeps; return faults."""
    rng, wrong = random.Random(seed), []
    for number in range(count):
        seconds = LATEST * (number + rng.random()) / count
        sent = rng.choice(interrupts.SIGNALS)
        faults = _interrupt(folder / f"sweep{number}", seconds, sent, training=number >= (1 - TRAINING) * count)
        wrong += [f"{signal.Signals(sent).name} after {seconds:.2f} s: {fault}" for fault in faults]
    return wrong


def _interrupt(out: Path, seconds: float, sent: int, *, training: bool) -> list[str]:
    """Send a signal to a sweep ``seconds`` after its start, or with ``training`` after its first run's; faults."""
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
    time.sleep(seconds)
    sweep.send_signal(sent)
    try:
        output, _ = sweep.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        sweep.kill()
        sweep.communicate()
        return [f"did not end in {PATIENCE:.0f} s; {log.name}: {log.read_text()}" for log in out.glob("logs/*")]
    # A signal before crlviz installs its handlers ends Python with -sent.
    wrong = [] if sweep.returncode in (128 + sent, -sent) else [f"exit code {sweep.returncode}: {output}"]
    for log in out.glob("logs/*"):
        words = log.read_text().strip()
        if not re.search(r"(^Interrupted\.|^stopped at environment step [\d,]+; go on with: .*)$", words, re.MULTILINE):
            wrong.append(f"{log.name}: {words or 'nothing'}")
        if "Traceback" in words or "ignored" in words:
            wrong.append(f"{log.name}: {words}")
    wrong += [f"{path.parent} still runs" for path in Path("/proc").glob("[0-9]*/cmdline") if _mentions(path, out)]
    return wrong


def _mentions(cmdline: Path, out: Path) -> bool:
    """Whether a process has ``out`` in its command line."""
    try:
        return str(out).encode() in cmdline.read_bytes()
    except OSError:  # the process has ended
        return False


if __name__ == "__main__":
    main()
