"""Hostile pickles: none executes code, none exhausts memory.

    python -m tests.torture.pickles --count 200

Cases: every opcode that can call or import, in protocols 0 to 5, alone and in place of an array of a genuine
checkpoint; false sizes; nesting, memos and frames; arrays of types that hold objects. An audit hook detects any code
that runs. As a control, Python's own unpickler reads the calling cases and must execute some of them.
"""

import argparse
import contextlib
import copyreg
import os
import pickle
import random
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crlviz.interchange import paper_format
from tests.helpers import DATA
from tests.torture.bounds import Table, attempt, limit_memory

GENUINE = DATA / "runs" / "ant_big_maze_1000_20261121-001006"
_WATCHED = ("exec", "compile", "import", "os.", "subprocess.", "pickle.", "marshal.", "shutil.", "socket.", "ctypes.")
_seen: list[str] = []
_watching = False


class Call:
    """An object that Python pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.reduced = function, arguments

    def __reduce__(self) -> Any:
        return self.reduced


class Stateful:
    """An object that pickles such a call into its state and items."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = Call(function, *arguments)

    def __reduce__(self) -> Any:
        return dict, (), {"x": self.call}, iter(()), iter([("y", self.call)])


def _calls(trap: str, rng: random.Random) -> Any:
    """An object whose unpickling creates the directory ``trap`` in one of several ways."""
    source = f"__import__('os').mkdir({trap!r})"
    return rng.choice(
        [
            Call(os.mkdir, trap),
            Call(os.system, f"mkdir {trap}"),
            Call(eval, source),
            Call(exec, source),
            Call(subprocess.call, ["mkdir", trap]),
            Stateful(os.mkdir, trap),
            Call(map, os.mkdir, [trap]),
            Call(list, Call(map, os.mkdir, [trap])),
            Call(getattr, Call(__import__, "os"), "mkdir"),
        ]
    )


def _text(module: str, name: str) -> bytes:
    return f"{module}\n{name}\n".encode()


def _string(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _opcodes(trap: str) -> dict[str, bytes]:
    """Handwritten pickles for each opcode that can call or import."""
    mkdir, argument = b"c" + _text("os", "mkdir"), _string(trap)
    call, unicode = argument + b"\x85R", b"V" + trap.encode() + b"\n"
    popen = _string("subprocess") + _string("Popen") + b"\x93(" + _string("mkdir") + argument + b"t\x85"
    namespace = b"c" + _text("argparse", "Namespace") + b")\x81}" + _string("x")
    rebuild = b"c" + _text("jax._src.array", "_reconstruct_array")
    return {
        "GLOBAL REDUCE": b"\x80\x02" + mkdir + call + b".",
        "GLOBAL REDUCE, protocol 0": mkdir + b"(" + unicode + b"tR.",
        "STACK_GLOBAL REDUCE": b"\x80\x04" + _string("os") + _string("mkdir") + b"\x93" + call + b".",
        "STACK_GLOBAL with dots": b"\x80\x04" + _string("os") + _string("path.os.mkdir") + b"\x93" + call + b".",
        "INST": b"(" + unicode + b"i" + _text("os", "mkdir") + b".",
        "OBJ": b"(" + mkdir + argument + b"o.",
        "NEWOBJ": b"\x80\x04" + popen + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04" + popen + b"}\x92.",
        "BUILD": b"\x80\x02" + namespace + mkdir + call + b"sb.",
        "EXT1": b"\x80\x02\x82\x75" + call + b".",
        "EXT2": b"\x80\x02\x83\x75\x00" + call + b".",
        "EXT4": b"\x80\x02\x84\x75\x00\x00\x00" + call + b".",
        "PERSID": b"P" + trap.encode() + b"\n.",
        "BINPERSID": b"\x80\x02" + argument + b"Q.",
        "a name of ours called": b"\x80\x02c" + _text("__main__", "Args") + call + b".",
        "a name of ours with dots": b"\x80\x04" + _string("numpy") + _string("ndarray.tofile") + b"\x93" + call + b".",
        "an array made by another function": b"\x80\x02" + rebuild + b"(" + mkdir + argument + b"\x85N}tR.",
        "a name from the memo": b"\x80\x04" + _string("os") + _string("mkdir") + b"\x93\x940h\x00" + call + b".",
    }


