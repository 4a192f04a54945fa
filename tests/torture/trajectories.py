"""Damaged files of trajectories: none is read as something else, none ends in a traceback, nothing in them runs.

    python -m tests.torture.trajectories --count 1000

Each case is an intact file (ours as netCDF, ours as npz, OGBench's npz) with one kind of damage. It passes if reading
it, in memory and in blocks, is refused in one sentence, or gives the arrays of the intact file bit for bit: a bit that
nothing depends on, such as a time stamp in a zip file, may change.
"""

import argparse
import io
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from crlviz.trajectories import files, seal
from crlviz.trajectories.data import Trajectories
from tests.helpers import DATA
from tests.torture.bounds import Table, attempt, limit_memory
from tests.torture.pickles import Call

OGBENCH = DATA / "trajectories" / "pointmaze-medium-random-v0.npz"
_WATCHED = ("pickle.find_class", "os.system", "subprocess.Popen", "os.mkdir")
_seen: list[str] = []
_watching = False


class Case:
    """A copy of an intact file to damage, and a directory that must not appear."""

    def __init__(self, path: Path, rng: random.Random, trap: Path):
        self.path, self.rng, self.trap = path, rng, trap

    def members(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.path) as file:
            return {name: file.read(name) for name in file.namelist()}

    def array(self, name: str) -> np.ndarray:
        return np.load(io.BytesIO(self.members()[name]))

    def put(self, members: list[tuple[str, bytes]]) -> None:
        """Write a zip file of members and, if it was ours, its checksum anew."""
        ours = "crlviz.npy" in self.members()
        warnings.simplefilter("ignore", UserWarning)  # of two members of one name
        with zipfile.ZipFile(self.path, "w", self.rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as file:
            for name, content in members:
                file.writestr(name, content)
        if ours:
            seal.append(self.path)

    def replace(self, name: str, content: bytes | np.ndarray) -> None:
        """Replace a member."""
        if isinstance(content, np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, content, allow_pickle=True)
            content = buffer.getvalue()
        self.put(list((self.members() | {name: content}).items()))

    def any_array(self) -> str:
        return self.rng.choice(["observations.npy", "actions.npy", "terminals.npy"])


def truncate(case: Case) -> None:
    os.truncate(case.path, case.rng.randrange(case.path.stat().st_size))


def flip_bits(case: Case) -> None:
    data = bytearray(case.path.read_bytes())
    for _ in range(case.rng.choice([1, 1, 1, 2, 8])):
        # Half of them in the last 2,000 bytes, where a zip file has its directory and we have the checksum.
        at = case.rng.choice([case.rng.randrange(len(data)), len(data) - 1 - case.rng.randrange(2000)])
        data[at] ^= 1 << case.rng.randrange(8)
    case.path.write_bytes(data)


def overwrite(case: Case) -> None:
    data = bytearray(case.path.read_bytes())
    at, length = case.rng.randrange(len(data)), case.rng.randint(1, 4096)
    data[at : at + length] = case.rng.choice([b"\0" * length, case.rng.randbytes(length), b""])
    case.path.write_bytes(data)


def replaced(case: Case) -> None:
    """Something else in the file's place."""
    data = case.path.read_bytes()
    case.path.unlink()
    path = case.path
    case.rng.choice(
        [
            path.touch,
            path.mkdir,
            lambda: path.write_text("observations, actions\n1, 2\n" * 100),
            lambda: path.write_text(json.dumps({"observations": [1, 2]})),
            lambda: path.write_bytes(case.rng.randbytes(5000)),
            lambda: path.write_bytes(b"PK\3\4" + case.rng.randbytes(5000)),
            lambda: path.write_bytes(b"PK\5\6" + b"\0" * 18),
            lambda: path.write_bytes(b"\x89HDF\r\n\x1a\n" + case.rng.randbytes(5000)),
            lambda: path.write_bytes(b"CDF\1" + case.rng.randbytes(500)),
            lambda: path.write_bytes(data * 2),
            lambda: path.symlink_to(path),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.symlink_to("nowhere"),
            lambda: os.mkfifo(path),
            lambda: (path.touch(), os.truncate(path, 1 << 32)),
        ]
    )()


def members(case: Case) -> None:
    """Arrays missing, double, or under one another's names; with a valid checksum of the file."""
    found = case.members()
    names = ["observations.npy", "actions.npy", "terminals.npy"]
    one, other = case.rng.sample(names, 2)
    action = case.rng.randrange(5)
    if action == 0:
        case.put([(name, content) for name, content in found.items() if name != one])
    elif action == 1:
        case.put([*found.items(), (one, found[other])])
    elif action == 2:
        case.put(list((found | {one: found[other], other: found[one]}).items()))
    elif action == 3:
        case.put([(name.replace(".npy", ".txt"), content) for name, content in found.items()])
    else:  # observations that are a copy of the actions are a file like any other
        one, other = case.rng.choice([("actions.npy", "observations.npy"), ("terminals.npy", "actions.npy")])
        case.put(list((found | {one: found[other]}).items()))


def shapes(case: Case) -> None:
    name = case.any_array()
    array = case.array(name)
    rows, changed = len(array), None
    choices = [
        array[: case.rng.randrange(rows)],
        array[case.rng.randrange(1, rows) :],
        array.reshape(-1, 4) if array.size % 4 == 0 else array[None],
        array[None],
        array[..., None],
        array.ravel() if array.ndim > 1 else np.stack([array, array], 1),
        array.T if array.ndim > 1 else array[None],
        np.asfortranarray(array) if array.ndim > 1 else array[:0],
        np.concatenate([array, array[-1:]]),
        array[:0],
        np.float32(1) * np.ones((), np.float32),
        np.zeros((len(array), 8, 8, 3), np.float16),
    ]
    changed = case.rng.choice(choices)
    case.replace(name, np.ascontiguousarray(changed) if changed.flags.c_contiguous else changed)


def values(case: Case) -> None:
    name = case.any_array()
    array = case.array(name).copy()
    at = tuple(case.rng.randrange(size) for size in array.shape)
    array[at] = case.rng.choice([np.nan, np.inf, -np.inf, 1e30, -7.5]) if name != "observations.npy" else np.nan
    if name == "terminals.npy" and case.rng.random() < 0.5:
        array[:] = case.rng.choice([0, 1, 0.5])
    case.replace(name, array)


def dtypes(case: Case) -> None:
    name = case.any_array()
    array = case.array(name)
    case.replace(
        name,
        case.rng.choice(
            [
                lambda: array.astype(np.int32) if name != "terminals.npy" else array.astype("U1"),
                lambda: array.astype(np.complex64),
                lambda: array.astype(np.float16) if name != "terminals.npy" else array.astype("S1"),
                lambda: array.astype("U4"),
                lambda: array.astype(">f4"),
                lambda: array.astype(np.int64).view("M8[s]"),
                lambda: array.astype([("a", "f4")]),
                lambda: array.view(np.void),
            ]
        )(),
    )


def objects(case: Case) -> None:
    """Arrays of objects whose unpickling creates the trap."""
    harm = Call(os.mkdir, str(case.trap))
    name = case.any_array()
    holder = np.empty(len(case.array(name)), object)
    holder[0] = harm
    buffer = io.BytesIO()
    np.save(buffer, holder, allow_pickle=True)
    data = buffer.getvalue()
    if case.rng.random() < 0.3:
        name = case.rng.choice(["qpos.npy", "goals.npy", "crlviz.npy"])
    if case.rng.random() < 0.3:  # the pickle alone, with no header
        data = data[data.index(b"\x80") :]
    case.replace(name, data)


def headers(case: Case) -> None:
    """An array's header that tells something impossible, costly, or hostile."""
    name = case.any_array()
    body = case.array(name).astype(np.float32).tobytes()

    def header(text: str, version: bytes = b"\1\0") -> bytes:
        size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
        return b"\x93NUMPY" + version + size + text.encode()

    def facts(shape: str, dtype: str = "'<f4'") -> str:
        return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n"

    trap = f"__import__('os').mkdir({str(case.trap)!r})"
    content = case.rng.choice(
        [
            lambda: header(facts("(1099511627776, 2)")) + body,
            lambda: header(facts("(4000, 1099511627776)")) + body,
            lambda: header(facts("(-4000, -2)")) + body,
            lambda: header(facts("(4000.0, 2)")) + body,
            lambda: header(facts("(" + "1, " * 2000 + ")")) + body,
            lambda: header(facts("(0, 10**30)")) + body,
            lambda: header(facts(f"({trap},)")) + body,
            lambda: header(facts("(4000, 2)", trap)) + body,
            lambda: header("(" * 5000 + ")" * 5000) + body,
            lambda: header("{" + "'a': 1, " * 2000 + "}") + body,
            lambda: header(facts("(4000, 2)"), b"\3\0") + body,
            lambda: header(facts("(4000, 2)"), b"\x09\x09") + body,
            lambda: b"\x93NUMPY\2\0\xff\xff\xff\xff" + body,
            lambda: header(facts("(4000, 2)", "'O'")) + body,
            lambda: header(facts("(4000, 2)", "'|V1000000000000'")) + body,
            lambda: b"",
            lambda: b"\x93NUM",
        ]
    )()
    case.replace(name, content)


def archive(case: Case) -> None:
    """A zip file whose own fields are wrong: sizes, methods, flags, offsets."""
    ours = "crlviz.npy" in case.members()
    data = bytearray(case.path.read_bytes())
    at = data.rindex(b"PK\1\2") if case.rng.random() < 0.5 else data.index(b"PK\1\2")
    offset, size = case.rng.choice([(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4), (46, 4)])
    data[at + offset : at + offset + size] = case.rng.choice([b"\xff" * size, b"\0" * size, case.rng.randbytes(size)])
    case.path.write_bytes(data[:-46] if ours else data)
    if ours:
        seal.append(case.path)


def netcdf(case: Case) -> None:
    """A valid netCDF file with a valid checksum, and wrong contents."""
    rng, whole = case.rng, files.read(case.path)
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in whole.per_row.items()}
    ends, header = whole.ends.copy(), {"env": "", "goal_indices": None, "made": {}}
    types = {"i8": ends.astype("i8"), "f8": ends.astype("f8") + 0.5}
    text: str | None = json.dumps(header)
    one = rng.choice(["state", "action"])
    action = rng.randrange(9)
    if action == 0:
        arrays.pop(one)
    elif action == 1:
        arrays[one] = arrays[one][:-1]
    elif action == 2:
        arrays[one] = arrays[one].astype(rng.choice(["i4", "i2", "u1"]))
    elif action == 3:
        ends = rng.choice([ends[::-1], ends[:0], ends[:-1], ends - 10**6, np.zeros_like(ends), types["f8"], ends + 1])
    elif action == 4:
        text = rng.choice([None, "{", "[]", "5", '{"env": 5}', "[" * 10_000, json.dumps(header | {"goal_indices": 5})])
    elif action == 5:
        arrays[one][rng.randrange(len(arrays[one])), 0] = rng.choice([np.nan, np.inf])
    elif action == 6:
        arrays[one] = arrays[one][:, 0]
    elif action == 7:
        arrays[one] = arrays[one].astype("U1")
    else:
        text = json.dumps(header | {"env": 5})
    kept = case.path.with_name("new.nc")
    with netCDF4.Dataset(kept, "w") as file:
        if text is not None:
            file.setncattr("trajectories", text)
        for name, array in (arrays | {"ends": ends}).items():
            dimensions = [file.createDimension(f"{name}_{k}", size).name for k, size in enumerate(array.shape)]
            dtype = str if array.dtype.kind == "U" else array.dtype
            file.createVariable(name, dtype, dimensions)[:] = array.astype(object) if dtype is str else array
    kept.replace(case.path)
    seal.append(case.path)


