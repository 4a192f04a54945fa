"""Sums, extremes and products over axes. Short ones are unrolled, so they share loops with the code around them."""

import re
from typing import Any

import jax
import numpy as np

from crlviz.browser.memory import Tensor, Value
from crlviz.browser.tracing import Trace, rule

_SHORT = 8  # sums of at most this many terms are unrolled
_SHORTEST = 4  # products of matrices of at most this many terms are unrolled, for any size of the result
_SMALL = 1024  # sums of at most ``_SHORT`` terms are unrolled in results of at most this many elements

_NO_NUMBER = {"F": ("-Infinity", "Infinity"), "I": ("-2147483648", "2147483647")}


def _reduction(name: str, dtype: np.dtype) -> tuple[str, str]:
    """First value and JavaScript of one more term x for a result s."""
    lowest, highest = _NO_NUMBER["F" if dtype.kind == "f" else "I"]
    if dtype == np.uint32:
        lowest, highest = "0", "4294967295"
    whole = "" if dtype.kind == "f" else "|0"
    return {
        "sum": ("0", f"s+x{whole}"),
        "prod": ("1", "s*x" if not whole else "Math.imul(s,x)"),
        "max": (lowest, "Math.max(s,x)"),
        "min": (highest, "Math.min(s,x)"),
        "and": ("1" if dtype.kind == "b" else "-1", "s&x"),
        "or": ("0", "s|x"),
        "xor": ("0", "s^x"),
        "logsumexp": ("-Infinity", "logAddExp(s,x)"),
    }[name]


