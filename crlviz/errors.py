"""The two kinds of mistake a user can make; the command prints either as one sentence, as all others."""

import os
import sys


class CrlvizError(Exception):
    """Something is wrong with the data: a checkpoint, a maze file, a run directory. Exit code 1."""

    exit_code = 1


class UsageError(CrlvizError):
    """Something is wrong with the request: an option, a name, a combination. Exit code 2."""

    exit_code = 2


def sentence(error: BaseException) -> str:
    """What went wrong, and the way out, in one line; of an error that anybody raised: jax, a driver, a library, us."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, CrlvizError | OSError):
        return str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return (
            f"out of memory ({text or 'of this machine'}); a smaller --batch-size, fewer --set num_envs or "
            "replay_steps, or fewer seeds at once take less, and crlviz plan tells how much"
        )
    wanted = os.environ.get("JAX_PLATFORMS")
    if wanted and not _has_device():
        return (
            f"jax finds no device of JAX_PLATFORMS={wanted} ({text or 'it says no more'}); without that variable it "
            "takes what there is, and a GPU needs jax[cuda12] or jax[cuda13]"
        )
    return f"{type(error).__name__}: {text or 'without a word'} (crlviz --debug VERB ... shows where)"


def _has_device() -> bool:
    """Whether jax, if it is what failed, has any; its own errors do not always say."""
    try:
        return "jax" not in sys.modules or bool(sys.modules["jax"].devices())
    except Exception:  # an assertion among them
        return False
