"""Damaged checkpoints: none loads silently, none ends in a traceback, none takes over 5 seconds or 2 GiB.

    python -m tests.torture.damage --count 1000

Each case is a copy of an intact run with one kind of damage. The damaged checkpoint is loaded, described and verified.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

import crlviz
from crlviz.algorithms import registry
from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import settings_digest
from crlviz.interchange import inspection
from tests.helpers.toys import toy_config, untrained_run
from tests.torture.bounds import Table, attempt, limit_memory

STEPS = (90, 1000)
_NETWORKS = ("actor.safetensors", "critic.safetensors")
_FILES = (*_NETWORKS, "manifest.json")


class Case:
    """A copy of an intact run to damage, another intact run of the same shapes, and the checkpoint to damage."""

    def __init__(self, run: Path, other: Path, rng: random.Random):
        self.run, self.other, self.rng = run, other, rng
        self.target = run / "checkpoints" / str(rng.choice(STEPS))
        self.config, self.manifest = run / "config.json", self.target / "manifest.json"

    def any_file(self) -> Path:
        return self.rng.choice([self.config, *(self.target / name for name in _FILES)])

    def forge(self, **changes: Any) -> None:
        """Change config.json and the manifest and update their checksums; ``a__b`` names the field b of a."""
        for path in (self.config, self.manifest):
            content = json.loads(path.read_text())
            for name, value in changes.items():
                *parents, last = name.split("__")
                container = content
                for parent in parents:
                    container = container.get(parent, {})
                if last in container:
                    container[last] = value
            config = json.loads(self.config.read_text())
            if path == self.manifest and isinstance(config["config"], dict) and config["algorithm"] in registry.NAMES:
                content["settings"] = settings_digest(config)
            content.pop("sha256")
            path.write_bytes(checked_json.encode(content))

    def put(self, name: str, data: bytes | None, size: int = 0) -> None:
        """Replace a file of the checkpoint and update its manifest entry; without ``data``, by a sparse file."""
        path = self.target / name
        if data is not None:
            path.write_bytes(data)
            entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        else:
            with open(path, "wb") as file:
                file.truncate(size)  # sparse: takes no space on disk
            entry = {"bytes": size, "sha256": "0" * 64}
        self.forge(files=json.loads(self.manifest.read_text())["files"] | {name: entry})


def truncate(case: Case) -> None:
    path = case.any_file()
    os.truncate(path, case.rng.randrange(path.stat().st_size))


def flip_bits(case: Case) -> None:
    path = case.any_file()
    data = bytearray(path.read_bytes())
    for _ in range(case.rng.choice([1, 1, 1, 2, 8])):
        data[case.rng.randrange(len(data))] ^= 1 << case.rng.randrange(8)
    path.write_bytes(data)


def overwrite(case: Case) -> None:
    path = case.any_file()
    data = bytearray(path.read_bytes())
    at = case.rng.randrange(len(data))
    length = case.rng.randint(1, 4096)
    data[at : at + length] = case.rng.choice([b"\0" * length, case.rng.randbytes(length), b""])
    path.write_bytes(data)


def swap(case: Case) -> None:
    other = case.other / "checkpoints" / case.target.name
    (sibling,) = (path for path in case.target.parent.iterdir() if path != case.target)
    actor, critic = (case.target / name for name in _NETWORKS)
    name = case.rng.choice(_FILES)

    def exchange(a: Path, b: Path) -> None:
        spare = a.with_name("spare")
        a.rename(spare), b.rename(a), spare.rename(b)

    case.rng.choice(
        [
            lambda: exchange(actor, critic),
            lambda: exchange(case.target / name, sibling / name),
            lambda: exchange(case.target, sibling),
            lambda: shutil.copy(other / name, case.target / name),
            lambda: (shutil.rmtree(case.target), shutil.copytree(other, case.target)),
            lambda: shutil.copy(case.other / "config.json", case.config),
            lambda: shutil.copy(actor, case.manifest),
            lambda: shutil.copy(case.config, case.manifest),
        ]
    )()


def remove(case: Case) -> None:
    path = case.any_file()
    path.unlink()
    case.rng.choice(
        [
            lambda: None,
            path.touch,
            path.mkdir,
            lambda: path.symlink_to(path),
            lambda: path.symlink_to("/dev/zero"),
            lambda: path.symlink_to(case.run),
            lambda: path.symlink_to("nowhere"),
            lambda: os.mkfifo(path),
            lambda: path.write_bytes(b"\0" * 100_000_000),
        ]
    )()


def edit(case: Case) -> None:
    """Change, add or remove a random value in a JSON file, without updating checksums."""
    path = case.rng.choice([case.config, case.manifest])
    content = json.loads(path.read_text())
    container, name = case.rng.choice(list(_values(content)))
    odd_values = [
        None,
        -1,
        0,
        1,
        10**30,
        1e308,
        "",
        "x",
        [],
        {},
        True,
        [[]],
        {"a": 1},
        "../..",
        1 << 64,
        4,
        8,
        "point_u2_maze",
    ]
    action = case.rng.randrange(4)
    if action == 0:
        del container[name]
    elif action == 1 and isinstance(container, dict):
        container[case.rng.choice(["x", "format", "sha256", "config", "tail"])] = case.rng.choice(odd_values)
    else:
        container[name] = case.rng.choice(odd_values)
    path.write_text(json.dumps(content, indent=case.rng.choice([None, 2])))


def spoil(case: Case) -> None:
    """Write a file that is not valid JSON of crlviz, or that is expensive to parse."""
    path = case.rng.choice([case.config, case.manifest])
    text = path.read_text()
    path.write_text(
        case.rng.choice(
            [
                "[" * 100_000,
                '{"a":' * 900 + "1" + "}" * 900,
                "{" + '"a": 1, ' * 100_000 + '"b": 2}',
                " " * (1 << 21) + text,
                text.replace('"format"', '"format": 2, "format"', 1),
                text.replace('"format": 2', f'"format": {"9" * 5000}'),
                text.replace('"format": 2', '"format": NaN'),
                text.replace('"format": 2', '"format": 1e999'),
                text.replace("{", '{"deep": ' + "[" * 500 + "]" * 500 + ",", 1),
                "\ufeff" + text,
                text * 2,
                "null",
            ]
        )
    )


def nonsense(case: Case) -> None:
    """Impossible contents with valid checksums."""
    width = case.rng.choice([0, -4, 10**4, 10**9, 10**18, 10**30, "8", 8.5, None, [8], True])
    changes: list[dict[str, Any]] = [
        {"format": case.rng.choice([0, 3, 99, 10**9])},  # 1 is an older format
        {"format": case.rng.choice([0.5, "2", None, True, -1])},
        {"env_steps": case.rng.choice([-90, "90", 91, 1e3, None, True, 10**300])},
        {"gradient_steps": case.rng.choice([-1, "9", 1.5, True, []])},
        {"files": case.rng.choice([[], {}, {"actor.safetensors": 5}, None, {"../x": {}}])},
        {"algorithm": case.rng.choice([5, None, [], "\x1b]0;owned\x07", "crl\nok   forged", "\u202elrc"])},
        {"config__seed": "\x1b[2J", "config__batch_size": [1]},
        {"config": case.rng.choice([[], None, {}, "x"])},
        {
            "config__env": case.rng.choice(
                ["point_nowhere", 5, None, [], {}, "point_maze", "x" * 10_000, "", "arm_reach"]
            )
        },
        {"config__layout": case.rng.choice([5, "#", ["####", "#r.#", "####"], [5], {"a": 1}, ["#r g#"] * 3])},
        {"config__env": "point_maze", "config__layout": ["#" * 98, *["#" + "rg" * 48 + "#"] * 98, "#" * 98]},
        {"config__eval_env": case.rng.choice([5, "nowhere", [1], {"a": 1}])},
        {"config__env_options": case.rng.choice([5, [1], {"gravity": 0}, {"backend": "mjx"}, {"a": [1]}, "ab"])},
        {"config__actor": case.rng.choice([None, [], {}, {"depth": 4}, 5, {"color": 1}])},
        {"config__critic__width": width},
        {"config__actor__depth": case.rng.choice([0, -4, 6, 8, 10**9, 4 * 10**18, "4", 4.0, None])},
        {"config__critic__tail": case.rng.choice([1, 4, -1, "0", None])},
        {"config__critic__layer_norm": False},
        {"config__actor__activation": case.rng.choice(["tanh", 5, None, []])},
    ]
    case.forge(**case.rng.choice(changes))


def arrays(case: Case) -> None:
    """Arrays that do not match config.json, or invalid files, with valid checksums."""
    name = case.rng.choice(_NETWORKS)
    data = (case.target / name).read_bytes()
    tensors = safetensors.numpy.load(data)
    one = case.rng.choice(list(tensors))
    cut = {**tensors, one: np.ascontiguousarray(tensors[one][..., :-1])}
    other_type = {**tensors, one: tensors[one].astype(case.rng.choice([np.float16, np.float64, np.int32]))}

    def header(content: Any, rest: bytes = b"", claimed: int | None = None) -> bytes:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(text) if claimed is None else claimed) + text + rest

    def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}

    giant = case.rng.choice([[10**9, 10**9], [2**63], [2**32, 2**32], [0, 10**18], [-1], [1] * 10_000])
    blob = case.rng.choice(
        [
            lambda: safetensors.numpy.save({k: v for k, v in tensors.items() if k != one}),
            lambda: safetensors.numpy.save({**tensors, "more": np.zeros(3, np.float32)}),
            lambda: safetensors.numpy.save({**tensors, f"{one}/more": np.zeros(3, np.float32)}),
            lambda: safetensors.numpy.save(cut),
            lambda: safetensors.numpy.save(other_type),
            lambda: safetensors.numpy.save({}),
            lambda: header({one: entry(giant, 0, 0)}),
            lambda: header({one: entry(giant, 0, 8)}, b"\0" * 8),
            lambda: header({one: entry([2], 0, 1 << 60)}, b"\0" * 8),
            lambda: header({one: entry([2], 0, 8, "BF16X")}, b"\0" * 8),
            lambda: header({one: entry([4], 0, 8, "BF16")}, b"\0" * 8),
            lambda: header(b'{"a": %s, "a": %s}' % ((json.dumps(entry([2], 0, 8)).encode(),) * 2), b"\0" * 8),
            lambda: header(b"[" * 200_000),
            lambda: header({"a/" * 100_000 + "a": entry([2], 0, 8)}, b"\0" * 8),
            lambda: header({f"t{k}": entry([0], 0, 0) for k in range(200_000)}),
            lambda: header({}, claimed=case.rng.choice([1 << 40, (1 << 64) - 1, 100_000_000])),
            lambda: case.rng.randbytes(case.rng.randint(0, 5000)),
            lambda: None,
        ]
    )()
    case.put(name, blob, size=case.rng.choice([1 << 31, 1 << 36]))


KINDS: dict[str, Callable[[Case], None]] = {
    "truncated": truncate,
    "bits flipped": flip_bits,
    "a range overwritten": overwrite,
    "files swapped": swap,
    "a file missing or replaced": remove,
    "JSON edited": edit,
    "JSON malformed": spoil,
    "bad contents, valid checksums": nonsense,
    "bad arrays, valid checksums": arrays,
}


def _values(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in JSON contents, as its container and its key or index there."""
    for name in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, name
        if isinstance(content[name], (dict, list)):
            yield from _values(content[name])


