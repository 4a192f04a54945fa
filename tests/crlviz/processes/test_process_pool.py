"""The process pool, with cheap crlviz commands and with processes that sleep in their place."""

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
    """Run all jobs; return exit codes by job and the highest number of concurrent jobs."""
    codes, most = {}, 0
    for running, ended in process_pool.run(jobs, at_once, poll=0.05):
        most = max(most, len(running))
        codes |= dict(ended)
    return codes, most


def test_a_failing_job_does_not_affect_the_others(tmp_path):
    good = Job(("--version",), tmp_path / "logs" / "good.txt")
    bad = Job(("no-such-verb",), tmp_path / "logs" / "bad.txt")
    last = Job(("--help",), tmp_path / "logs" / "last.txt")
    codes, most = finish([bad, good, last], at_once=2)
    assert (codes[good], codes[bad], codes[last]) == (0, 2, 0)
    assert most <= 2
    assert bad.last_words == "no verb is called 'no-such-verb'; crlviz --help lists them"
    assert "version" in good.log.read_text()


def test_control_characters_are_removed_from_last_words(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("first\nError: \x1b[31mred\x1b[0m \u202ekcab\n", encoding="utf-8")
    assert Job((), log).last_words == "?[31mred?[0m ?kcab"


@pytest.fixture
def sleepers(monkeypatch):
    """Replace the command by processes that print their cores and sleep until interrupted."""
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
def test_running_jobs_get_disjoint_cores_and_are_interrupted_on_close(tmp_path, sleepers):
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


def test_sigterm_stops_jobs_like_ctrl_c(tmp_path, sleepers):
    """A scheduler ends a sweep by SIGTERM; its runs must stop too."""

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


def test_a_job_ends_when_its_parent_is_killed(tmp_path):
    """A run that went on would hold its lock."""
    job = "from crlviz.child import tie; tie(); import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    code = f"""
import subprocess, sys
from pathlib import Path
from crlviz.processes import process_pool

popen = subprocess.Popen
subprocess.Popen = lambda arguments, **options: popen([sys.executable, "-c", {job!r}], **options)
list(process_pool.run([process_pool.Job((), Path("log.txt"))], 1))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    log = tmp_path / "log.txt"
    assert eventually(lambda: log.is_file() and log.read_text().endswith("\n"))
    parent.kill()
    parent.wait()
    assert eventually(lambda: ended(int(log.read_text())))


def eventually(condition):
    end = time.monotonic() + 30
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def ended(pid):
    """Whether a process has ended; a zombie counts, as its new parent may never reap it."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
