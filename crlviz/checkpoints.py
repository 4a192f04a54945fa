"""Run directories and the checkpoints inside them: what leaves the trainer.

    RUN/config.json                 all that rebuilds environment, networks and trainer; where it was made, and how
    RUN/metrics.csv                 a row an evaluation
    RUN/checkpoints/<env_steps>/    actor.safetensors, critic.safetensors, manifest.json
    RUN/state/<env_steps>/          what only resuming needs (training/state.py); gone once the run is finished
    RUN/.lock                       held by the process that trains

Arrays are safetensors: flat, checked on reading, and nothing in them can run. The manifest holds a SHA-256 of every
file; a checkpoint appears by one rename, so a directory that is there is whole.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlviz import files
from crlviz.errors import CrlvizError

FORMAT = 1


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


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Make the run directory and its config.json."""
    run.mkdir(parents=True, exist_ok=True)
    files.write(run / "config.json", _json({"format": FORMAT, **config}))


def write(run: Path, env_steps: int, gradient_steps: int, networks: Mapping[str, Mapping[str, Any]]) -> Path:
    """Save parameters as ``RUN/checkpoints/<env_steps>``.

    Args:
      run: the run directory.
      env_steps: names the checkpoint.
      gradient_steps: updates so far.
      networks: file stem (``actor``, ``critic``) to a tree of arrays.

    Returns:
      The checkpoint's directory.

    Raises:
      CrlvizError: it cannot be written, or is there already.
    """
    from flax.traverse_util import flatten_dict

    path = run / "checkpoints" / str(env_steps)
    with files.directory(path) as folder:
        described = {
            f"{name}.safetensors": write_arrays(folder / f"{name}.safetensors", flatten_dict(tree, sep="/"))
            for name, tree in networks.items()
        }
        manifest = {
            "format": FORMAT,
            "env_steps": env_steps,
            "gradient_steps": gradient_steps,
            "files": described,
        }
        (folder / "manifest.json").write_bytes(_json(manifest))
    return path


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
      CrlvizError: nothing there, not a run directory or checkpoint, or a config or manifest that cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise CrlvizError(f"there is no {path}")
    if (path / "config.json").is_file():
        steps = all_steps(path)
        if not steps:
            raise CrlvizError(f"{path} holds no checkpoint yet")
        run, path = path, path / "checkpoints" / str(steps[-1])
    elif (path / "manifest.json").is_file():
        run = path.resolve().parent.parent
        if not (run / "config.json").is_file():
            raise CrlvizError(f"{path} is a checkpoint without its run: config.json is missing from {run}")
    else:
        raise CrlvizError(f"{path} is neither a run directory (no config.json) nor a checkpoint (no manifest.json)")
    manifest = _read_json(path / "manifest.json", {"env_steps": int, "gradient_steps": int, "files": dict})
    return Checkpoint(path, manifest, read_config(run), run)


def all_steps(run: Path) -> list[int]:
    """Environment steps of a run's checkpoints, ascending."""
    return sorted(int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit())


def read_config(run: Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      CrlvizError: unreadable, or not a config.
    """
    return _read_json(run / "config.json", {"algorithm": str, "config": dict})


def read(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A network's parameters (``actor`` or ``critic``) as a tree of numpy arrays, checked against the manifest.

    Raises:
      CrlvizError: missing, changed since it was written, or not safetensors.
    """
    import safetensors
    import safetensors.numpy
    from flax.traverse_util import unflatten_dict

    data = read_checked(checkpoint, f"{name}.safetensors")
    try:
        return unflatten_dict(safetensors.numpy.load(data), sep="/")
    except safetensors.SafetensorError as error:
        raise CrlvizError(f"{checkpoint.path / name}.safetensors cannot be read: {error}") from None


def read_checked(checkpoint: Checkpoint, name: str) -> bytes:
    """A file of a checkpoint, if its checksum is the manifest's."""
    path, entry = checkpoint.path / name, checkpoint.manifest["files"].get(name)
    if not isinstance(entry, dict):
        raise CrlvizError(f"{checkpoint.path / 'manifest.json'} does not describe {name}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CrlvizError(f"{path} is damaged: its checksum is not the one in manifest.json")
    return data


def _read_json(path: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise CrlvizError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CrlvizError(f"{path} is not a file of crlviz: it names no format")
    if content["format"] > FORMAT:
        raise CrlvizError(
            f"{path} has format {content['format']}, newer than this crlviz reads ({FORMAT}); upgrade crlviz"
        )
    for name, kind in fields.items():
        if not isinstance(content.get(name), kind):
            raise CrlvizError(f"{path} is damaged: {name!r} is missing or not a {kind.__name__}")
    return content


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
