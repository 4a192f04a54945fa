"""``python -m crlviz.child ...`` runs ``crlviz ...`` and exits as soon as its standard input closes.

The parent process holds the other end of that pipe, so the child never outlives its parent, however the parent ended.
An orphaned run would keep its lock, so it could not be resumed.
"""

import os
import signal
import threading

from crlviz.processes import interrupts


def tie() -> None:
    """Exit with code 1 when standard input closes, and unblock the signals that ask this process to stop."""
    # The parent blocks these signals until the child handles them; Ray blocks SIGINT in its processes too.
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, interrupts.SIGNALS)
    threading.Thread(target=_end_with_input, name="tether", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    # A shell makes background processes ignore SIGINT, but here only the parent process sends one.
    with interrupts.listening(ignored=True):
        with interrupts.exit_at_once():
            tie()
            from crlviz.cli import main
        main()
