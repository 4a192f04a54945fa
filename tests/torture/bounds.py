"""Limits of the torture tests (one sentence, five seconds, two GiB) and the table of results."""

import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable

from crlviz.errors import CrlvizError

MAX_SECONDS = 5.0
MAX_BYTES = 2 << 30
_TIMEOUT = 60  # seconds after which a case is aborted


def limit_memory() -> None:
    """Limit this process to ``MAX_BYTES`` more memory than it uses now; beyond that it gets a MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, resource.RLIM_INFINITY))


def attempt(read: Callable[[], object]) -> tuple[str, float]:
    """Try to read something damaged.

    Returns:
      The outcome and the seconds it took. The outcome is ``refused`` for a one-sentence CrlvizError, otherwise
      ``read``, ``no sentence``, ``hangs``, ``slow`` or another exception's name and message.
    """
    signal.signal(signal.SIGALRM, _raise_timeout)
    signal.alarm(_TIMEOUT)
    began = time.perf_counter()
    try:
        read()
        outcome = "read"
    except CrlvizError as error:
        outcome = "refused" if "\n" not in str(error) and len(str(error)) < 1000 else "no sentence"
    except _Timeout:
        outcome = "hangs"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - began
    return (outcome if seconds < MAX_SECONDS else "slow"), seconds


class _Timeout(BaseException):
    """Not an Exception, so that the code under test does not catch it."""


def _raise_timeout(*_: object) -> None:
    raise _Timeout


class Table:
    """Counts of cases by kind, and the faults."""

    def __init__(self) -> None:
        self.good: Counter[str] = Counter()
        self.bad: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.slowest = 0.0

    def add(self, kind: str, fault: str, seconds: float) -> None:
        """Count a case; ``fault`` is empty if it passed."""
        self.kinds[kind] += 1
        self.good[kind] += not fault
        self.slowest = max(self.slowest, seconds)
        if fault:
            self.bad.append(f"{kind}: {fault}")

    def finish(self, header: str) -> None:
        """Print the table, with ``header`` above the counts of passed cases; exit with 1 if there is a fault."""
        print(f"{'kind':44}{header:>10}{'of':>6}")
        for kind in sorted(self.kinds):
            print(f"{kind:44}{self.good[kind]:10}{self.kinds[kind]:6}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{'all':44}{self.good.total():10}{self.kinds.total():6}")
        print(f"slowest {self.slowest:.2f} s, most memory {peak / 2**30:.2f} GiB, the libraries' included")
        print(*self.bad[:20], sep="\n", end="\n" if self.bad else "")
        sys.exit(bool(self.bad))
