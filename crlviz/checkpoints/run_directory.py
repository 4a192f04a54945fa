"""Run directories and the checkpoints inside them: what leaves the trainer.

    RUN/config.json                 all that rebuilds environment, networks and trainer; where it was made, and how
    RUN/metrics.csv                 a row an evaluation
    RUN/checkpoints/<env_steps>/    actor.safetensors, critic.safetensors, manifest.json
    RUN/state/<env_steps>/          what only resuming and training longer need (training/state.py)
    RUN/.lock                       held by the process that trains

Arrays are safetensors: flat, checked on reading, and nothing in them can run. The manifest holds a SHA-256 of every
file and of the run's settings; it and config.json end with one of their own contents. A checkpoint appears by one
rename, so a directory that is there is whole.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlviz.checkpoints import atomic_files
from crlviz.errors import CrlvizError

FORMAT = 2  # 1 had no checksums of config.json and of the manifest itself, and no tie between the two
ALGORITHMS = ("crl",)
_MOST_JSON = 1 << 20  # bytes; what crlviz writes takes a few thousand
# Settings that a run keeps from beginning to end. Their digest, of what stands on disk, is the identity of every run
# there is: a name added here would change it. A setting that comes later is fixed in training/config.py alone, or
# inside of one of these.
_FIXED = (
    "env",
    "layout",
    "env_options",
    "eval_env",
    "seed",
    "actor",
    "critic",
    "crl",
    "batch_size",
    "gamma",
    "updates",
)
# Settings that change nothing of what an update computes: those of a run may change when it is resumed, and runs that
# differ in these alone are alike.
KEEPING = ("loss_bound", "on_nan", "rewinds", "save_every", "keep", "save_replay", "keep_state")
_MOST_HEADER = 1 << 20  # bytes of names and shapes in a safetensors file; the same


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk: where it is, its manifest, its run's config and directory."""

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    run: Path

    @property
    def env_steps(self) -> int:
        return self.manifest["env_steps"]

    @property
    def files(self) -> list[str]:
        """Names of the files that the manifest describes."""
        return sorted(self.manifest["files"])


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Make the run directory and its config.json, in the format that the contents name, or this one."""
    atomic_files.make_directory(run)
    atomic_files.write(run / "config.json", to_json({"format": FORMAT, **config}))


def write(run: Path, env_steps: int, gradient_steps: int | None, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Save parameters as ``RUN/checkpoints/<env_steps>``.

    Args:
      run: the run directory.
      env_steps: names the checkpoint.
      gradient_steps: updates so far; None where nobody knows.
      networks: file stem (``actor``, ``critic``) to a tree of arrays.

    Returns:
      The checkpoint's directory.

    Raises:
      CrlvizError: it cannot be written, or is there already.
    """
    from flax.traverse_util import flatten_dict

    path = run / "checkpoints" / str(env_steps)
    with atomic_files.directory(path) as folder:
        described = {
            f"{name}.safetensors": write_arrays(folder / f"{name}.safetensors", flatten_dict(tree, sep="/"))
            for name, tree in networks.items()
        }
        write_manifest(folder, path, described, {"gradient_steps": gradient_steps})
    return path


