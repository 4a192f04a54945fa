"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: ask a run to stop where it can go on from; asked twice, leave at once.

The signal is heard by a thread of its own: while a jitted program runs, Python's own handlers wait for it to end.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from crlviz.errors import CrlvizError
from crlviz.processes import interrupts

# Twice from somebody who does not want to wait. The others come more than once by themselves.
_TYPED = (signal.SIGINT, signal.SIGTERM)


class Stopped(CrlvizError):
    """A run was asked to stop, and saved before it did. The exit code is a shell's: 128 and the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


@contextlib.contextmanager
def heard(answer: Callable[[str], None]) -> Iterator[Callable[[], int | None]]:
    """While this lasts, signals are noted instead of obeyed; gives a function that tells the first one, or None.

    A second SIGINT or SIGTERM ends the process at once. A signal that is ignored (as under nohup) stays so, and so does
    a SIGHUP or SIGUSR1 that the caller's program handles itself. Only the main thread can listen; in others nothing is
    noted.

    Args:
      answer: called at once with the first signal's name, from another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    noted: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    mine = [number for number in interrupts.SIGNALS if _is_free(number)]

    def listen() -> None:
        while byte := reader.recv(1):
            number = byte[0]
            if number not in mine:
                continue
            if number in noted and number in _TYPED:
                os._exit(128 + number)
            noted.append(number)
            interrupts.mute_closed_terminal()
            if len(noted) == 1:
                answer(signal.Signals(number).name)

    # The thread listens before the handlers change: no signal falls between them.
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in mine}
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        writer.close()
        thread.join()
        reader.close()


def _is_free(number: int) -> bool:
    """Whether a signal may be listened to here."""
    handler = signal.getsignal(number)
    return handler is not signal.SIG_IGN and (number in _TYPED or handler in (signal.SIG_DFL, None, interrupts.handle))
