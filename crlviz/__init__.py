"""crlviz: train deep contrastive RL agents, look inside them, and see what depth bought."""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crlviz.agent import Agent, load, load_all
    from crlviz.rollouts import rollout

_MODULES = {"Agent": "agent", "load": "agent", "load_all": "agent", "rollout": "rollouts"}


def __getattr__(name: str) -> Any:
    # Imported on first use: importing jax takes seconds, and `crlviz --help` does not need it.
    if name not in _MODULES:
        raise AttributeError(f"module 'crlviz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crlviz.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])


def _warn_of_shadowed_packages() -> None:
    """Warn if another module, such as a file beside a notebook, shadows `analyses` or `training`."""
    home = Path(__file__).resolve().parents[1]
    for name in ("analyses", "training"):
        spec = getattr(sys.modules[name], "__spec__", None) if name in sys.modules else importlib.util.find_spec(name)
        if spec and spec.origin and Path(spec.origin).resolve().parents[1] != home:
            warnings.warn(
                f"import {name} gives {spec.origin} here, not crlviz's own: rename that file or start elsewhere",
                stacklevel=3,
            )


if Path(next(iter(sys.argv), "")).name not in ("-m", "crlviz"):  # the command fixes sys.path itself
    _warn_of_shadowed_packages()

__all__ = ["Agent", "__version__", "load", "load_all", "rollout"]
