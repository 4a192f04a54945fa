"""What do a pickle's bytes say? Read as data: nothing in them is called or imported, whatever they ask for.

A pickle is a program for a small stack machine. This is such a machine without the dangerous half: it knows the opcodes
that plain values need and a short list of names that stand for arrays and settings, which it fills in itself. Any
other opcode or name ends the reading, so python's own unpickler is never needed.
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

_MOST_OPCODES = 1_000_000  # depth 1,024 takes about 200,000
_MOST_VALUES = 1_000_000  # that a pickle stands for, where what it shares is counted as often as it stands
_MOST_DIMENSIONS = 8
_NUMBERS = re.compile("[fiu][1248]|b1")

# What may be named, and what it stands for; numpy 2 moved its own.
_NAMES = {
    "jax._src.array _reconstruct_array": "jax array",
    "numpy.core.multiarray _reconstruct": "array",
    "numpy._core.multiarray _reconstruct": "array",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    # Settings: an object of fields becomes the dict of them.
    "__main__ Args": "fields",
    "jaxgcrl.utils.config RunConfig": "fields",
    "jaxgcrl.agents.crl.crl CRL": "fields",
}


class _Refused(Exception):
    """Why a pickle is not read; becomes a CrlvizError that names the file."""


@dataclass
class _Name:
    """A name of the list above, standing for nothing but itself."""

    name: str
    kind: str


@dataclass
class _DType:
    """A numpy type under construction: its code, and its byte order, which comes later."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


@dataclass
class _Array:
    """An array under construction: its contents come later."""

    value: np.ndarray | None = None


class _Fields(dict):
    """The fields of an object of settings."""


_MARK = object()


def read(path: Path, most_bytes: int) -> Any:
    """The contents of a pickle: dicts, lists, tuples, text, numbers, numpy arrays; settings as dicts of their fields.

    Args:
      path: the file.
      most_bytes: what is larger is not looked at.

    Raises:
      CrlvizError: it cannot be read, is damaged or too large, or holds anything but plain data; the message names
        what it asks for.
    """
    try:
        size = path.stat().st_size
        # Asked before it is opened: a pipe would wait for somebody to write.
        if not path.is_file() or not 0 < size <= most_bytes:
            raise CrlvizError(f"{path} is no pickle: not a file of 1 to {most_bytes:,} bytes")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Machine(size).run(data)
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None
    except _Refused as reason:
        raise CrlvizError(f"{path} is not read: {reason}") from None
    # Of the opcodes' arguments; of a machine told to take from an empty stack, or to put what does not go there.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise CrlvizError(f"{path} is damaged: it is not a whole pickle") from None


