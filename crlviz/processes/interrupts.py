"""Signals that ask a command to end, from its first moment on.

Ctrl-C, SIGTERM, SIGHUP (the terminal is gone) and SIGUSR1 (SLURM, before a job's time is over). An exception that a
handler raises can be lost: where it comes in a callback, as while jax is imported, Python prints and drops it. So each
signal is noted too, and who begins something long looks first (``check``); and before anything is begun, no exception
is raised at all: the process ends.
"""

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
_noted: list[int] = []
_nothing_begun = False


class Interrupted(KeyboardInterrupt):
    """A signal came."""


@contextlib.contextmanager
def listening(*, ignored: bool = False) -> Iterator[None]:
    """While this lasts, signals are noted and raise ``Interrupted``.

    Outside the main thread nothing changes. A signal that the program handles in its own way, or ignores (nohup, a
    shell's ``&``), is left to it.

    Args:
      ignored: listen also to those that are ignored.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        if handle not in handlers.values():
            _noted.clear()
        usual = (signal.SIG_DFL, None, signal.default_int_handler, handle, *([signal.SIG_IGN] if ignored else []))
        for number, handler in handlers.items():
            if handler in usual:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """While this lasts, signals wait, and those to processes started now wait until these let them in."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def nothing_begun() -> Iterator[None]:
    """While this lasts, a signal that is listened to ends the process at once: there is nothing to save."""
    global _nothing_begun
    before, _nothing_begun = _nothing_begun, True
    try:
        yield
    finally:
        _nothing_begun = before


def check() -> None:
    """Raise ``Interrupted`` if a signal came, also where the exception of that moment was lost."""
    if _noted:
        raise Interrupted


def exit_code() -> int:
    """Of a process that a signal ended, as a shell has it: 128 and the signal's number."""
    return 128 + (_noted[0] if _noted else signal.SIGINT)


def handle(number: int, _: object) -> None:
    """The handler of a signal that is listened to."""
    _noted.append(number)
    mute_closed_terminal()
    if _nothing_begun:
        with contextlib.suppress(OSError):
            os.write(2, b"Interrupted.\n")
        os._exit(exit_code())
    raise Interrupted


def mute_closed_terminal() -> None:
    """Let go of a terminal that is gone: what is still said goes nowhere, where it would be an error."""
    if os.name != "posix":
        return
    import termios

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
