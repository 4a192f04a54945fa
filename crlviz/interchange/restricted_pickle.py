"""Read pickles of plain data and arrays without executing anything in them.

A pickle is a program for a small stack machine. This module implements the harmless part of that machine: the opcodes
that plain values need, and a short list of global names that stand for arrays and settings, which it builds itself.
Any other opcode or name is refused. Python's own unpickler, which can import and call anything, is never used.
"""

import math
import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crlviz.errors import CrlvizError

_MAX_OPCODES = 1_000_000  # depth 1,024 takes about 200,000
_MAX_VALUES = 1_000_000  # values in the result; a shared value counts each time it is referenced
_MAX_DIMENSIONS = 8
_NUMBERS = re.compile("[fiu][1248]|b1")

# Allowed global names, and the kind of object each stands for. numpy 2 moved some of its own.
_NAMES = {
    "jax._src.array _reconstruct_array": "jax array",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    # Settings objects are read as the dict of their fields.
    "__main__ Args": "fields",
    "jaxgcrl.utils.config RunConfig": "fields",
    "jaxgcrl.agents.crl.crl CRL": "fields",
}
# Packages whose names a run of another learner holds, and what to say of it.
_OTHERS = {
    "jaxgcrl.agents.": "a run of another learner than contrastive RL, which is not imported",
    "brax.training.": "parameters of brax's SAC, TD3 or PPO, which are not imported",
}


class _Refused(Exception):
    """The reason a pickle is refused; ``read`` turns it into a CrlvizError that names the file."""


@dataclass
class _Name:
    """An allowed global name. It is never imported."""

    name: str
    kind: str


@dataclass
class _DType:
    """A numpy dtype under construction. Its byte order is set by a later opcode."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array under construction. Its contents are set by a later opcode."""

    value: np.ndarray | None = None


class _Fields(dict):
    """The fields of a settings object."""


_MARK = object()


def read(path: Path, most_bytes: int) -> Any:
    """Read a pickle: dicts, lists, tuples, text, numbers and numpy arrays; settings objects become dicts.

    Args:
      path: the file.
      most_bytes: a larger file is refused unread.

    Raises:
      CrlvizError: the file cannot be read, is damaged or too large, or holds anything but plain data; the message
        names the opcode or global name that was refused.
    """
    try:
        size = path.stat().st_size
        # Checked before the file is opened: opening a pipe would block.
        if not path.is_file() or not 0 < size <= most_bytes:
            raise CrlvizError(f"{path} is not a pickle that can be read: not a file of 1 to {most_bytes:,} bytes")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Machine(size).run(data)
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None
    except _Refused as reason:
        raise CrlvizError(f"{path} is not read: {reason}") from None
    # Raised by bad opcode arguments, an empty stack, or operands of the wrong type.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise CrlvizError(f"{path} is damaged: it is not a complete pickle") from None


class _Machine:
    """The pickle machine: a stack, a memo, and the operation of each allowed opcode."""

    def __init__(self, size: int):
        self.size = size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # fields copied into settings objects so far

    def run(self, data: Any) -> Any:
        for _ in range(_MAX_OPCODES):
            opcode = _OPCODES[data.read(1).decode("latin-1")]
            name = opcode.name
            # Refused before its argument is read.
            if name not in _KNOWN:
                raise _Refused(f"it holds {name}, which plain data does not need")
            argument = opcode.arg.reader(data) if opcode.arg else None
            if name == "STOP":
                (result,) = self.stack
                result = self._resolve(result)
                _check_size(result)
                return result
            if name in _ARGUMENTS:
                self.stack.append(argument)
            elif name in _VALUES:
                self.stack.append(_VALUES[name]())
            elif name in _DO:
                _DO[name](self, argument)
            elif name == "FRAME" and argument > self.size - data.tell():
                raise ValueError("truncated")
        raise _Refused(f"it has more than {_MAX_OPCODES:,} instructions")

    def pop(self) -> Any:
        """Pop the top value, which must not be a mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def above_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def take(self, count: int) -> None:
        """Replace the top ``count`` values by a tuple of them."""
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def append(self, values: list[Any]) -> None:
        _expect(list, self.stack[-1]).extend(self._resolve(value) for value in values)

    def set_items(self, values: list[Any]) -> None:
        if not all(isinstance(key, str) for key in values[::2]):
            raise _Refused("a dict has keys that are not text")
        values = [self._resolve(value) for value in values]
        _expect(dict, self.stack[-1]).update(zip(values[::2], values[1::2], strict=True))

    def get(self, index: int) -> None:
        self.stack.append(self._resolve(self.memo[index], strict=False))

    def name(self, module: Any, attribute: Any) -> None:
        name = f"{_expect(str, module)} {_expect(str, attribute)}"
        if name not in _NAMES:
            other = next((words for start, words in _OTHERS.items() if name.startswith(start)), "")
            what = f"so it is {other}" if other else "which is neither an array nor settings"
            raise _Refused(f"it names {name.replace(' ', '.')[:80]!r}, {what}")
        self.stack.append(_Name(name, _NAMES[name]))

    def reduce(self) -> None:
        """The opcode that calls a function. The few allowed functions are reimplemented here."""
        arguments, function = _expect(tuple, self.pop()), _expect(_Name, self.pop())
        if function.kind == "dtype":
            code = _expect(str, arguments[0])
            if not _NUMBERS.fullmatch(code):
                raise _Refused(f"it holds an array of type {code[:20]!r}; only plain numbers are read")
            self.stack.append(_DType(code))
        elif function.kind == "array":
            self.stack.append(_Array())
        elif function.kind == "scalar":
            dtype, data = arguments
            self.stack.append(_array((), _expect(_DType, dtype), False, data).item())
        elif function.kind == "jax array":
            make, _, state, _ = arguments
            if _expect(_Name, make).kind != "array":
                raise _Refused(f"it makes an array with {make.name.replace(' ', '.')}")
            self.stack.append(_contents(state))
        else:
            raise _Refused(f"it calls {function.name.replace(' ', '.')}")

    def new_object(self) -> None:
        arguments, kind = _expect(tuple, self.pop()), _expect(_Name, self.pop())
        if kind.kind != "fields" or arguments:
            raise _Refused(f"it makes a {kind.name.replace(' ', '.')}")
        self.stack.append(_Fields())

    def build(self) -> None:
        """The opcode that sets an object's state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, _Fields):
            self.copied += len(_expect(dict, state))
            _check_count(self.copied)
            target.update(state)
        elif isinstance(target, _DType):
            order = _expect(tuple, state)[1]
            if order not in ("<", ">", "|", "="):
                raise ValueError("byte order")
            target.order = order
        else:
            target = _expect(_Array, target)
            target.value = _contents(state)
            target = target.value
        self.stack.append(target)

    def _resolve(self, value: Any, strict: bool = True) -> Any:
        """Replace an ``_Array`` by its numpy array; with ``strict``, refuse whatever is not finished plain data."""
        if isinstance(value, _Array) and (strict or value.value is not None):
            if value.value is None:
                raise ValueError("an array without contents")
            return value.value
        if strict and (isinstance(value, (_Name, _DType)) or value is _MARK):
            raise _Refused("it holds functions or types, not plain data")
        return value