class _Machine:
    """A stack, a memo, and what each opcode does to them."""

    def __init__(self, size: int):
        self.size = size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # fields, from the dicts they are given in

    def run(self, data: Any) -> Any:
        for _ in range(_MOST_OPCODES):
            opcode = _OPCODES[data.read(1).decode("latin-1")]
            name = opcode.name
            # Refused before its argument is looked at.
            if name not in _KNOWN:
                raise _Refused(f"it holds {name}, which plain data does not need")
            argument = opcode.arg.reader(data) if opcode.arg else None
            if name == "STOP":
                (result,) = self.stack
                result = self._whole(result)
                _measure(result)
                return result
            if name in _ARGUMENTS:
                self.stack.append(argument)
            elif name in _VALUES:
                self.stack.append(_VALUES[name]())
            elif name in _DO:
                _DO[name](self, argument)
            elif name == "FRAME" and argument > self.size - data.tell():
                raise ValueError("cut short")
        raise _Refused(f"it has more than {_MOST_OPCODES:,} instructions")

    def pop(self) -> Any:
        """The value on top; not a mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value should be")
        return value

    def above_mark(self) -> list[Any]:
        """The values down to the last mark, which goes too."""
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def take(self, count: int) -> None:
        """The top values as a tuple in their place."""
        self.stack.append(tuple(self.pop() for _ in range(count))[::-1])

    def append(self, values: list[Any]) -> None:
        _a(list, self.stack[-1]).extend(self._whole(value) for value in values)

    def set_items(self, values: list[Any]) -> None:
        if not all(isinstance(key, str) for key in values[::2]):
            raise _Refused("a dict has keys that are not text")
        values = [self._whole(value) for value in values]
        _a(dict, self.stack[-1]).update(zip(values[::2], values[1::2], strict=True))

    def get(self, index: int) -> None:
        self.stack.append(self._whole(self.memo[index], strict=False))

    def name(self, module: Any, attribute: Any) -> None:
        name = f"{_a(str, module)} {_a(str, attribute)}"
        if name not in _NAMES:
            raise _Refused(f"it names {name.replace(' ', '.')[:80]!r}, which is neither an array nor settings")
        self.stack.append(_Name(name, _NAMES[name]))

    def reduce(self) -> None:
        """What would call a function with arguments: the few functions known are done here, in our own way."""
        arguments, function = _a(tuple, self.pop()), _a(_Name, self.pop())
        if function.kind == "dtype":
            code = _a(str, arguments[0])
            if not _NUMBERS.fullmatch(code):
                raise _Refused(f"it holds an array of type {code[:20]!r}; only plain numbers are read")
            self.stack.append(_DType(code))
        elif function.kind == "array":
            self.stack.append(_Array())
        elif function.kind == "scalar":
            dtype, data = arguments
            self.stack.append(_array((), _a(_DType, dtype), False, data).item())
        elif function.kind == "jax array":
            make, _, state, _ = arguments
            if _a(_Name, make).kind != "array":
                raise _Refused(f"it makes an array with {make.name.replace(' ', '.')}")
            self.stack.append(_contents(state))
        else:
            raise _Refused(f"it calls {function.name.replace(' ', '.')}")

    def new_object(self) -> None:
        arguments, kind = _a(tuple, self.pop()), _a(_Name, self.pop())
        if kind.kind != "fields" or arguments:
            raise _Refused(f"it makes a {kind.name.replace(' ', '.')}")
        self.stack.append(_Fields())

    def build(self) -> None:
        """What would set an object's state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, _Fields):
            self.copied += len(_a(dict, state))
            _bound(self.copied)
            target.update(state)
        elif isinstance(target, _DType):
            order = _a(tuple, state)[1]
            if order not in ("<", ">", "|", "="):
                raise ValueError("byte order")
            target.order = order
        else:
            target = _a(_Array, target)
            target.value = _contents(state)
            target = target.value
        self.stack.append(target)

    def _whole(self, value: Any, strict: bool = True) -> Any:
        """A finished array for the one that was under construction when it was remembered."""
        if isinstance(value, _Array) and (strict or value.value is not None):
            if value.value is None:
                raise ValueError("an array without contents")
            return value.value
        if strict and (isinstance(value, (_Name, _DType)) or value is _MARK):
            raise _Refused("it holds functions or types, not plain data")
        return value


def _measure(value: Any) -> None:
    """Refuse a value that would be endless or too much if it were written out.

    A few bytes may say that each of many tuples holds the one before it twice. As long as they are shared they take no
    room, but whoever goes through them goes through all.
    """
    sizes: dict[int, int] = {}
    within: set[int] = set()  # what holds the value at hand
    ahead = [(value, False)]
    while ahead:
        here, counted = ahead.pop()
        if not isinstance(here, (dict, list, tuple)):
            continue
        parts = here.values() if isinstance(here, dict) else here
        if counted:
            within.remove(id(here))
            sizes[id(here)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            _bound(sizes[id(here)])
        elif id(here) in within:
            raise _Refused("a value in it holds itself")
        elif id(here) not in sizes:
            within.add(id(here))
            ahead.append((here, True))
            ahead.extend((part, False) for part in parts)


def _bound(count: int) -> None:
    if count > _MOST_VALUES:
        raise _Refused(f"written out it would be more than {_MOST_VALUES:,} values")


def _contents(state: Any) -> np.ndarray:
    """An array of numpy's pickled state: version, shape, type, whether columns come first, bytes."""
    _, shape, dtype, columns_first, data = _a(tuple, state)
    return _array(_a(tuple, shape), _a(_DType, dtype), columns_first is True, data)


def _array(shape: tuple[Any, ...], dtype: _DType, columns_first: bool, data: Any) -> np.ndarray:
    sizes = [_a(int, size) for size in shape]
    kind = dtype.numpy()
    # Counted before anything is made: sizes in a file may be any number.
    if len(sizes) > _MOST_DIMENSIONS or min(sizes, default=0) < 0:
        raise _Refused("an array has an impossible shape")
    if math.prod(sizes) * kind.itemsize != len(_a(bytes, data)):
        raise _Refused(f"an array of shape {tuple(sizes)} does not fit its {len(data):,} bytes"[:120])
    return np.frombuffer(data, kind).reshape(sizes, order="F" if columns_first else "C")


def _a(kind: type, value: Any) -> Any:
    """The value, if it is of that kind."""
    if not isinstance(value, kind):
        raise TypeError(kind.__name__)
    return value


# Opcodes that push their argument, and those that push a new value.
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
# Opcodes that work on the stack and the memo.
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
