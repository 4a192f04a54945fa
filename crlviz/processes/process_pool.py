"""A pool of child processes that run crlviz commands. A command that fails does not affect the others."""

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
GRACE_SECONDS = 600  # a large run finishes its training step and saves gigabytes


@dataclass(frozen=True)
class Job:
    """One command: the arguments after ``crlviz``, and the log file of its stdout and stderr."""

    arguments: tuple[str, ...]
    log: Path

    @property
    def log_lines(self) -> list[str]:
        """The lines of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()

    @property
    def last_words(self) -> str:
        """The last line of the log; for a command that failed, the reason."""
        words = self.log_lines
        return printable(words[-1].removeprefix("Error: ")) if words else "it said nothing"


# Jobs running now, and jobs that ended since the previous tick, with their exit codes.
Ticks = Generator[tuple[list[Job], list[tuple[Job, int]]], None, None]


def cores() -> list[int]:
    """Indices of the CPU cores this process may use."""
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
    """Run all jobs, ``at_once`` at a time, and report their progress.

    Concurrent jobs get disjoint cores where the system supports that. Closing the iterator (``contextlib.closing``)
    interrupts running jobs as Ctrl-C does; they are killed after ten minutes or at the next Ctrl-C. If this process is
    killed, the jobs end too. While jobs run, SIGTERM and the other ``interrupts.SIGNALS`` raise
    ``interrupts.Interrupted`` here, a KeyboardInterrupt.

    Args:
      jobs: started in this order.
      at_once: number of concurrent jobs.
      environment: environment variables of the jobs; those of this process take precedence.
      append: append to the logs instead of overwriting them.
      poll: seconds between ticks.

    Yields:
      Every ``poll`` seconds, the running jobs, and the jobs that ended since, with their exit codes.
    """
    waiting = list(jobs)
    running: dict[int, tuple[Job, subprocess.Popen]] = {}
    # Jobs run in their own sessions and get no signal from the terminal, so a terminated sweep must stop them itself.
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


def _start(job: Job, environment: Mapping[str, str], affinity: Sequence[int], append: bool) -> subprocess.Popen:
    atomic_files.make_directory(job.log.parent)
    with open(job.log, "ab" if append else "wb") as log, interrupts.blocked():
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "crlviz.child", *job.arguments],
            stdin=subprocess.PIPE,  # never written to; closes when this process ends, which the child notices
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, **os.environ},
            start_new_session=True,  # a Ctrl-C reaches it only through _stop
        )
    if affinity and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, affinity)
    return process


def say_waiting(count: int) -> None:
    """Print that ``count`` runs were asked to stop."""
    if count:
        runs = "one run" if count == 1 else f"{count} runs"
        tqdm.write(f"Waiting for {runs} to save and stop; another Ctrl-C kills.", file=sys.stderr)


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
