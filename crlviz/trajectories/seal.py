"""A checksum at the end of crlviz's own files of trajectories, after the contents that the format defines.

It is checked before a library parses the file, because such libraries are not written for damaged files. Libraries that
read netCDF or zip ignore bytes after the end.
"""

import hashlib
import os
from pathlib import Path

from crlviz.errors import CrlvizError

_MARK = b"crlviz sha256 "
_LENGTH = len(_MARK) + 32


def append(path: Path) -> None:
    """Append the checksum to a file."""
    with open(path, "r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(_MARK + digest)


def check(path: Path) -> bool:
    """Compare the file with its checksum; returns whether it has one.

    Raises:
      CrlvizError: it was changed since it was written.
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LENGTH))
        mark, claimed = (tail := file.read(_LENGTH))[: len(_MARK)], tail[len(_MARK) :]
        if mark != _MARK:
            return False
        file.seek(0)
        digest = hashlib.sha256()
        left = size - _LENGTH
        while left and (data := file.read(min(left, 1 << 20))):
            digest.update(data)
            left -= len(data)
    if digest.digest() != claimed:
        raise CrlvizError(f"{path} is damaged: its checksum is not the one at its end")
    return True
