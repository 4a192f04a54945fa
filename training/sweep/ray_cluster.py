"""Where ``crlviz sweep --cluster`` trains: the processes of a sweep on the nodes of a Ray cluster.

A Ray task on some node starts the very command that a local sweep would, so runs, logs and resuming are the same. The
run directories lie on storage that all nodes share; nothing else passes between them but that command and its exit
code. What was lost with its node goes on from its last saved state on another.

No file that crlviz reads can run code, but Ray's processes send each other code to run, as pickles, and trust whoever
can reach them: keep a cluster where others cannot.

Importing this imports ray; only a sweep that was given ``--cluster`` does.
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

# Read when ray is imported: what it tells of lost nodes over many lines, we tell in one.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
try:
    import ray
except ModuleNotFoundError:
    raise UsageError("--cluster needs a package that is not installed: pip install 'crlviz[cluster]'") from None

_SPOKEN = (0, 1, 2)  # exit codes with which crlviz itself says how it went; any other befell it from outside
_LOST = -9  # in place of the exit code of what was lost with its node
# Ray puts its sockets under TMPDIR as ray/session_2025-01-01_00-00-00_000000_1234567/sockets/plasma_store, and a
# socket's path takes 107 bytes.
_LONGEST_TEMPORARY = 39
_LOCK_SECONDS = 120  # until a file server takes the locks from a machine that is gone (NFS 4: 90 by default)


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what each process of a sweep takes of it.

    Attributes:
      cpus: of a process; without a GPU it keeps to so many cores, which no other has.
      gpus: of a process; 0.5 is half of one's memory.
      retries: how often a process is begun again after it was lost.
      most: how many run together, at most; None: as many as there is room for.
    """

    cpus: int
    gpus: float
    retries: int
    most: int | None

    @property
    def at_once(self) -> int:
        """How many processes run together: as many as all nodes have room for at this moment, or ``most``."""
        room = sum(self._room(node["Resources"]) for node in ray.nodes() if node["Alive"])
        return min(room, self.most or room)

    def _room(self, node: Mapping[str, float]) -> int:
        by_cpus, by_gpus = node.get("CPU", 0) / self.cpus, node.get("GPU", 0) / self.gpus if self.gpus else math.inf
        return int(min(by_cpus, by_gpus) + 1e-6)

    def run(
        self, jobs: Sequence[Job], commands: Callable[[Job], Sequence[Sequence[str]]], *, poll: float = 1.0
    ) -> process_pool.Ticks:
        """Run all jobs on the nodes, with the same ticks as ``processes.run``.

        A job is lost when its node or its Ray worker is, when its process is killed or when it is stopped by somebody
        else; it is begun again. One that says itself what went wrong is not. Close the iterator and all save and stop.

        Args:
          jobs: begun in this order. Their logs are in one directory, on storage that all nodes share.
          commands: what a job has to do as things stand now, as arguments after ``crlviz``; asked whenever it begins.
          poll: seconds between ticks.

        Raises:
          CrlvizError: a node does not see the logs, or cannot run crlviz.
        """
        if not jobs:
            return
        logs = jobs[0].log.parent
        atomic_files.make_directory(logs)
        waiting, lost, working = list(jobs), Counter[Job](), dict[Any, Job]()
        stranded = False
        with tempfile.NamedTemporaryFile(dir=logs, prefix=".sweep-", suffix=atomic_files.PART) as sign:
            try:
                while waiting or working:
                    interrupts.check()
                    while waiting and len(working) < self.at_once:
                        job = waiting.pop(0)
                        working[self._begin(job, commands(job), Path(sign.name), again=lost[job] > 0)] = job
                    if not self.at_once and not stranded:
                        stranded = True
                        tqdm.write("No node is left that could train; waiting for one. Ctrl-C stops.", file=sys.stderr)
                    ended = []
                    for task in _done(working, poll):
                        job = working.pop(task)
                        code, trouble = _outcome(task)
                        if trouble and self._again(job, trouble, lost):
                            waiting.insert(0, job)
                        else:
                            ended.append((job, code))
                    yield list(working.values()), ended
            finally:
                _stop(list(working))

    def _begin(self, job: Job, commands: Sequence[Sequence[str]], sign: Path, again: bool) -> Any:
        environment = {} if self.gpus else {"JAX_PLATFORMS": "cpu"}
        if 0 < self.gpus < 1:
            environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * self.gpus:.2f}"
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(_train)
        own = [Job(tuple(arguments), job.log) for arguments in commands]
        return task.remote(own, sign, environment, 0 if self.gpus else self.cpus, again)

    def _again(self, job: Job, trouble: str, lost: Counter[Job]) -> bool:
        """Note what befell a job, and tell whether it is begun again."""
        lost[job] += 1
        again = lost[job] <= self.retries
        with open(job.log, "a", encoding="utf-8") as log:
            log.write(f"{trouble}\n")
        how = f"goes on from what it saved ({lost[job]} of {self.retries} times)" if again else "is given up"
        tqdm.write(f"{job.log.stem}: {printable(trouble)}; it {how}", file=sys.stderr)
        return again


