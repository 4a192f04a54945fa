"""Settings that must stand before jax is imported."""

import os
from pathlib import Path

# Compiled programs are kept between runs of the tests; most of their time is compiling.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded truths."""
    return Path(__file__).parent / "data"
