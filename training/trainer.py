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

from crlviz import jax_config
from crlviz.checkpoints import atomic_files, run_directory
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from training import config as configs
from training import provenance
from training.config import TrainConfig, schedule
from training.run import compiled, metrics_table
from training.run import saved_state as states
from training.run.compiled import build, compile_for
from training.run.metrics_table import METRICS
from training.run.runner import Run, groups
from training.run.seed_run import SeedRun
from training.sharding import ONE, Devices

__all__ = ["METRICS", "build", "finished", "resume", "resume_seeds", "train", "train_seeds"]

_LARGE_STATE = 1e9  # bytes from which a run says what saving takes


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Path:
    """Train, evaluate and save. SIGINT and SIGTERM end it, saved, after the running training step.

    Args:
      config: the run.
      out: the run directory, which must not exist yet or be empty.
      command: kept in config.json: what was typed.
      progress: show a bar; None: where there is a terminal, and elsewhere a line an evaluation; False: neither.
      devices: that train it together (``devices.chosen``).

    Returns:
      The run directory.

    Raises:
      UsageError: a wrong setting or an existing run, before anything is computed.
      DivergenceError: a number is no longer finite or a loss beyond its bound; the last good checkpoint stays.
      Stopped: by a signal; ``resume`` goes on.
      CrlvizError: something cannot be written; what was saved before is whole.
    """
    (run,) = train_seeds(config, {config.seed: Path(out)}, command=command, progress=progress, devices=devices)
    return run


