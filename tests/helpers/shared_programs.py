"""Compiled programs that tests of one process share; the torture tests cover processes that compile their own."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crlviz.checkpoints.run_directory import KEEPING
from tests.helpers.toys import toy_config
from training.config import TrainConfig
from training.run import compiled, programs

REAL = compiled.compiled
CACHED = functools.cache(REAL)  # counts its misses


def of_program(config: TrainConfig) -> TrainConfig:
    """The config with defaults for settings outside programs: seed, length, settings of saving and rewinding."""
    default = toy_config()
    names = {"seed", "env_steps", "evaluations", *KEEPING} - {"loss_bound"}
    others: dict[str, Any] = {name: getattr(default, name) for name in names}
    return dataclasses.replace(config, **others)


def toy_programs() -> programs.Programs:
    """The programs of the toy config, compiled once in this process."""
    return CACHED(of_program(toy_config()))


@contextmanager
def shared() -> Iterator[None]:
    """Context in which each config is compiled once in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "compiled", lambda config, *on: CACHED(of_program(config), *on))
        yield
