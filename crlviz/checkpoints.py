"""Run directories and the checkpoints inside them: what leaves the trainer.

    RUN/config.json                 all that rebuilds environment, networks and trainer
    RUN/metrics.csv                 a row an evaluation
    RUN/checkpoints/<env_steps>/    actor.safetensors, critic.safetensors, manifest.json

Arrays are safetensors: flat, checked on reading, and nothing in them can run. The manifest holds a SHA-256 of every
file; a checkpoint appears by one rename, so a directory that is there is whole.
"""

import hashlib
import json
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
    """
    import numpy as np
    import safetensors.numpy
    from flax.traverse_util import flatten_dict

    contents = {}
    for name, tree in networks.items():
        flat = {key: np.ascontiguousarray(leaf) for key, leaf in flatten_dict(tree, sep="/").items()}
        contents[f"{name}.safetensors"] = safetensors.numpy.save(flat)
    manifest = {
        "format": FORMAT,
        "env_steps": env_steps,
        "gradient_steps": gradient_steps,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
        },
    }
    path = run / "checkpoints" / str(env_steps)
    files.write_directory(path, {**contents, "manifest.json": _json(manifest)})
    return path


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
