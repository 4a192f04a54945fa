"""Fixtures of the tests that train, stop and resume runs in this process."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.toys import toy_config
from training import trainer
from training.run import compiled
from training.run.runner import Run

_CACHED = functools.cache(compiled.compiled)


@pytest.fixture(autouse=True, scope="module")
def programs() -> Iterator[Callable]:
    """Compile each config once for all tests of this folder; yields the cached function, which counts its misses.

    The seed and what to do on divergence are not part of a program. The torture tests cover processes that compile
    their own.
    """

    def compile_once(config, *on):
        return _CACHED(dataclasses.replace(config, seed=0, on_nan="stop"), *on)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "compiled", compile_once)
        yield _CACHED


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
