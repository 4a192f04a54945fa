"""Loops and conditions."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from crlviz.browser.blocks import Control, Region
from crlviz.browser.memory import Tensor, Value
from crlviz.browser.running import run
from crlviz.browser.tracing import Trace, rule

_INT = jax.ShapeDtypeStruct((), np.dtype(np.int32))


def _copies(codegen: Any, targets: Sequence[Value], sources: Sequence[Value]) -> str:
    """JavaScript that copies Values, elementwise."""
    lines = []
    for target, source in zip(targets, sources, strict=True):
        size = target.index.size
        if size and not (source.base is None and target.base is None and np.array_equal(target.index, source.index)):
            text = f"{target.heap}[{codegen.offset(target, 'i')}]={source.heap}[{codegen.offset(source, 'i')}];"
            lines.append(f"for(let i=0;i<{size};i++){text}" if size > 1 else f"{{const i=0;{text}}}")
    return "".join(lines)


def _carry(trace: Trace, operands: Sequence[Tensor]) -> list[Value]:
    """The Values that a loop's iterations change, at addresses of their own, with their initial values."""
    return [trace.copy(operand) for operand in operands]


def _next(trace: Trace, carry: Sequence[Value], results: Sequence[Tensor]) -> list[Value]:
    """The carry of the next iteration, as Values that can be copied to ``carry`` one after the other."""
    values = []
    for place, result in zip(carry, results, strict=True):
        value = trace.value(result)
        others = [other.index.ravel() for other in carry if other.heap == value.heap]
        is_same = value.base is None and np.array_equal(value.index, place.index)
        overlaps = bool(others) and np.isin(value.touched, np.concatenate(others)).any()
        values.append(trace.copy(value) if overlaps and not is_same else value)
    return values


@rule("scan")
def _scan(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    split = _split_scan(operands, params)
    constants, initial, sequences = split
    length, closed, reverse = params["length"], params["jaxpr"], params["reverse"]
    carry = _carry(trace, initial)
    turn = trace.memory.allocate((), np.int32)
    stacked = [trace.memory.allocate(out.shape, out.dtype) for out in outs[len(carry) :]]
    with trace.inside() as body:
        slices = [_element(trace, sequence, turn) for sequence in sequences]
        results = run(trace, closed.jaxpr, _arrays(closed.consts), [*constants, *carry, *slices])
        following = _next(trace, carry, results[: len(carry)])
        rows = [trace.value(result) for result in results[len(carry) :]]
        targets = [_element(trace, place, turn) for place in stacked] if length else []
        body.results = [*following, *rows, *(target.base for target in targets if target.base is not None)]

    def code(codegen: Any, texts: dict[str, str]) -> str:
        finals = _copies(codegen, targets, rows) + _copies(codegen, carry, following)
        number = f"{length - 1}-t" if reverse else "t"
        return f"for(let t=0;t<{length};t++){{I[{codegen.address(turn)}]={number};\n{texts['body']}\n{finals}}}"

    trace.control(Control({"body": body}, carry, [turn, *carry, *stacked], code))
    return [*carry, *stacked]


def _split_scan(operands: list[Tensor], params: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Operands of a scan that are constant, carried, and cut into slices; older and newer jax say it differently."""
    if "ft_in" in params:
        first, carried, _ = map(len, params["ft_in"].unpack())
    else:
        first, carried = params["num_consts"], params["num_carry"]
    second = first + carried
    return operands[:first], operands[first:second], operands[second:]


def _element(trace: Trace, tensor: Tensor, turn: Value) -> Value:
    """The slice [...] of a tensor [n, ...] at the index that a loop counts."""
    value = trace.value(tensor)
    if not value.index.size:
        return value.moved(value.index[0] if len(value.index) else value.index.reshape(value.shape[1:]))
    steps = np.diff(value.index, axis=0)
    if len(value.index) > 1 and not (steps == steps.flat[0]).all():
        value = trace.copy(value)
    step = int(value.index[1].flat[0] - value.index[0].flat[0]) if len(value.index) > 1 else 0
    if step == 0:
        return value.moved(value.index[0])
    base = trace.compute(f"{{0}}*{step}", [turn], _INT)
    if value.base is not None:
        base = trace.compute("{0}+{1}|0", [base, value.base], _INT)
    return Value(value.dtype, value.index[0], base, value.touched)


@rule("while")
def _while(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    first = params["cond_nconsts"]
    second = first + params["body_nconsts"]
    carry = _carry(trace, operands[second:])
    with trace.inside() as test:
        closed = params["cond_jaxpr"]
        (goes_on,) = run(trace, closed.jaxpr, _arrays(closed.consts), [*operands[:first], *carry])
        goes_on = trace.value(goes_on)
        test.results = [goes_on]
    with trace.inside() as body:
        closed = params["body_jaxpr"]
        results = run(trace, closed.jaxpr, _arrays(closed.consts), [*operands[first:second], *carry])
        following = _next(trace, carry, results)
        body.results = following

    def code(codegen: Any, texts: dict[str, str]) -> str:
        condition = f"if(!{codegen.scalar(goes_on)})break;"
        return f"for(;;){{{texts['test']}\n{condition}\n{texts['body']}\n{_copies(codegen, carry, following)}}}"

    trace.control(Control({"test": test, "body": body}, carry, carry, code))
    return list(carry)


@rule("cond")
def _cond(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    which, *arguments = operands
    branches = params["branches"]
    if isinstance(which, np.ndarray):
        chosen = branches[int(np.clip(int(which), 0, len(branches) - 1))]
        return run(trace, chosen.jaxpr, _arrays(chosen.consts), arguments)
    number = trace.value(which)
    results = [trace.memory.allocate(out.shape, out.dtype) for out in outs]
    regions: dict[str, Region] = {}
    sources: dict[str, list[Value]] = {}
    for index, branch in enumerate(branches):
        with trace.inside() as region:
            values = [trace.value(value) for value in run(trace, branch.jaxpr, _arrays(branch.consts), arguments)]
            region.results = values
        regions[str(index)], sources[str(index)] = region, values

    def code(codegen: Any, texts: dict[str, str]) -> str:
        last = str(len(branches) - 1)
        chosen = f"Math.min(Math.max({codegen.scalar(number)},0),{last})"
        parts = []
        for index, text in texts.items():
            label = "default" if index == last else f"case {index}"
            parts.append(f"{label}:{{{text}\n{_copies(codegen, results, sources[index])}}}break;")
        return f"switch({chosen}){{{''.join(parts)}}}"

    trace.control(Control(regions, [number], results, code))
    return list(results)


@rule("platform_index")
def _platform(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    """Index of the branch for a CPU, or of the last (default) branch."""
    platforms = [names or () for names in params["platforms"]]
    chosen = next((index for index, names in enumerate(platforms) if "cpu" in names), len(platforms) - 1)
    return np.asarray(chosen, np.int32)


def _arrays(constants: Any) -> list[Tensor]:
    return [np.asarray(constant) for constant in constants]
