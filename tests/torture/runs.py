"""Short runs of the real command that can be killed, starved and compared."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.helpers import ROOT

# Thirty evaluations in some seconds, each with a state of 6 MB to save: about half of the time something is written.
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
PATIENCE = 300.0  # seconds after which a run that does not move is a failure


def start(run: Path, *options: str) -> subprocess.Popen:
    """Begin the run, or go on with it."""
    begun = (run / "config.json").exists()
    arguments = ["train", "--resume", str(run)] if begun else [*TRAIN, "--out", str(run)]
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
    """Wait until config.json, written last before the first training step, is newer; False if the process ended."""
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
    """Exit code and last words."""
    try:
        _, words = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -1, f"did not end in {PATIENCE:.0f} s"
    return process.returncode, words.strip()


def differences(run: Path, reference: Path) -> list[str]:
    """What in a finished run is not as in the one that was never stopped: parameters to the bit, and all but times."""
    wrong = [f"left over: {path.name}" for path in run.rglob("*.part")]
    kept = [sorted(p.name for p in (each / "state").glob("*")) for each in (run, reference)]
    if kept[0] != kept[1]:
        wrong.append(f"states {kept[0]}, not {kept[1]}")
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
