"""Emit jax programs as JavaScript, so that environments and networks run in a browser without a port by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

from crlviz import jax_config
from crlviz.browser import control, elementwise, indexing, linear, reductions, structural  # noqa: F401  (they have the rules)
from crlviz.browser.blocks import Needs, drop_unneeded
from crlviz.browser.codegen import Codegen
from crlviz.browser.memory import Memory, Value
from crlviz.browser.running import run
from crlviz.browser.tracing import Trace, UnknownOperation, stored
from crlviz.errors import CrlvizError

_HALVED = 1024  # constants of at least this many numbers are stored as float16 if ``half`` is set

Leaf = tuple[str, tuple[int, ...], str]


@dataclass(frozen=True)
class Program:
    """A function in JavaScript.

    Attributes:
      name: of the function.
      source: an expression: a function of the constants (an ArrayBuffer) that returns ``{run, inputs, outputs}``.
        ``run`` maps typed arrays, one for each input, to one for each output; Float32Array for float32, Int32Array for
        whole numbers and bool. The arrays that it returns are its own: it overwrites them when it runs again.
      constants: their bytes, little-endian.
      inputs: path, shape and dtype of each leaf of the examples, in jax's order.
      outputs: the same of the result.
    """

    name: str
    source: str
    constants: bytes
    inputs: list[Leaf]
    outputs: list[Leaf]


def emit(name: str, function: Callable[..., Any], *examples: Any, half: bool = False) -> Program:
    """The program of a function in JavaScript.

    Args:
      name: of the function, for messages.
      function: a function that jax can trace.
      examples: its arguments: arrays, shapes and dtypes, or trees of either.
      half: store large constants as float16, half as many bytes; the caller answers for the loss of precision.

    Raises:
      CrlvizError: it has an operation that has no rule here.
    """
    return emit_together(name, {name: (function, *examples)}, half=half)[name]


@jax_config.with_fixed_settings
def emit_together(name: str, functions: Mapping[str, tuple[Any, ...]], *, half: bool = False) -> dict[str, Program]:
    """Programs of several functions, each given with its examples, that have the same ``constants``.

    ``name`` is what they belong to, for messages; else as ``emit``.
    """
    memory, parts = Memory(), {}
    for key, (function, *examples) in functions.items():
        jaxpr, out = jax.make_jaxpr(function, return_shape=True)(*examples)
        used = [True] * len(jaxpr.out_avals)
        needed, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, used, instantiate=True)
        trace = Trace(memory)
        inputs = [memory.allocate(aval.shape, aval.dtype) for aval in map(stored, jaxpr.in_avals)]
        try:
            results = run(trace, needed, [np.asarray(constant) for constant in jaxpr.consts], inputs)
        except UnknownOperation as error:
            raise CrlvizError(f"{name} uses the operation {error}, which cannot run in a page") from None
        outputs = [trace.copy(result) for result in results]  # apart from the inputs, which the next run overwrites
        trace.region.results = outputs
        parts[key] = trace.region, inputs, outputs, _leaves(examples), _leaves(out)
    texts = {}
    for key, (region, *_) in parts.items():
        drop_unneeded(region, Needs(memory.sizes))
        codegen = Codegen(memory)
        main = codegen.region(region)
        texts[key] = codegen.functions, main
    # Tables are constants too, so only now is their number known.
    constants, load = _constants(memory, half)
    return {
        key: Program(key, _source(memory, load, *texts[key], inputs, outputs), constants, takes, gives)
        for key, (_, inputs, outputs, takes, gives) in parts.items()
    }


def _leaves(tree: Any) -> list[Leaf]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    kept = [(jax.tree_util.keystr(path), stored(leaf)) for path, leaf in leaves]
    return [(path, leaf.shape, leaf.dtype.name) for path, leaf in kept]


def _constants(memory: Memory, half: bool) -> tuple[bytes, list[str]]:
    """Bytes of the constants, int32, then float32, then float16; and the JavaScript that puts them in their places."""
    parts: dict[str, list[np.ndarray]] = {"I": memory.constants["I"], "F": [], "H": []}
    loads, place = [], memory.sizes["F"]
    for array in memory.constants["F"]:
        kind = "H" if half and array.size >= _HALVED else "F"
        parts[kind].append(array.astype(np.float16) if kind == "H" else array)
        loads.append((kind, place, array.size))
        place += array.size
    whole, single, halves = (np.concatenate(parts[kind]) if parts[kind] else np.zeros(0, np.int32) for kind in "IFH")
    stored = ((whole, "<i4"), (single, "<f4"), (halves, "<f2"))
    load = [
        f"const [F,I,row]=heaps({place},{memory.sizes['I'] + whole.size});",
        f"I.set(new Int32Array(constants,0,{whole.size}),{memory.sizes['I']});",
        f"{{const S=new Float32Array(constants,{4 * whole.size},{single.size}),"
        f"H=new Uint16Array(constants,{4 * (whole.size + single.size)},{halves.size});let s=0,h=0;",
        f"for(const [kind,place,size] of {_loads(loads)})"
        "if(kind){for(let i=0;i<size;i++)F[place+i]=half(H[h++])}else{F.set(S.subarray(s,s+size),place);s+=size}}",
    ]
    return b"".join(array.astype(dtype).tobytes() for array, dtype in stored), load


def _source(
    memory: Memory, load: list[str], functions: list[str], main: str, inputs: list[Value], outputs: list[Value]
) -> str:
    """A program's text."""
    lines = [
        "(constants)=>{",
        resources.files("crlviz.browser").joinpath("runtime.js").read_text(encoding="utf-8"),
        *load,
        *functions,
        f"const inputs={_views(memory, inputs)},outputs={_views(memory, outputs)};",
        f"const run=given=>{{for(let i=0;i<inputs.length;i++)inputs[i].set(given[i]);\n{main}\nreturn outputs}};",
        "return {run,inputs,outputs}}",
    ]
    return "\n".join(lines)


def _loads(loads: list[tuple[str, int, int]]) -> str:
    """Constants as kind (1: float16), place and size; neighbors of the same kind are one."""
    merged: list[list[int]] = []
    for kind, place, size in loads:
        number = int(kind == "H")
        if merged and merged[-1][0] == number:
            merged[-1][2] += size
        else:
            merged.append([number, place, size])
    return str(merged).replace(" ", "")


def _views(memory: Memory, values: list[Value]) -> str:
    parts = []
    for value in values:
        first = int(memory.final(value.heap, value.index.ravel()[:1])[0]) if value.index.size else 0
        parts.append(f"{value.heap}.subarray({first},{first + value.index.size})")
    return f"[{','.join(parts)}]"
