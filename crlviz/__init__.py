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

_WHERE = {"Agent": "agent", "load": "agent", "load_all": "agent", "rollout": "rollouts"}


def __getattr__(name: str) -> Any:
    # Imported when first asked for: jax takes seconds, and `crlviz --help` needs none of it.
    if name not in _WHERE:
        raise AttributeError(f"module 'crlviz' has no attribute {name!r}")
    return getattr(importlib.import_module(f"crlviz.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


def _warn_of_names_taken() -> None:
    """Tell where `import analyses` would give something else, as a file of that name beside a notebook."""
    home = Path(__file__).resolve().parents[1]
    for name in ("analyses", "training"):
        spec = getattr(sys.modules[name], "__spec__", None) if name in sys.modules else importlib.util.find_spec(name)
        if spec and spec.origin and Path(spec.origin).resolve().parents[1] != home:
            warnings.warn(
                f"import {name} gives {spec.origin} here, not crlviz's own: rename that file or start elsewhere",
                stacklevel=3,
            )


if Path(next(iter(sys.argv), "")).name not in ("-m", "crlviz"):  # the command sees to it itself
    _warn_of_names_taken()

__all__ = ["Agent", "__version__", "load", "load_all", "rollout"]
