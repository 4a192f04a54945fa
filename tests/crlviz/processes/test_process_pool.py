"""Commands in processes of their own: the cheapest there are, and some that sleep in their place."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crlviz.processes import process_pool
from crlviz.processes.process_pool import Job
from tests.helpers import ROOT


def finish(jobs, at_once):
    """Run all; exit codes by job, and the most that ran together."""
    codes, most = {}, 0
    for running, ended in process_pool.run(jobs, at_once, poll=0.05):
        most = max(most, len(running))
        codes |= dict(ended)
    return codes, most


def test_one_that_fails_loses_no_other(tmp_path):
    good = Job(("--version",), tmp_path / "logs" / "good.txt")
    bad = Job(("no-such-verb",), tmp_path / "logs" / "bad.txt")
    last = Job(("--help",), tmp_path / "logs" / "last.txt")
    codes, most = finish([bad, good, last], at_once=2)
    assert (codes[good], codes[bad], codes[last]) == (0, 2, 0)
    assert most <= 2
    assert bad.last_words == "No such command 'no-such-verb'."
    assert "version" in good.log.read_text()


def test_last_words_have_nothing_that_a_terminal_obeys(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("first\nError: \x1b[31mred\x1b[0m \u202ekcab\n", encoding="utf-8")
    assert Job((), log).last_words == "?[31mred?[0m ?kcab"


@pytest.fixture
def sleepers(monkeypatch):
    """Jobs that tell their cores and sleep until interrupted, in place of the command."""
    code = "import os, signal, time\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})\n"
    code += "try:\n print(sorted(os.sched_getaffinity(0)), flush=True); time.sleep(60)\n"
    code += "except KeyboardInterrupt: print('interrupted')"
    popen = subprocess.Popen
    started = []

    def start(arguments, **options):
        started.append(popen([sys.executable, "-c", code], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_what_still_runs_is_interrupted_and_kept_apart(tmp_path, sleepers):
    jobs = [Job((), tmp_path / f"{n}.txt") for n in range(3)]
    with contextlib.closing(process_pool.run(jobs, 2, poll=0.05)) as ticks:
        for running, _ in ticks:
            if all(job.log.read_text() for job in running):
                break
    assert [process.poll() for process in sleepers] == [0, 0]
    first, second = (job.log.read_text().splitlines() for job in jobs[:2])
    assert first[-1] == second[-1] == "interrupted"
    assert not jobs[2].log.exists()
    if len(process_pool.cores()) > 1:
        assert first[0] != second[0]


def test_terminated_as_if_by_ctrl_c(tmp_path, sleepers):
    """A scheduler ends a sweep by SIGTERM; its runs must not go on behind its back."""

    def until_terminated():
        with contextlib.closing(process_pool.run([Job((), tmp_path / "0.txt")], 1, poll=0.05)) as ticks:
            for running, _ in ticks:
                if running and running[0].log.read_text():
                    os.kill(os.getpid(), signal.SIGTERM)
                    time.sleep(1)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            until_terminated()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sleepers[0].poll() == 0


def test_a_job_ends_with_whoever_started_it(tmp_path):
    """However that ended: a run that went on would hold its lock."""
    job = "from crlviz.child import tie; tie(); import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"""
import subprocess, sys
from pathlib import Path
from crlviz import processes

popen = subprocess.Popen
subprocess.Popen = lambda arguments, **options: popen([sys.executable, "-c", {job!r}], **options)
list(processes.run([processes.Job((), Path("log.txt"))], 1))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    log = tmp_path / "log.txt"
    assert eventually(lambda: log.is_file() and log.read_text().endswith("\n"))
    parent.kill()
    parent.wait()
    assert eventually(lambda: ended(int(log.read_text())))


def eventually(truth):
    end = time.monotonic() + 30
    while not truth() and time.monotonic() < end:
        time.sleep(0.02)
    return truth()


def ended(pid):
    """Or waits for a parent that does not ask after it."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
