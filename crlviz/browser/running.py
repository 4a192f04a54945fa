"""Run a jaxpr on tensors: each operation by its rule, or on constants at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from crlviz.browser.folding import fold
from crlviz.browser.memory import Tensor
from crlviz.browser.tracing import RULES, Trace, UnknownOperation, as_array, stored

# Operations that are nothing but a call, and where they keep what they call.
_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
_INLINED = dict.fromkeys(
    (
        "jit",
        "pjit",
        "closed_call",
        "core_call",
        "remat",
        "checkpoint",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vjp_call_jaxpr",
        "custom_vmap_call",
    ),
    _CALLS,
)
_NEVER_FOLDED = {"while", "scan", "cond", "platform_index"}


def run(trace: Trace, jaxpr: Any, constants: Sequence[Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    """Results of a jaxpr on tensors.

    Raises:
      UnknownOperation: it has an operation without a rule.
    """
    known: dict[Any, Tensor] = dict(zip(jaxpr.constvars, constants, strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Tensor:
        return as_array(atom.val) if hasattr(atom, "val") else known[atom]

    for equation in jaxpr.eqns:
        results = _equation(trace, equation, [read(atom) for atom in equation.invars])
        known |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _equation(trace: Trace, equation: Any, operands: list[Tensor]) -> list[Tensor]:
    name, params = equation.primitive.name, equation.params
    if inner := next((params[key] for key in _INLINED.get(name, ()) if key in params), None):
        constants = [as_array(constant) for constant in getattr(inner, "consts", ())]
        return run(trace, getattr(inner, "jaxpr", inner), constants, operands)
    try:
        outs = [stored(variable.aval) for variable in equation.outvars]
    except UnknownOperation as error:
        raise UnknownOperation(f"{name} {error}") from error
    if name not in _NEVER_FOLDED and all(isinstance(operand, np.ndarray) for operand in operands):
        return fold(equation, operands)
    if name not in RULES:
        raise UnknownOperation(name)
    several = equation.primitive.multiple_results
    try:
        result = RULES[name](trace, operands, params, outs if several else outs[0], name)
    except NotImplementedError as error:
        raise UnknownOperation(f"{name} ({error})") from error
    return result if several else [result]
