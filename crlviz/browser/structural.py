"""Operations that only move elements: changes of addresses, without any JavaScript."""

from typing import Any

import numpy as np

from crlviz.browser.memory import Tensor, Value
from crlviz.browser.tracing import Trace, rule


@rule("slice")
def _slice(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    steps = params["strides"] or (1,) * len(params["start_indices"])
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    place = tuple(slice(*bound) for bound in bounds)
    return trace.move(lambda index: index[place], operands[0])


@rule("squeeze", "reshape", "expand_dims")
def _reshape(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    if params.get("dimensions") is not None and name == "reshape":
        raise NotImplementedError("with dimensions")
    return trace.move(lambda index: index.reshape(out.shape), operands[0])


@rule("broadcast_in_dim")
def _broadcast(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    kept = params["broadcast_dimensions"]
    sizes = [operands[0].shape[kept.index(d)] if d in kept else 1 for d in range(len(out.shape))]
    return trace.move(lambda index: np.broadcast_to(index.reshape(sizes), out.shape), operands[0])


@rule("transpose")
def _transpose(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return trace.move(lambda index: index.transpose(params["permutation"]), operands[0])


@rule("rev")
def _reverse(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return trace.move(lambda index: np.flip(index, params["dimensions"]), operands[0])


@rule("tile")
def _tile(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return trace.move(lambda index: np.tile(index, params["reps"]), operands[0])


@rule("split")
def _split(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> list[Tensor]:
    places = np.cumsum(params["sizes"])[:-1]

    def part(number: int) -> Tensor:
        return trace.move(lambda index: np.split(index, places, params["axis"])[number], operands[0])

    return [part(number) for number in range(len(params["sizes"]))]


@rule("concatenate")
def _concatenate(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return join(trace, operands, lambda indices: np.concatenate(indices, params["dimension"]))


@rule("stack")
def _stack(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return join(trace, operands, lambda indices: np.stack(indices, params.get("axis", params.get("dimension", 0))))


@rule("pad")
def _pad(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    def padded(indices: list[np.ndarray]) -> np.ndarray:
        index, filling = indices
        result = np.full(out.shape, filling)
        source, target = [], []
        for size, length, (low, _, inner) in zip(index.shape, out.shape, params["padding_config"], strict=True):
            places = low + np.arange(size) * (inner + 1)
            inside = (places >= 0) & (places < length)
            source.append(np.flatnonzero(inside))
            target.append(places[inside])
        result[np.ix_(*target)] = index[np.ix_(*source)]
        return result

    return join(trace, operands, padded)


@rule("copy", "copy_p", "device_put", "optimization_barrier", "stop_gradient", "reduce_precision")
def _same(trace: Trace, operands: list[Tensor], params: dict[str, Any], outs: Any, name: str) -> Any:
    return operands if isinstance(outs, list) else operands[0]


@rule("random_wrap", "random_unwrap")
def _key(trace: Trace, operands: list[Tensor], params: dict[str, Any], out: Any, name: str) -> Tensor:
    return operands[0]


def join(trace: Trace, operands: list[Tensor], function: Any) -> Value:
    """Combine several tensors into one without a base; ``function`` combines the arrays of their addresses."""
    values = [trace.value(operand) for operand in operands]
    values = [value if value.base is None else trace.copy(value) for value in values]
    return Value(values[0].dtype, function([value.index for value in values]))
