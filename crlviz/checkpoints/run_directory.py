"""Run directories and the checkpoints in them: the output of the trainer.

    RUN/config.json                 all that rebuilds environment, networks and trainer; versions, device, command
    RUN/metrics.csv                 one row per evaluation
    RUN/checkpoints/<env_steps>/    actor.safetensors, critic.safetensors, manifest.json
    RUN/state/<env_steps>/          only for resuming and training longer (training/run/saved_state.py)
    RUN/.lock                       held by the training process

Arrays are stored as safetensors: a flat format that is checked on reading and cannot execute code. The manifest holds
a SHA-256 of every file and of the run's settings. The manifest and config.json each end with a SHA-256 of their own
contents. A checkpoint appears by one rename, so a directory that exists is complete.
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

FORMAT = 2  # format 1 had no checksums of config.json and the manifest, and no link between the two
ALGORITHMS = ("crl",)
_MAX_JSON = 1 << 20  # bytes; crlviz writes a few thousand
# Settings that never change during a run. The digest of their values on disk identifies every existing run, so adding
# a name here would change all digests. Fix a new setting in training/config.py only, or put it inside one of these.
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
# Settings that do not affect what an update computes. They may change when a run is resumed, and runs that differ only
# in these count as the same configuration.
KEEPING = ("loss_bound", "on_nan", "rewinds", "save_every", "keep", "save_replay", "keep_state")
_MAX_HEADER = 1 << 20  # bytes of names and shapes in a safetensors file; crlviz writes a few thousand


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    Attributes:
      path: its directory.
      manifest: contents of manifest.json.
      config: contents of the run's config.json.
      run: the run directory.
    """

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    run: Path

    @property
    def env_steps(self) -> int:
        return self.manifest["env_steps"]

    @property
    def files(self) -> list[str]:
        """Names of the files in the manifest, sorted."""
        return sorted(self.manifest["files"])


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Create the run directory and write config.json, in format ``config["format"]`` or else the current one.

    Raises:
      WriteError: the directory or the file cannot be written.
    """
    atomic_files.make_directory(run)
    atomic_files.write(run / "config.json", to_json({"format": FORMAT, **config}))


def write(run: Path, env_steps: int, gradient_steps: int | None, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Save parameters as ``RUN/checkpoints/<env_steps>``.

    Args:
      run: the run directory.
      env_steps: environment steps so far; the checkpoint's name.
      gradient_steps: updates so far; None if unknown.
      networks: file stem (``actor``, ``critic``) to a tree of arrays.

    Returns:
      The checkpoint's directory.

    Raises:
      CrlvizError: the checkpoint cannot be written, or exists already.
    """
    from flax.traverse_util import flatten_dict

    path = run / "checkpoints" / str(env_steps)
    with atomic_files.directory(path) as folder:
        entries = {
            f"{name}.safetensors": write_arrays(folder / f"{name}.safetensors", flatten_dict(tree, sep="/"))
            for name, tree in networks.items()
        }
        write_manifest(folder, path, entries, {"gradient_steps": gradient_steps})
    return path


