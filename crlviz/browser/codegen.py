"""JavaScript of a program's loops."""

from collections.abc import Iterator

import numpy as np

from crlviz.browser.blocks import Block, Control, Region, Statement
from crlviz.browser.memory import Memory, Value

_UNROLLED = 3  # loops of at most this many elements are unrolled
_FUNCTION = 12_000  # characters of a function; browsers do not optimize functions much longer than this


class Codegen:
    """Makes the text of a program, function by function."""

    def __init__(self, memory: Memory):
        self._memory = memory
        self.functions: list[str] = []

    def region(self, region: Region) -> str:
        """Statements that run a region: calls of functions, and loops over such calls."""
        parts: list[str] = []
        pending: list[str] = []

        def close() -> None:
            if pending:
                parts.append(self._function("\n".join(pending)))
                pending.clear()

        for item in region.items:
            if isinstance(item, Control):
                close()
                parts.append(item.code(self, {name: self.region(inner) for name, inner in item.regions.items()}))
                continue
            text = self._block(item) if isinstance(item, Block) else item.code(self) if item.live else ""
            if sum(map(len, pending)) + len(text) > _FUNCTION:
                close()
            if text:
                pending.append(text)
        close()
        return "\n".join(parts)

    def _function(self, body: str) -> str:
        name = f"f{len(self.functions)}"
        self.functions.append(f"function {name}(F,I){{\n{body}\n}}")
        return f"{name}(F,I);"

    def address(self, value: Value) -> str:
        """The address of a Value's first element."""
        return self.offset(value, 0)

    def scalar(self, value: Value) -> str:
        """The first element of a Value."""
        return f"{value.heap}[{self.address(value)}]"

    def offset(self, value: Value, i: str | int) -> str:
        """The address of element i of a flat Value, a number or a variable in JavaScript."""
        index = value.index.ravel()
        if isinstance(i, int):
            where = str(self._memory.final(value.heap, index[i : i + 1])[0]) if index.size else "0"
        else:
            where = self._pattern(self._memory.final(value.heap, index), i)
        if value.base is None:
            return where
        return f"{where}+I[{self.offset(value.base, i if value.scattered else 0)}]"

    def _pattern(self, index: np.ndarray, i: str) -> str:
        steps = np.diff(index)
        if not steps.size or (steps == steps[0]).all():
            step = int(steps[0]) if steps.size else 0
            return f"{index[0]}" + ("" if step == 0 else f"+{i}" if step == 1 else f"+{step}*{i}")
        return f"{index.min()}+I[{self._memory.table(index - index.min())}+{i}]"

    def _block(self, block: Block) -> str:
        alive = [statement for statement in block.statements if statement.live]
        if not alive or not block.size:
            return ""
        if block.size <= _UNROLLED:
            lines = [line for element in range(block.size) for line in self._body(block, alive, element)]
            return "{" + "".join(lines) + "}"
        return f"for(let i=0;i<{block.size};i++){{" + "".join(self._body(block, alive, None)) + "}"

    def _body(self, block: Block, statements: list[Statement], element: int | None) -> Iterator[str]:
        """The statements of a loop for an element, or for element i."""
        names: dict[int, str] = {}
        loads: dict[str, str] = {}
        suffix = "" if element is None else f"_{element}"

        i = "i" if element is None else element
        for number, statement in enumerate(statements):
            operands = []
            for operand in statement.operands:
                source = block.local(operand)
                if source is not None and id(source) in names:
                    operands.append(names[id(source)])
                    continue
                load = f"{operand.heap}[{self.offset(operand, i)}]"
                if load not in loads:
                    loads[load] = f"l{len(loads)}{suffix}"
                    yield f"const {loads[load]}={load};"
                unsigned = operand.dtype == np.uint32
                operands.append(f"({loads[load]}>>>0)" if unsigned else loads[load])
            text = statement.template.format(*operands)
            result = statement.result
            target = f"{result.heap}[{self.offset(result, i)}]" if statement.stored else ""
            names[id(statement)] = name = f"v{number}{suffix}"
            if statement.rounds:
                text = f"f({text})"
            elif result.dtype == np.uint32:
                text = f"({text})>>>0"
            yield f"const {name}={text};" + (f"{target}={name};" if target else "")
