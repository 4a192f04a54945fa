"""The two kinds of user error, and the one sentence that the command prints for any error."""

import os
import sys

from crlviz import gpu_errors


class CrlvizError(Exception):
    """The data are wrong: a checkpoint, a run directory, a file. Exit code 1."""

    exit_code = 1


class UsageError(CrlvizError):
    """The request is wrong: an option, a name, a combination. Exit code 2."""

    exit_code = 2


def one_line(error: BaseException) -> str:
    """Describe any error, raised by crlviz, jax, a driver or a library, and its remedy in one line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if isinstance(error, CrlvizError | OSError):
        return str(error)
    if of_gpu := gpu_errors.meaning(str(error)):
        return f"{of_gpu} ({text})"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower():
        return (
            f"out of memory ({text or 'of this machine'}); a smaller --batch-size, fewer --set num_envs or "
            "replay_steps, or fewer seeds at once need less; crlviz plan predicts how much"
            + (f"; or {gpu_errors.SHARE}" if gpu_errors.has_driver() else "")
        )
    wanted = os.environ.get("JAX_PLATFORMS")
    if wanted and not _has_device():
        if {"cuda", "gpu"} & set(wanted.split(",")):  # jax's own message may tell of another platform
            text = gpu_errors.why_none()
        return (
            f"jax finds no device of JAX_PLATFORMS={wanted} ({text or 'no further message'}); without that variable "
            "jax uses any available device"
        )
    return f"{type(error).__name__}: {text or 'no message'} (crlviz --debug VERB ... shows where)"


def _has_device() -> bool:
    """Whether jax has a device; true if jax was not imported. The errors of jax do not always say."""
    try:
        return "jax" not in sys.modules or bool(sys.modules["jax"].devices())
    except Exception:  # jax may raise an AssertionError too
        return False