def _check_size(value: Any) -> None:
    """Refuse a value that contains itself, or that is too large with shared parts counted at every reference.

    A few bytes can describe many tuples that each hold the previous one twice. Shared, they take little memory, but
    any code that walks through them visits exponentially many.
    """
    sizes: dict[int, int] = {}
    ancestors: set[int] = set()  # containers of the current value
    stack = [(value, False)]
    while stack:
        container, visited = stack.pop()
        if not isinstance(container, (dict, list, tuple)):
            continue
        parts = container.values() if isinstance(container, dict) else container
        if visited:
            ancestors.remove(id(container))
            sizes[id(container)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            _check_count(sizes[id(container)])
        elif id(container) in ancestors:
            raise _Refused("a value in it holds itself")
        elif id(container) not in sizes:
            ancestors.add(id(container))
            stack.append((container, True))
            stack.extend((part, False) for part in parts)


def _check_count(count: int) -> None:
    if count > _MAX_VALUES:
        raise _Refused(f"written out it would be more than {_MAX_VALUES:,} values")


def _contents(state: Any) -> np.ndarray:
    """An array from numpy's pickled state: version, shape, dtype, whether in Fortran order, bytes."""
    _, shape, dtype, fortran_order, data = _expect(tuple, state)
    return _array(_expect(tuple, shape), _expect(_DType, dtype), fortran_order is True, data)


def _array(shape: tuple[Any, ...], dtype: _DType, fortran_order: bool, data: Any) -> np.ndarray:
    sizes = [_expect(int, size) for size in shape]
    kind = dtype.numpy()
    # Checked before anything is allocated: sizes in a file may be any number.
    if len(sizes) > _MAX_DIMENSIONS or min(sizes, default=0) < 0:
        raise _Refused("an array has an impossible shape")
    if math.prod(sizes) * kind.itemsize != len(_expect(bytes, data)):
        raise _Refused(f"an array of shape {tuple(sizes)} does not fit its {len(data):,} bytes"[:120])
    return np.frombuffer(data, kind).reshape(sizes, order="F" if fortran_order else "C")


def _expect(kind: type, value: Any) -> Any:
    """Return the value, or raise TypeError if it is not of that type."""
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


# Opcodes that push their argument, and opcodes that push a constant or a new container.
_ARGUMENTS = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
)
_VALUES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
# Opcodes that operate on the stack and the memo.
_DO: dict[str, Callable[[_Machine, Any], Any]] = {
    "TUPLE": lambda m, _: m.stack.append(tuple(m.above_mark())),
    "TUPLE1": lambda m, _: m.take(1),
    "TUPLE2": lambda m, _: m.take(2),
    "TUPLE3": lambda m, _: m.take(3),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.above_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.above_mark()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "BINGET": lambda m, index: m.get(index),
    "LONG_BINGET": lambda m, index: m.get(index),
    "GLOBAL": lambda m, names: m.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*[m.pop(), m.pop()][::-1]),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.new_object(),
    "BUILD": lambda m, _: m.build(),
}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_KNOWN = {"PROTO", "FRAME", "STOP", *_ARGUMENTS, *_VALUES, *_DO}
