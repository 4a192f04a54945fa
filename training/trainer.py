"""Train a config into a run directory, and resume a run that was stopped."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import KEEPING, RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from training import config as configs
from training import provenance
from training.config import TrainConfig
from training.run import compiled, fused_choice, loggers, run_places
from training.run import saved_state as states
from training.run.building import build
from training.run.compiled import compile_for
from training.run.runner import Run, groups
from training.run.seed_run import SeedRun
from training.schedule import LENGTHS, extended, length_name, rounded
from training.sharding import ONE, Devices

__all__ = ["build", "finished", "resume", "resume_seeds", "train", "train_seeds"]


def train(
    config: TrainConfig,
    out: str | Path,
    *,
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Path:
    """Train, evaluate and save. SIGINT and SIGTERM save the run and stop it after the current training step.

    Args:
      config: the run's config.
      out: the run directory, which must not exist yet or be empty.
      command: the command line, to record in config.json.
      progress: True: show a progress bar; False: show nothing; None: a bar in a terminal, else a line for each
        evaluation.
      devices: the devices to train on (``sharding.select``).

    Returns:
      The run directory.

    Raises:
      UsageError: a wrong setting or an existing run, before anything is computed.
      DivergenceError: a number is not finite, or a loss exceeds its bound; the last good checkpoint stays.
      Stopped: a signal was received; ``resume`` continues the run.
      CrlvizError: something cannot be written; what was saved before is intact.
    """
    (run,) = train_seeds(config, {config.seed: Path(out)}, command=command, progress=progress, devices=devices)
    return run


@jax_config.with_fixed_settings
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

    An accelerator trains them at once, or as many of them as its memory holds; each run then equals the one trained
    alone up to rounding. On a CPU they take turns, and each run equals the one trained alone bit for bit.

    Args:
      config: config of all runs; its seed is not used.
      outs: the run directory of each seed.
      again: paths that the message of a stopped run gives to ``crlviz train --resume``; default: all directories.
      command, progress, devices: as in ``train``.

    Returns:
      The run directories.

    Raises:
      CrlvizError: an error of ``train``; if some of several runs fail, it is raised after the others have finished.
    """
    start_time, runs = time.perf_counter(), list(outs.values())
    if config.collector_depth:
        raise UsageError("collector_depth is set by crlviz train --learners, and cannot be given")
    loggers.read(config.log)  # before the programs are compiled
    for out in runs:
        run_places.refuse_existing(out)
    if progress is not False and (change := rounded(config)):
        tqdm.write(change, file=sys.stderr)
    choice = fused_choice.choose(config, devices)
    if progress is not False and choice.why:
        tqdm.write(choice.why, file=sys.stderr)
    compile_slots = compile_for(config, devices, choice.trunk)
    programs = compile_slots(len(runs))
    run_places.check_disk(runs, config, states.size(programs.example, replay=config.save_replay))
    # Create the directories only after compiling, so that an early failure or interrupt leaves nothing behind.
    for out in runs:
        atomic_files.make_directory(out)
    with run_places.locked(*runs):
        seed_runs = []
        for seed, out in outs.items():
            run_places.refuse_existing(out)  # another process may have created it meanwhile
            atomic_files.remove_partial(out)
            seed_runs.append(SeedRun(RunDirectory(out), dataclasses.replace(config, seed=seed)))
        shared = {"cost": programs.loop.cost}
        shared |= provenance.collect(devices.count) | {"fused": choice.record, "command": list(command)}
        for group in groups(seed_runs, compile_slots):
            for seed_run in group:
                own = configs.content(seed_run.config) | {"together": _seeds(group)}
                seed_run.directory.write_config(shared | own)
        Run(seed_runs, compile_slots, start_time, again or runs, progress).go()
        report(seed_runs, len(runs))
    return runs


