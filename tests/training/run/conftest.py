"""Fixtures of the tests that train, stop and resume runs in this process."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.shared_programs import CACHED, shared
from tests.helpers.toys import toy_config
from training import trainer
from training.run.runner import Run


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[Callable]:
    """Compile each config once for all tests; yields the cached function, which counts its misses."""
    with shared():
        yield CACHED


@pytest.fixture
def at_step(monkeypatch):
    """Call a function right before the given training step (from 0)."""

    def arrange(number, act):
        real = Run.advance

        def step(self):
            if self.step == number:
                monkeypatch.setattr(Run, "advance", real)
                act()
            real(self)

        monkeypatch.setattr(Run, "advance", step)

    return arrange


@pytest.fixture
def killed(at_step) -> Callable[..., Path]:
    """Train the toy config in a directory until the given training step, and lose all that is in memory there."""

    def train(run: Path, number: int, **changes: Any) -> Path:
        def die():
            raise MemoryError("as if killed")

        at_step(number, die)
        with pytest.raises(MemoryError):
            trainer.train(toy_config(**changes), run, progress=False)
        return run

    return train
