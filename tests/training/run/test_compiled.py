"""An interrupt while programs compile takes effect at once."""

import signal
import subprocess
import sys
import time

import pytest

# The command with a compiler that takes a minute, and Ctrl-C a second after it starts.
STOPPED = """
import os, signal, threading, time
import jax
from crlviz import cli

def compile(self):
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    print("compiling", flush=True)
    time.sleep(60)

jax.stages.Lowered.compile = compile
cli.main()
"""


@pytest.mark.slow
def test_control_c_while_programs_compile(tmp_path):
    arguments = ["train", "point_u_maze", "--preset", "smoke", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "compiling\n"
    began = time.monotonic()
    _, output = process.communicate(timeout=50)
    assert time.monotonic() - began < 30  # before the compiler is done
    assert process.returncode == 128 + signal.SIGINT
    assert output.rstrip().endswith("Interrupted.")
    assert not (tmp_path / "run").exists()
