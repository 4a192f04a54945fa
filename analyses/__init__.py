"""One module a question: ``compute`` gives a Dataset, ``plot`` draws it. Each is imported when it is first named."""

import importlib
from typing import Any

_WHERE = {
    "behavior": "behavior",
    "efficiency": "sweeps.efficiency",
    "embed": "embed",
    "heatmap": "heatmap",
    "norms": "norms",
    "paper": "pages.paper",
    "runs": "common.runs",
    "scaling": "sweeps.scaling",
    "stitch": "stitch",
}
__all__ = list(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'analyses' has no attribute {name!r}")
    return importlib.import_module(f".{_WHERE[name]}", __name__)


def __dir__() -> list[str]:
    return __all__
