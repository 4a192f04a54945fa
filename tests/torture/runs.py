"""Short runs of the real command, for tests that kill them, take their disk away and compare them."""

import csv
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.helpers import ROOT

# Thirty evaluations in a few seconds, each saving a state of 6 MB: about half of the time is spent writing.
SETTINGS = {
    "actor.width": 8,
    "critic.width": 8,
    "num_envs": 32,
    "unroll": 20,
    "updates": 20,
    "batch_size": 32,
    "window": 100,
    "replay_steps": 5_000,
    "evaluations": 30,
    "eval_episodes": 8,
    "episode_length": 50,
    "env_steps": 32 * 20 * (5 + 120),
}
TRAIN = ["train", "point_u_maze", *(f"--set={name}={value}" for name, value in SETTINGS.items())]
TIMES = ("wall_seconds", "train_seconds", "env_steps_per_second", "updates_per_second")
PROGRESS = re.compile(r"[\d,]+ of [\d,]+ environment steps")  # a line for each evaluation
PATIENCE = 300.0  # seconds after which a run counts as hanging


def start(run: Path, *options: str) -> subprocess.Popen:
    """Start the run, or resume it if it exists, as a run or as a collector with learners."""
    exists = any((run / name).exists() for name in ("config.json", "collector/config.json"))
    arguments = ["train", "--resume", str(run)] if exists else [*TRAIN, "--out", str(run)]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "crlviz", *arguments, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_until_training(process: subprocess.Popen, run: Path, since: float) -> bool:
    """Wait until config.json is newer than ``since``, in seconds since the epoch; False if the process ended before.

    It is the last file written before the first training step.
    """
    config = run / "config.json"
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if config.stat().st_mtime > since:
                return True
        except FileNotFoundError:
            pass
        time.sleep(0.005)
    return False


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Wait for the process to end; return its exit code and stderr without the lines of evaluations."""
    try:
        _, words = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -1, f"did not end in {PATIENCE:.0f} s"
    return process.returncode, "\n".join(line for line in words.strip().splitlines() if not PROGRESS.search(line))


def read_line(process: subprocess.Popen) -> str:
    """The next line of stderr that is not one of an evaluation; empty at its end."""
    while PROGRESS.search(line := process.stderr.readline()):
        pass
    return line


def differences(run: Path, reference: Path) -> list[str]:
    """Differences between a finished run and one that was never stopped, in every bit except times in metrics.csv."""
    wrong = [f"left over: {path.name}" for path in run.rglob("*.part")]
    states = [sorted(p.name for p in (each / "state").glob("*")) for each in (run, reference)]
    if states[0] != states[1]:
        wrong.append(f"states {states[0]}, not {states[1]}")
    steps = [sorted(p.name for p in (each / "checkpoints").iterdir()) for each in (run, reference)]
    if steps[0] != steps[1]:
        return [*wrong, f"checkpoints {steps[0]}, not {steps[1]}"]
    for path in sorted((reference / "checkpoints").rglob("*.*")):
        name = path.relative_to(reference)
        if (run / name).read_bytes() != path.read_bytes():
            wrong.append(f"{name} differs")
    if _rows(run) != _rows(reference):
        wrong.append("metrics.csv differs")
    return wrong


def _rows(run: Path) -> Sequence[dict[str, str]]:
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
