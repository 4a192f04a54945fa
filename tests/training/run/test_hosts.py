"""Two processes that train one run, over loopback: the result is that of one process, and they end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.same import same
from tests.helpers.toys import TOY, toy_config
from tests.torture.runs import PATIENCE, ROOT, wait_until_training
from training import trainer

# Eight training steps. With many more, rounding differences grow beyond the tolerance of the comparison.
SETTINGS = TOY | {"env_steps": 4 * 10 * 11, "updates": 1}
TRAIN = ["point_u_maze", "--preset=paper", "--set=redraw_goals=true"]
TRAIN += [f"--set={name}={value}" for name, value in SETTINGS.items()]


# The command; the coordinator is terminated before its fourth training step.
TERMINATED = """
import os, signal, time
from crlviz import cli
from training.run.runner import Run
real = Run.advance
def step(self):
    if self.step == 3:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    real(self)
Run.advance = step
cli.main()
"""

# The command; in the coordinator the first try of the sixth training step diverges.
DIVERGED = """
from crlviz import cli
from training.loop import divergence
from training.run.seed_run import SeedRun
real, done = SeedRun.advance, []
def advance(self, *arguments):
    if self.counters.step == 5 and not done:
        done.append(self)
        raise divergence.DivergenceError("planted")
    real(self, *arguments)
SeedRun.advance = advance
cli.main()
"""

# Traces a program of an environment with a physics engine.
TRACED = """
import sys, jax
from tests.helpers.toys import toy_config
from training import sharding
from training.run import hosts
from training.run.building import build
hosts.join(sys.argv[-1])
loop = build(toy_config(env="ant"), sharding.select("all"))
key = jax.eval_shape(lambda: jax.random.key(0))
fresh = jax.eval_shape(loop.reset_envs, key)
state = jax.eval_shape(loop.init, key, fresh).replace(replay=jax.eval_shape(loop.empty_buffer))
jax.jit(loop.collect).lower(state, fresh)
print("traced")
"""

_begun: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _cleared():
    """Kill the processes of a failed test, which would wait for each other."""
    yield
    while _begun:
        _begun.pop().kill()


def begin(arguments: Sequence[str], code: str = "from crlviz import cli; cli.main()", **environment: str):
    """Start ``crlviz train`` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **os.environ, **environment},
    )
    _begun.append(process)
    return process


def free_port() -> int:
    """A free port in the range that jax uses for SLURM jobs."""
    for port in range(61440 + os.getpid() % 4000, 65535):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def by_hand(arguments: Sequence[str], *code: str) -> list[subprocess.Popen]:
    port = free_port()
    return [begin([*arguments, "--distributed", f"{number}/2@127.0.0.1:{port}"], *code) for number in (0, 1)]


def under_slurm(arguments: Sequence[str]) -> list[subprocess.Popen]:
    """Start two processes with the variables that ``srun --ntasks 2`` sets."""
    job = {"SLURM_JOB_ID": str(free_port() - 61440), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
    each = [job | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)} for number in (0, 1)]
    return [begin([*arguments, "--distributed", "auto"], **own) for own in each]


def ended(processes: Sequence[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Wait for the processes; exit code, stdout and stderr of each."""
    output = [process.communicate(timeout=PATIENCE) for process in processes]
    return [(process.returncode, *words) for process, words in zip(processes, output, strict=True)]


def wait_for(path: Path, processes: Sequence[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        assert [process.poll() for process in processes] == [None] * len(processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    changes = {name.replace(".", "__"): value for name, value in SETTINGS.items()}
    return trainer.train(toy_config(**changes), tmp_path_factory.mktemp("alone") / "run", progress=False)


@pytest.fixture
def stopped(tmp_path) -> Path:
    """A run of two processes, both terminated while they trained."""
    run = tmp_path / "run"
    both = by_hand([*TRAIN, "--out", run], TERMINATED)
    wait_for(run / "metrics.csv", both)
    both[1].send_signal(signal.SIGTERM)  # a worker waits for the coordinator's order
    (code, _, words), (other_code, _, other_words) = ended(both)
    assert (code, other_code) == (143, 143), words + other_words
    assert words.endswith(f"go on with: crlviz train --resume {run}\n")
    assert [state.name for state in (run / "state").iterdir()] == [str(4 * 10 * (3 + 4))]
    return run


@pytest.mark.slow  # eight starts of jax
def test_two_processes_give_the_result_of_one_after_stopping_and_resuming(alone, stopped):
    (code, out, words), (other_code, other_out, other_words) = ended(under_slurm(["--resume", stopped]))
    assert (code, other_code) == (0, 0), words + other_words
    assert out.endswith(f"wrote {stopped}\n")
    assert "wrote" not in other_out
    same(stopped, alone)


@pytest.mark.slow
@pytest.mark.parametrize("gone", [0, 1])
def test_if_one_process_is_killed_the_other_ends_and_one_process_can_resume(alone, stopped, gone):
    before = (stopped / "config.json").stat().st_mtime
    both = by_hand(["--resume", stopped])
    assert wait_until_training(both[0], stopped, before)
    both[gone].kill()
    codes = [code for code, *_ in ended(both)]
    assert codes[gone] == -signal.SIGKILL
    assert codes[1 - gone] != 0
    trainer.resume(stopped, progress=False)
    same(stopped, alone)


@pytest.mark.slow
def test_divergence_in_the_coordinator_rewinds_all_processes(tmp_path):
    processes = by_hand([*TRAIN, "--on-nan", "rewind", "--out", tmp_path / "two"], DIVERGED)
    processes.append(begin([*TRAIN, "--on-nan", "rewind", "--out", tmp_path / "one"], DIVERGED))
    for (code, _, words), says in zip(ended(processes), (True, False, True), strict=True):
        assert code == 0, words
        assert ("going back to environment step 280 with another key (1 of 3)" in words) == says
    same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_an_error_in_the_coordinator_ends_all_processes(alone):
    (code, _, words), (other_code, _, other_words) = ended(by_hand([*TRAIN, "--out", alone]))
    assert (code, other_code) == (2, 2)
    assert f"{alone} exists already" in words
    assert "Error" not in other_words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--distributed", "auto"], "--distributed auto finds no cluster around this process", marks=pytest.mark.slow
        ),
        (["--distributed", "2/2@127.0.0.1:4321"], "2 processes are numbered 0 to 1"),
        pytest.param(
            ["--distributed", "0/0@127.0.0.1:4321"],
            "takes auto, or PROCESS/PROCESSES@HOST:PORT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--distributed", "127.0.0.1:4321"], "takes auto, or PROCESS/PROCESSES@HOST:PORT", marks=pytest.mark.slow
        ),
        (["--distributed", "auto", "--devices", "2"], "--distributed trains on all devices of all its processes"),
    ],
)
def test_mistakes_with_distributed(tmp_path, arguments, words):
    ((code, _, output),) = ended([begin(["point_u_maze", "--out", tmp_path / "run", *arguments])])
    assert code == 2
    assert output.startswith("Error: ")
    assert words in output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_each_process_can_trace_the_physics():
    """MJX would put its model on the first device of all, which the other process cannot read."""
    for code, output, words in ended(by_hand([], TRACED)):
        assert (code, output) == (0, "traced\n"), words
