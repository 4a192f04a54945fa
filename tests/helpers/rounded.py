"""What an accelerator makes of a program whose matrix products take shortened numbers, computed on a CPU, which takes
them whole whatever it is told."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

MANTISSA = {"tf32": 10, "bfloat16": 7}  # bits of it that a product's inputs keep
_EXACT = (jax.lax.Precision.HIGHEST, (jax.lax.Precision.HIGHEST,) * 2)


def rounded(function: Callable[..., Any], bits: int) -> Callable[..., Any]:
    """The function with the inputs of every product rounded to so many bits, but of products that must be exact."""

    def run(*arguments: Any) -> Any:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        flat = core.jaxpr_as_fun(_rounding(traced, bits))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(jax.tree.structure(shape), flat)

    return run


def _rounding(value: Any, bits: int) -> Any:
    """A program, or a parameter of an equation that may hold some."""
    if isinstance(value, core.ClosedJaxpr):
        return core.ClosedJaxpr(_rounding(value.jaxpr, bits), value.consts)
    if isinstance(value, core.Jaxpr):
        return value.replace(eqns=[_equation(each, bits) for each in value.eqns])
    return tuple(_rounding(part, bits) for part in value) if type(value) is tuple else value


def _equation(equation: core.JaxprEqn, bits: int) -> core.JaxprEqn:
    params = equation.params
    if equation.primitive.name != "dot_general":
        return equation.replace(params={name: _rounding(value, bits) for name, value in params.items()})
    if params["precision"] in _EXACT:
        return equation

    @jax.jit
    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        short = [jax.lax.reduce_precision(x, 8, bits) for x in (a, b)]
        return jax.lax.dot_general_p.bind(*short, **params)

    (call,) = jax.make_jaxpr(product)(*(variable.aval for variable in equation.invars)).eqns
    return call.replace(invars=equation.invars, outvars=equation.outvars)
