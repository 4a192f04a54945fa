"""JavaScript of elementwise operations."""

from typing import Any

import jax
import numpy as np

from crlviz.browser.memory import Tensor
from crlviz.browser.tracing import Trace, rule

# Operations on float32; the result is rounded to float32, as XLA does.
_FLOAT = {
    "add": "{0}+{1}",
    "add_any": "{0}+{1}",
    "sub": "{0}-{1}",
    "mul": "{0}*{1}",
    "div": "{0}/{1}",
    "rem": "{0}%{1}",
    "pow": "pow({0},{1})",
    "atan2": "Math.atan2({0},{1})",
    "sqrt": "Math.sqrt({0})",
    "rsqrt": "1/Math.sqrt({0})",
    "cbrt": "Math.cbrt({0})",
    "square": "{0}*{0}",
    "exp": "Math.exp({0})",
    "exp2": "2**{0}",
    "expm1": "Math.expm1({0})",
    "log": "Math.log({0})",
    "log1p": "Math.log1p({0})",
    "logistic": "1/(1+Math.exp(-{0}))",
    "erf": "erf({0})",
    "erfc": "1-erf({0})",
    "erf_inv": "erfInv({0})",
    **{
        name: f"Math.{name}({{0}})"
        for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
    },
}
# Of float32, and already a float32.
_FLOAT_EXACT = {
    "neg": "-{0}",
    "abs": "Math.abs({0})",
    "floor": "Math.floor({0})",
    "ceil": "Math.ceil({0})",
    "sign": "Math.sign({0})",
    "max": "Math.max({0},{1})",
    "min": "Math.min({0},{1})",
    "clamp": "Math.min(Math.max({1},{0}),{2})",
    "copy": "{0}",
    "copy_p": "{0}",
}
# Of int32; results are int32 again. Those of uint32 are the same up to the last step, which ``codegen`` takes.
_WHOLE = {
    "add": "{0}+{1}|0",
    "add_any": "{0}+{1}|0",
    "sub": "{0}-{1}|0",
    "mul": "Math.imul({0},{1})",
    "div": "divide({0},{1})",
    "rem": "remainder({0},{1})",
    "pow": "power({0},{1})",
    "neg": "-{0}|0",
    "abs": "Math.abs({0})|0",
    "sign": "Math.sign({0})",
    "max": "Math.max({0},{1})",
    "min": "Math.min({0},{1})",
    "clamp": "Math.min(Math.max({1},{0}),{2})",
    "square": "Math.imul({0},{0})",
    "and": "{0}&{1}",
    "or": "{0}|{1}",
    "xor": "{0}^{1}",
    "not": "~{0}",
    "shift_left": "({1}>>>0)<32?{0}<<{1}:0",
    "shift_right_logical": "({1}>>>0)<32?{0}>>>{1}:0",
    "shift_right_arithmetic": "{0}>>(({1}>>>0)<32?{1}:31)",
    "copy": "{0}",
    "copy_p": "{0}",
}
_COMPARISONS = {"eq": "===", "ne": "!==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _elementwise(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    if out.dtype.kind == "f":
        rounds = name in _FLOAT
        return trace.compute((_FLOAT if rounds else _FLOAT_EXACT)[name], operands, out, rounds=rounds)
    return trace.compute("{0}^1" if name == "not" and out.dtype.kind == "b" else _WHOLE[name], operands, out)


for _name in {**_FLOAT, **_FLOAT_EXACT, **_WHOLE}:
    rule(_name)(_elementwise)


@rule(*_COMPARISONS)
def _compare(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return trace.compute(f"{{0}}{_COMPARISONS[name]}{{1}}?1:0", operands, out)


@rule("is_finite")
def _is_finite(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return trace.compute("Number.isFinite({0})?1:0", operands, out)


@rule("round")
def _round(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    to_even = jax.lax.RoundingMethod(params["rounding_method"]) == jax.lax.RoundingMethod.TO_NEAREST_EVEN
    return trace.compute("roundEven({0})" if to_even else "Math.sign({0})*Math.floor(Math.abs({0})+0.5)", operands, out)


@rule("integer_pow")
def _integer_pow(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    power = params["y"]
    if out.dtype.kind != "f":
        return trace.compute(f"power({{0}},{power})", operands, out)
    text = "*".join(["{0}"] * abs(power)) if abs(power) <= 4 else f"{{0}}**{abs(power)}"
    return trace.compute(f"1/({text})" if power < 0 else text or "1", operands, out, rounds=True)


@rule("select_n")
def _select(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    which, *cases = operands
    if which.shape != out.shape:
        which = trace.move(lambda index: np.broadcast_to(index, out.shape), which)
    if isinstance(which, np.ndarray) and (which == which.flat[:1]).all() and which.size:
        return cases[int(which.flat[0])]
    text = f"{{{len(cases)}}}"
    for number in reversed(range(len(cases) - 1)):
        taken = "!{0}" if number == 0 else f"{{0}}==={number}"
        text = f"{taken}?{{{number + 1}}}:{text}"
    return trace.compute(text, [which, *cases], out)


@rule("convert_element_type")
def _convert(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    source, target = operands[0].dtype, out.dtype
    if source == target:
        return operands[0]
    if target.kind == "b":
        return trace.compute("{0}!==0?1:0", operands, out)
    if target.kind == "f":
        return trace.compute("{0}", operands, out, rounds=source.itemsize >= 4)
    if source.kind != "f":
        return trace.compute(_narrow(target, "{0}"), operands, out)
    low, high = np.iinfo(target).min, np.iinfo(target).max
    return trace.compute(f"Math.max({low},Math.min({high},Math.trunc({{0}})))|0", operands, out)


def _narrow(target: np.dtype, text: str) -> str:
    bits = 32 - 8 * target.itemsize
    if not bits:
        return f"{text}|0"
    return f"{text}<<{bits}{'>>' if target.kind == 'i' else '>>>'}{bits}"


@rule("bitcast_convert_type")
def _bitcast(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    source, target = operands[0].dtype, out.dtype
    if source.itemsize != 4 or target.itemsize != 4:
        raise NotImplementedError(f"from {source} to {target}")
    if source.kind == target.kind or {source.kind, target.kind} <= set("iu"):
        return trace.compute("{0}", operands, out)
    return trace.compute("bitsOf({0})" if source.kind == "f" else "floatOf({0})", operands, out)
