"""The bundled trainer. What a user calls is imported when it is first named: jax takes seconds."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import TrainConfig, preset, replace
    from training.trainer import resume, train

_WHERE = {"TrainConfig": "config", "preset": "config", "replace": "config", "resume": "trainer", "train": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


__all__ = ["TrainConfig", "preset", "replace", "resume", "train"]
