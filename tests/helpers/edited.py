"""Deliberate edits of the JSON files of a run, with their checksums."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crlviz.algorithms import registry
from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import settings_digest


def edit(path: Path, change) -> None:
    """Change a JSON file and update all checksums, as a deliberate edit would."""
    content = json.loads(path.read_text())
    change(content)
    sign(path, content)
    if path.name == "config.json" and isinstance(content.get("config"), dict):
        content = {"algorithm": "crl", "config": {}} | content
        if content["algorithm"] not in registry.NAMES:
            return  # the digest of its settings is not defined
        for manifest in path.parent.glob("checkpoints/*/manifest.json"):
            entry = {"settings": settings_digest(content)}
            sign(manifest, json.loads(manifest.read_text()) | entry)


def sign(path: Path, content: dict) -> None:
    content.pop("sha256", None)
    path.write_bytes(checked_json.encode(content))


def at(path: str, value: Any) -> Callable[[dict], None]:
    """A change for ``edit``: set the entry at a dotted path, or delete it if the value is ``KeyError``."""

    def change(content):
        *parents, last = path.split(".")
        for key in parents:
            content = content[key]
        if value is KeyError:
            del content[last]
        else:
            content[last] = value

    return change
