"""Importing and using crlviz leaves a user's process as it was: a notebook goes on with its own settings."""

import subprocess
import sys
from pathlib import Path

import pytest

TRACE = """
import importlib, logging, os, pkgutil, random, signal, sys, warnings
import altair as alt, brax, flax, jax, numpy as np  # rich, which flax imports, draws a random number then

def settings():
    return {
        "theme": (alt.theme.active, alt.theme.options),
        "rows": (alt.data_transformers.active, dict(alt.data_transformers.options)),
        "variables": dict(os.environ),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "held back": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "hooks": (sys.excepthook, sys.unraisablehook, warnings.showwarning, sys.stdout, sys.stderr),
        "jax": {name: getattr(jax.config, name) for name in jax.config.values if hasattr(jax.config, name)},
        "logging": {name: (logger.level, logger.disabled) for name in ("", "jax", "absl", "matplotlib")
                    for logger in [logging.getLogger(name)]},
        "random": (random.getstate(), str(np.random.get_state())),
        "numpy": (np.geterr(), np.get_printoptions()),
        "directory": os.getcwd(),
        # Packages add some for warnings of their own; those of all are the user's.
        "warnings": [each for each in warnings.filters if each[2].__module__ == "builtins" and not each[1]],
    }

def compare(when):
    for name, value in settings().items():
        assert value == before[name], f"{when}: {name} is {value}, was {before[name]}"

jax.devices()
before = settings()
for package in ("crlviz", "training", "analyses"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        # The one is the command; the others import ray, and gymnasium, which sets an environment variable.
        if not module.name.endswith(("__main__", ".ray_cluster", ".gymnasium_env")):
            importlib.import_module(module.name)
compare("importing")

import crlviz
from analyses import heatmap, norms
from crlviz import charts
from crlviz.processes import process_pool
from training.run import signals
agent = crlviz.load(sys.argv[1])
picture = heatmap.plot(heatmap.compute([agent], resolution=32))
picture.to_dict()  # as a notebook does, with the user's limit of rows
charts.render(picture, ".svg")
charts.render(norms.plot(norms.compute([agent], episodes=2)), ".json")
with signals.recorded(print):
    pass
from pathlib import Path
list(process_pool.run([process_pool.Job(("--version",), Path(sys.argv[2]))], 1, poll=0.05))
compare("working")
print("the same")
"""


@pytest.mark.slow
def test_the_users_process_stays_as_it_was(toy_run, tmp_path):
    command = [sys.executable, "-c", TRACE, str(toy_run), str(tmp_path / "log.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.stdout.splitlines()[-1:] == ["the same"], done.stderr[-2000:]
