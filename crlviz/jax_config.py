"""Fixed jax settings, so that numbers do not depend on the user's: float32, and one random number generator.

Also sets the target platform of programs, which may differ from the platform that compiles them.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import jax
import jax.experimental

P = ParamSpec("P")
R = TypeVar("R")

_platform: ContextVar[str] = ContextVar("platform", default="")

_home: Any = jax if hasattr(jax, "enable_x64") else jax.experimental  # before jax 0.8

# For each jax setting: the context manager that sets it, and the value that crlviz needs.
_SETTINGS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "jax_enable_x64": (_home.enable_x64, False),
    "jax_default_prng_impl": (jax.default_prng_impl, "threefry2x32"),
    "jax_threefry_partitionable": (jax.threefry_partitionable, True),
}


def fixed_settings() -> contextlib.ExitStack:
    """Context in which jax has the settings that crlviz needs; in this thread only, restored on exit."""
    stack = contextlib.ExitStack()
    for name, (setter, value) in _SETTINGS.items():
        # A setting that is already right is not touched, so that jax finds the programs compiled under it.
        if getattr(jax.config, name) != value:
            stack.enter_context(setter(value))
    return stack


def with_fixed_settings(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to run within ``fixed_settings()``."""

    @functools.wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> R:
        with fixed_settings():
            return function(*args, **kwargs)

    return within


def platform() -> str:
    """The platform that programs traced now will run on: jax's default (cpu, gpu) or the target set by ``made_for``."""
    return _platform.get() or jax.default_backend()


@contextlib.contextmanager
def made_for(platform: str) -> Iterator[None]:
    """Context that sets the target platform of programs traced in this thread. This machine may lack the platform."""
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)