def _sizes(rng: random.Random) -> dict[str, bytes]:
    """Pickles with false sizes or structures that would cost much memory or time."""
    big = rng.choice([1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
    eight = struct.pack("<Q", big)
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01%scnumpy\ndtype\n"
    )
    array += _string("f4") + b"\x89\x88\x87R\x89C\x00tb."
    count = rng.randint(10_000, 200_000)
    doubled = b"N" + b"".join(b"\x94h%c\x86" % level for level in range(rng.randint(20, 250)))
    fields = b"}(" + b"".join(b"\x8c\x05%05dN" % index for index in range(20_000)) + b"u\x94"
    copies = b"\x8c\x08__main__\x8c\x04Args\x93\x94](" + b"h\x01)\x81h\x00b" * 20_000 + b"e"
    return {
        "BINUNICODE8": b"\x80\x04\x8d" + eight + b"abc.",
        "BINBYTES8": b"\x80\x04\x8e" + eight + b"abc.",
        "BYTEARRAY8": b"\x80\x05\x96" + eight + b"abc.",
        "BINUNICODE": b"\x80\x02X\xff\xff\xff\xffabc.",
        "LONG4": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
        "LONG4 negative": b"\x80\x02\x8b\xff\xff\xff\xff1.",
        "FRAME": b"\x80\x04\x95" + eight + b"}.",
        "LONG_BINPUT": b"\x80\x02}r\xff\xff\xff\xff.",
        "LONG_BINGET": b"\x80\x02}j\xff\xff\xff\xff.",
        "an array's shape": array % (b"\x8a\x08" + struct.pack("<q", 1 << 40) + b"\x85"),
        "a negative shape": array % b"J\xff\xff\xff\xff\x85",
        "a shape of many dimensions": array % (b"(" + b"K\x00" * 2000 + b"t"),
        "INT of many digits": b"I" + b"9" * 1_000_000 + b"\n.",
        "LONG of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
        "marks": b"\x80\x02" + b"(" * count + b".",
        "nested lists": b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b".",
        "nested tuples": b"\x80\x02N" + b"\x85" * count + b".",
        "nested dicts": b"\x80\x02" + b"}X\x01\x00\x00\x00x" * count + b"N" + b"s" * count + b".",
        "instructions without end": b"\x80\x02" + b"}0" * 1_500_000 + b"}.",
        "values without end": b"\x80\x02" + b"}" * 3_000_000 + b".",
        "a list in itself": b"\x80\x02]q\x00h\x00a.",
        "doubling lists": b"\x80\x04]\x94" + b"".join(
            b"](h" + bytes([k]) + b"h" + bytes([k]) + b"e\x94" for k in range(rng.randint(30, 200))
        ) + b".",
        "doubling tuples for a temperature": b"\x80\x04}\x8c\x09log_alpha" + doubled + b"s}}\x87.",
        "doubling tuples for a setting": b"\x80\x04}\x8c\x06env_id" + doubled + b"s.",
        "settings that copy one dict": b"\x80\x04" + fields + copies + b"\x86.",
        "no end": b"\x80\x04" + b"}" * 100,
        "an empty stack": b"\x80\x04R.",
        "invalid text": b"\x80\x04\x8c\x02\xff\xfe.",
    }  # fmt: skip


def _types(trap: str, rng: random.Random) -> Any:
    """Arrays of objects or of other types that are not plain numbers."""
    holder = np.empty(1, object)
    holder[0] = Call(os.mkdir, trap)
    return rng.choice(
        [
            holder,
            np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
            np.array(["text"]),
            np.array([b"bytes"]),
            np.array([0], "M8[s]"),
            np.array([1 + 2j]),
            np.dtype("f4,(2,3)f8"),
            np.zeros(2, np.void),
            np.ma.masked_array([1.0], [True]),
            np.random.default_rng(0),
            Call(np.load, trap),
            Call(np.fromfile, trap),
            Call(np.memmap, trap, "f4", "w+"),
        ]
    )


def _parameters(leaf: Any) -> Any:
    """A checkpoint with ``leaf`` in place of its first array."""
    bias = np.zeros(8, np.float32)
    layers = {"params": {"Dense_0": {"kernel": leaf, "bias": bias}}}
    return {"log_alpha": np.float32(0)}, layers, {"sa_encoder": layers, "g_encoder": layers}


def cases(count: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yields ``count`` cases as (kind, contents of the file)."""
    rng = random.Random(seed)
    trap = str(folder / "trap")
    genuine = (GENUINE / "step_2400.pkl").read_bytes()
    makers: list[Callable[[], list[tuple[str, bytes]]]] = [
        lambda: [(f"a call, protocol {protocol}", pickle.dumps(_calls(trap, rng), protocol)) for protocol in range(6)],
        lambda: [
            (f"in place of an array, protocol {p}", pickle.dumps(_parameters(_calls(trap, rng)), p)) for p in range(6)
        ],
        lambda: [(f"opcode: {name}", data) for name, data in _opcodes(trap).items()],
        lambda: [(f"size: {name}", data) for name, data in _sizes(rng).items()],
        lambda: [("type of array", pickle.dumps(_parameters(_types(trap, rng)), rng.randint(2, 5))) for _ in range(6)],
        lambda: [("truncated", genuine[: rng.randrange(len(genuine))]) for _ in range(4)],
        lambda: [("instructions changed", _scramble(genuine, rng)) for _ in range(4)],
        lambda: [("noise", rng.randbytes(rng.randint(0, 4000))) for _ in range(2)],
    ]
    done = 0
    while done < count:
        for maker in makers:
            for case in maker():
                if done < count:
                    yield case
                    done += 1


def _scramble(data: bytes, rng: random.Random) -> bytes:
    """Change random bytes among the first 400, which hold the names and types."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        changed[rng.randrange(400)] = rng.randrange(256)
    return bytes(changed)


def _audit(event: str, _: Any) -> None:
    if _watching and event.startswith(_WATCHED):
        _seen.append(event)


def main(count: int, seed: int) -> None:
    global _watching
    table, executed = Table(), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bad, trap = folder / "hostile.pkl", folder / "trap"
        # Trigger all lazy imports now, so that the hook sees only what the pickles do.
        paper_format.read_parameters(GENUINE / "step_2400.pkl")
        paper_format.read_settings(GENUINE / "args.pkl")
        bad.write_bytes(b"x")
        attempt(lambda: paper_format.read_parameters(bad))
        copyreg.add_extension("os", "mkdir", 117)
        sys.addaudithook(_audit)
        limit_memory()
        for kind, data in cases(count, seed, folder):
            bad.write_bytes(data)
            _seen.clear()
            _watching = True
            tries = [
                attempt(lambda: paper_format.read_parameters(bad)),
                attempt(lambda: paper_format.read_settings(bad)),
            ]
            _watching = False
            # Changed bytes may still give a valid checkpoint: these files carry no checksum.
            allowed = ("refused", "read") if kind == "instructions changed" else ("refused",)
            faults = [outcome for outcome, _ in tries if outcome not in allowed]
            faults += [f"executed: {event}" for event in set(_seen)]
            faults += ["executed: the trap was created"] if trap.exists() else []
            table.add(kind, "; ".join(faults), max(seconds for _, seconds in tries))
            executed += _control(data, kind, trap)
    print(f"control: Python's own unpickler executes {executed} of these")
    if not executed:
        table.bad.append("the control: nothing here is hostile")
    table.finish("refused")


def _control(data: bytes, kind: str, trap: Path) -> bool:
    """Whether Python's own unpickler executes the case. Skips cases that only cost memory."""
    if kind.startswith(("a call", "in place", "opcode")):
        with contextlib.suppress(Exception):
            pickle.loads(data)
    executed = trap.exists()
    if executed:
        trap.rmdir()
    return executed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