@jax_config.as_usual
def train_seeds(
    config: TrainConfig,
    outs: Mapping[int, Path],
    *,
    again: Sequence[Path] = (),
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> list[Path]:
    """Train one config with several seeds in one process, which starts and compiles once.

    An accelerator trains them at once, or as many of them as its memory holds. On a CPU they take turns, and each run
    is bit for bit what it is alone; at once it is that but for the rounding.

    Args:
      config: the runs, but for their seeds.
      outs: the seeds and the run directory of each.
      again: what ``crlviz train --resume`` takes to go on with them; default: all the directories.
      command, progress, devices: as in ``train``.

    Returns:
      The run directories.

    Raises:
      CrlvizError: as ``train``; where some of several runs failed, after the others have finished.
    """
    began, runs = time.perf_counter(), list(outs.values())
    for out in runs:
        _refuse_existing(out)
    if progress is not False and (change := configs.rounded(config)):
        tqdm.write(change, file=sys.stderr)
    fit = compile_for(config, devices)
    made = fit(len(runs))
    _check_disk(runs, config, states.size(made.example, replay=config.save_replay))
    # Made after compiling, so that what fails or is stopped before it began leaves nothing behind.
    for out in runs:
        atomic_files.make_directory(out)
    with _locked(*runs):
        seed_runs = []
        for seed, out in outs.items():
            _refuse_existing(out)  # another may have come first
            atomic_files.clear(out)
            seed_runs.append(SeedRun(out, dataclasses.replace(config, seed=seed)))
        about = {"algorithm": "crl", "cost": made.loop.algorithm.cost(config.batch_size)}
        about |= provenance.collect(devices.count) | {"command": list(command)}
        for group in groups(seed_runs, fit):
            for seed_run in group:
                own = {"config": dataclasses.asdict(seed_run.config), "together": _seeds(group)}
                run_directory.write_config(seed_run.path, about | own)
        Run(seed_runs, fit, began, again or runs, progress).go()
        _report(seed_runs, len(runs))
    return runs


def resume(
    run: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Path:
    """Go on with a run from its last saved state, to where it would have ended had it never stopped, bit for bit.

    That holds on the same machine and versions, with as many devices, and if replay was saved. A finished run is left
    as it is.

    Args:
      run: the run directory.
      changes: settings of ``run_directory.KEEPING`` to change; and ``env_steps``, to train it longer, finished or
        not, or less long: its numbers are those of a run that was told so at the start and is evaluated as often.
      command: kept in config.json beside the first one.
      progress: as in ``train``.
      devices: that train it from here on; they need not be as many as before.

    Raises:
      UsageError: another process trains it, a setting that may not change, or fewer ``env_steps`` than it has done.
      CrlvizError: not a run, or one whose state is missing or damaged; and as ``train``.
    """
    (run,) = resume_seeds([Path(run)], changes, command=command, progress=progress, devices=devices)
    return run


@jax_config.as_usual
def resume_seeds(
    runs: Sequence[Path],
    changes: Mapping[str, Any] | None = None,
    *,
    again: Sequence[Path] = (),
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Sequence[Path]:
    """Go on with runs that differ in their seed alone; what ``train_seeds`` is to ``train``.

    On an accelerator those that stand at one step go on at once.

    Args:
      runs: the run directories. Finished ones are left as they are.
      changes, command, progress, devices: as in ``resume``.
      again: what ``crlviz train --resume`` takes to go on with them once more; default: all the directories.

    Raises:
      UsageError: as ``resume``; or the runs differ in more than their seed.
      CrlvizError: as ``resume``; where some of several runs failed, after the others have finished.
    """
    began = time.perf_counter()
    contents = {run: run_directory.read_config(run) for run in runs}
    changes = dict(changes or {})
    fixed = [name for name in changes if name not in (*run_directory.KEEPING, "env_steps")]
    if fixed:
        may = ", ".join((*run_directory.KEEPING, "env_steps"))
        raise UsageError(f"{fixed[0]} is fixed once a run has begun; it may change {may}")
    with _locked(*runs):
        seed_runs: list[SeedRun] = []
        failed: dict[Path, CrlvizError] = {}
        for run in runs:
            for folder in (run, run / "checkpoints", run / "state"):
                atomic_files.clear(folder)
            try:
                config = _changed(run, changes)
                if progress is not False and changes.get("env_steps", total := _total(config)) != total:
                    said = f"env_steps {changes['env_steps']:,} is rounded up to {total:,}, an evaluation of {run}"
                    tqdm.write(said, file=sys.stderr)
                if _ended(run, config):
                    if not config.keep_state:
                        states.remove(run)
                    continue
                _refuse_stateless(run)
                seed_runs.append(SeedRun(run, config))
            except CrlvizError as error:
                failed[run] = error
        if seed_runs:
            _refuse_different(seed_runs)
            fit, here = compile_for(seed_runs[0].config, devices), provenance.collect(devices.count)
            for group in groups(seed_runs, fit):
                for seed_run in group:
                    _warn_if_elsewhere(seed_run.path, contents[seed_run.path], here)
                    _warn_if_alone(seed_run.path, contents[seed_run.path], group)
                    note = {
                        "env_steps": seed_run.env_steps,
                        **here,
                        "command": list(command),
                        "together": _seeds(group),
                    }
                    _note_resumed(seed_run, contents[seed_run.path], changes, note)
            Run(seed_runs, fit, began, again or runs, progress).go()
        _report(seed_runs, len(runs), failed)
    return runs


def finished(run: str | Path, env_steps: int | None = None) -> bool:
    """Whether a run has all its evaluations and its last checkpoint; or would, trained for other environment steps.

    Raises:
      CrlvizError: not a run directory.
    """
    config = configs.of_run(Path(run))
    return _ended(Path(run), configs.extended(config, env_steps) if env_steps is not None else config)


def _ended(run: Path, config: TrainConfig) -> bool:
    last = _total(config)
    rows = metrics_table.read(run, last)
    return bool(rows) and int(rows[-1]["env_steps"]) == last and last in run_directory.all_steps(run)


def _total(config: TrainConfig) -> int:
    """Environment steps of the whole run."""
    counts = schedule(config)
    return counts.env_steps(config, counts.steps)


def _changed(run: Path, changes: Mapping[str, Any]) -> TrainConfig:
    """The config to go on with: the run's own, but for what may change."""
    config = configs.of_run(run)
    wanted = changes.get("env_steps")
    config = configs.replace(config, {name: value for name, value in changes.items() if name != "env_steps"})
    if wanted is None:
        return config
    config = configs.extended(config, wanted)
    total = _total(config)
    saved = [*run_directory.numbered(run / "checkpoints"), *run_directory.numbered(run / "state")]
    done = max((int(path.name) for path in saved), default=0)
    if total < done:
        raise UsageError(f"{run} has done {done:,} environment steps; env_steps {wanted:,} would end it at {total:,}")
    return config


def _refuse_stateless(run: Path) -> None:
    if states.newest(run) or not run_directory.all_steps(run):
        return
    if finished(run):
        raise CrlvizError(
            f"{run} is finished and kept no state to train it longer from; train anew in another directory, without "
            "--no-keep-state"
        )
    raise CrlvizError(f"{run} has checkpoints but no state to go on from; train anew in another directory")


def _note_resumed(seed_run: SeedRun, content: dict[str, Any], changes: Mapping[str, Any], note: dict[str, Any]) -> None:
    """Tell in config.json that a run goes on.

    Of its settings only those are written that this resumption changes: with settings that have come since it began,
    its checkpoints and its state would be another run's.
    """
    names = {*changes, *({"evaluations"} if "env_steps" in changes else ())}
    changed = {name: getattr(seed_run.config, name) for name in sorted(names)}
    before = {name: content["config"][name] for name in changed if name in content["config"]}
    if before != changed:
        note = note | {"before": before}
    more = {"config": content["config"] | changed, "resumed": [*content.get("resumed", []), note]}
    run_directory.write_config(seed_run.path, content | more)


def _report(seed_runs: Sequence[SeedRun], count: int, failed: Mapping[Path, CrlvizError] | None = None) -> None:
    """Raise what went wrong with some of so many runs, if anything did; some may have failed before they trained."""
    failed = {**(failed or {}), **{seed_run.path: seed_run.trouble for seed_run in seed_runs if seed_run.trouble}}
    for run, error in failed.items():
        if isinstance(error, atomic_files.WriteError):
            advice = f"what was saved before is whole: mend that, then crlviz train --resume {run}"
            if not (run / "config.json").exists():
                advice = f"the run is gone: {run} was removed while it trained"
            failed[run] = CrlvizError(f"{error}; {advice}")
    if failed and count == 1:
        raise next(iter(failed.values()))
    if failed:
        lines = [f"{run}: {error}" for run, error in failed.items()]
        raise CrlvizError("\n".join([f"{len(failed)} of {count} runs failed", *lines]))


def _seeds(group: Sequence[SeedRun]) -> list[int]:
    return [seed_run.config.seed for seed_run in group]


def _refuse_existing(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir() or any(p.name != ".lock" and p.suffix != atomic_files.PART for p in out.iterdir()):
        raise UsageError(f"{out} exists already; give a new directory to --out, or go on with it by --resume {out}")


@contextlib.contextmanager
def _locked(*runs: Path) -> Iterator[None]:
    """Be the only process that writes in run directories; a lock ends with its process, however that ends."""
    with contextlib.ExitStack() as locks:
        for run in runs:
            lock = filelock.FileLock(run / ".lock")
            with atomic_files.naming(run / ".lock"):
                try:
                    lock.acquire(timeout=0)
                except filelock.Timeout:
                    raise UsageError(f"{run} is being trained by another process; wait for it, or stop it") from None
            locks.callback(lock.release)
        yield


def _refuse_different(seed_runs: Sequence[SeedRun]) -> None:
    """Only runs that differ in their seed alone have one program."""
    first, *others = ({**dataclasses.asdict(seed_run.config), "seed": 0} for seed_run in seed_runs)
    for seed_run, other in zip(seed_runs[1:], others, strict=True):
        differing = [name for name in first if other[name] != first[name]]
        if differing:
            raise UsageError(
                f"{seed_runs[0].path} and {seed_run.path} differ in more than their seed ({', '.join(differing)}); "
                "resume them one by one"
            )


def _check_disk(runs: Sequence[Path], config: TrainConfig, size: int) -> None:
    """Refuse runs whose states cannot be saved; say what large ones take."""
    folder = next(p for p in (runs[0], *runs[0].absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    whose = "this run" if len(runs) == 1 else f"each of these {len(runs)} runs"
    what = f"a saved state of {whose} takes {size / 1e9:.2g} GB, and while one is replaced there are two"
    advice = ", or give --no-save-replay" if config.save_replay else ""
    if free < (len(runs) + 1) * size:
        raise UsageError(f"{what}, but {folder} has {free / 1e9:.2g} GB free; make room{advice}")
    if size > _LARGE_STATE:
        tqdm.write(f"{what} ({free / 1e9:.3g} GB are free); --save-every spaces them{advice}", file=sys.stderr)


def _warn_if_elsewhere(run: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A resumed run is the same to the bit only where it began."""
    before = {**then.get("versions", {}), "device": then.get("device"), "devices": then.get("devices", 1)}
    here = {**now["versions"], "device": now["device"], "devices": now["devices"]}
    # What was not recorded, as the version of a package without metadata, tells nothing.
    other = [f"{name} {printable(then)}" for name, then in before.items() if then not in (None, here.get(name))]
    if other:
        tqdm.write(
            f"{run} began with {', '.join(other)}, which is not what is here; it will not end bit for bit where it "
            "would have",
            file=sys.stderr,
        )


def _warn_if_alone(run: Path, then: Mapping[str, Any], group: Sequence[SeedRun]) -> None:
    """On an accelerator the numbers of a seed_run depend, in their last digits, on how many train together."""
    before = [then, *then.get("resumed", [])][-1].get("together", [None])
    if compiled.at_once() and len(before) != len(group):
        tqdm.write(
            f"{run} trained in a group of {len(before)} and goes on in one of {len(group)}; on an accelerator it will "
            "not end bit for bit where it would have",
            file=sys.stderr,
        )
