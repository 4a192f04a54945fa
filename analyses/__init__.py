"""One module for each question: ``compute`` returns a Dataset, ``plot`` draws it. Modules are imported on first use."""

import importlib
from typing import Any

_MODULES = {
    "behavior": "behavior",
    "calibrate": "calibrate",
    "efficiency": "sweeps.efficiency",
    "embed": "embed",
    "evaluation": "evaluation",
    "heatmap": "heatmap",
    "norms": "norms",
    "paper": "pages.paper",
    "runs": "common.runs",
    "scaling": "sweeps.scaling",
    "stitch": "stitch",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'analyses' has no attribute {name!r}")
    return importlib.import_module(f".{_MODULES[name]}", __name__)


def __dir__() -> list[str]:
    return __all__
