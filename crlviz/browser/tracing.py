"""What the rules of operations need: memory, and the region that is being filled."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from crlviz.browser.blocks import Control, Opaque, Region, Statement
from crlviz.browser.memory import Memory, Tensor, Value, strides_of

Rule = Callable[["Trace", list[Tensor], dict[str, Any], Any, str], Any]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Decorate the rule of operations: (trace, operands, params, shape and dtype of the result or of all, name)."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class UnknownOperation(Exception):
    """An operation without a rule; the message is its name, and what of it has no rule."""


@dataclass
class Trace:
    """A program in the making."""

    memory: Memory = field(default_factory=Memory)
    region: Region = field(default_factory=Region)
    _computed: list[dict[Any, Value]] = field(default_factory=lambda: [{}])  # of the region, and of those around it

    def value(self, tensor: Tensor) -> Value:
        """A tensor in memory that is not scattered; constants are put there, and scattered elements collected."""
        if not isinstance(tensor, Value):
            return self.memory.constant(np.asarray(tensor))
        return self.copy(tensor) if tensor.scattered else tensor

    def move(self, function: Callable[[np.ndarray], np.ndarray], tensor: Tensor) -> Tensor:
        """A tensor with its elements moved, left out or repeated, as ``function`` does with an array."""
        if not isinstance(tensor, Value):
            return function(tensor)
        moved = tensor.moved(function(tensor.index))
        if tensor.base is None or not tensor.scattered:
            return moved
        return replace(moved, base=tensor.base.moved(function(tensor.base.index)))

    def compute(self, template: str, operands: Sequence[Tensor], out: Any, *, rounds: bool = False) -> Value:
        """An elementwise operation; ``template`` is its JavaScript, with ``{0}`` for an element of the first operand.

        Constants whose numbers are all equal are written into the text. Operands of one element serve all elements.
        """
        texts: list[str] = []
        values: list[Value] = []
        for operand in operands:
            if isinstance(operand, np.ndarray) and operand.size and (operand == operand.flat[0]).all():
                texts.append(literal(operand.flat[0]))
                continue
            texts.append(f"{{{len(values)}}}")
            if operand.shape != out.shape:
                operand = self.move(lambda index: np.broadcast_to(index, out.shape), operand)
            values.append(operand if isinstance(operand, Value) else self.value(operand))
        text = template.format(*texts)
        key = text, np.dtype(out.dtype), out.shape, tuple(map(_identity, values))
        known = next((region[key] for region in reversed(self._computed) if key in region), None)
        if known is None:
            known = self._computed[-1][key] = self._add(text, values, out, rounds)
        return known

    def _add(self, text: str, values: list[Value], out: Any, rounds: bool) -> Value:
        result = self.memory.allocate(out.shape, out.dtype)
        self.region.compute(Statement(text, values, result, rounds))
        return result

    def copy(self, tensor: Tensor) -> Value:
        """A tensor at addresses of its own, in order."""
        value = tensor if isinstance(tensor, Value) else self.value(tensor)
        return self._add("{0}", [value], jax.ShapeDtypeStruct(value.shape, value.dtype), False)

    def strided(self, tensor: Tensor) -> tuple[Value, tuple[int, ...]]:
        """A tensor with strided addresses, copied if necessary, and the strides [dims]."""
        value = self.value(tensor)
        strides = strides_of(value.index)
        if strides is None:
            value = self.copy(value)
            strides = strides_of(value.index)
        assert strides is not None
        return value, strides

    def opaque(self, reads: Sequence[Value], outs: Sequence[Any], code: Callable[..., str]) -> list[Value]:
        """Code of its own, ``code(codegen, results)``; returns its results, of these shapes and dtypes."""
        results = [self.memory.allocate(out.shape, out.dtype) for out in outs]
        self.region.add(Opaque(reads, results, lambda codegen: code(codegen, results)))
        return results

    @contextlib.contextmanager
    def inside(self) -> Iterator[Region]:
        """Fill a new region."""
        outer, self.region = self.region, Region()
        self._computed.append({})
        try:
            yield self.region
        finally:
            self.region = outer
            self._computed.pop()

    def control(self, control: Control) -> None:
        self.region.add(control)


def _identity(value: Value) -> Any:
    """Equal for Values that read the same addresses."""
    base = None if value.base is None else _identity(value.base)
    return value.heap, value.index.shape, value.index.tobytes(), base


def as_array(value: Any) -> np.ndarray:
    """A constant of a jaxpr; keys of random numbers become whole numbers."""
    if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.asarray(value)
    if array.dtype == np.int64:
        return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def stored(aval: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a jaxpr's value in memory; a key of random numbers is two whole numbers.

    Raises:
      UnknownOperation: the heaps do not hold its dtype.
    """
    if jax.dtypes.issubdtype(aval.dtype, jax.dtypes.prng_key):
        return jax.ShapeDtypeStruct((*aval.shape, 2), np.dtype(np.uint32))
    dtype = np.dtype(aval.dtype)
    if dtype.kind not in "biu" and dtype != np.float32:
        raise UnknownOperation(f"on {dtype}")
    return jax.ShapeDtypeStruct(aval.shape, dtype)


def literal(number: Any) -> str:
    """A number of a constant in JavaScript."""
    if isinstance(number, np.bool_ | bool):
        return str(int(number))
    if isinstance(number, np.integer):
        return str(number) if number >= 0 else f"({number})"
    value = float(number)
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "Infinity" if value > 0 else "(-Infinity)"
    text = repr(value)
    return f"({text})" if text.startswith("-") else text
