"""Settings that must stand before jax is imported, and the small trained run that many tests share."""

import os
from pathlib import Path

# Compiled programs are kept between runs of the tests; most of their time is compiling.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "crlviz", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("crlviz")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of recorded truths."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the toy config; read it, copy it, never change it."""
    from tests.toys import toy_config
    from training.trainer import train

    return train(toy_config(), tmp_path_factory.mktemp("runs") / "toy", command=["crlviz", "train"], progress=False)


@pytest.fixture(scope="session")
def toy_agent(toy_run: Path):
    import crlviz

    return crlviz.load(toy_run)