def same(run: Path, pristine: Path) -> bool:
    """Whether the contents are unchanged: whitespace lost from JSON is not damage."""
    for path in pristine.rglob("*"):
        copy = run / path.relative_to(pristine)
        if path.is_file() and not (copy.is_file() and _contents(copy) == _contents(path)):
            return False
    return True


def _contents(path: Path) -> Any:
    data = path.read_bytes() if path.stat().st_size < 1 << 30 else b""
    try:
        return json.loads(data) if path.suffix == ".json" else data
    except (ValueError, RecursionError):
        return data


def _check(case: Case) -> tuple[str, float]:
    """Faults in how the damage was handled, and the seconds of the slowest of three reads."""
    # Loading a run loads its newest checkpoint.
    newest = case.target.name == str(max(STEPS))
    loaded, first = attempt(lambda: crlviz.load(case.run if newest else case.target))
    described, second = attempt(lambda: inspection.describe(case.target))
    found: list[str] = []
    verified, third = attempt(lambda: found.extend(fault for _, fault in inspection.check(case.run) if fault))
    faults = [f"load: {loaded}"] * (loaded != "refused") + [f"inspect: {described}"] * (described != "refused")
    if not found and verified != "refused":
        faults.append(f"verify: {verified}")
    return "; ".join(faults), max(first, second, third)


def main(count: int, seed: int) -> None:
    rng, table = random.Random(seed), Table()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pristine = untrained_run(folder / "pristine", toy_config(), STEPS)
        other = untrained_run(folder / "other", toy_config(seed=1, env="point_u2_maze"), STEPS)
        for step in STEPS:
            inspection.describe(pristine / "checkpoints" / str(step))
        limit_memory()
        while sum(table.kinds.values()) < count:
            kind = list(KINDS)[sum(table.kinds.values()) % len(KINDS)]
            run = Path(shutil.copytree(pristine, folder / "run"))
            case = Case(run, other, rng)
            KINDS[kind](case)
            if not same(run, pristine):
                fault, seconds = _check(case)
                table.add(kind, fault, seconds)
            shutil.rmtree(run)
    table.finish("refused")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
