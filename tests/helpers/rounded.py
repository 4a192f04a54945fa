"""Emulate on a CPU the reduced precision of matrix products on an accelerator.

A CPU ignores the precision setting and always multiplies at full precision.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

MANTISSA = {"tf32": 10, "bfloat16": 7}  # mantissa bits that the inputs of a product keep
_EXACT = (jax.lax.Precision.HIGHEST, (jax.lax.Precision.HIGHEST,) * 2)


def rounded(function: Callable[..., Any], bits: int) -> Callable[..., Any]:
    """The function with the inputs of every matrix product rounded to ``bits`` mantissa bits.

    Products that ask for the highest precision stay exact.
    """

    def run(*arguments: Any) -> Any:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = core.jaxpr_as_fun(_rounding(traced, bits))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return run


def _rounding(value: Any, bits: int) -> Any:
    """Round the products in a jaxpr, or in the jaxprs that an equation's parameter holds."""
    if isinstance(value, core.ClosedJaxpr):
        return core.ClosedJaxpr(_rounding(value.jaxpr, bits), value.consts)
    if isinstance(value, core.Jaxpr):
        return value.replace(eqns=[_equation(equation, bits) for equation in value.eqns])
    return tuple(_rounding(part, bits) for part in value) if type(value) is tuple else value


def _equation(equation: core.JaxprEqn, bits: int) -> core.JaxprEqn:
    """Round the inputs of one equation if it is a product; descend into its parameters if it is not."""
    params = equation.params
    if equation.primitive.name != "dot_general":
        return equation.replace(params={name: _rounding(value, bits) for name, value in params.items()})
    if params["precision"] in _EXACT:
        return equation

    @jax.jit
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        inputs = [jax.lax.reduce_precision(x, 8, bits) for x in (a, b)]
        return jax.lax.dot_general_p.bind(*inputs, **params)

    (call,) = jax.make_jaxpr(product)(*(variable.aval for variable in equation.invars)).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)
