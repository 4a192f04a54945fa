"""crlviz: train deep contrastive RL agents, look inside them, and see what depth bought."""

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
    import importlib

    return getattr(importlib.import_module(f"crlviz.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])


__all__ = ["Agent", "__version__", "load", "load_all", "rollout"]
