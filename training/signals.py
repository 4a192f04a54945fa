"""Ctrl-C and SIGTERM: ask a run to stop where it can go on from; asked twice, leave at once.

The signal is heard by a thread of its own: while a jitted program runs, Python's own handlers wait for it to end.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from crlviz.errors import CrlvizError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(CrlvizError):
    """A run was asked to stop, and saved before it did. The exit code is a shell's: 130 or 143."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


@contextlib.contextmanager
def heard(answer: Callable[[str], None]) -> Iterator[Callable[[], int | None]]:
    """While this lasts, signals are noted instead of obeyed; gives a function that tells the first one, or None.

    A second signal ends the process at once. A signal that is ignored (as under nohup) stays so. Only the main thread
    can listen; in others nothing is noted.

    Args:
      answer: called at once with the first signal's name, from another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    noted: list[int] = []
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while byte := reader.recv(1):
            if byte[0] not in before:
                continue
            if noted:
                os._exit(128 + byte[0])
            noted.append(byte[0])
            answer(signal.Signals(byte[0]).name)

    before = {
        number: signal.signal(number, lambda *_: None)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield lambda: noted[0] if noted else None
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        writer.close()
        thread.join()
        reader.close()
