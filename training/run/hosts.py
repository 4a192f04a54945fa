"""Coordination of several processes that train one run.

All must start the same programs in the same order, or they deadlock. So the first process, the coordinator, decides
alone: it owns the run directory, handles signals, and sees errors. Before each program it broadcasts the program's name
to the workers (``training.run.worker``), and at the end the word ``end``.
"""

import contextlib
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from crlviz.errors import CrlvizError, UsageError, one_line
from crlviz.escaping import printable
from crlviz.processes import interrupts
from training import sharding

_BLOCK = 4096  # orders are padded to a multiple of this many bytes, so that most share one compiled broadcast
_BY_HAND = re.compile(r"(\d+)/([1-9]\d*)@(.+:\d+)")


def join(where: str) -> None:
    """Join the processes of a run. Call it before any other use of jax.

    Args:
      where: ``auto`` on a cluster that jax knows (SLURM, Open MPI, Kubernetes); or by hand ``I/N@HOST:PORT``: process
        I, from 0, of N, with the address on which process 0 listens.

    Raises:
      UsageError: ``where`` is neither, or there is no such cluster.
      CrlvizError: jax cannot start, for example because the port is taken. If the others do not join within five
        minutes, jax itself ends the process.
    """
    by_hand = _BY_HAND.fullmatch(where)
    options: dict[str, Any] = {}
    if by_hand:
        number, count, address = int(by_hand[1]), int(by_hand[2]), by_hand[3]
        if number >= count:
            raise UsageError(f"--distributed {where}: {count} processes are numbered 0 to {count - 1}")
        options = {"process_id": number, "num_processes": count, "coordinator_address": address}
        options["cluster_detection_method"] = "deactivate"
        print(f"process {number} of {count} waits for the others at {address}", file=sys.stderr, flush=True)
    elif where != "auto":
        raise UsageError(
            f"--distributed takes auto, or PROCESS/PROCESSES@HOST:PORT as in 0/2@node1:4321, not {where!r}"
        )
    sharding.widen()
    terminated = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        jax.distributed.initialize(**options)
    except ValueError:
        raise UsageError(
            "--distributed auto finds no cluster around this process (SLURM's srun, Open MPI, Kubernetes); give "
            "each process its number by hand: --distributed 0/2@HOST:PORT, 1/2@HOST:PORT"
        ) from None
    except RuntimeError as error:
        raise CrlvizError(f"the processes of --distributed {where} cannot start: {error}") from None
    signal.signal(signal.SIGTERM, terminated)  # jax replaces the handler by one whose result nothing reads


def is_coordinator() -> bool:
    """Whether this process is the coordinator: the first, or the only one."""
    return jax.process_index() == 0


class ProcessLost(CrlvizError):
    """The processes cannot continue: one is gone, or a program that they share failed."""

    def __init__(self, cause: Exception):
        reason = one_line(cause)
        super().__init__(
            f"the processes of this run lost each other ({reason}); start all of them again with --resume, which "
            "continues from the last saved state"
        )


def broadcast(order: str, **arguments: Any) -> None:
    """Send an order to the workers; does nothing in a worker, or if there are none.

    Args:
      order: name of the program to run next, or ``end``.
      arguments: its arguments, as JSON values.

    Raises:
      ProcessLost: a process is gone.
    """
    if jax.process_count() == 1 or not is_coordinator():
        return
    text = json.dumps({"order": order, **arguments}).encode()
    text += b" " * (-len(text) % _BLOCK)
    _from_coordinator(np.array(len(text)))
    _from_coordinator(np.frombuffer(text, np.uint8))


def receive() -> dict[str, Any]:
    """Wait for the coordinator's next order; returns its name as ``order``, and its arguments.

    Raises:
      ProcessLost: a process is gone.
    """
    size = int(_from_coordinator(np.array(0)))
    return json.loads(_from_coordinator(np.zeros(size, np.uint8)).tobytes())


def _from_coordinator(value: np.ndarray) -> np.ndarray:
    """The coordinator's value, in every process."""
    try:
        return multihost_utils.broadcast_one_to_all(value)
    except (RuntimeError, ValueError) as error:  # jax raises both
        raise ProcessLost(error) from error


@contextlib.contextmanager
def coordinator() -> Iterator[None]:
    """Context of the coordinator's work; at its end broadcast ``end`` and the exit code to the workers."""
    with _exit_on(ProcessLost):
        try:
            yield
        except ProcessLost:
            raise
        except jax.errors.JaxRuntimeError as error:
            raise ProcessLost(error) from error
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            code = interrupts.exit_code() if interrupted else getattr(error, "exit_code", 1)
            try:
                broadcast("end", code=code)
            except ProcessLost:  # the workers are gone; report the first error, which is the cause
                _exit(error)
            raise
        broadcast("end", code=0)


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """Context of a worker's work; any error ends the process, and with it the run."""
    with _exit_on(Exception):
        yield


@contextlib.contextmanager
def _exit_on(kind: type[Exception]) -> Iterator[None]:
    """On such an error exit at once, without jax's shutdown, which waits minutes for processes that are gone."""
    try:
        yield
    except kind as error:
        _exit(error)


def _exit(error: BaseException) -> NoReturn:
    """Print the error and end the process, without cleanup."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"Error: {printable(one_line(error))}", file=sys.stderr, flush=True)
    os._exit(getattr(error, "exit_code", 1))