def write_manifest(folder: Path, path: Path, described: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint or a saved state.

    Args:
      folder: where it is being made.
      path: ``RUN/checkpoints/<env_steps>`` or ``RUN/state/<env_steps>``, which it will become.
      described: of ``write_arrays``, by file name.
      more: what else it holds.

    Raises:
      WriteError: the run's config.json is gone or changed.
    """
    try:
        settings = settings_digest(read_config(path.parent.parent))
    except CrlvizError as error:
        raise atomic_files.WriteError(f"cannot write {path}: {error}") from error
    manifest = {"format": FORMAT, "env_steps": int(path.name), **more, "settings": settings, "files": described}
    (folder / "manifest.json").write_bytes(to_json(manifest))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Write arrays by name as safetensors, without another copy of them in memory; how a manifest describes the file.

    Raises:
      OSError: it cannot be written.
    """
    import numpy as np
    import safetensors
    import safetensors.numpy

    try:
        safetensors.numpy.save_file({name: np.asarray(leaf, order="C") for name, leaf in arrays.items()}, path)
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))  # how safetensors says that a disk is full
        raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def digest(path: Path) -> str:
    """SHA-256 of a file of any size, as a manifest holds it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(path: str | Path) -> Checkpoint:
    """The checkpoint at a path: a run directory means its newest.

    Raises:
      CrlvizError: nothing there, not a run directory or checkpoint, a config or manifest that cannot be read, or a
        checkpoint of another run or of other steps than its place says.
    """
    run, places = places_at(Path(path))
    if not places:
        raise CrlvizError(f"{run} holds no checkpoint yet")
    path, config = places[-1], read_config(run)
    return Checkpoint(path, read_manifest(path, run, config, {"gradient_steps": int | None}), config, run)


def places_at(path: Path) -> tuple[Path, list[Path]]:
    """A run directory and its checkpoints, ascending; or a checkpoint's run and itself. Nothing is read.

    Raises:
      CrlvizError: nothing there, or neither of the two.
    """
    if not path.exists():
        raise CrlvizError(f"there is no {path}")
    if (path / "config.json").is_file():
        return path, numbered(path / "checkpoints")
    if not (path / "manifest.json").is_file():
        held = [str(run.relative_to(path)) for run in runs_in(path)]
        some = ", ".join(held[:4]) + f" and {len(held) - 4} more" * (len(held) > 4)
        what = "is neither a run directory (no config.json) nor a checkpoint (no manifest.json)"
        raise CrlvizError(f"{path} {what}" + f"; it holds {some}: give one of them" * bool(held))
    run = path.resolve().parent.parent
    if not (run / "config.json").is_file():
        raise CrlvizError(f"{path} is a checkpoint without its run: config.json is missing from {run}")
    return run, [path]


def runs_in(folder: Path) -> list[Path]:
    """The run directories that a directory holds, as ``crlviz sweep`` and ``train --seeds`` make them: 4 before 16.

    Those of a sweep lie in it, those of ``train --seeds`` a level deeper.
    """
    configs = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]
    found = [config.parent for config in configs if not config.relative_to(folder).as_posix().startswith(".")]
    return sorted(found, key=by_number)


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sorts paths by their names, numbers in them by their value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def finished(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether there is no more to come: the run has its last checkpoint, or was imported.

    A run ends at its ``env_steps`` or after them, rounded up to whole epochs; its last evaluation but one is before.
    """
    total, steps = config["config"].get("env_steps"), all_steps(run)
    return "imported" in config or (isinstance(total, int) and bool(steps) and steps[-1] >= total)


def all_steps(run: Path) -> list[int]:
    """Environment steps of a run's checkpoints, ascending."""
    return [int(path.name) for path in numbered(run / "checkpoints")]


def numbered(folder: Path) -> list[Path]:
    """What in a folder is named by environment steps, ascending."""
    return sorted((p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()), key=lambda p: int(p.name))


def through_training(path: str | Path, most: int) -> list[Path]:
    """Checkpoints of a run, evenly spread from its first to its newest, at most so many; of one checkpoint, itself.

    Raises:
      CrlvizError: as ``find`` does.
    """
    newest = find(path)
    if newest.path == Path(path):
        return [newest.path]
    steps = all_steps(newest.run)
    count = min(most, len(steps))
    # Counted back from the newest, which is in whatever the number.
    chosen = [steps[len(steps) - 1 - round(k * (len(steps) - 1) / max(count - 1, 1))] for k in range(count)]
    return [newest.run / "checkpoints" / str(step) for step in reversed(chosen)]


