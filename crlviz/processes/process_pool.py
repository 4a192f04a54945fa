"""Commands of crlviz in processes of their own, some at a time, so that one that fails loses no other."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from crlviz.checkpoints import atomic_files
from crlviz.escaping import printable
from crlviz.processes import interrupts

LOGS = "logs"  # the directory of logs beside the runs of a sweep
GRACE_SECONDS = 600  # a large run ends its training step and saves gigabytes


@dataclass(frozen=True)
class Job:
    """One command: what one types after ``crlviz``, and the file that takes all it prints."""

    arguments: tuple[str, ...]
    log: Path

    @property
    def words(self) -> list[str]:
        """The lines of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()

    @property
    def last_words(self) -> str:
        """The last line of its log: of a command that failed, why."""
        words = self.words
        return printable(words[-1].removeprefix("Error: ")) if words else "it said nothing"


# What runs now, and what ended since the tick before, with exit codes.
Ticks = Generator[tuple[list[Job], list[tuple[Job, int]]], None, None]


def cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run(
    jobs: Sequence[Job],
    at_once: int,
    environment: Mapping[str, str] | None = None,
    *,
    append: bool = False,
    poll: float = 0.5,
) -> Ticks:
    """Run all jobs; every ``poll`` seconds tells which run now and which ended since, with their exit codes.

    Jobs that run together keep to disjoint cores where the system allows that. Close the iterator
    (``contextlib.closing``) and what still runs is interrupted as by Ctrl-C, and killed if it has not ended ten minutes
    later or at the next Ctrl-C. Should this process be killed, they end with it. While jobs run, SIGTERM and the like
    are ``crlviz.processes.interrupts.Interrupted`` here, a KeyboardInterrupt.

    Args:
      jobs: begun in this order.
      at_once: how many run together.
      environment: variables that the jobs get where this process has none of that name.
      append: keep what the logs hold.
      poll: seconds.
    """
    waiting = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen]] = {}
    # A terminated sweep must not leave its runs behind: sessions of their own get no signal from the terminal either.
    with interrupts.listening():
        try:
            while waiting or running:
                for slot in range(at_once):
                    if waiting and slot not in running:
                        job = waiting.pop(0)
                        running[slot] = job, _start(job, environment or {}, cores()[slot::at_once], append)
                interrupts.check()
                time.sleep(poll)
                codes = {slot: process.poll() for slot, (_, process) in running.items()}
                ended = {slot: code for slot, code in codes.items() if code is not None}
                yield (
                    [job for slot, (job, _) in running.items() if slot not in ended],
                    [(running.pop(slot)[0], code) for slot, code in ended.items()],
                )
        finally:
            _stop([process for _, process in running.values()])


def _start(job: Job, environment: Mapping[str, str], own: Sequence[int], append: bool) -> subprocess.Popen:
    atomic_files.make_directory(job.log.parent)
    with open(job.log, "ab" if append else "wb") as log, interrupts.held_back():
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crlviz.child", *job.arguments],
            stdin=subprocess.PIPE,  # which is never written to, and closes when this process ends
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, **os.environ},
            start_new_session=True,  # a Ctrl-C reaches it once, from here
        )
    if own and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, own)
    return process


def say_waiting(count: int) -> None:
    """Tell that so many runs were asked to stop."""
    if count:
        what = "one run" if count == 1 else f"{count} runs"
        tqdm.write(f"Waiting for {what} to save and stop; another Ctrl-C kills.", file=sys.stderr)


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    say_waiting(len(processes))
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