@contextlib.contextmanager
def connect(
    address: str,
    cpus: int | None = None,
    gpus: float | None = None,
    retries: int | None = None,
    most: int | None = None,
) -> Iterator[Cluster]:
    """While this lasts, be connected to a Ray cluster, of which this machine is a node.

    Args:
      address: ``HOST:PORT`` of its head, or ``auto``: the one that runs here.
      cpus: of each process; default: 1.
      gpus: likewise; default: 1 where a node has any, else 0.
      retries: of a process that was lost; default: 3.
      most: processes that run together.

    Raises:
      UsageError: there is none, it has other versions, or no node is large enough.
    """
    if gpus is not None and gpus > 1 and gpus % 1:
        raise UsageError(f"--gpus-per-cell takes a part of one, or whole ones, not {gpus:g}")
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    _check(address)
    terminated = signal.getsignal(signal.SIGTERM)
    home = Path(__file__).parents[2]  # Ray has its workers import from the directory in which it was connected
    try:
        with contextlib.chdir(home):
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise _none(address) from None
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"cannot use the Ray cluster at {address}: {' '.join(str(error).split())}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated or signal.SIG_DFL)  # ray has taken it
    try:
        if gpus is None:
            gpus = float(any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"]))
        cluster = Cluster(cpus or 1, gpus, 3 if retries is None else retries, most)
        if not cluster.at_once:
            raise UsageError(
                f"no node of this Ray cluster has {cluster.cpus} CPUs and {gpus:g} GPUs, which a process is to take; "
                "give less to --cpus-per-cell or --gpus-per-cell"
            )
        yield cluster
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Refuse an address where nothing answers, which ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address != "auto":
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except ValueError:
            raise UsageError(f"--cluster takes HOST:PORT or auto, not {address!r}") from None
        except OSError:
            raise _none(address) from None


def _none(address: str) -> UsageError:
    where = "runs here" if address == "auto" else f"answers at {address}"
    short = "" if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY else " --temp-dir /tmp/ray"
    return UsageError(f"no Ray cluster {where}; start one by: ray start --head{short}")


def _done(working: Mapping[Any, Job], poll: float) -> Sequence[Any]:
    """The tasks that ended within so many seconds."""
    if not working:
        time.sleep(poll)
        return []
    return ray.wait(list(working), timeout=poll)[0]


def _outcome(task: Any) -> tuple[int, str]:
    """Exit code of a task that ended, and what befell it from outside, if anything did."""
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
    if code in _SPOKEN:
        return code, ""
    return code, f"its process was killed by signal {-code}" if code < 0 else f"its process ended with code {code}"


def _stop(tasks: Sequence[Any]) -> None:
    """Have all save and stop; what has not ended in time, or by the next Ctrl-C, is killed with the connection."""
    process_pool.say_waiting(len(tasks))
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(list(tasks), num_returns=len(tasks), timeout=process_pool.GRACE_SECONDS)


def _train(jobs: Sequence[Job], sign: Path, environment: Mapping[str, str], cores: int, again: bool) -> int:
    """On a node: run jobs one after another.

    Args:
      jobs: of one log.
      sign: a file that is there as long as the sweep is.
      environment: of the processes, where this one has no such variables.
      cores: to keep to; 0: all.
      again: whether they were begun before.

    Returns:
      The first exit code that is not 0, else 0.

    Raises:
      CrlvizError: this node does not see the file.
    """
    if not sign.exists():
        raise CrlvizError(
            f"the node {socket.gethostname()} does not see {sign.parent}; --out must be on storage that all nodes share"
        )
    for job in jobs:
        _wait_for_locks(job)
    with _keep_to(cores), contextlib.closing(process_pool.run(jobs, 1, environment, append=again)) as ticks:
        codes = [code for _, ended in ticks for _, code in ended]
    return next(filter(None, codes), 0)


def _wait_for_locks(job: Job) -> None:
    """Wait for the locks of runs to go on with, which a lost node may still seem to hold."""
    for flag, run in itertools.pairwise(job.arguments):
        if flag == "--resume":
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(Path(run) / ".lock", timeout=_LOCK_SECONDS):
                pass


@contextlib.contextmanager
def _keep_to(count: int) -> Iterator[None]:
    """Keep this process, and what it starts, to some cores of this machine that no other such process keeps to.

    Ray counts cores but gives none in particular. Each is held by a socket of its name, which ends with this process
    and, unlike a file, lies in no directory that somebody else may own. Where too few are free, those there are; where
    none is, all. Where the system knows no such thing, nothing happens.
    """
    if not count or not hasattr(os, "sched_setaffinity"):
        yield
        return
    everywhere = process_pool.cores()
    own: list[int] = []
    with contextlib.ExitStack() as held:
        for core in everywhere:
            sign = held.enter_context(socket.socket(socket.AF_UNIX))
            with contextlib.suppress(OSError):  # another has it
                if len(own) < count:
                    sign.bind(f"\0crlviz-core-{os.getuid()}-{core}")
                    own.append(core)
        os.sched_setaffinity(0, own or everywhere)
        try:
            yield
        finally:
            os.sched_setaffinity(0, everywhere)
