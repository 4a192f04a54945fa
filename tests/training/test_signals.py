"""Signals: noted at once, obeyed the second time, and nothing changed afterwards."""

import os
import signal
import subprocess
import sys
import threading
import time

from training import signals

# The main thread is busy in C for half a minute, as in a long jitted program: Python's own handlers would wait for it.
BUSY = """
import hashlib, sys
from training import signals
with signals.heard(lambda name: print(name, flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 30_000_000)
"""


def _wait(what) -> None:
    deadline = time.monotonic() + 10
    while not what() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert what()


def test_a_signal_is_noted_and_handlers_come_back():
    before, said = [signal.getsignal(number) for number in signals.SIGNALS], []
    with signals.heard(said.append) as first:
        assert first() is None
        os.kill(os.getpid(), signal.SIGTERM)
        _wait(first)
        assert first() == signal.SIGTERM
    assert said == ["SIGTERM"]
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


def test_an_ignored_signal_stays_ignored_and_other_threads_do_not_listen():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.heard(print) as first:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            assert first() is None
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    heard = []

    def elsewhere():
        with signals.heard(print) as first:
            heard.append(first())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard == [None]


def test_the_second_signal_ends_a_busy_process_at_once():
    process = subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"  # said while the main thread is busy
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 5
    process.stdout.close()