def resume(
    run: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Path:
    """Resume a run from its last saved state. The result equals that of an uninterrupted run bit for bit.

    This holds on the same machine with the same versions and number of devices, if the buffer was saved. A finished run
    is left unchanged.

    Args:
      run: the run directory.
      changes: settings of ``KEEPING`` to change; and ``env_steps``, on a data set ``gradient_steps``, to make a run,
        finished or not, longer or shorter. The result equals a run started with this value and with epochs of the same
        length.
      command: the command line, to record in config.json beside the first one.
      progress: as in ``train``.
      devices: the devices to continue on; their number may differ from before.

    Raises:
      UsageError: another process trains the run, a setting may not change, or ``env_steps`` is less than already done.
      CrlvizError: not a run, or its state is missing or damaged; or an error of ``train``.
    """
    (run,) = resume_seeds([Path(run)], changes, command=command, progress=progress, devices=devices)
    return run


@jax_config.with_fixed_settings
def resume_seeds(
    runs: Sequence[Path],
    changes: Mapping[str, Any] | None = None,
    *,
    again: Sequence[Path] = (),
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> Sequence[Path]:
    """Resume runs that differ only in their seed, in one process.

    On an accelerator, runs at the same step train at once.

    Args:
      runs: the run directories. Finished runs are left unchanged.
      changes, command, progress, devices: as in ``resume``.
      again: as in ``train_seeds``.

    Returns:
      The run directories.

    Raises:
      UsageError: an error of ``resume``, or the runs differ in more than their seed.
      CrlvizError: an error of ``resume``; if some of several runs fail, it is raised after the others have finished.
    """
    start_time = time.perf_counter()
    contents = {run: RunDirectory(run).read_config() for run in runs}
    changes = dict(changes or {})
    refuse_fixed(changes)
    for run, content in contents.items():
        if "collector" in content or "learners" in content:
            raise UsageError(
                f"{run} trains with others from one buffer; resume all: crlviz train --resume {run.parent}"
            )
    with run_places.locked(*runs):
        seed_runs: list[SeedRun] = []
        failed: dict[Path, CrlvizError] = {}
        for run in runs:
            try:
                if seed_run := unfinished(RunDirectory(run), changes, progress):
                    seed_runs.append(seed_run)
            except CrlvizError as error:
                failed[run] = error
        if seed_runs:
            _refuse_different(seed_runs)
            first = seed_runs[0]
            choice = fused_choice.again(first.config, contents[first.path], devices)
            compile_slots = compile_for(first.config, devices, choice.trunk)
            now = provenance.collect(devices.count) | {"fused": choice.record, "command": list(command)}
            for group in groups(seed_runs, compile_slots):
                for seed_run in group:
                    content = contents[seed_run.path]
                    warn_if_other_machine(seed_run.path, content, now)
                    _warn_if_other_group(seed_run.path, content, group)
                    note = {"env_steps": seed_run.number, **now, "together": _seeds(group)}
                    note_resumed(seed_run, content, changes, note)
            Run(seed_runs, compile_slots, start_time, again or runs, progress).go()
        report(seed_runs, len(runs), failed)
    return runs


def refuse_fixed(changes: Mapping[str, Any]) -> None:
    """Refuse changes of settings that may not change when a run is resumed.

    Raises:
      UsageError: there is one.
    """
    if fixed := [name for name in changes if name not in (*KEEPING, *LENGTHS)]:
        allowed = ", ".join((*KEEPING, *LENGTHS))
        raise UsageError(f"{fixed[0]} is fixed once a run has started; what may change is {allowed}")


def unfinished(run: RunDirectory, changes: Mapping[str, Any], progress: bool | None) -> SeedRun | None:
    """A locked run at its newest saved state, with the changes made to its config; None if it is finished.

    Args:
      run: the run.
      changes: as in ``resume``.
      progress: False: do not say what is rounded.

    Raises:
      CrlvizError: the run cannot be resumed.
    """
    run.remove_partial()
    config = changed(run, changes)
    total = config.schedule.total
    name = length_name(config)
    if progress is not False and changes.get(name, total) != total:
        message = f"{name} {changes[name]:,} is rounded up to {total:,}, an evaluation of {run.path}"
        tqdm.write(message, file=sys.stderr)
    if run.finished(total):
        if not config.keep_state:
            run.remove_states()
        return None
    _refuse_stateless(run)
    return SeedRun(run, config)


def finished(run: str | Path, total: int | None = None) -> bool:
    """Whether a run has all its evaluations and its last checkpoint.

    Args:
      run: the run directory.
      total: ask for this length (``schedule.length_name``) instead of the config's.

    Raises:
      CrlvizError: not a run directory.
    """
    config = configs.read_run(Path(run))
    if total is not None:
        config = extended(config, total)
    return RunDirectory(Path(run)).finished(config.schedule.total)


def changed(run: RunDirectory, changes: Mapping[str, Any]) -> TrainConfig:
    """The config to continue with: the run's own, with the changes made."""
    config = configs.read_run(run.path)
    length = length_name(config)
    if wrong := next((name for name in LENGTHS if name in changes and name != length), None):
        raise UsageError(f"the length of {run.path} is its {length}; {wrong} cannot change it")
    wanted = changes.get(length)
    config = configs.replace(config, {name: value for name, value in changes.items() if name != length})
    if wanted is None:
        return config
    config = extended(config, wanted)
    total = config.schedule.total
    saved = [*run.checkpoints(), *run.states()]
    done = max((int(path.name) for path in saved), default=0)
    if total < done:
        raise UsageError(
            f"{run.path} has already done {done:,} {config.schedule.unit}s; {length} {wanted:,} would end it at "
            f"{total:,}"
        )
    return config


def _refuse_stateless(run: RunDirectory) -> None:
    """Refuse to resume a run that has checkpoints but no state."""
    if run.newest_state() or not run.checkpoints():
        return
    advice = "no saved state to continue from; train again in another directory"
    if run.finished():
        raise CrlvizError(f"{run.path} is finished and has {advice}, without --no-keep-state")
    raise CrlvizError(f"{run.path} has checkpoints but {advice}")


def note_resumed(seed_run: SeedRun, content: dict[str, Any], changes: Mapping[str, Any], note: dict[str, Any]) -> None:
    """Record in config.json that a run was resumed.

    Only the settings that this resumption changes are written. Adding settings that are newer than the run would change
    its digest, and its checkpoints and state would count as another run's.
    """
    names = {*changes, *({"evaluations"} if set(LENGTHS) & set(changes) else ())}
    changed = {name: getattr(seed_run.config, name) for name in sorted(names)}
    before = {name: content["config"][name] for name in changed if name in content["config"]}
    if before != changed:
        note = note | {"before": before}
    more = {"config": content["config"] | changed, "resumed": [*content.get("resumed", []), note]}
    seed_run.directory.write_config(content | more)


def report(seed_runs: Sequence[SeedRun], count: int, failed: Mapping[Path, CrlvizError] | None = None) -> None:
    """Raise the errors of failed runs, if any. ``count``: number of all runs; ``failed``: errors before training."""
    failed = {**(failed or {}), **{seed_run.path: seed_run.error for seed_run in seed_runs if seed_run.error}}
    for run, error in failed.items():
        if isinstance(error, atomic_files.WriteError):
            advice = f"what was saved before is intact; fix the cause, then run crlviz train --resume {run}"
            if not RunDirectory(run).exists():
                advice = f"the run is gone: {run} was removed while it trained"
            failed[run] = CrlvizError(f"{error}; {advice}")
    if failed and count == 1:
        raise next(iter(failed.values()))
    if failed:
        lines = [f"{run}: {error}" for run, error in failed.items()]
        raise CrlvizError("\n".join([f"{len(failed)} of {count} runs failed", *lines]))


def _seeds(group: Sequence[SeedRun]) -> list[int]:
    """The seeds of a group, which config.json records as ``together``."""
    return [seed_run.config.seed for seed_run in group]


def _refuse_different(seed_runs: Sequence[SeedRun]) -> None:
    """Refuse runs that differ in more than their seed: they would need different programs."""
    first, *others = ({**dataclasses.asdict(seed_run.config), "seed": 0} for seed_run in seed_runs)
    for seed_run, other in zip(seed_runs[1:], others, strict=True):
        differing = [name for name in first if other[name] != first[name]]
        if differing:
            raise UsageError(
                f"{seed_runs[0].path} and {seed_run.path} differ in more than their seed ({', '.join(differing)}); "
                "resume them one by one"
            )


def warn_if_other_machine(run: Path, content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Warn if versions or devices differ from the start of the run: its result is then not bit-identical."""
    before = {**content.get("versions", {}), "device": content.get("device"), "devices": content.get("devices", 1)}
    current = {**now["versions"], "device": now["device"], "devices": now["devices"]}
    # A value that was not recorded, like the version of a package without metadata, is not compared.
    changed = [f"{name} {printable(old)}" for name, old in before.items() if old not in (None, current.get(name))]
    if changed:
        tqdm.write(
            f"{run} was started with {', '.join(changed)}, which differs from this machine; its result will not be "
            "bit-identical to that of an uninterrupted run",
            file=sys.stderr,
        )


def _warn_if_other_group(run: Path, content: Mapping[str, Any], group: Sequence[SeedRun]) -> None:
    """Warn if the group size changes: on an accelerator the last digits depend on how many runs train together."""
    before = [content, *content.get("resumed", [])][-1].get("together", [None])
    if compiled.at_once() and len(before) != len(group):
        tqdm.write(
            f"{run} was trained in a group of {len(before)} and continues in a group of {len(group)}; on an "
            "accelerator its result will not be bit-identical to that of an uninterrupted run",
            file=sys.stderr,
        )