GENERAL: dict[str, Callable[[Case], None]] = {
    "truncated": truncate,
    "bits flipped": flip_bits,
    "a range overwritten": overwrite,
    "something else in its place": replaced,
}
OF_NPZ: dict[str, Callable[[Case], None]] = {
    "arrays missing, double or swapped": members,
    "shapes": shapes,
    "values": values,
    "types": dtypes,
    "objects with a pickle": objects,
    "an array's header": headers,
    "the archive's fields": archive,
}
OF_NETCDF: dict[str, Callable[[Case], None]] = {"netCDF with wrong contents": netcdf}


def same(one: Trajectories, other: Trajectories) -> bool:
    """Whether all arrays are equal, bit for bit."""
    mine, theirs = one.per_row, other.per_row
    return (
        mine.keys() == theirs.keys()
        and np.array_equal(one.ends, other.ends)
        and all(np.array_equal(array, theirs[name]) for name, array in mine.items())
    )


def joined(path: Path) -> Trajectories:
    """A file read in blocks."""
    parts = list(files.blocks(path, 1000))
    starts = np.cumsum([0] + [part.rows for part in parts[:-1]])
    arrays = {name: np.concatenate([part.per_row[name] for part in parts]) for name in parts[0].per_row}
    ends = np.concatenate([part.ends + start for part, start in zip(parts, starts, strict=True)])
    return Trajectories(ends=ends, **arrays)


