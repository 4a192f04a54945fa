"""Files of arrays in checkpoints and saved states, with a size and SHA-256 in the manifest beside them.

Arrays are stored as safetensors: a flat format that is checked on reading and cannot execute code.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crlviz.checkpoints.checked_json import errors_reading
from crlviz.errors import CrlvizError

_MAX_HEADER = 1 << 20  # bytes of names and shapes in a safetensors file; crlviz writes a few thousand


def write(path: Path, arrays: Mapping[str, Any]) -> dict[str, Any]:
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


def read(folder: Path, manifest: Mapping[str, Any], name: str, max_bytes: int | None = None) -> dict[str, Any]:
    """Read a file of arrays as a tree of numpy arrays, checked against the manifest.

    Args:
      folder: the checkpoint's directory.
      manifest: its manifest.
      name: the file's name without its ending.
      max_bytes: a file with larger arrays is not read.

    Raises:
      CrlvizError: the file is missing, was changed since it was written, or is not safetensors.
    """
    import safetensors
    import safetensors.numpy
    from flax.traverse_util import flatten_dict, unflatten_dict

    path = folder / f"{name}.safetensors"
    data = read_bytes(folder, manifest, path.name, max_bytes)
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


def read_bytes(folder: Path, manifest: Mapping[str, Any], name: str, max_bytes: int | None = None) -> bytes:
    """Read a file and check its size and checksum against the manifest.

    Raises:
      CrlvizError: the file is missing, or was changed since it was written.
    """
    path, expected = _expected(folder, manifest, name, max_bytes)
    with errors_reading(path):
        data = path.read_bytes()
    _compare(path, hashlib.sha256(data).hexdigest(), expected)
    return data


def check(folder: Path, manifest: Mapping[str, Any], name: str) -> None:
    """Check a file's size and checksum against the manifest, for files that may be larger than memory.

    Raises:
      CrlvizError: the file is missing, or was changed since it was written.
    """
    path, expected = _expected(folder, manifest, name)
    with errors_reading(path):
        actual = digest(path)
    _compare(path, actual, expected)


def digest(path: Path) -> str:
    """SHA-256 of a file, read in chunks, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expected(folder: Path, manifest: Mapping[str, Any], name: str, max_bytes: int | None = None) -> tuple[Path, Any]:
    """A file's path and its checksum in the manifest. Checks file type and size first, so that nothing is read."""
    path, entry = folder / name, manifest["files"].get(name)
    if not isinstance(entry, dict) or name != Path(name).name or "\0" in name:
        raise CrlvizError(f"{folder / 'manifest.json'} does not describe {name}")
    with errors_reading(path):
        size = path.stat().st_size
        if not path.is_file():
            raise CrlvizError(f"{path} is damaged: it is not a regular file")
    if size != entry.get("bytes", size):
        raise CrlvizError(f"{path} is damaged: it has {size:,} bytes, but manifest.json gives another size")
    if max_bytes is not None and size > max_bytes + _MAX_HEADER:
        raise CrlvizError(f"{path} does not fit its config.json: {size:,} bytes are more than its arrays take")
    return path, entry.get("sha256")


def _compare(path: Path, actual: str, expected: Any) -> None:
    if actual != expected:
        raise CrlvizError(f"{path} is damaged: its checksum is not the one in manifest.json")
