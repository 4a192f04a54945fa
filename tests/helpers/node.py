"""Runs emitted programs in node, a JavaScript engine outside of a browser."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from crlviz.browser.emitter import Program

# Runs a program on each row of inputs; an output file for all rows.
_RUNNER = """
const fs=require('fs'),folder=process.argv[2],rows=+process.argv[3];
const bytes=name=>{const b=fs.readFileSync(folder+'/'+name);return b.buffer.slice(b.byteOffset,b.byteOffset+b.length)};
const program=eval('('+fs.readFileSync(folder+'/program.js','utf8')+')')(bytes('constants'));
const given=bytes('inputs'),results=[];
let at=0;
for(let row=0;row<rows;row++){
  const inputs=program.inputs.map(v=>{const a=new v.constructor(given,at,v.length);at+=4*v.length;return a});
  for(const v of program.run(inputs))results.push(Buffer.from(v.buffer,v.byteOffset,4*v.length).subarray(0));
  for(let i=results.length-program.outputs.length;i<results.length;i++)results[i]=Buffer.from(results[i]);
}
fs.writeFileSync(folder+'/outputs',Buffer.concat(results));
"""


def needs_node() -> None:
    """Skip the test where there is no node."""
    if shutil.which("node") is None:
        pytest.skip("there is no node to run programs in: apt-get install nodejs")


def run(program: Program, rows: Sequence[Any], folder: Path) -> list[list[np.ndarray]]:
    """Outputs of a program for each row, a tree of inputs; the program lives on from row to row."""
    needs_node()
    (folder / "runner.js").write_text(_RUNNER)
    (folder / "program.js").write_text(program.source)
    (folder / "constants").write_bytes(program.constants)
    (folder / "inputs").write_bytes(b"".join(_bytes(leaf) for row in rows for leaf in jax.tree.leaves(row)))
    subprocess.run(["node", folder / "runner.js", folder, str(len(rows))], check=True)
    raw, at, results = (folder / "outputs").read_bytes(), 0, []
    for _ in rows:
        results.append([])
        for _, shape, dtype in program.outputs:
            count = int(np.prod(shape))
            stored = np.frombuffer(raw, "<f4" if dtype == "float32" else "<i4", count, at).reshape(shape)
            results[-1].append(stored)
            at += 4 * count
    return results


def _bytes(leaf: Any) -> bytes:
    array = np.asarray(leaf)
    if array.dtype == np.uint32:
        return array.astype("<u4").tobytes()
    return array.astype("<f4" if array.dtype.kind == "f" else "<i4").tobytes()
