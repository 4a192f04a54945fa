"""Files that appear whole or not at all.

What is being written stands under a hidden name that ends in ``.part``; a process that is killed leaves at most that.
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
    """A file cannot be written or removed: no space, no permission, its directory gone."""


def write(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside its place, flush it to disk, and rename it there.

    Raises:
      WriteError: it cannot be written: no space, no permission, no such directory.
    """
    with naming(path):
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
    """Refuse a file that could not be written, before there is anything to write; nothing is left behind.

    Raises:
      UsageError: its directory is not there, or it is a directory itself.
      WriteError: its directory takes no files: no permission, a disk that is only read.
    """
    with naming(path):
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a directory; name a file in it")
        if not path.parent.is_dir():
            what = "is a file" if path.parent.is_file() else "is missing"
            raise UsageError(f"cannot write {path}: there is no directory {path.parent}, it {what}")
        tempfile.TemporaryFile(dir=path.parent).close()  # has no name where the system can do without


def make_directory(path: Path) -> None:
    """Make a directory, and those that it lies in, where they are not there yet.

    Raises:
      WriteError: it cannot be made.
    """
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """The same for a file that somebody else's code writes: gives a path of the same name to write to.

    Raises:
      WriteError: it cannot be written.
    """
    with naming(path):
        folder = _beside(path)
        folder.mkdir()
        try:
            made = folder / path.name
            yield made
            _permit(folder)
            _flush(made)
            os.replace(made, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _flush(path.parent)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[Path]:
    """The same for a directory: gives a temporary one to put files in, flushes them to disk and renames it.

    Args:
      path: must not exist yet; its parent is made, its grandparent must be there.

    Raises:
      WriteError: it cannot be written.
    """
    with naming(path):
        path.parent.mkdir(exist_ok=True)
        temporary = _beside(path)
        temporary.mkdir()
        try:
            yield temporary
            _permit(temporary)
            for made in [*temporary.rglob("*"), temporary]:
                _flush(made)
            temporary.rename(path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, WriteError):  # of a file in it
                raise WriteError(str(error).replace(str(temporary), str(path))) from error
            raise
        _flush(path.parent)


def write_directory(path: Path, files: Mapping[str, bytes]) -> None:
    """A directory of files at once; ``path`` must not exist yet.

    Raises:
      WriteError: it cannot be written.
    """
    with directory(path) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)


def remove_directory(path: Path) -> None:
    """Remove a directory that, whenever this process ends, is there whole or not at all.

    Raises:
      WriteError: it cannot be removed.
    """
    with naming(path, "remove"):
        temporary = _beside(path)
        path.rename(temporary)
        shutil.rmtree(temporary)


def clear(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that nobody writes in now.

    Raises:
      WriteError: something cannot be removed.
    """
    for left in folder.glob(f".*{PART}"):
        with naming(left, "remove"):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()


@contextlib.contextmanager
def naming(path: Path, verb: str = "write") -> Iterator[None]:
    """What the system says of a failure as one sentence that names the file meant, not the temporary one."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _flush(path: Path) -> None:
    """Have the disk hold a file, or a directory's list of names."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    """A name in the same directory that nothing has. What is made there gets the permissions that anything new gets."""
    return path.parent / f".{path.name}-{secrets.token_hex(4)}{PART}"


def _permit(folder: Path) -> None:
    """Give files in a directory the permissions of any new file there: some libraries' are for their owner alone.

    The umask tells them too, but whoever asks the system for it sets it, in all threads.
    """
    sign = folder / f".{secrets.token_hex(4)}{PART}"
    sign.touch(exist_ok=False)
    usual = stat.S_IMODE(sign.stat().st_mode)
    sign.unlink()
    for made in folder.rglob("*"):
        if made.is_file():
            made.chmod(usual)
