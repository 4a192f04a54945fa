"""Handling of Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: the first one asks a run to save and stop.

A second SIGINT or SIGTERM ends the process at once. A separate thread receives the signals: Python's own handlers do
not run while a jitted program does.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from crlviz.errors import CrlvizError
from crlviz.processes import interrupts

# A second one of these comes from a user who does not want to wait. The others may repeat without a user.
_TYPED = (signal.SIGINT, signal.SIGTERM)


class Stopped(CrlvizError):
    """A run was stopped by a signal, after saving. The exit code is the shell's: 128 plus the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


@contextlib.contextmanager
def recorded(answer: Callable[[str], None]) -> Iterator[Callable[[], int | None]]:
    """Record signals instead of obeying them; yields a function that returns the first signal, or None.

    A second SIGINT or SIGTERM ends the process at once. A signal that is ignored (as under nohup) stays ignored, and a
    SIGHUP or SIGUSR1 that the caller's program handles stays with that handler. In threads other than the main one
    nothing is recorded.

    Args:
      answer: called at once, from another thread, with the name of the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    handled = [number for number in interrupts.SIGNALS if _is_free(number)]

    def listen() -> None:
        while byte := reader.recv(1):
            number = byte[0]
            if number not in handled:
                continue
            if number in received and number in _TYPED:
                os._exit(128 + number)
            received.append(number)
            interrupts.mute_closed_terminal()
            if len(received) == 1:
                answer(signal.Signals(number).name)

    # Start the thread before changing the handlers, so that no signal is lost in between.
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in handled}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(wakeup)
        writer.close()
        thread.join()
        reader.close()


def _is_free(number: int) -> bool:
    """Whether we may handle a signal: it is not ignored, and no handler of the caller's would be replaced."""
    handler = signal.getsignal(number)
    return handler is not signal.SIG_IGN and (number in _TYPED or handler in (signal.SIG_DFL, None, interrupts.handle))
