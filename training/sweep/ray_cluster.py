"""Run the processes of ``crlviz sweep --cluster`` on the nodes of a Ray cluster.

A Ray task starts the same command on its node that a local sweep would start, so runs, logs and resuming are the same.
The run directories are on storage that all nodes share. Ray carries only the command and its exit code. If a node is
lost, its run resumes from the last saved state on another node.

No file that crlviz reads can execute code. Ray is different: its processes send each other code as pickles and trust
every peer that can connect. Keep the cluster on a network that others cannot reach.

This module imports ray, so import it only for ``--cluster``.
"""

import contextlib
import itertools
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from tqdm import tqdm

from crlviz.checkpoints import atomic_files
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.processes import interrupts, process_pool
from crlviz.processes.process_pool import Job

# ray reads this on import. It hides the multi-line reports of lost nodes; we print one line instead.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
try:
    import ray
except ModuleNotFoundError:
    raise UsageError("--cluster needs a package that is not installed: pip install 'crlviz[cluster]'") from None

_OWN_EXIT_CODES = (0, 1, 2)  # crlviz chose these itself; any other code means that the process was killed
_LOST = -9  # stands for the exit code of a job that was lost with its node
# Ray puts its sockets under TMPDIR as ray/session_2025-01-01_00-00-00_000000_1234567/sockets/plasma_store, and the path
# of a socket has at most 107 bytes.
_LONGEST_TMPDIR = 39
_LOCK_SECONDS = 120  # a file server releases the locks of a dead machine within this time (NFS 4: 90 by default)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and the resources of each process of a sweep.

    Attributes:
      cpus: cores for each process. A process without a GPU is pinned to this many cores of its own.
      gpus: GPUs for each process; 0.5 reserves half of one GPU's memory.
      retries: how often a lost process is restarted.
      most: maximum number of parallel processes; None: as many as fit.
    """

    cpus: int
    gpus: float
    retries: int
    most: int | None

    @property
    def at_once(self) -> int:
        """How many processes fit on the nodes that are alive now, at most ``most``."""
        capacity = sum(self._capacity(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return min(capacity, self.most or capacity)

    def _capacity(self, node: Mapping[str, float]) -> int:
        """How many processes fit on a node with these resources."""
        by_cpus, by_gpus = node.get("CPU", 0) / self.cpus, node.get("GPU", 0) / self.gpus if self.gpus else math.inf
        return int(min(by_cpus, by_gpus) + 1e-6)

    def run(
        self, jobs: Sequence[Job], commands: Callable[[Job], Sequence[Sequence[str]]], *, poll: float = 1.0
    ) -> process_pool.Ticks:
        """Run all jobs on the nodes; yields the same ticks as ``process_pool.run``.

        A job is lost when its node or Ray worker is lost, or when its process is killed. A lost job is restarted; a job
        that exits with its own error is not. Closing the iterator makes all jobs save and stop.

        Args:
          jobs: started in this order. Their logs are in one directory, on storage that all nodes share.
          commands: returns the command lines, after ``crlviz``, that a job still has to run. Called at every start.
          poll: seconds between ticks.

        Raises:
          CrlvizError: a node does not see the logs or cannot run crlviz.
        """
        if not jobs:
            return
        logs = jobs[0].log.parent
        atomic_files.make_directory(logs)
        waiting, lost, working = list(jobs), Counter[Job](), dict[Any, Job]()
        waits_for_node = False
        with tempfile.NamedTemporaryFile(dir=logs, prefix=".sweep-", suffix=atomic_files.PART) as marker:
            try:
                while waiting or working:
                    interrupts.check()
                    while waiting and len(working) < self.at_once:
                        job = waiting.pop(0)
                        working[self._start(job, commands(job), Path(marker.name), restart=lost[job] > 0)] = job
                    if not self.at_once and not waits_for_node:
                        waits_for_node = True
                        tqdm.write("No node is left to train on; waiting for one. Ctrl-C stops.", file=sys.stderr)
                    ended = []
                    for task in _done(working, poll):
                        job = working.pop(task)
                        code, loss = _outcome(task)
                        if loss and self._restarts(job, loss, lost):
                            waiting.insert(0, job)
                        else:
                            ended.append((job, code))
                    yield list(working.values()), ended
            finally:
                _stop(list(working))

    def _start(self, job: Job, commands: Sequence[Sequence[str]], marker: Path, restart: bool) -> Any:
        """Start a job on some node; returns the Ray object reference of its task."""
        environment = {} if self.gpus else {"JAX_PLATFORMS": "cpu"}
        if 0 < self.gpus < 1:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * self.gpus:.2f}"
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(train_jobs)
        jobs = [Job(tuple(arguments), job.log) for arguments in commands]
        return task.remote(jobs, marker, environment, 0 if self.gpus else self.cpus, restart)

    def _restarts(self, job: Job, loss: str, lost: Counter[Job]) -> bool:
        """Count and log the loss of a job; return whether it is restarted."""
        lost[job] += 1
        restart = lost[job] <= self.retries
        with open(job.log, "a", encoding="utf-8") as log:
            log.write(f"{loss}\n")
        next_step = f"restarting from its last save ({lost[job]} of {self.retries})" if restart else "giving up"
        tqdm.write(f"{job.log.stem}: {printable(loss)}; {next_step}", file=sys.stderr)
        return restart


@contextlib.contextmanager
def connect(
    address: str,
    cpus: int | None = None,
    gpus: float | None = None,
    retries: int | None = None,
    most: int | None = None,
) -> Iterator[Cluster]:
    """Context manager: a connection to a Ray cluster that this machine is a node of.

    Args:
      address: ``HOST:PORT`` of the head node, or ``auto``: the cluster that runs here.
      cpus: cores for each process; default: 1.
      gpus: GPUs for each process; default: 1 if any node has a GPU, else 0.
      retries: restarts of a lost process; default: 3.
      most: maximum number of parallel processes; None: as many as fit.

    Raises:
      UsageError: there is no such cluster, it runs other versions, or no node has the resources for one process.
    """
    if gpus is not None and gpus > 1 and gpus % 1:
        raise UsageError(f"--gpus-per-cell takes a fraction below 1 or a whole number, not {gpus:g}")
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    _check(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    root = Path(__file__).parents[2]  # Ray workers import from the working directory of ray.init
    try:
        with contextlib.chdir(root):
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise _no_cluster(address) from None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot use the Ray cluster at {address}: {' '.join(str(error).split())}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)  # ray.init replaced the handler
    try:
        if gpus is None:
            gpus = float(any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"]))
        cluster = Cluster(cpus or 1, gpus, 3 if retries is None else retries, most)
        if not cluster.at_once:
            raise UsageError(
                f"no node of this Ray cluster has {cluster.cpus} CPUs and {gpus:g} GPUs for a process; "
                "lower --cpus-per-cell or --gpus-per-cell"
            )
        yield cluster
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise a UsageError if nothing answers at an address; ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except ValueError:
            raise UsageError(f"--cluster takes HOST:PORT or auto, not {address!r}") from None
        except OSError:
            raise _no_cluster(address) from None


def _no_cluster(address: str) -> UsageError:
    place = "runs here" if address == "auto" else f"answers at {address}"
    option = "" if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TMPDIR else " --temp-dir /tmp/ray"
    return UsageError(f"no Ray cluster {place}; start one with: ray start --head{option}")


def _done(working: Mapping[Any, Job], poll: float) -> Sequence[Any]:
    """Wait up to ``poll`` seconds; return the tasks that ended."""
    if not working:
        time.sleep(poll)
        return []
    return ray.wait(list(working), timeout=poll)[0]


def _outcome(task: Any) -> tuple[int, str]:
    """Exit code of an ended task, and how it was lost; empty if it ended by itself."""
    try:
        code = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, CrlvizError):
            raise CrlvizError(str(error.cause)) from None
        why = str(error.cause).strip().splitlines()[-1]
        raise CrlvizError(f"a node cannot run crlviz ({why}); every node needs the same Python environment") from None
    except ray.exceptions.NodeDiedError:
        return _LOST, "its node was lost"
    except ray.exceptions.OutOfMemoryError:
        return _LOST, "its node ran out of memory"
    except ray.exceptions.RayError:
        return _LOST, "its Ray worker was lost"
    if code in _OWN_EXIT_CODES:
        return code, ""
    return code, f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"


def _stop(tasks: Sequence[Any]) -> None:
    """Ask all tasks to save and stop. After the grace time or the next Ctrl-C, disconnecting kills the rest."""
    process_pool.say_waiting(len(tasks))
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(list(tasks), num_returns=len(tasks), timeout=process_pool.GRACE_SECONDS)


def train_jobs(jobs: Sequence[Job], marker: Path, environment: Mapping[str, str], cores: int, restart: bool) -> int:
    """Run jobs one after another on this node.

    Args:
      jobs: jobs that share one log.
      marker: a file that exists while the sweep runs.
      environment: variables for the processes; variables already set on this node take precedence.
      cores: number of cores to pin to; 0: use all.
      restart: whether the jobs ran before; appends to the log.

    Returns:
      The first nonzero exit code, else 0.

    Raises:
      CrlvizError: this node does not see ``marker``.
    """
    if not marker.exists():
        raise CrlvizError(
            f"the node {socket.gethostname()} does not see {marker.parent}; --out must be on storage that all nodes "
            "share"
        )
    for job in jobs:
        wait_for_locks(job)
    with pin_to_cores(cores), contextlib.closing(process_pool.run(jobs, 1, environment, append=restart)) as ticks:
        codes = [code for _, ended in ticks for _, code in ended]
    return next(filter(None, codes), 0)


def wait_for_locks(job: Job) -> None:
    """Wait for the locks of the runs to resume; a lost node may still hold them on the file server."""
    for flag, run in itertools.pairwise(job.arguments):
        if flag == "--resume":
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(Path(run) / ".lock", timeout=_LOCK_SECONDS):
                pass


@contextlib.contextmanager
def pin_to_cores(count: int) -> Iterator[None]:
    """Context manager: pin this process and its children to ``count`` cores that no other such process uses.

    Ray counts cores but assigns none. An abstract socket named after the core marks it as taken: it disappears with
    this process and, unlike a file, is in no directory that another user may own. If too few cores are free, use those;
    if none is, use all. Does nothing where the system has no CPU affinity.
    """
    if not count or not hasattr(os, "sched_setaffinity"):
        yield
        return
    every_core = process_pool.cores()
    own: list[int] = []
    with contextlib.ExitStack() as sockets:
        for core in every_core:
            marker = sockets.enter_context(socket.socket(socket.AF_UNIX))
            with contextlib.suppress(OSError):  # taken by another process
                if len(own) < count:
                    marker.bind(f"\0crlviz-core-{os.getuid()}-{core}")
                    own.append(core)
        os.sched_setaffinity(0, own or every_core)
        try:
            yield
        finally:
            os.sched_setaffinity(0, every_core)