def _rows(index: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Addresses [results, terms]."""
    kept = [d for d in range(index.ndim) if d not in axes]
    terms = int(np.prod([index.shape[d] for d in axes]))
    return index.transpose(*kept, *axes).reshape(int(np.prod([index.shape[d] for d in kept])), terms)


@rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor")
def _reduce(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    first, text = _reduction(name.removeprefix("reduce_"), out.dtype)
    value = trace.value(operands[0])
    rows = value.moved(_rows(value.index, tuple(params["axes"])))
    count, terms = rows.shape
    if terms == 0:
        return trace.compute(first, [], out)
    if terms <= _SHORT:
        more = re.sub(r"\bx\b", "#", re.sub(r"\bs\b", "@", text))
        chain = "{0}"
        for term in range(1, terms):
            chain = more.replace("@", f"({chain})").replace("#", f"{{{term}}}")
        columns = [rows.moved(rows.index[:, term].reshape(out.shape)) for term in range(terms)]
        return trace.compute(chain, columns, out, rounds=out.dtype.kind == "f")
    rows, step = _inner_stride(trace, rows)

    def code(codegen: Any, results: list[Value]) -> str:
        begin = codegen.offset(rows.moved(rows.index[:, 0]), "i")
        element = f"{rows.heap}[p]" + (">>>0" if rows.dtype == np.uint32 else "")
        return (
            f"for(let i=0;i<{count};i++){{let s={first};for(let k=0,p={begin};k<{terms};k++,p+={step})"
            f"{{const x={element};s={text}}}{results[0].heap}[{codegen.offset(results[0], 'i')}]=s}}"
        )

    return trace.opaque([rows], [out], code)[0]


def _inner_stride(trace: Trace, rows: Value) -> tuple[Value, int]:
    """Rows [results, terms] with evenly spaced terms, copied if necessary, and the step between terms."""
    steps = np.diff(rows.index, axis=1)
    if not (steps == steps.flat[0]).all():
        rows = trace.copy(rows)
        return rows, 1
    return rows, int(steps.flat[0])


@rule("argmax", "argmin")
def _arg(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    value = trace.value(operands[0])
    rows = value.moved(_rows(value.index, tuple(params["axes"])))
    count, terms = rows.shape
    if terms > 1:
        rows, step = _inner_stride(trace, rows)
    else:
        step = 1
    better = ">" if name == "argmax" else "<"

    def code(codegen: Any, results: list[Value]) -> str:
        begin = codegen.offset(rows.moved(rows.index[:, 0]), "i")
        return (
            f"for(let i=0;i<{count};i++){{let p={begin},s={rows.heap}[p],a=0;for(let k=1;k<{terms};k++)"
            f"{{p+={step};const x={rows.heap}[p];if(x{better}s||(x!==x&&s===s)){{s=x;a=k}}}}"
            f"I[{codegen.offset(results[0], 'i')}]=a}}"
        )

    return trace.opaque([rows], [out], code)[0]


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _cumulative(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    first, text = _reduction(name.removeprefix("cum"), out.dtype)
    axis, value = params["axis"], trace.value(operands[0])

    def arranged(index: np.ndarray) -> np.ndarray:
        index = np.flip(index, axis) if params["reverse"] else index
        return np.moveaxis(index, axis, -1)

    moved = arranged(value.index)
    if not moved.size:
        return value
    rows = value.moved(moved.reshape(-1, moved.shape[-1]))
    count, terms = rows.shape
    rows, step = _inner_stride(trace, rows) if terms > 1 else (rows, 1)

    def code(codegen: Any, results: list[Value]) -> str:
        begin, target = codegen.offset(rows.moved(rows.index[:, 0]), "i"), codegen.address(results[0])
        return (
            f"for(let i=0;i<{count};i++){{let s={first};for(let k=0,p={begin};k<{terms};k++,p+={step})"
            f"{{const x={rows.heap}[p];s={text};{rows.heap}[{target}+i*{terms}+k]=s}}}}"
        )

    result = trace.opaque([rows], [jax.ShapeDtypeStruct(moved.shape, out.dtype)], code)[0]
    index = np.moveaxis(result.index, -1, axis)
    return result.moved(np.flip(index, axis) if params["reverse"] else index)


@rule("dot_general")
def _dot(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    (contract_a, contract_b), (batch_a, batch_b) = params["dimension_numbers"]
    a, b = (trace.value(operand) for operand in operands)
    a = a.moved(_matrices(a.index, batch_a, contract_a))  # [batch, m, k]
    b = b.moved(_matrices(b.index, batch_b, contract_b))  # [batch, n, k]
    batch, rows, terms = a.shape
    columns = b.shape[1]
    if terms == 0:
        return trace.compute("0", [], out)
    few = terms <= _SHORTEST or (terms <= _SHORT and batch * rows * columns <= _SMALL)
    if few and out.dtype.kind == "f":
        shape = (batch, rows, columns)
        pairs = []
        for k in range(terms):
            pairs.append(a.moved(np.broadcast_to(a.index[:, :, None, k], shape).reshape(out.shape)))
            pairs.append(b.moved(np.broadcast_to(b.index[:, None, :, k], shape).reshape(out.shape)))
        text = "+".join(f"{{{2 * k}}}*{{{2 * k + 1}}}" for k in range(terms))
        return trace.compute(text, pairs, out, rounds=True)
    (a, strides_a), (b, strides_b) = (trace.strided(matrix) for matrix in (a, b))
    helper = "product" if out.dtype.kind == "f" else "wholeProduct"
    heap = "F" if out.dtype.kind == "f" else "I"

    def code(codegen: Any, results: list[Value]) -> str:
        sizes = ",".join(map(str, (batch, rows, columns, terms)))
        return (
            f"{helper}({heap},{sizes},{codegen.address(a)},{','.join(map(str, strides_a))},"
            f"{codegen.address(b)},{','.join(map(str, strides_b))},{codegen.address(results[0])});"
        )

    return trace.opaque([a, b], [out], code)[0]


def _matrices(index: np.ndarray, batch: Any, contracted: Any) -> np.ndarray:
    """Addresses [batch, rows, terms]."""
    kept = [d for d in range(index.ndim) if d not in (*batch, *contracted)]
    sizes = [int(np.prod([index.shape[d] for d in dims])) for dims in (batch, kept, contracted)]
    return index.transpose(*batch, *kept, *contracted).reshape(sizes)
