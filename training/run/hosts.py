"""Several processes that train one run: how do they skip in step?

Each must begin the same programs in the same order, or all wait for each other for ever. So the first process alone
decides: it has the run directory, hears signals, and knows of trouble. Before each program it tells the others which
one is next (``training.run.worker``), and at the end that it is over.
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

from crlviz.errors import CrlvizError, UsageError, sentence
from crlviz.escaping import printable
from crlviz.processes import interrupts
from training import sharding

_LINE = 4096  # bytes that an order is padded to a multiple of, so that most have one program
_BY_HAND = re.compile(r"(\d+)/([1-9]\d*)@(.+:\d+)")


def join(where: str) -> None:
    """Become one of the processes of a run; before anything else is asked of jax.

    Args:
      where: ``auto``, where a cluster says who is who (SLURM, Open MPI, Kubernetes: jax knows them); or by hand
        ``I/N@HOST:PORT``: process I, from 0, of N, and where process 0 listens.

    Raises:
      UsageError: neither of these, or no cluster says anything.
      CrlvizError: jax cannot begin, as where the port is taken. Where the others do not come within five minutes jax
        itself ends the process.
    """
    by_hand = _BY_HAND.fullmatch(where)
    place: dict[str, Any] = {}
    if by_hand:
        number, count, address = int(by_hand[1]), int(by_hand[2]), by_hand[3]
        if number >= count:
            raise UsageError(f"--distributed {where}: {count} processes are numbered 0 to {count - 1}")
        place = {"process_id": number, "num_processes": count, "coordinator_address": address}
        place["cluster_detection_method"] = "deactivate"
        print(f"process {number} of {count} waits for the others at {address}", file=sys.stderr, flush=True)
    elif where != "auto":
        raise UsageError(
            f"--distributed takes auto, or PROCESS/PROCESSES@HOST:PORT as in 0/2@node1:4321, not {where!r}"
        )
    sharding.widen()
    terminated = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    try:
        jax.distributed.initialize(**place)
    except ValueError:
        raise UsageError(
            "--distributed auto finds no cluster around this process (SLURM's srun, Open MPI, Kubernetes); tell each "
            "process by hand which it is: --distributed 0/2@HOST:PORT, 1/2@HOST:PORT"
        ) from None
    except RuntimeError as error:
        raise CrlvizError(f"the processes of --distributed {where} cannot begin: {error}") from None
    signal.signal(signal.SIGTERM, terminated)  # jax has it noted where nobody looks


def is_coordinator() -> bool:
    """Whether this process decides: the first, or the only one."""
    return jax.process_index() == 0


class ProcessLost(CrlvizError):
    """The processes cannot go on together: one is gone, or a program of theirs failed."""

    def __init__(self, cause: Exception):
        why = sentence(cause)
        super().__init__(
            f"the processes of this run lost each other ({why}); begin all of them again with --resume, which goes on "
            "from the last saved state"
        )


def broadcast(order: str, **arguments: Any) -> None:
    """Tell the others what comes next, if there are others and this is the first.

    Raises:
      ProcessLost: one of them is gone.
    """
    if jax.process_count() == 1 or not is_coordinator():
        return
    text = json.dumps({"order": order, **arguments}).encode()
    text += b" " * (-len(text) % _LINE)
    _shared(np.array(len(text)))
    _shared(np.frombuffer(text, np.uint8))


def receive() -> dict[str, Any]:
    """Wait for what the first process tells next.

    Raises:
      ProcessLost: one of the processes is gone.
    """
    size = int(_shared(np.array(0)))
    return json.loads(_shared(np.zeros(size, np.uint8)).tobytes())


def _shared(value: np.ndarray) -> np.ndarray:
    """What the first process has here."""
    try:
        return multihost_utils.broadcast_one_to_all(value)
    except (RuntimeError, ValueError) as error:  # jax raises either
        raise ProcessLost(error) from error


@contextlib.contextmanager
def coordinator() -> Iterator[None]:
    """What the first process does; at the end of it the others hear that it is over, and with which exit code."""
    with _leaving(ProcessLost):
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
            except ProcessLost:  # the others are gone, but what went wrong first is what the user is to know
                _leave(error)
            raise
        broadcast("end", code=0)


@contextlib.contextmanager
def worker() -> Iterator[None]:
    """What another process does; whatever goes wrong with it is the end of the run."""
    with _leaving(Exception):
        yield


@contextlib.contextmanager
def _leaving(kind: type[Exception]) -> Iterator[None]:
    """After such an error end this process without jax's farewell, which waits minutes for processes that are gone."""
    try:
        yield
    except kind as error:
        _leave(error)


def _leave(error: BaseException) -> NoReturn:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"Error: {printable(sentence(error))}", file=sys.stderr, flush=True)
    os._exit(getattr(error, "exit_code", 1))
