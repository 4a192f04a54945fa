"""Checks of arrays that users give."""

from typing import Any

import jax
import numpy as np

from crlviz.errors import UsageError


def as_numbers(name: str, value: Any) -> Any:
    """Convert a value to an array of finite float32 numbers; a jax tracer is returned unchanged.

    Args:
      name: name of the value in error messages.
      value: array, list or number.

    Raises:
      UsageError: the value is not numeric, or holds a number that is not finite.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is not an array of numbers") from None
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds numbers that are not finite: {array[~np.isfinite(array)][0]}")
    # A jax array is returned itself: it is already on its device.
    return value if isinstance(value, jax.Array) else array