def read_config(run: Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      CrlvizError: unreadable, changed since it was written, not a config, or of an algorithm that is unknown here.
    """
    content = _read_json(run / "config.json", {"algorithm": str, "config": dict})
    if content["algorithm"] not in ALGORITHMS:
        raise CrlvizError(
            f"{run / 'config.json'} names the algorithm {content['algorithm'][:100]!r}, which this crlviz does not "
            f"know (it knows {', '.join(ALGORITHMS)}); upgrade crlviz"
        )
    return content


def read_manifest(path: Path, run: Path, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a checkpoint or a saved state.

    Args:
      path: the directory, which is named by its environment steps.
      run: its run.
      config: of that run.
      fields: what else the manifest holds, and of which type, beside ``env_steps`` and ``files``.

    Raises:
      CrlvizError: unreadable, changed since it was written, of another run, or of other steps than its place says.
    """
    manifest = _read_json(path / "manifest.json", {"env_steps": int, "files": dict, **fields})
    if str(manifest["env_steps"]) not in (path.name, path.resolve().name):
        raise CrlvizError(
            f"{path / 'manifest.json'} is of another checkpoint, at {manifest['env_steps']} environment steps"
        )
    early = manifest["format"] == config.get("format") == 1  # nothing in it names its run
    if not early and manifest.get("settings") != settings_digest(config):
        raise CrlvizError(
            f"{path} is of another run: its manifest.json and {run / 'config.json'} do not belong together"
        )
    return manifest


def settings_digest(config: Mapping[str, Any]) -> str:
    """What ties a checkpoint to its run: the SHA-256 of the settings that no run changes on its way."""
    settings = config["config"]
    return _digest({"algorithm": config["algorithm"]} | {name: settings.get(name) for name in _FIXED})


def read(checkpoint: Checkpoint, name: str, most_bytes: int | None = None) -> dict[str, Any]:
    """A network's parameters (``actor`` or ``critic``) as a tree of numpy arrays, checked against the manifest.

    Args:
      checkpoint: where from.
      name: the file's, without its ending.
      most_bytes: a file whose arrays take more is not read.

    Raises:
      CrlvizError: missing, changed since it was written, or not safetensors.
    """
    import safetensors
    import safetensors.numpy
    from flax.traverse_util import flatten_dict, unflatten_dict

    path = checkpoint.path / f"{name}.safetensors"
    data = read_checked(checkpoint, path.name, most_bytes)
    if int.from_bytes(data[:8], "little") > _MOST_HEADER:
        raise CrlvizError(f"{path} cannot be read: its header is longer than {_MOST_HEADER:,} bytes")
    try:
        flat = safetensors.numpy.load(data)
        tree = unflatten_dict(flat, sep="/")
        if len(flatten_dict(tree)) < len(flat):
            raise ValueError("one name is the beginning of another")
        return tree
    # Whole files of other makers: of types numpy has not, of names that are both a leaf and a branch.
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CrlvizError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise CrlvizError(f"{path} cannot be read: its names are too deep") from None


def read_checked(checkpoint: Checkpoint, name: str, most_bytes: int | None = None) -> bytes:
    """A file of a checkpoint, if its length and checksum are the manifest's.

    Raises:
      CrlvizError: missing, or changed since it was written.
    """
    path, wanted = _expected(checkpoint.path, checkpoint.manifest, name, most_bytes)
    with _reading(path):
        data = path.read_bytes()
    _compare(path, hashlib.sha256(data).hexdigest(), wanted)
    return data


def check_file(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    """The same for a file that may be larger than memory.

    Raises:
      CrlvizError: missing, or changed since it was written.
    """
    path, wanted = _expected(folder, manifest, name)
    with _reading(path):
        found = digest(path)
    _compare(path, found, wanted)


def _expected(folder: Path, manifest: Mapping[str, Any], name: str, most_bytes: int | None = None) -> tuple[Path, Any]:
    """A file and the checksum that it should have; of what is no plain file, or has another size, nothing is read."""
    path, entry = folder / name, manifest["files"].get(name)
    if not isinstance(entry, dict) or name != Path(name).name or "\0" in name:
        raise CrlvizError(f"{folder / 'manifest.json'} does not describe {name}")
    with _reading(path):
        size = path.stat().st_size
        if not path.is_file():
            raise CrlvizError(f"{path} is damaged: it is no file")
    if size != entry.get("bytes", size):
        raise CrlvizError(f"{path} is damaged: its {size:,} bytes are not as many as manifest.json says")
    if most_bytes is not None and size > most_bytes + _MOST_HEADER:
        raise CrlvizError(f"{path} does not fit its config.json: {size:,} bytes are more than its arrays take")
    return path, entry.get("sha256")


def _compare(path: Path, found: str, wanted: Any) -> None:
    if found != wanted:
        raise CrlvizError(f"{path} is damaged: its checksum is not the one in manifest.json")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What the system says of a failure to read, as one sentence that names the file."""
    try:
        yield
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None


def _read_json(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    with _reading(path):
        if path.exists() and not path.is_file():  # a pipe would wait for somebody to write
            raise CrlvizError(f"{path} is damaged: it is no file")
        with open(path, "rb") as file:
            data = file.read(_MOST_JSON + 1)
    if len(data) > _MOST_JSON:
        raise CrlvizError(f"{path} is damaged: it is longer than {_MOST_JSON:,} bytes")
    try:
        content = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_number)
        claimed = content.pop("sha256", None) if isinstance(content, dict) else None
        digest = _digest(content)
    except (ValueError, RecursionError):
        raise CrlvizError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or not _is(content.get("format"), int):
        raise CrlvizError(f"{path} is not a file of crlviz: it names no format")
    if content["format"] > FORMAT:
        raise CrlvizError(
            f"{path} has format {content['format']}, newer than this crlviz reads ({FORMAT}); upgrade crlviz"
        )
    if content["format"] < 1:
        raise CrlvizError(f"{path} is damaged: there is no format {content['format']}")
    if (content["format"] > 1 or claimed is not None) and claimed != digest:
        raise CrlvizError(f"{path} was changed since it was written: its contents do not give its sha256")
    for name, kind in fields.items():
        if name not in content or not _is(content[name], kind):
            raise CrlvizError(f"{path} is damaged: {name!r} is missing or not a {getattr(kind, '__name__', 'number')}")
    return content


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a kind; numbers here count something, and true is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name twice")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def to_json(content: Mapping[str, Any]) -> bytes:
    """Contents as a JSON file whose last entry is the SHA-256 of the rest."""
    return (json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of contents, however they are laid out: names sorted, no spaces."""
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()
