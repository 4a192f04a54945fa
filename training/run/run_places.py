"""The places of runs on the disk: whether they are free, locked by a process, and large enough."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
from tqdm import tqdm

from crlviz.checkpoints import atomic_files
from crlviz.errors import UsageError
from training.config import TrainConfig

_LARGE_STATE = 1e9  # bytes of a saved state above which its size is reported


def refuse_existing(out: Path) -> None:
    """Refuse a directory that holds anything but a lock and temporary files."""
    if not out.exists():
        return
    if not out.is_dir() or any(p.name != ".lock" and p.suffix != atomic_files.PART for p in out.iterdir()):
        raise UsageError(f"{out} exists already; give a new directory to --out, or resume it with --resume {out}")


@contextlib.contextmanager
def locked(*runs: Path) -> Iterator[None]:
    """Lock run directories for this process; the system releases a lock whenever its process ends."""
    with contextlib.ExitStack() as locks:
        for run in runs:
            lock = filelock.FileLock(run / ".lock")
            with atomic_files.errors_naming(run / ".lock"):
                try:
                    lock.acquire(timeout=0)
                except filelock.Timeout:
                    raise UsageError(f"{run} is being trained by another process; wait for it, or stop it") from None
            locks.callback(lock.release)
        yield


def check_disk(runs: Sequence[Path], config: TrainConfig, size: int) -> None:
    """Refuse runs if their states do not fit on the disk; report the size of large states. ``size`` is in bytes."""
    folder = next(p for p in (runs[0], *runs[0].absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    which = "this run" if len(runs) == 1 else f"each of these {len(runs)} runs"
    need = f"a saved state of {which} takes {size / 1e9:.2g} GB, twice that while one replaces another"
    advice = ", or give --no-save-replay" if config.save_replay else ""
    if free < (len(runs) + 1) * size:
        raise UsageError(f"{need}, but {folder} has {free / 1e9:.2g} GB free; make room{advice}")
    if size > _LARGE_STATE:
        tqdm.write(
            f"{need} ({free / 1e9:.3g} GB are free); to save less often, give --save-every{advice}", file=sys.stderr
        )