def write_manifest(folder: Path, path: Path, described: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint or a saved state.

    Args:
      folder: the temporary directory to write in.
      path: its final name, ``RUN/checkpoints/<env_steps>`` or ``RUN/state/<env_steps>``.
      described: file name to manifest entry, as ``write_arrays`` returns it.
      more: further fields of the manifest.

    Raises:
      WriteError: the run's config.json is missing or was changed.
    """
    try:
        settings = settings_digest(read_config(path.parent.parent))
    except CrlvizError as error:
        raise atomic_files.WriteError(f"cannot write {path}: {error}") from error
    manifest = {"format": FORMAT, "env_steps": int(path.name), **more, "settings": settings, "files": described}
    (folder / "manifest.json").write_bytes(to_json(manifest))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Write named arrays as a safetensors file, without copying them in memory.

    Returns:
      The file's manifest entry: its size in bytes and its SHA-256.

    Raises:
      OSError: the file cannot be written.
    """
    import numpy as np
    import safetensors
    import safetensors.numpy

    try:
        safetensors.numpy.save_file({name: np.asarray(leaf, order="C") for name, leaf in arrays.items()}, path)
    except safetensors.SafetensorError as error:
        errno = re.search(r"os error (\d+)", str(error))  # safetensors reports a full disk in this text
        raise (OSError(int(errno[1]), os.strerror(int(errno[1]))) if errno else OSError(str(error))) from error
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def digest(path: Path) -> str:
    """SHA-256 of a file, read in chunks, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(path: str | Path) -> Checkpoint:
    """Open the checkpoint at a path; for a run directory, its newest checkpoint.

    Raises:
      CrlvizError: the path does not exist or is neither a run directory nor a checkpoint, its config or manifest
        cannot be read, or the checkpoint belongs to another run or another number of environment steps.
    """
    run, places = places_at(Path(path))
    if not places:
        raise CrlvizError(f"{run} holds no checkpoint yet")
    path, config = places[-1], read_config(run)
    return Checkpoint(path, read_manifest(path, run, config, {"gradient_steps": int | None}), config, run)


def places_at(path: Path) -> tuple[Path, list[Path]]:
    """The run directory and the checkpoints that a path names: all of a run, ascending, or one. Reads no file.

    Raises:
      CrlvizError: the path does not exist, or is neither a run directory nor a checkpoint.
    """
    if not path.exists():
        raise CrlvizError(f"there is no {path}")
    if (path / "config.json").is_file():
        return path, numbered(path / "checkpoints")
    if not (path / "manifest.json").is_file():
        runs = [str(run.relative_to(path)) for run in runs_in(path)]
        listed = ", ".join(runs[:4]) + f" and {len(runs) - 4} more" * (len(runs) > 4)
        reason = "is neither a run directory (no config.json) nor a checkpoint (no manifest.json)"
        raise CrlvizError(f"{path} {reason}" + f"; it holds {listed}: give one of them" * bool(runs))
    run = path.resolve().parent.parent
    if not (run / "config.json").is_file():
        raise CrlvizError(f"{path} is a checkpoint without its run: config.json is missing from {run}")
    return run, [path]


def runs_in(folder: Path) -> list[Path]:
    """The run directories in a directory, sorted with numbers by value (4 before 16).

    Those of ``crlviz sweep`` are directly in it, those of ``train --seeds`` one level deeper.
    """
    configs = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]
    runs = [config.parent for config in configs if not config.relative_to(folder).as_posix().startswith(".")]
    return sorted(runs, key=by_number)


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key for paths: compares numbers in the name by value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def finished(run: Path, config: Mapping[str, Any]) -> bool:
    """Whether a run is complete: it has its last checkpoint, or was imported.

    A run ends at its ``env_steps`` rounded up to whole epochs, so the last checkpoint is the only one at or after them.
    """
    total, steps = config["config"].get("env_steps"), all_steps(run)
    return "imported" in config or (isinstance(total, int) and bool(steps) and steps[-1] >= total)


def all_steps(run: Path) -> list[int]:
    """Environment steps of a run's checkpoints, ascending."""
    return [int(path.name) for path in numbered(run / "checkpoints")]


def numbered(folder: Path) -> list[Path]:
    """Entries of a folder that are named by environment steps, ascending."""
    return sorted((p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()), key=lambda p: int(p.name))


def through_training(path: str | Path, most: int) -> list[Path]:
    """At most ``most`` checkpoints of a run, evenly spaced from first to newest; a single checkpoint gives itself.

    Raises:
      CrlvizError: as in ``find``.
    """
    newest = find(path)
    if newest.path == Path(path):
        return [newest.path]
    steps = all_steps(newest.run)
    count = min(most, len(steps))
    # Counted back from the newest, so that it is always included.
    chosen = [steps[len(steps) - 1 - round(k * (len(steps) - 1) / max(count - 1, 1))] for k in range(count)]
    return [newest.run / "checkpoints" / str(step) for step in reversed(chosen)]


def read_config(run: Path) -> dict[str, Any]:
    """Read a run's config.json.

    Raises:
      CrlvizError: the file is unreadable, was changed since it was written, is not a config, or names an unknown
        algorithm.
    """
    content = _read_json(run / "config.json", {"algorithm": str, "config": dict})
    if content["algorithm"] not in ALGORITHMS:
        raise CrlvizError(
            f"{run / 'config.json'} names the algorithm {content['algorithm'][:100]!r}, which this crlviz does not "
            f"know (it knows {', '.join(ALGORITHMS)}); upgrade crlviz"
        )
    return content


def read_manifest(path: Path, run: Path, config: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read the manifest of a checkpoint or a saved state.

    Args:
      path: the directory, named by its environment steps.
      run: the run directory.
      config: contents of the run's config.json.
      fields: further required fields and their types, besides ``env_steps`` and ``files``.

    Raises:
      CrlvizError: the manifest is unreadable, was changed since it was written, or belongs to another run or another
        number of environment steps.
    """
    manifest = _read_json(path / "manifest.json", {"env_steps": int, "files": dict, **fields})
    if str(manifest["env_steps"]) not in (path.name, path.resolve().name):
        raise CrlvizError(
            f"{path / 'manifest.json'} is of another checkpoint, at {manifest['env_steps']} environment steps"
        )
    without_digest = manifest["format"] == config.get("format") == 1
    if not without_digest and manifest.get("settings") != settings_digest(config):
        raise CrlvizError(
            f"{path} is of another run: its manifest.json and {run / 'config.json'} do not belong together"
        )
    return manifest


def settings_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that never change during a run; links a checkpoint to its run."""
    settings = config["config"]
    return _digest({"algorithm": config["algorithm"]} | {name: settings.get(name) for name in _FIXED})


def read(checkpoint: Checkpoint, name: str, most_bytes: int | None = None) -> dict[str, Any]:
    """Read a network's parameters (``actor`` or ``critic``) as a tree of numpy arrays, checked against the manifest.

    Args:
      checkpoint: the checkpoint.
      name: the file's name without its ending.
      most_bytes: a file with larger arrays is not read.

    Raises:
      CrlvizError: the file is missing, was changed since it was written, or is not safetensors.
    """
    import safetensors
    import safetensors.numpy
    from flax.traverse_util import flatten_dict, unflatten_dict

    path = checkpoint.path / f"{name}.safetensors"
    data = read_checked(checkpoint, path.name, most_bytes)
    if int.from_bytes(data[:8], "little") > _MAX_HEADER:
        raise CrlvizError(f"{path} cannot be read: its header is longer than {_MAX_HEADER:,} bytes")
    try:
        flat = safetensors.numpy.load(data)
        tree = unflatten_dict(flat, sep="/")
        if len(flatten_dict(tree)) < len(flat):
            raise ValueError("one name is the beginning of another")
        return tree
    # Valid safetensors from elsewhere: types that numpy lacks, or names that are both a leaf and a branch.
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CrlvizError(f"{path} cannot be read: {error}") from None
    except RecursionError:
        raise CrlvizError(f"{path} cannot be read: its names are too deep") from None


def read_checked(checkpoint: Checkpoint, name: str, most_bytes: int | None = None) -> bytes:
    """Read a file of a checkpoint and check its size and checksum against the manifest.

    Raises:
      CrlvizError: the file is missing, or was changed since it was written.
    """
    path, expected = _expected(checkpoint.path, checkpoint.manifest, name, most_bytes)
    with _reading(path):
        data = path.read_bytes()
    _compare(path, hashlib.sha256(data).hexdigest(), expected)
    return data


def check_file(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    """Check a file's size and checksum against the manifest, for files that may be larger than memory.

    Raises:
      CrlvizError: the file is missing, or was changed since it was written.
    """
    path, expected = _expected(folder, manifest, name)
    with _reading(path):
        actual = digest(path)
    _compare(path, actual, expected)


def _expected(folder: Path, manifest: Mapping[str, Any], name: str, most_bytes: int | None = None) -> tuple[Path, Any]:
    """A file's path and its checksum in the manifest. Checks file type and size first, so that nothing is read."""
    path, entry = folder / name, manifest["files"].get(name)
    if not isinstance(entry, dict) or name != Path(name).name or "\0" in name:
        raise CrlvizError(f"{folder / 'manifest.json'} does not describe {name}")
    with _reading(path):
        size = path.stat().st_size
        if not path.is_file():
            raise CrlvizError(f"{path} is damaged: it is not a regular file")
    if size != entry.get("bytes", size):
        raise CrlvizError(f"{path} is damaged: it has {size:,} bytes, but manifest.json gives another size")
    if most_bytes is not None and size > most_bytes + _MAX_HEADER:
        raise CrlvizError(f"{path} does not fit its config.json: {size:,} bytes are more than its arrays take")
    return path, entry.get("sha256")


def _compare(path: Path, actual: str, expected: Any) -> None:
    if actual != expected:
        raise CrlvizError(f"{path} is damaged: its checksum is not the one in manifest.json")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an OSError on reading into a CrlvizError that names the file."""
    try:
        yield
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None


def _read_json(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    with _reading(path):
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise CrlvizError(f"{path} is damaged: it is not a regular file")
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise CrlvizError(f"{path} is damaged: it is longer than {_MAX_JSON:,} bytes")
    try:
        content = json.loads(data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        claimed = content.pop("sha256", None) if isinstance(content, dict) else None
        digest = _digest(content)
    except (ValueError, RecursionError):
        raise CrlvizError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or not _is(content.get("format"), int):
        raise CrlvizError(f"{path} is not a file of crlviz: it has no format number")
    if content["format"] > FORMAT:
        raise CrlvizError(
            f"{path} has format {content['format']}, newer than this crlviz reads ({FORMAT}); upgrade crlviz"
        )
    if content["format"] < 1:
        raise CrlvizError(f"{path} is damaged: there is no format {content['format']}")
    if (content["format"] > 1 or claimed is not None) and claimed != digest:
        raise CrlvizError(f"{path} was changed since it was written: its contents do not match its sha256")
    for name, kind in fields.items():
        if name not in content or not _is(content[name], kind):
            raise CrlvizError(f"{path} is damaged: {name!r} is missing or not a {getattr(kind, '__name__', 'number')}")
    return content


def _is(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type. Numbers here are counts: not negative, and booleans do not pass for them."""
    return isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 0)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("duplicate name")
    return content


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not valid JSON")


def to_json(content: Mapping[str, Any]) -> bytes:
    """Encode contents as a JSON file whose last entry is the SHA-256 of the rest."""
    return (json.dumps({**content, "sha256": _digest(content)}, indent=2) + "\n").encode()


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of contents in canonical form (sorted names, no spaces), independent of the file's layout."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
