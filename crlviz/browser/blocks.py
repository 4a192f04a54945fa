"""A program as a list of loops: elementwise operations on tensors of equal size share a loop if the order allows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crlviz.browser.memory import CONSTANTS, Value

_MOST_STATEMENTS = 150  # in a loop, so that the browser's compiler finds registers for its values


@dataclass(eq=False)
class Statement:
    """An elementwise operation.

    Attributes:
      template: JavaScript of the result, with ``{0}``, ``{1}`` for the operands' elements.
      operands: Values of as many elements as the result.
      result: where the result goes.
      rounds: whether the result must be rounded to float32.
      live: whether anything needs the result; stored: whether anything outside of its loop does.
    """

    template: str
    operands: Sequence[Value]
    result: Value
    rounds: bool
    live: bool = True
    stored: bool = True

    @property
    def reads(self) -> Sequence[Value]:
        return self.operands


@dataclass(eq=False)
class Block:
    """A loop over ``size`` elements."""

    size: int
    statements: list[Statement] = field(default_factory=list)
    starts: dict[tuple[str, int], Statement] = field(default_factory=dict)

    def local(self, value: Value) -> Statement | None:
        """The statement of this loop that computes a Value, element by element."""
        if value.base is not None or not value.index.size:
            return None
        statement = self.starts.get((value.heap, int(value.index.flat[0])))
        return statement if statement and np.array_equal(statement.result.index.ravel(), value.index.ravel()) else None


@dataclass(eq=False)
class Opaque:
    """An operation with separate code: products of matrices, sums, sorting.

    Attributes:
      reads: what it reads.
      writes: what it computes.
      code: returns its JavaScript, given what returns the JavaScript of a Value's first address.
    """

    reads: Sequence[Value]
    writes: Sequence[Value]
    code: Callable[[Any], str]
    live: bool = True


@dataclass(eq=False)
class Control:
    """Regions that run in a loop or under a condition.

    Attributes:
      regions: their code, by name; run in this order.
      reads: what is read apart from the regions.
      writes: what it computes; all of it is kept.
      code: returns its JavaScript, given the JavaScript of addresses, as for ``Opaque``, and of the regions, by name.
    """

    regions: dict[str, "Region"]
    reads: Sequence[Value]
    writes: Sequence[Value]
    code: Callable[[Any, dict[str, str]], str]


@dataclass(eq=False)
class Region:
    """Items in the order in which they run; a Block takes further statements until the end.

    Attributes:
      results: Values that are read after it ran.
    """

    items: list[Block | Opaque | Control] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    _made: dict[str, np.ndarray] = field(default_factory=lambda: {"F": np.full(0, -1), "I": np.full(0, -1)})
    _by_size: dict[int, list[int]] = field(default_factory=dict)

    def add(self, item: Opaque | Control) -> None:
        """Append code that shares no loop."""
        for value in item.writes:
            self._record(value, len(self.items))
        self.items.append(item)

    def compute(self, statement: Statement) -> None:
        """Add an elementwise operation to a loop of its size, or to a new one."""
        size = statement.result.index.size
        latest, beside = -1, True
        for operand in statement.operands:
            made = self._latest(operand)
            item = self.items[made] if made >= 0 else None
            is_local = isinstance(item, Block) and item.size == size and item.local(operand) is not None
            if made > latest:
                latest, beside = made, is_local
            elif made == latest:
                beside &= is_local
        number = self._place(size, latest, beside)
        block = self.items[number]
        assert isinstance(block, Block)
        block.statements.append(statement)
        if size:
            block.starts[statement.result.heap, int(statement.result.index.flat[0])] = statement
        self._record(statement.result, number)

    def _place(self, size: int, latest: int, beside: bool) -> int:
        """Index of a Block of this size after item ``latest``, or of that item itself if ``beside``."""
        numbers = self._by_size.setdefault(size, [])
        for number in numbers if beside and latest >= 0 else reversed(numbers):
            block = self.items[number]
            assert isinstance(block, Block)
            if (number > latest or (beside and number == latest)) and len(block.statements) < _MOST_STATEMENTS:
                return number
        numbers.append(len(self.items))
        self.items.append(Block(size))
        return numbers[-1]

    def _record(self, value: Value, number: int) -> None:
        made, last = self._made[value.heap], int(value.index.max(initial=-1))
        if last >= len(made):
            more = np.full(last + 1 + len(made), -1)
            more[: len(made)] = made
            self._made[value.heap] = made = more
        made[value.index.ravel()] = number

    def _latest(self, value: Value) -> int:
        """Index of the last item that computes a part of a Value; -1: no item of this region does."""
        made, touched = self._made[value.heap], value.touched
        known = touched[touched < len(made)]  # constants and what enclosing regions computed are not
        latest = int(made[known].max(initial=-1))
        return latest if value.base is None else max(latest, self._latest(value.base))


class Needs:
    """Which addresses are read later, while a program is walked through from its end."""

    def __init__(self, sizes: dict[str, int]):
        self._needed = {heap: np.zeros(size, bool) for heap, size in sizes.items()}

    def add(self, value: Value) -> None:
        touched = value.touched
        self._needed[value.heap][touched[touched < CONSTANTS]] = True
        if value.base is not None:
            self.add(value.base)

    def have(self, value: Value) -> bool:
        return bool(self._needed[value.heap][value.index.ravel()].any())


def drop_unneeded(region: Region, needs: Needs) -> None:
    """Mark what nothing needs, so that it is not emitted; ``needs`` holds what is read after the region ran."""
    for value in region.results:
        needs.add(value)
    for item in reversed(region.items):
        if isinstance(item, Block):
            _drop_in(item, needs)
        elif isinstance(item, Opaque):
            item.live = any(needs.have(value) for value in item.writes)
            for value in item.reads if item.live else ():
                needs.add(value)
        else:
            for value in item.reads:
                needs.add(value)
            for inner in reversed(item.regions.values()):
                drop_unneeded(inner, needs)


def _drop_in(block: Block, needs: Needs) -> None:
    used: set[int] = set()
    for statement in reversed(block.statements):
        statement.stored = needs.have(statement.result)
        statement.live = statement.stored or id(statement) in used
        for operand in statement.operands if statement.live else ():
            if source := block.local(operand):
                used.add(id(source))
            else:
                needs.add(operand)
