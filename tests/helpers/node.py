"""Runs emitted programs in node, a JavaScript engine outside of a browser."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from crlviz.browser.emitter import Program

# Runs each program on its rows of inputs; all outputs go to one file. The first ``fed`` inputs of a row are the first
# outputs of the row before.
_RUNNER = """
const fs=require('fs'),folder=process.argv[2];
const bytes=name=>{const b=fs.readFileSync(folder+'/'+name);return b.buffer.slice(b.byteOffset,b.byteOffset+b.length)};
const given=bytes('inputs'),results=[];
let at=0;
for(const [number,{rows,fed}] of JSON.parse(fs.readFileSync(folder+'/rows.json','utf8')).entries()){
  const program=eval('('+fs.readFileSync(`${folder}/program${number}.js`,'utf8')+')')(bytes('constants'+number));
  for(let row=0;row<rows;row++){
    const inputs=program.inputs.map((v,i)=>{
      if(row>0&&i<fed)return program.outputs[i];
      const a=new v.constructor(given,at,v.length);
      at+=4*v.length;
      return a;
    });
    for(const v of program.run(inputs))results.push(Buffer.from(v.slice().buffer));
  }
}
fs.writeFileSync(folder+'/outputs',Buffer.concat(results));
"""


def needs_node() -> None:
    """Skip the test where there is no node."""
    if shutil.which("node") is None:
        pytest.skip("there is no node to run programs in: apt-get install nodejs")


def run(program: Program, rows: Sequence[Any], folder: Path) -> list[list[np.ndarray]]:
    """Outputs of a program for each row, a tree of inputs; the program lives on from row to row."""
    return _run([program], [rows], folder)[0]


def walk(program: Program, leaves: Sequence[Any], actions: Sequence[Any], folder: Path) -> list[list[np.ndarray]]:
    """Outputs of a program after each action, which begins with these leaves and goes on with those that it returns."""
    return _run([program], [[(leaves, actions[0]), *actions[1:]]], folder, fed=len(leaves))[0]


def run_all(programs: Mapping[str, Program], inputs: Mapping[str, Any], folder: Path) -> dict[str, list[np.ndarray]]:
    """Outputs of each program on its tree of inputs, by name."""
    results = _run(list(programs.values()), [[inputs[name]] for name in programs], folder)
    return {name: rows[0] for name, rows in zip(programs, results, strict=True)}


def _run(
    programs: Sequence[Program], given: Sequence[Sequence[Any]], folder: Path, fed: int = 0
) -> list[list[list[np.ndarray]]]:
    needs_node()
    (folder / "runner.js").write_text(_RUNNER)
    (folder / "rows.json").write_text(json.dumps([{"rows": len(rows), "fed": fed} for rows in given]))
    for number, program in enumerate(programs):
        (folder / f"program{number}.js").write_text(program.source)
        (folder / f"constants{number}").write_bytes(program.constants)
    leaves = [leaf for rows in given for row in rows for leaf in jax.tree.leaves(row)]
    (folder / "inputs").write_bytes(b"".join(map(_bytes, leaves)))
    subprocess.run(["node", folder / "runner.js", folder], check=True)
    raw, at = (folder / "outputs").read_bytes(), 0
    results: list[list[list[np.ndarray]]] = []
    for program, rows in zip(programs, given, strict=True):
        results.append([])
        for _ in rows:
            results[-1].append([])
            for _, shape, dtype in program.outputs:
                count = int(np.prod(shape))
                stored = np.frombuffer(raw, {"float32": "<f4", "uint32": "<u4"}.get(dtype, "<i4"), count, at)
                results[-1][-1].append(stored.reshape(shape))
                at += 4 * count
    return results


def _bytes(leaf: Any) -> bytes:
    array = np.asarray(leaf)
    if array.dtype == np.uint32:
        return array.astype("<u4").tobytes()
    return array.astype("<f4" if array.dtype.kind == "f" else "<i4").tobytes()
