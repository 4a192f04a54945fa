"""One module a question: ``compute`` gives a Dataset, ``plot`` draws it. Each is imported when it is first named."""

import importlib
from typing import Any

__all__ = ["behavior", "efficiency", "embed", "heatmap", "norms", "paper", "runs", "scaling", "stitch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'analyses' has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return __all__
