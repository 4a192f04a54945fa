"""Atomic writes: a file or directory appears complete or not at all.

Data are written to a hidden name that ends in ``.part`` and renamed. A killed process leaves at most such a file.
"""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from crlviz.errors import CrlvizError, UsageError

PART = ".part"


class WriteError(CrlvizError):
    """A file cannot be written or removed: no space, no permission, or its directory is gone."""


def write(path: Path, data: bytes) -> None:
    """Write to a temporary file in the same directory, flush it to disk, and rename it to ``path``.

    Raises:
      WriteError: the file cannot be written: no space, no permission, no such directory.
    """
    with errors_naming(path):
        temporary = _beside(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _flush(path.parent)


def check_writable(path: Path) -> None:
    """Check that a file can be written, before anything is computed. Leaves nothing behind.

    Raises:
      UsageError: ``path`` is a directory, or its directory does not exist.
      WriteError: the directory is not writable: no permission, or a read-only disk.
    """
    with errors_naming(path):
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a directory; name a file in it")
        if not path.parent.is_dir():
            reason = "is a file" if path.parent.is_file() else "is missing"
            raise UsageError(f"cannot write {path}: there is no directory {path.parent}, it {reason}")
        tempfile.TemporaryFile(dir=path.parent).close()  # unnamed where the system supports it


def make_directory(path: Path) -> None:
    """Create a directory and its parents where they do not exist yet.

    Raises:
      WriteError: the directory cannot be created.
    """
    with errors_naming(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Atomic write of a file by other code: yields a temporary path with the same file name to write to.

    Raises:
      WriteError: the file cannot be written.
    """
    with errors_naming(path):
        folder = _beside(path)
        folder.mkdir()
        try:
            temporary = folder / path.name
            yield temporary
            _set_default_permissions(folder)
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _flush(path.parent)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[Path]:
    """Atomic write of a directory: yields a temporary directory to fill, flushes it to disk and renames it.

    Args:
      path: must not exist yet. Its parent is created if needed; its grandparent must exist.

    Raises:
      WriteError: the directory cannot be written.
    """
    with errors_naming(path):
        path.parent.mkdir(exist_ok=True)
        temporary = _beside(path)
        temporary.mkdir()
        try:
            yield temporary
            _set_default_permissions(temporary)
            for written in [*temporary.rglob("*"), temporary]:
                _flush(written)
            temporary.rename(path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, WriteError):  # raised for a file in the directory
                raise WriteError(str(error).replace(str(temporary), str(path))) from error
            raise
        _flush(path.parent)


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory of files in one atomic step; ``path`` must not exist yet.

    Args:
      path: the directory.
      files: file name to contents.

    Raises:
      WriteError: the directory cannot be written.
    """
    with directory(path) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def remove_directory(path: Path) -> None:
    """Remove a directory atomically: if the process is killed, it is there complete or not at all.

    Raises:
      WriteError: the directory cannot be removed.
    """
    with errors_naming(path, "remove"):
        temporary = _beside(path)
        path.rename(temporary)
        shutil.rmtree(temporary)


def remove_partial(folder: Path) -> None:
    """Remove partial files that killed processes left in a folder. No process may be writing there now.

    Raises:
      WriteError: a partial file cannot be removed.
    """
    for partial in folder.glob(f".*{PART}"):
        with errors_naming(partial, "remove"):
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink()


@contextlib.contextmanager
def errors_naming(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn an OSError into a WriteError that names ``path`` instead of the temporary file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    """Flush a file, or a directory's entries, to disk."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """An unused name in the same directory. A file created there gets the default permissions."""
    return path.parent / f".{path.name}-{secrets.token_hex(4)}{PART}"


def _set_default_permissions(folder: Path) -> None:
    """Give files in a directory the permissions of a new file there. Some libraries write files only their owner reads.

    The umask gives the same permissions, but reading it means setting it, which affects all threads.
    """
    probe = folder / f".{secrets.token_hex(4)}{PART}"
    probe.touch(exist_ok=False)
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
