"""``python -m crlviz.child ...`` is ``crlviz ...`` that ends at once when its standard input does.

Whoever starts it holds the other end of that pipe, so it outlives nobody, however they ended. A run that went on alone
would keep its lock from whoever is to go on with it.
"""

import os
import signal
import threading

from crlviz.processes import interrupts


def tie() -> None:
    """From now on this process ends, with code 1, when its standard input does, and hears what asks it to stop."""
    # Held back by whoever started it until somebody listens; Ray's processes hold Ctrl-C back too.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.SIGNALS)
    threading.Thread(target=_end_with_input, name="tether", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    # A shell has what it starts in the background ignore Ctrl-C, but here only the process that started this sends one.
    with interrupts.listening(ignored=True):
        with interrupts.nothing_begun():
            tie()
            from crlviz.cli import main
        main()
