"""The algorithms by name. Only a table, so that names cost no import of jax; ``of`` imports an algorithm's file."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crlviz.errors import UsageError

if TYPE_CHECKING:
    import jax

    from crlviz.algorithms.base import Algorithm
    from crlviz.algorithms.batches import Sizes
    from crlviz.networks.config import NetworkConfig
    from crlviz.networks.fused_trunk import FusedTrunk

# To add an algorithm, write its file in this directory and name its class here.
_CLASSES = {
    "crl": "crl.CRL",
    "sac": "sac.SAC",
    "sac+her": "sac.SACHER",
    "td3": "td3.TD3",
    "td3+her": "td3.TD3HER",
    "gcsl": "gcsl.GCSL",
    "gcbc": "gcbc.GCBC",
    "cmd": "cmd.CMD",
    "qrl": "qrl.QRL",
    "gciql": "gciql.GCIQL",
}

NAMES = tuple(_CLASSES)


def check(name: str) -> None:
    """Check the name of an algorithm.

    Raises:
      UsageError: no algorithm is called so.
    """
    if name not in _CLASSES:
        raise UsageError(f"no algorithm is called {name[:100]!r}; take {', '.join(NAMES)}")


def section(name: str) -> str:
    """The name of an algorithm's settings in a config: the name of its file, so that variants share one section.

    Raises:
      UsageError: no algorithm is called so.
    """
    check(name)
    return _CLASSES[name].split(".")[0]


def sections() -> dict[str, type]:
    """The ``Config`` of each section."""
    return {section(name): of(name).Config for name in NAMES}


def of(name: str) -> "type[Algorithm]":
    """The class of an algorithm.

    Raises:
      UsageError: no algorithm is called so.
    """
    check(name)
    module, own = _CLASSES[name].split(".")
    return getattr(import_module(f"crlviz.algorithms.{module}"), own)


def build(
    name: str,
    settings: Any,
    actor: "NetworkConfig",
    critic: "NetworkConfig",
    sizes: "Sizes",
    *,
    gamma: float,
    replicate: "Callable[[jax.Array], jax.Array] | None" = None,
    trunk: "FusedTrunk | None" = None,
) -> "Algorithm":
    """An algorithm for an environment; arguments as in ``Algorithm.create``, ``settings`` being its ``Config``.

    Raises:
      UsageError: no algorithm is called so, or its settings contradict each other.
    """
    more = {"replicate": replicate} if replicate else {}
    return of(name).create(settings, actor, critic, sizes, gamma=gamma, trunk=trunk, **more)
