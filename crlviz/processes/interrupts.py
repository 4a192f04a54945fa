"""Handling of the signals that ask a command to stop.

Ctrl-C, SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 (SLURM, before a job's time is over). An exception raised by
a signal handler can be lost: in a callback, for example while jax is imported, Python prints and drops it. So each
signal is also recorded, and long work calls ``check`` before it starts. Before any work has started
(``exit_at_once``), the process exits at once instead.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_received: list[int] = []
_exit_at_once = False


class Interrupted(KeyboardInterrupt):
    """The process received one of ``SIGNALS``."""


@contextlib.contextmanager
def listening(*, ignored: bool = False) -> Iterator[None]:
    """Context in which each of ``SIGNALS`` is recorded and raises ``Interrupted``.

    Does nothing outside the main thread. A signal that has its own handler or is ignored (nohup, a shell's ``&``)
    is left alone.

    Args:
      ignored: also handle signals that are ignored.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        if handle not in handlers.values():
            _received.clear()
        replaceable = (signal.SIG_DFL, None, signal.default_int_handler, handle, *([signal.SIG_IGN] if ignored else []))
        for number, handler in handlers.items():
            if handler in replaceable:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Context in which signals are blocked. Child processes started in it inherit the mask and must unblock it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def exit_at_once() -> Iterator[None]:
    """Context in which a handled signal ends the process at once; there is nothing to save yet."""
    global _exit_at_once
    before, _exit_at_once = _exit_at_once, True
    try:
        yield
    finally:
        _exit_at_once = before


def check() -> None:
    """Raise ``Interrupted`` if a signal was received, even if the handler's exception was lost."""
    if _received:
        raise Interrupted


def exit_code() -> int:
    """Exit code of a process that a signal ended, by the shell's convention: 128 plus the signal's number."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def handle(number: int, _: object) -> None:
    """Signal handler: record the signal, then raise ``Interrupted`` or exit (``exit_at_once``)."""
    _received.append(number)
    mute_closed_terminal()
    if _exit_at_once:
        with contextlib.suppress(OSError):
            os.write(2, b"Interrupted.\n")
        os._exit(exit_code())
    raise Interrupted


def mute_closed_terminal() -> None:
    """Redirect stdout and stderr to the null device if their terminal is gone; writing there would be an error."""
    if os.name != "posix":
        return
    import termios

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)
