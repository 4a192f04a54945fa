"""``python -m crlviz.tethered ...`` is ``crlviz ...`` that ends at once when its standard input does.

Whoever starts it holds the other end of that pipe, so it outlives nobody, however they ended. A run that went on alone
would keep its lock from whoever is to go on with it.
"""

import os
import signal
import threading

from crlviz.cli import main


def tie() -> None:
    """From now on this process ends, with code 1, when its standard input does."""
    if hasattr(signal, "pthread_sigmask"):  # Ray's processes hold Ctrl-C back, and what they start inherits that
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_input, name="tether", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    tie()
    main()
