"""A few cases of each torture; the scripts run hundreds."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "count"),
    [
        ("damage", 27),
        pytest.param("states", 8, marks=pytest.mark.slow),
        ("pickles", 40),
        ("trajectories", 60),
        pytest.param("interrupts", 2, marks=pytest.mark.slow),  # six processes that start jax
    ],
)
def test_a_little_of_it(script, count):
    command = [sys.executable, "-m", f"tests.torture.{script}", "--count", str(count), "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count}" in done.stdout
