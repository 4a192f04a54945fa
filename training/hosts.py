"""Several processes that train one run: how do they stay in step?

Each must begin the same programs in the same order, or all wait for each other for ever. So the first process alone
decides: it has the run directory, hears signals, and knows of trouble. Before each program it tells the others which
one is next (``training.follower``), and at the end that it is over.
"""

import contextlib
import json
import re
import signal
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from crlviz.errors import CrlvizError, UsageError

_LINE = 4096  # bytes that an order is padded to a multiple of, so that most have one program
_BY_HAND = re.compile(r"(\d+)/(\d+)@(.+:\d+)")


def join(where: str) -> None:
    """Become one of the processes of a run; before anything else is asked of jax.

    Args:
      where: ``auto``, where a cluster says who is who (SLURM, Open MPI, Kubernetes: jax knows them); or by hand
        ``I/N@HOST:PORT``: process I, from 0, of N, and where process 0 listens.

    Raises:
      UsageError: neither of these, or no cluster says anything.
      CrlvizError: the others are not there within five minutes.
    """
    by_hand = _BY_HAND.fullmatch(where)
    place: dict[str, Any] = {}
    if by_hand:
        number, count, address = int(by_hand[1]), int(by_hand[2]), by_hand[3]
        if number >= count:
            raise UsageError(f"--distributed {where}: {count} processes are numbered 0 to {count - 1}")
        place = {"process_id": number, "num_processes": count, "coordinator_address": address}
        place["cluster_detection_method"] = "deactivate"
    elif where != "auto":
        raise UsageError(
            f"--distributed takes auto, or PROCESS/PROCESSES@HOST:PORT as in 0/2@node1:4321, not {where!r}"
        )
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(**place)
    except ValueError:
        raise UsageError(
            "--distributed auto finds no cluster around this process (SLURM's srun, Open MPI, Kubernetes); tell each "
            "process by hand which it is: --distributed 0/2@HOST:PORT, 1/2@HOST:PORT"
        ) from None
    except RuntimeError as error:
        raise CrlvizError(f"the processes of --distributed {where} did not meet: {error}") from None
    signal.signal(signal.SIGTERM, terminated)  # jax has it noted where nobody looks


def leads() -> bool:
    """Whether this process decides: the first, or the only one."""
    return jax.process_index() == 0


def tell(order: str, **arguments: Any) -> None:
    """Tell the others what comes next, if there are others and this is the first."""
    if jax.process_count() == 1 or not leads():
        return
    text = json.dumps({"order": order, **arguments}).encode()
    text += b" " * (-len(text) % _LINE)
    multihost_utils.broadcast_one_to_all(np.array(len(text)))
    multihost_utils.broadcast_one_to_all(np.frombuffer(text, np.uint8))


def hear() -> dict[str, Any]:
    """Wait for what the first process tells next."""
    size = int(multihost_utils.broadcast_one_to_all(np.array(0)))
    return json.loads(multihost_utils.broadcast_one_to_all(np.zeros(size, np.uint8)).tobytes())


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """What the first process does; at the end of it the others hear that it is over, and with which exit code."""
    code = 1
    try:
        yield
        code = 0
    except (CrlvizError, SystemExit, KeyboardInterrupt) as error:
        code = _exit_code(error)
        raise
    finally:
        tell("end", code=code)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
