"""JSON files of a run directory: config.json and manifest.json, each with a format number and its own SHA-256."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crlviz.errors import CrlvizError

FORMAT = 2  # format 1 had no checksums of config.json and the manifest, and no link between the two
_MAX_JSON = 1 << 20  # bytes; crlviz writes a few thousand


def read(path: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON file and check its format number and checksum; returns its content without the checksum.

    Args:
      path: the file.
      fields: required names and their types.

    Raises:
      CrlvizError: the file is unreadable, was changed since it was written, is of a newer format, or lacks a field.
    """
    with errors_reading(path):
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise CrlvizError(f"{path} is damaged: it is not a regular file")
        with open(path, "rb") as file:
            data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise CrlvizError(f"{path} is damaged: it is longer than {_MAX_JSON:,} bytes")
    try:
        content = json.loads(data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
        claimed = content.pop("sha256", None) if isinstance(content, dict) else None
        actual = digest(content)
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
    if (content["format"] > 1 or claimed is not None) and claimed != actual:
        raise CrlvizError(f"{path} was changed since it was written: its contents do not match its sha256")
    for name, kind in fields.items():
        if name not in content or not _is(content[name], kind):
            raise CrlvizError(f"{path} is damaged: {name!r} is missing or not a {getattr(kind, '__name__', 'number')}")
    return content


def encode(content: Mapping[str, Any]) -> bytes:
    """Encode contents as a JSON file whose last entry is the SHA-256 of the rest."""
    return (json.dumps({**content, "sha256": digest(content)}, indent=2) + "\n").encode()


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of contents in canonical form (sorted names, no spaces), independent of the file's layout."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def errors_reading(path: Path) -> Iterator[None]:
    """Turn an OSError on reading into a CrlvizError that names the file."""
    try:
        yield
    except OSError as error:
        raise CrlvizError(f"{path} cannot be read: {error.strerror}") from None


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
