"""The same numbers under every switch of jax that a user may have set: float32, and one way to draw random numbers."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.experimental

P = ParamSpec("P")
R = TypeVar("R")

_home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # before jax 0.8

# Switches, who sets them for a while, and what crlviz computes with.
_SWITCHES: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "jax_enable_x64": (_home.enable_x64, False),
    "jax_default_prng_impl": (jax.default_prng_impl, "threefry2x32"),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
}


def usual() -> contextlib.ExitStack:
    """Within it, jax's switches are as crlviz needs them; only in this thread, and afterwards as they were."""
    stack = contextlib.ExitStack()
    for name, (switch, value) in _SWITCHES.items():
        # One that is right is left alone: programs compiled under it are found again.
        if getattr(jax.config, name) != value:
            stack.enter_context(switch(value))
    return stack


def as_usual(function: Callable[P, R]) -> Callable[P, R]:
    """A function that computes within ``usual``."""

    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        with usual():
            return function(*args, **kwargs)

    return within
