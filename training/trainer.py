"""Training a run from a config to a run directory, and going on with one that was stopped."""

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
from tqdm import tqdm

from crlviz import checkpoints, files
from crlviz.errors import CrlvizError, UsageError
from training import config as configs
from training import provenance, table
from training import state as states
from training.config import TrainConfig, schedule
from training.programs import build, compiled
from training.run import Run
from training.table import METRICS

__all__ = ["METRICS", "build", "finished", "resume", "train"]

_LARGE_STATE = 1e9  # bytes from which a run says what saving takes


def train(config: TrainConfig, out: str | Path, *, command: Sequence[str] = (), progress: bool | None = None) -> Path:
    """Train, evaluate and save. SIGINT and SIGTERM end it, saved, after the running training step.

    Args:
      config: the run.
      out: the run directory, which must not exist yet or be empty.
      command: kept in config.json: what was typed.
      progress: show a bar; None: where there is a terminal.

    Returns:
      The run directory.

    Raises:
      UsageError: a wrong setting or an existing run, before anything is computed.
      BlowUp: a number is no longer finite or a loss beyond its bound; the last good checkpoint stays.
      Stopped: by a signal; ``resume`` goes on.
      CrlvizError: something cannot be written; what was saved before is whole.
    """
    began, out = time.perf_counter(), Path(out)
    _refuse_existing(out)
    programs = compiled(config)
    _check_disk(out, config, states.size(programs.example, replay=config.save_replay))
    # Made after compiling, so that what fails or is stopped before it began leaves nothing behind.
    files.make_directory(out)
    with _locked(out):
        _refuse_existing(out)  # another may have come first
        files.clear(out)
        cost = programs.loop.algorithm.cost(config.batch_size)
        content = {"algorithm": "crl", "config": dataclasses.asdict(config), "cost": cost}
        checkpoints.write_config(out, content | provenance.collect() | {"command": list(command)})
        _go(Run(out, programs, began, progress))
    return out


def resume(
    run: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    command: Sequence[str] = (),
    progress: bool | None = None,
) -> Path:
    """Go on with a run from its last saved state, to where it would have ended had it never stopped, bit for bit.

    That holds on the same machine and versions, and if replay was saved. A finished run is left as it is.

    Args:
      run: the run directory.
      changes: settings of ``config.KEEPING`` to change.
      command: kept in config.json beside the first one.
      progress: show a bar; None: where there is a terminal.

    Raises:
      UsageError: another process trains it, or a setting that may not change.
      CrlvizError: not a run, or one whose state is missing or damaged; and as ``train``.
    """
    began, run = time.perf_counter(), Path(run)
    content = checkpoints.read_config(run)
    fixed = [name for name in changes or {} if name not in configs.KEEPING]
    if fixed:
        raise UsageError(f"{fixed[0]} is fixed once a run has begun; it may change {', '.join(configs.KEEPING)}")
    with _locked(run):
        for folder in (run, run / "checkpoints", run / "state"):
            files.clear(folder)
        if finished(run):
            states.remove(run)
            return run
        if not states.newest(run) and checkpoints.all_steps(run):
            raise CrlvizError(f"{run} has checkpoints but no state to go on from; train anew in another directory")
        config = configs.replace(configs.load(content["config"]), dict(changes or {}))
        going_on = Run(run, compiled(config), began, progress)
        here = provenance.collect()
        _warn_if_elsewhere(run, content, here)
        resumed = {"env_steps": going_on.env_steps, **here, "command": list(command)}
        content |= {"config": dataclasses.asdict(config), "resumed": [*content.get("resumed", []), resumed]}
        checkpoints.write_config(run, content)
        _go(going_on)
    return run


def finished(run: str | Path) -> bool:
    """Whether a run has all its evaluations and its last checkpoint.

    Raises:
      CrlvizError: not a run directory.
    """
    run = Path(run)
    config = configs.load(checkpoints.read_config(run)["config"])
    counts = schedule(config)
    last = counts.env_steps(config, counts.steps)
    rows = table.read(run, last)
    return bool(rows) and int(rows[-1]["env_steps"]) == last and last in checkpoints.all_steps(run)


def _go(run: Run) -> None:
    try:
        run.go()
    except files.WriteError as error:
        if not (run.path / "config.json").exists():
            raise CrlvizError(f"{error}; the run is gone: {run.path} was removed while it trained") from error
        raise CrlvizError(
            f"{error}; what was saved before is whole: mend that, then crlviz train --resume {run.path}"
        ) from error


def _refuse_existing(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir() or any(p.name != ".lock" and p.suffix != files.PART for p in out.iterdir()):
        raise UsageError(f"{out} exists already; give a new directory to --out, or go on with it by --resume {out}")


@contextlib.contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Be the only process that writes in a run directory; the lock ends with its process, however that ends."""
    lock = filelock.FileLock(run / ".lock")
    with files.naming(run / ".lock"):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UsageError(f"{run} is being trained by another process; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def _check_disk(out: Path, config: TrainConfig, size: int) -> None:
    """Refuse a run whose state cannot be saved; say what a large one takes."""
    folder = next(p for p in (out, *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    what = f"a saved state of this run takes {size / 1e9:.2g} GB, and while one is replaced there are two"
    advice = ", or give --no-save-replay" if config.save_replay else ""
    if free < 2 * size:
        raise UsageError(f"{what}, but {folder} has {free / 1e9:.2g} GB free; make room{advice}")
    if size > _LARGE_STATE:
        tqdm.write(f"{what} ({free / 1e9:.3g} GB are free); --save-every spaces them{advice}", file=sys.stderr)


def _warn_if_elsewhere(run: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A resumed run is the same to the bit only where it began."""
    before = {**then.get("versions", {}), "device": then.get("device")}
    here = {**now["versions"], "device": now["device"]}
    other = [f"{name} {before[name]}" for name in before if before[name] != here.get(name)]
    if other:
        tqdm.write(
            f"{run} began with {', '.join(other)}, which is not what is here; it will not end bit for bit where it "
            "would have",
            file=sys.stderr,
        )
