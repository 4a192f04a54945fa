"""What a GPU user is told, for messages as jax, XLA and CUDA wrote them, and in real processes without a GPU."""

import importlib.util
import logging
import os
import pkgutil
import subprocess
import sys

import pytest

from crlviz import gpu_errors
from crlviz.errors import one_line

# Recorded in reports of jax's users.
RECORDED = {
    "Unable to initialize backend 'cuda': INVALID_ARGUMENT: Mismatched PJRT plugin PJRT API version (0.54) and "
    "framework PJRT API version 0.51). (set JAX_PLATFORMS='' to automatically choose an available "
    "backend)": "install -U",
    "Unable to initialize backend 'cuda': INVALID_ARGUMENT: Unexpected PJRT_Client_Create_Args size: expected 88, got "
    "72. The plugin is likely built with a later version than the framework.": "pip install -U",
    "Unable to use CUDA because of the following issues with CUDA components:\nOutdated cuSPARSE installation found.\n"
    "Version JAX was built against: 12200\nMinimum supported: 12100\nInstalled version: 12002": "pip install -U",
    "JAX plugin jax_cuda12_plugin version 0.9.2 is installed, but it is not compatible with the installed jaxlib "
    "version 0.9.0.1, so it will not be used.": "pip install -U",
    "INTERNAL: CUDA error: Failed call to cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE: CUDA-capable "
    "device(s) is/are busy or unavailable": "the GPU is busy",
    "INTERNAL: no supported devices found for platform CUDA": "another process holds its memory",
    "INTERNAL: Failed to load in-memory CUBIN: CUDA_ERROR_OUT_OF_MEMORY: out of memory": "another process holds",
    "UNKNOWN: CUDNN_STATUS_NOT_INITIALIZED\nin cuda_dnn.cc": "another process holds its memory",
}


@pytest.mark.parametrize(("message", "remedy"), RECORDED.items())
def test_a_recorded_message_gets_one_sentence_with_the_way_out(message, remedy):
    told = one_line(RuntimeError(message))
    assert remedy in told
    assert "\n" not in told
    assert message.splitlines()[0] in told
    assert not told.startswith("RuntimeError")


def test_out_of_the_memory_that_jax_has_names_the_settings(monkeypatch):
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.\nBufferAssignment"
    )
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: False)
    assert "smaller --batch-size" in one_line(error)
    assert "XLA_PYTHON_CLIENT" not in one_line(error)  # a CPU has no share
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: True)
    assert "smaller --batch-size" in one_line(error)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION=0.4" in one_line(error)


def test_other_errors_say_nothing_of_a_gpu():
    assert gpu_errors.meaning("INTERNAL: the sun is up") == ""


@pytest.fixture
def log(monkeypatch):
    """Logs as jax does where its plugin fails, and returns what a user would see."""
    logger = logging.getLogger("jax._src.xla_bridge")
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.setattr(gpu_errors, "_plugin_failures", [])
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu_errors.listen()
    gpu_errors.listen()  # a second command in one process
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)

    def plugin_fails() -> list[str]:
        try:
            raise RuntimeError("Unable to load cuDNN. Is it installed?\nMore")
        except RuntimeError:
            logger.exception(
                "Jax plugin configuration error: Exception when calling %s.initialize()", "jax_plugins.xla"
            )
        return shown

    yield plugin_fails
    logger.removeHandler(handler)


def test_a_plugin_that_does_not_start_is_one_warning(log, monkeypatch):
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: True)
    (line,) = log()
    assert line.startswith("Warning: jax cannot use the GPU: jax's CUDA wheels do not fit")
    assert line.endswith("(Unable to load cuDNN. Is it installed?)")
    assert "Unable to load cuDNN" in gpu_errors.why_none()


def test_without_a_gpu_nobody_misses_it(log, monkeypatch):
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: False)
    assert log() == []
    assert "no NVIDIA driver" in gpu_errors.why_none()


def test_where_an_error_follows_the_warning_is_left_out(log, monkeypatch):
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: True)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert log() == []


def test_with_a_driver_and_no_wheels_the_wheels_are_named(log, monkeypatch):
    monkeypatch.setattr(gpu_errors, "has_driver", lambda: True)
    assert "pip install 'jax[cuda13]'" in gpu_errors.why_none()


def _plan(**environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "crlviz", "plan", "point_u_maze", "--preset", "smoke", "--no-measure"],
        env={name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(gpu_errors.has_driver(), reason="this machine has a GPU")
@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "no NVIDIA driver is installed on this machine"),
        pytest.param({"JAX_PLATFORMS": "gpu"}, "no NVIDIA driver is installed on this machine", marks=pytest.mark.slow),
        ({"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES hides the GPU; unset it"),
        pytest.param(
            {"JAX_PLATFORMS": "cuda", "CUDA_VISIBLE_DEVICES": "-1"},
            "CUDA_VISIBLE_DEVICES hides the GPU; unset it",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_platform_that_is_not_here_is_one_sentence(environment, words):
    ran = _plan(**environment)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert words in ran.stderr
    assert ran.stderr.rstrip().endswith("; without that variable jax uses any available device")


def _has_wheels() -> bool:
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    return any(module.name.startswith("xla_cuda") for module in pkgutil.iter_modules(places or []))


@pytest.mark.skipif(gpu_errors.has_driver() or not _has_wheels(), reason="needs jax's CUDA wheels, and no GPU")
def test_the_wheels_without_a_gpu_leave_the_cpu_to_work_in_silence():
    ran = _plan()
    assert (ran.returncode, ran.stderr) == (0, "")
