"""Signals: the first is recorded at once, the second ends the process, and the handlers are restored."""

import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.processes import interrupts
from tests.torture import runs
from training.run import saved_state as states
from training.run import signals

# The main thread is busy in C for half a minute, as in a long jitted program, and Python's own handlers do not run.
BUSY = """
import hashlib, sys
from training.run import signals
with signals.recorded(lambda name: print(name, flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 30_000_000)
"""


def _wait(what) -> None:
    deadline = time.monotonic() + 10
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert what()


def test_a_signal_is_recorded_and_handlers_are_restored():
    before, names = [signal.getsignal(number) for number in interrupts.SIGNALS], []
    with signals.recorded(names.append) as first:
        assert first() is None
        os.kill(os.getpid(), signal.SIGTERM)
        _wait(first)
        assert first() == signal.SIGTERM
    assert names == ["SIGTERM"]
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before


def test_an_ignored_signal_stays_ignored_and_other_threads_do_not_listen():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.recorded(print) as first:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            assert first() is None
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    heard = []

    def elsewhere():
        with signals.recorded(print) as first:
            heard.append(first())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard == [None]


@pytest.fixture
def busy():
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_signal_ends_a_busy_process_at_once(busy):
    started = time.monotonic()
    busy.send_signal(signal.SIGINT)
    assert busy.stdout.readline() == "SIGINT\n"  # written while the main thread is busy
    busy.send_signal(signal.SIGINT)
    assert busy.wait(timeout=20) == 128 + signal.SIGINT
    assert time.monotonic() - started < 5


def test_repeated_signals_of_the_system_do_not_end_the_process(busy):
    """Shell and kernel both send SIGHUP for a closed terminal; SLURM signals a sweep and its runs, then ends all."""
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
        busy.send_signal(number)
        time.sleep(0.05)
    assert busy.stdout.readline() == "SIGHUP\n"
    assert busy.poll() is None


def test_a_handler_of_the_caller_stays():
    got = []
    before = signal.signal(signal.SIGUSR1, lambda *_: got.append(1))
    try:
        with signals.recorded(print) as first:
            os.kill(os.getpid(), signal.SIGUSR1)
            _wait(lambda: got)
            assert first() is None
    finally:
        signal.signal(signal.SIGUSR1, before)


LONG = ["--env-steps=64000000", "--set=evaluations=25000"]  # an evaluation every fourth training step


@pytest.mark.slow
def test_a_closed_terminal_saves_the_run(tmp_path):
    """Close a real terminal while a run writes its progress bar there."""
    run = tmp_path / "run"
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-m", "crlviz", *runs.TRAIN, *LONG, "--out", str(run)])
    deadline = time.monotonic() + 120
    while not RunDirectory(run).newest_state():
        assert time.monotonic() < deadline
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1024)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert states.verify(RunDirectory(run), RunDirectory(run).newest_state()).counters.step > 0
    assert not list(run.rglob("*.part"))
