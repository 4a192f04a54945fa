"""What went wrong with a GPU, and the way out, for messages of jax, XLA and CUDA.

If its CUDA plugin does not start, jax logs a traceback and continues on the CPU. ``listen`` replaces the traceback by
one warning, or by nothing if the machine has no GPU.
"""

import logging
import os
from pathlib import Path

_DRIVER_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")  # made by NVIDIA's driver; the last by Windows'

SHARE = (
    "another process holds its memory (nvidia-smi shows which); end that one, or give each its part: "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.4, or XLA_PYTHON_CLIENT_PREALLOCATE=false for both"
)
_WHEELS = (
    "jax's CUDA wheels do not fit its version or the driver; install those of one version, pip install -U "
    "'jax[cuda13]' (or 'jax[cuda12]', if nvidia-smi names CUDA 12), and unset LD_LIBRARY_PATH"
)
_BUSY = (
    "the GPU is busy: another process uses it exclusively, or did not end (nvidia-smi shows which); wait for that one, "
    "or take another GPU by CUDA_VISIBLE_DEVICES=1"
)
_HIDDEN = "CUDA_VISIBLE_DEVICES hides the GPU; unset it, or name one that nvidia-smi lists"

# Parts of messages, and what they mean. The first that is found counts.
_MEANINGS = {
    "CUDA_ERROR_DEVICE_UNAVAILABLE": _BUSY,
    "busy or unavailable": _BUSY,
    "PJRT API version": _WHEELS,
    "PJRT_Client_Create_Args": _WHEELS,
    "not compatible with the installed jaxlib": _WHEELS,
    "driver version is insufficient": _WHEELS,
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": _WHEELS,
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": _WHEELS,
    "CUDA_ERROR_NO_BINARY_FOR_GPU": _WHEELS,
    "installation found.": _WHEELS,  # "Outdated cuDNN installation found."
    "Unable to load cu": _WHEELS,
    "Unable to load CUDA": _WHEELS,
    "CUDA_ERROR_OUT_OF_MEMORY": SHARE,
    "cudaErrorMemoryAllocation": SHARE,
    "create cuBLAS handle": SHARE,  # the libraries need memory beside jax's
    "CUBLAS_STATUS_ALLOC_FAILED": SHARE,
    "CUBLAS_STATUS_NOT_INITIALIZED": SHARE,
    "CUDNN_STATUS_ALLOC_FAILED": SHARE,
    "CUDNN_STATUS_NOT_INITIALIZED": SHARE,
    "DNN library initialization failed": SHARE,
    "no supported devices found for platform CUDA": SHARE,
}

# The last reason that jax's CUDA plugin gave for not starting.
_plugin_failures: list[str] = []


def meaning(text: str) -> str:
    """What a message says about a GPU and what to do, without a period; empty if it says nothing about one."""
    return next((means for part, means in _MEANINGS.items() if part in text), "")


def why_none() -> str:
    """Why jax finds no GPU, and what to do, without a period."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return _HIDDEN
    if not has_driver():
        return "no NVIDIA driver is installed on this machine or visible in this container"
    if _plugin_failures:
        return f"{meaning(_plugin_failures[-1]) or _WHEELS} ({_plugin_failures[-1]})"
    return "a GPU needs jax's CUDA wheels: pip install 'jax[cuda13]', or 'jax[cuda12]' if nvidia-smi names CUDA 12"


def has_driver() -> bool:
    """Whether an NVIDIA driver shows a GPU to this process."""
    return any(Path(file).exists() for file in _DRIVER_FILES)


def listen() -> None:
    """Replace jax's log of a CUDA plugin that does not start by one warning. Does not import jax."""
    logger = logging.getLogger("jax._src.xla_bridge")
    if not any(isinstance(each, _Retold) for each in logger.filters):
        logger.addFilter(_Retold())


class _Retold(logging.Filter):
    """Keeps the reason and drops the traceback. Drops all if the machine has no GPU or an error will follow."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] and "plugin" in text:
            text = next(iter(str(record.exc_info[1]).splitlines()), text)
        elif not text.startswith("CUDA backend failed to initialize"):
            return True
        _plugin_failures.append(text)
        reason = meaning(text) or "jax continues on the CPU"
        record.msg, record.args = f"Warning: jax cannot use the GPU: {reason} ({text.splitlines()[0]})", None
        record.exc_info, record.exc_text = None, None
        return has_driver() and not os.environ.get("JAX_PLATFORMS")
