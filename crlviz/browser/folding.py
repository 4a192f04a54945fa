"""Operations on constants, at emission. Common ones run in numpy, because jax compiles a program for every shape."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from crlviz.browser.memory import Tensor, Value
from crlviz.browser.tracing import RULES, Trace, as_array

_UFUNCS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "square": np.square,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "select_n": lambda which, *cases: np.choose(np.asarray(which, int), cases),
    "copy": np.asarray,
    "copy_p": np.asarray,
}
# Operations that only move elements, and how many of their operands are moved; the others are places. None: all.
_MOVES: dict[str, int | None] = {
    "gather": 1,
    "dynamic_slice": 1,
    **dict.fromkeys(
        ("slice", "squeeze", "reshape", "expand_dims", "broadcast_in_dim", "transpose", "rev", "tile", "concatenate")
    ),
    **dict.fromkeys(("stack", "pad")),
}


def fold(equation: Any, operands: Sequence[Any]) -> list[Tensor]:
    """Results of an operation on constants."""
    name, params = equation.primitive.name, equation.params
    outs = [variable.aval for variable in equation.outvars]
    if name in _UFUNCS:
        with np.errstate(all="ignore"):
            return [np.asarray(_UFUNCS[name](*operands), outs[0].dtype)]
    if name == "convert_element_type" and _converts(operands[0].dtype, outs[0].dtype):
        return [operands[0].astype(outs[0].dtype)]
    if name == "iota":
        return [_iota(params, outs[0])]
    if name in _MOVES:
        moved = _moved(name, operands, params, outs[0])
        if moved is not None:
            return [moved]
    results = equation.primitive.bind(*operands, **params)
    return [as_array(result) for result in (results if equation.primitive.multiple_results else [results])]


def _converts(source: np.dtype, target: np.dtype) -> bool:
    """Whether numpy converts as XLA does: not from a float, which may be out of the target's range."""
    return source.kind in "biu" and target.kind in "biuf"


def _iota(params: dict[str, Any], out: Any) -> np.ndarray:
    places = np.arange(out.shape[params["dimension"]], dtype=out.dtype)
    return np.broadcast_to(places.reshape(-1, *(1,) * (len(out.shape) - params["dimension"] - 1)), out.shape)


def _moved(name: str, operands: Sequence[np.ndarray], params: dict[str, Any], out: Any) -> np.ndarray | None:
    """The result of the rule, with addresses for elements; None: the rule computes something."""
    count = _MOVES[name] or len(operands)
    trace, values, elements = Trace(), [], []
    for operand in operands[:count]:
        values.append(trace.memory.allocate(operand.shape, operand.dtype))
        elements.append(np.ravel(operand))
    known = np.concatenate(elements)
    given: list[Tensor] = [*values, *operands[count:]]
    result = RULES[name](trace, given, params, out, name)
    if not isinstance(result, Value) or result.base is not None or (result.index >= known.size).any():
        return None
    return known[result.index]
