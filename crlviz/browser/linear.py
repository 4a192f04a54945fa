"""Sorting, triangular matrices, and random numbers."""

from typing import Any

import jax
import numpy as np

from crlviz.browser.memory import Tensor, Value
from crlviz.browser.tracing import Trace, rule


def _rows(trace: Trace, operand: Tensor, axis: int) -> Value:
    """A tensor as rows [rows, n] along an axis, at addresses of its own, in order."""
    value = trace.value(operand)
    index = np.moveaxis(value.index, axis, -1)
    return trace.copy(value.moved(index.reshape(-1, index.shape[-1])))


@rule("sort")
def _sort(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    axis = params["dimension"]
    if not operands[0].size if isinstance(operands[0], np.ndarray) else not operands[0].index.size:
        return operands
    inputs = [_rows(trace, operand, axis) for operand in operands]
    count, length = inputs[0].shape

    def code(codegen: Any, results: list[Value]) -> str:
        def place(value: Value) -> str:
            return f"{value.heap}[{codegen.address(value)}+i*{length}"

        def key(value: Value, k: str) -> str:
            return f"({place(value)}+{k}]{'>>>0' if value.dtype == np.uint32 else ''})"

        keys = inputs[: params["num_keys"]]
        order = "||".join(f"compare({key(value, 'a')},{key(value, 'b')})" for value in keys)
        moves = "".join(
            f"{place(result)}+k]={place(value)}+order[k]];" for value, result in zip(inputs, results, strict=True)
        )
        return (
            f"for(let i=0;i<{count};i++){{const order=Array.from({{length:{length}}},(_,k)=>k).sort((a,b)=>{order});"
            f"for(let k=0;k<{length};k++){{{moves}}}}}"
        )

    arranged = np.moveaxis(np.empty(outs[0].shape, bool), axis, -1).shape
    shapes = [jax.ShapeDtypeStruct(arranged, out.dtype) for out in outs]
    return [value.moved(np.moveaxis(value.index, -1, axis)) for value in trace.opaque(inputs, shapes, code)]


@rule("cholesky")
def _cholesky(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    matrix, size = trace.copy(operands[0]), out.shape[-1]

    def code(codegen: Any, results: list[Value]) -> str:
        place, target = codegen.address(matrix), codegen.address(results[0])
        return _each(out.shape, f"cholesky(F,{size},{place}+i*{size * size},{target}+i*{size * size})")

    return trace.opaque([matrix], [out], code)[0]


@rule("triangular_solve")
def _triangular_solve(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    a, b = (trace.value(operand) for operand in operands)
    lower, size = params["lower"], a.shape[-1]
    if not params["left_side"]:  # x a = b is a^T x^T = b^T
        a, b = a.moved(a.index.swapaxes(-1, -2)), b.moved(b.index.swapaxes(-1, -2))
        lower = not lower
    if params["transpose_a"]:
        a, lower = a.moved(a.index.swapaxes(-1, -2)), not lower
    a, b = trace.copy(a), trace.copy(b)
    columns = b.shape[-1]

    def code(codegen: Any, results: list[Value]) -> str:
        given = f"{codegen.address(a)}+i*{size * size},{codegen.address(b)}+i*{size * columns}"
        flags = f"{int(lower)},{int(params['unit_diagonal'])}"
        target = f"{codegen.address(results[0])}+i*{size * columns}"
        return _each(b.shape, f"solveTriangular(F,{size},{columns},{flags},{given},{target})")

    result = trace.opaque([a, b], [jax.ShapeDtypeStruct(b.shape, out.dtype)], code)[0]
    return result if params["left_side"] else result.moved(result.index.swapaxes(-1, -2))


def _each(shape: tuple[int, ...], call: str) -> str:
    """A call for each matrix i of a batch [..., n, m]."""
    return f"for(let i=0;i<{int(np.prod(shape[:-2]))};i++){call};"


@rule("threefry2x32")
def _threefry(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    return list(_hash(trace, operands, outs[0].shape))


def _hash(trace: Trace, operands: list[Tensor], shape: tuple[int, ...]) -> list[Value]:
    """Threefry of two numbers under a key of two numbers, each [shape] or []: two arrays [shape] of uint32."""
    out = jax.ShapeDtypeStruct(shape, np.dtype(np.uint32))
    text = "threefry({0},{1},{2},{3})"
    return [trace.compute(f"{text}[{part}]", operands, out) for part in (0, 1)]


def _halves(trace: Trace, key: Tensor) -> list[Tensor]:
    """The two numbers [...] of keys [..., 2]."""
    return [trace.move(lambda index, part=part: index[..., part], key) for part in (0, 1)]  # type: ignore[misc]


@rule("random_bits")
def _random_bits(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    if params["bit_width"] != 32 or out.shape != tuple(params["shape"]):
        raise NotImplementedError("of another width than 32, or of many keys")
    counts = np.arange(int(np.prod(out.shape)), dtype=np.uint32).reshape(out.shape)
    first, second = _hash(trace, [*_halves(trace, operands[0]), np.zeros_like(counts), counts], out.shape)
    return trace.compute("{0}^{1}", [first, second], out)


@rule("random_split")
def _random_split(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    shape = out.shape[:-1]
    if shape != tuple(params["shape"]):
        raise NotImplementedError("of many keys")
    counts = np.arange(int(np.prod(shape)), dtype=np.uint32).reshape(shape)
    return _joined(trace, _hash(trace, [*_halves(trace, operands[0]), np.zeros_like(counts), counts], shape))


@rule("random_fold_in")
def _random_fold_in(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    shape = out.shape[:-1]
    return _joined(trace, _hash(trace, [*_halves(trace, operands[0]), np.zeros(shape, np.uint32), operands[1]], shape))


def _joined(trace: Trace, halves: list[Value]) -> Value:
    return halves[0].moved(np.stack([half.index for half in halves], -1))
