"""Count what a program compiled for a GPU launches, from the text of the compiled program.

The text is HLO after all of XLA's passes. Each instruction that computes or moves data is one launch: a fusion of any
size, a product, a copy, or a call of a library or of a Triton kernel. The body of a loop is counted once for each
iteration; it is counted once if XLA does not know the number of iterations.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

# Instructions that launch nothing. The end of an asynchronous instruction is skipped too; its start is counted.
_NO_LAUNCH = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "add-dependency", "opt-barrier"),
    *("partition-id", "replica-id", "domain", "async-done", "async-update"),
}
_TO_HOST = {"infeed", "outfeed", "send", "recv", "send-done", "recv-done"}
_SLICES = {"dynamic-slice", "slice", "gather"}  # read a part of their first operand
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")


@dataclass(frozen=True)
class Counts:
    """What a program launches each time it runs.

    Attributes:
      kernels: launches.
      physics: number of these launches that step the environments' physics (scope ``physics``).
      bytes: read and written by all kernels; slices count as what they read, and updates in place as what they write.
      waits: how often the device waits for the host: loops and branches that the host decides, callbacks, transfers.
    """

    kernels: int = 0
    physics: int = 0
    bytes: int = 0
    waits: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Counts(*(mine + others for mine, others in pairs))

    def __mul__(self, times: int) -> "Counts":
        return Counts(*(times * value for value in dataclasses.astuple(self)))


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def in_physics(self) -> bool:
        return bool(re.search(r'op_name="[^"]*\bphysics\b', self.attributes))

    @property
    def is_library_product(self) -> bool:
        """Whether its result is a product together with a workspace of many megabytes, most of it unused."""
        return "__cublas" in self.attributes

    def named(self, attribute: str) -> list[str]:
        """Computations that an attribute names: ``calls=%a`` or ``branch_computations={%a, %b}``."""
        found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return re.findall(r"[\w.\-]+", found[1]) if found else []


class Program:
    """A compiled program, read from its text (``jax.stages.Compiled.as_text()``)."""

    def __init__(self, text: str):
        self._computations: dict[str, list[_Instruction]] = {}
        self._entry, name = "", ""
        for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
            if head := _COMPUTATION.match(line):
                name = head[1]
                self._computations[name] = []
                if line.startswith("ENTRY"):
                    self._entry = name
            elif name and (instruction := _instruction(line)):
                self._computations[name].append(instruction)
        if not self._entry:
            raise ValueError("this is not the text of a compiled program: it has no ENTRY")

    @property
    def counts(self) -> Counts:
        """What a call of the program launches."""
        return self._count(self._entry, False)

    def turn(self, turns: int) -> Counts | None:
        """Launches per iteration of the largest loop with this iteration count; None if there is no such loop."""
        loops = (each for body in self._computations.values() for each in body if each.opcode == "while")
        bodies = [self._count(each.named("body")[0], False) for each in loops if _turns(each) == turns]
        return max(bodies, key=lambda counts: counts.kernels, default=None)

    @functools.cache  # noqa: B019  # a program lives as long as its counts are asked for
    def _count(self, computation: str, in_physics: bool) -> Counts:
        total = Counts()
        for each in self._computations[computation]:
            physics = in_physics or each.in_physics
            if each.opcode == "while":
                turns = _turns(each)
                total += self._count(each.named("body")[0], physics) * (turns or 1)
                if turns is None:
                    total += self._count(each.named("condition")[0], physics) + Counts(waits=1)
            elif each.opcode == "conditional":
                named = each.named("branch_computations") or each.named("true_computation") + each.named(
                    "false_computation"
                )
                branches = [self._count(name, physics) for name in named]
                total += max(branches, key=lambda counts: counts.kernels) + Counts(waits=1)
            elif each.opcode in ("call", "async-start"):
                for name in each.named("to_apply") or each.named("calls"):
                    total += self._count(name, physics)
            elif each.opcode in _TO_HOST or (each.opcode == "custom-call" and "callback" in each.attributes):
                total += Counts(waits=1)
            elif each.opcode not in _NO_LAUNCH and not each.opcode.endswith("-done"):
                total += Counts(1, int(physics), self._bytes(computation, each))
        return total

    def _bytes(self, computation: str, kernel: _Instruction) -> int:
        """Bytes that a kernel reads and writes."""
        called = kernel.named("calls")
        if kernel.opcode in ("fusion", "fusion-start") and called:
            return self._fusion_bytes(called[0])
        types = self._types(computation)
        result = _arrays(kernel.type)
        if kernel.opcode.endswith("-start"):  # its type repeats the operands
            result = result[: len(result) // 2]
        elif kernel.is_library_product:
            result = result[:1]
        return sum(result) + sum(sum(_arrays(types.get(name, ""))) for name in kernel.operands)

    @functools.cache  # noqa: B019
    def _types(self, computation: str) -> dict[str, str]:
        return {each.name: each.type for each in self._computations[computation]}

    def _fusion_bytes(self, computation: str) -> int:
        inside = {each.name: each for each in self._computations[computation]}
        users: dict[str, list[_Instruction]] = {name: [] for name in inside}
        for each in inside.values():
            for name in dict.fromkeys(each.operands):
                if name in users:
                    users[name].append(each)

        def uses(name: str) -> Iterator[tuple[_Instruction, bool]]:
            """Instructions that use a value, also through bitcasts; and whether it is their first operand."""
            for user in users[name]:
                if user.opcode == "bitcast":
                    yield from uses(user.name)
                else:
                    yield user, user.operands.index(name) == 0

        def read(parameter: _Instruction) -> int:
            size, parts = sum(_arrays(parameter.type)), 0
            for user, is_first in uses(parameter.name):
                if is_first and user.opcode in _SLICES:
                    parts += sum(_arrays(user.type))
                elif not (is_first and user.opcode == "dynamic-update-slice"):
                    return size
            return min(size, parts)

        def written(name: str) -> int:
            each = inside[name]
            if each.opcode == "tuple":
                return sum(written(operand) for operand in each.operands)
            made_by = inside.get(each.operands[0]) if each.operands else None
            if each.opcode == "bitcast" and made_by:
                return written(made_by.name)
            if each.is_library_product:
                return _arrays(each.type)[0]
            if made_by and made_by.is_library_product and "index=0" not in each.attributes:
                return 0
            changed = inside.get(each.operands[1]) if each.opcode == "dynamic-update-slice" else each
            return sum(_arrays((changed or each).type))

        reads = sum(read(each) for each in inside.values() if each.opcode == "parameter")
        return reads + sum(written(each.name) for each in inside.values() if each.is_root)


def _turns(loop: _Instruction) -> int | None:
    """The number of iterations of a loop; None: only the device knows it."""
    known = re.search(r'known_trip_count"?[:=]\{"?n"?:"?(\d+)', loop.attributes)
    return int(known[1]) if known else None


def _instruction(line: str) -> _Instruction | None:
    assigned = _ASSIGNED.match(line)
    if not assigned:
        return None
    begin = assigned.end()
    end = _closing(line, begin) if line[begin] == "(" else line.index(" ", begin)
    opening = line.index("(", end)
    closing = _closing(line, opening)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[opening:closing]))
    opcode = line[end:opening].strip()
    return _Instruction(assigned[2], line[begin:end], opcode, operands, line[closing:], bool(assigned[1]))


def _closing(text: str, opening: int) -> int:
    """The index after the parenthesis that closes the one at ``opening``."""
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index + 1
    return len(text)


def _arrays(type: str) -> list[int]:
    """Bytes of each array of a type: ``f32[2,3]{1,0}``, or a tuple of such."""
    return [
        math.ceil(math.prod(map(int, filter(None, shape.split(",")))) * (int(bits) if bits else 8) / 8)
        for _, bits, shape in _ARRAY.findall(type)
    ]