def intact(folder: Path) -> list[Path]:
    """The files to damage."""
    whole = files.read(OGBENCH)
    goal = np.ascontiguousarray(whole.state[::-1])
    made = Trajectories(whole.state, whole.action, whole.ends, goal, env="point_u_maze", goal_indices=(0, 1))
    ours = [folder / "ours.nc", folder / "ours.npz"]
    for path in ours:
        files.write(path, made)
    return [*ours, Path(shutil.copy(OGBENCH, folder / "ogbench.npz"))]


def _audit(event: str, _: Any) -> None:
    if _watching and event in _WATCHED:
        _seen.append(event)


def main(count: int, seed: int) -> None:
    global _watching
    rng, table, unchanged = random.Random(seed), Table(), 0
    with tempfile.TemporaryDirectory() as name:
        folder, trap = Path(name), Path(name) / "trap"
        pristine = intact(folder)
        expected = {path: files.read(path) for path in pristine}
        for path in pristine:
            joined(path)
        sys.addaudithook(_audit)
        limit_memory()
        number = 0
        while sum(table.kinds.values()) < count:
            source = pristine[number % len(pristine)]
            own = OF_NETCDF if source.suffix == ".nc" else OF_NPZ
            kinds = [*GENERAL.items(), *own.items(), *(OF_NETCDF.items() if source.suffix == ".nc" else ())]
            kind, damage = kinds[number // len(pristine) % len(kinds)]
            number += 1
            copy = Path(shutil.copy(source, folder / f"copy{source.suffix}"))
            damage(Case(copy, rng, trap))
            if not (copy.is_file() and copy.stat().st_size < 1 << 30 and copy.read_bytes() == source.read_bytes()):
                fault, seconds, equal = _check(copy, expected[source])
                fault += "; executed: the trap" * trap.exists()
                unchanged += equal
                table.add(f"{kind}, {source.name}", fault, seconds)
            shutil.rmtree(copy) if copy.is_dir() and not copy.is_symlink() else copy.unlink()
    print(f"{unchanged} were read, with the arrays of the intact file")
    table.finish("passed")


def _check(path: Path, expected: Trajectories) -> tuple[str, float, bool]:
    """Faults in how the damage was handled, the seconds of the slower read, and whether it was read as intact."""
    global _watching
    found: list[Trajectories] = []
    _seen.clear()
    _watching = True
    outcomes = [attempt(lambda: found.append(files.read(path))), attempt(lambda: found.append(joined(path)))]
    _watching = False
    faults = [outcome for outcome, _ in outcomes if outcome not in ("refused", "read")]
    faults += ["silent: other arrays"] * (not all(same(one, expected) for one in found))
    faults += [f"executed: {event}" for event in set(_seen)]
    return "; ".join(faults), max(seconds for _, seconds in outcomes), bool(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
