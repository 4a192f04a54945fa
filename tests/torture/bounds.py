"""What a torture holds its subject to: one sentence, five seconds, two gibibytes; and the table of how it went."""

import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable

from crlviz.errors import CrlvizError

MOST_SECONDS = 5.0
MOST_BYTES = 2 << 30
_HANGS = 60  # seconds after which a case is given up


def limit_memory() -> None:
    """From here on this process may take so much more than it has; asking for more is a MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, resource.RLIM_INFINITY))


def attempt(read: Callable[[], object]) -> tuple[str, float]:
    """What became of reading something bad, and the seconds it took.

    Returns:
      ``refused`` where it got its one sentence, else what happened instead: ``read``, or an exception's name.
    """
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_HANGS)
    began = time.perf_counter()
    try:
        read()
        outcome = "read"
    except CrlvizError as error:
        outcome = "refused" if "\n" not in str(error) and len(str(error)) < 1000 else "no sentence"
    except _Hangs:
        outcome = "hangs"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - began
    return (outcome if seconds < MOST_SECONDS else "slow"), seconds


class _Hangs(BaseException):
    """Nothing that a program would take for an error of its own."""


def _give_up(*_: object) -> None:
    raise _Hangs


class Table:
    """Counts by kind of case, and what went wrong."""

    def __init__(self) -> None:
        self.good: Counter[str] = Counter()
        self.bad: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.slowest = 0.0

    def add(self, kind: str, fault: str, seconds: float) -> None:
        """Count a case; the fault is empty where all was well."""
        self.kinds[kind] += 1
        self.good[kind] += not fault
        self.slowest = max(self.slowest, seconds)
        if fault:
            self.bad.append(f"{kind}: {fault}")

    def finish(self, what: str) -> None:
        """Print the table; exit 1 if anything went wrong."""
        print(f"{'kind':44}{what:>10}{'of':>6}")
        for kind in sorted(self.kinds):
            print(f"{kind:44}{self.good[kind]:10}{self.kinds[kind]:6}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(f"{'all':44}{self.good.total():10}{self.kinds.total():6}")
        print(f"slowest {self.slowest:.2f} s, most memory {peak / 2**30:.2f} GiB, the libraries' included")
        print(*self.bad[:20], sep="\n", end="\n" if self.bad else "")
        sys.exit(bool(self.bad))
