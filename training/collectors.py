"""Train a collector and the learners that it feeds, and resume them: run directories beside each other (figure 8)."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory, settings_digest
from crlviz.errors import CrlvizError, UsageError
from training import config as configs
from training import provenance, trainer
from training.config import TrainConfig
from training.loop.train_loop import cost_of
from training.run import fed_by_collector, fused_choice, run_places
from training.run import saved_state as states
from training.run.fed_by_collector import FedPrograms, FedRun
from training.run.fused_choice import Choice
from training.run.seed_run import SeedRun
from training.sharding import ONE, Devices

COLLECTOR = "collector"  # name of its run directory
_NO_REWIND = "--on-nan rewind would change the data of all that learn from one buffer; take stop"


def learner_configs(collector: TrainConfig, depths: Sequence[int]) -> list[TrainConfig]:
    """The configs of learners of these depths: the collector's config with another depth of the networks.

    Raises:
      UsageError: a depth is given twice or is not a valid depth, or the collector cannot have learners.
    """
    if len(set(depths)) < len(depths):
        raise UsageError(f"--learners {','.join(map(str, depths))}: one depth is given twice")
    if collector.on_nan != "stop":
        raise UsageError(_NO_REWIND)
    made = []
    for depth in depths:
        shapes = {f"{network}.depth": depth for network in ("actor", "critic")}
        made.append(configs.replace(collector, shapes | {"collector_depth": collector.critic.depth}))
    return made


@jax_config.with_fixed_settings
def train(
    config: TrainConfig,
    depths: Sequence[int],
    outs: Mapping[int, Path],
    *,
    again: Sequence[Path] = (),
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> list[Path]:
    """Train a collector and learners of these depths from its buffer, seed after seed.

    Args:
      config: the collector's; its seed is not used.
      depths: of the learners.
      outs: for each seed the folder in which their run directories are made.
      again, command, progress, devices: as in ``trainer.train_seeds``.

    Returns:
      All run directories.

    Raises:
      UsageError: a wrong setting or an existing run, before anything is computed.
      CrlvizError: as in ``trainer.train_seeds``, after all have ended.
    """
    start_time, learners = time.perf_counter(), learner_configs(config, depths)
    own = [*learners, config]
    names = [*(f"learner-depth{depth}" for depth in depths), COLLECTOR]
    beside = {seed: [out / name for name in names] for seed, out in outs.items()}
    every = [run for family in beside.values() for run in family]
    for run in every:
        run_places.refuse_existing(run)
    choices = [fused_choice.choose(each, devices) for each in own]
    programs = fed_by_collector.programs(learners, config, choices, devices)
    collectors, example = [family[-1] for family in beside.values()], programs.collector.example
    run_places.check_disk(collectors, config, states.size(example, replay=config.save_replay))
    costs = [cost_of(each.algorithm, config.batch_size) for each in programs.loops]
    trained: list[SeedRun] = []
    for seed, family in beside.items():
        for run in family:
            atomic_files.make_directory(run)
        with run_places.locked(*family):
            seed_runs = []
            for run, each in zip(family, own, strict=True):
                run_places.refuse_existing(run)
                atomic_files.remove_partial(run)
                seed_runs.append(SeedRun(RunDirectory(run), dataclasses.replace(each, seed=seed)))
            _write_configs(seed_runs, costs, choices, devices, command)
            _go(seed_runs, programs, start_time, again or [outs[seed]], progress)
        trained += seed_runs
        start_time = time.perf_counter()
    trainer.report(trained, len(trained))
    return every


def _write_configs(
    seed_runs: Sequence[SeedRun],
    costs: Sequence[Mapping[str, int]],
    choices: Sequence[Choice],
    devices: Devices,
    command: Sequence[str],
) -> None:
    """Write the config.json of each. The collector's is last, so if it exists, all learners have theirs."""
    *learners, collector = seed_runs
    shared = provenance.collect(devices.count) | {"command": list(command), "together": [collector.config.seed]}
    origin = {
        "path": f"../{collector.path.name}",
        "depth": collector.config.critic.depth,
        "settings": settings_digest(configs.content(collector.config)),
    }
    fed: dict[str, Any] = {"learners": [f"../{each.path.name}" for each in learners]}
    roles = [{"collector": origin}] * len(learners) + [fed]
    for seed_run, cost, choice, role in zip(seed_runs, costs, choices, roles, strict=True):
        own = {"cost": cost} | shared | {"fused": choice.record} | role
        seed_run.directory.write_config(own | configs.content(seed_run.config))


def _go(
    seed_runs: Sequence[SeedRun],
    programs: FedPrograms,
    start_time: float,
    again: Sequence[Path],
    progress: bool | None,
) -> None:
    """Train learners and their collector, the last, to the end."""
    FedRun(seed_runs, lambda _: programs, start_time, again, progress).go()


def families(runs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Split runs into collectors that have learners, and others; these collectors' learners are in neither part.

    Raises:
      CrlvizError: a config.json cannot be read, or a learner's collector is not there.
    """
    contents = {run: RunDirectory(run).read_config() for run in runs}
    collectors = [run for run, content in contents.items() if content.get("learners")]
    fed = {learner.resolve() for run in collectors for learner in members(run)[:-1]}
    for run, content in contents.items():
        if "collector" in content and not RunDirectory(origin := run.parent / COLLECTOR).exists():
            raise CrlvizError(f"{run} learns from the buffer of {origin}, which was never started or was removed")
    return collectors, [run for run in runs if run not in collectors and run.resolve() not in fed]


def members(collector: Path) -> list[Path]:
    """The run directories of a collector's learners, then its own.

    Raises:
      CrlvizError: one is missing.
    """
    names = RunDirectory(collector).read_config()["learners"]
    learners = [collector.parent / Path(name).name for name in names]
    for learner in learners:
        if not RunDirectory(learner).exists():
            raise CrlvizError(f"{collector} feeds {learner}, which was removed; without it they cannot continue")
    return [*learners, collector]


@jax_config.with_fixed_settings
def resume(
    collectors: Sequence[Path],
    changes: Mapping[str, Any] | None = None,
    *,
    again: Sequence[Path] = (),
    command: Sequence[str] = (),
    progress: bool | None = None,
    devices: Devices = ONE,
) -> list[Path]:
    """Resume collectors, one after the other, each with its learners at its last saved state.

    Each run ends bit for bit as it would have uninterrupted, under the conditions of ``trainer.resume``. A learner
    without a state of its collector's step has failed before, and the others go on without it.

    Args:
      collectors: their run directories.
      changes, again, command, progress, devices: as in ``trainer.resume_seeds``.

    Returns:
      The run directories of all.

    Raises:
      UsageError: a setting may not change.
      CrlvizError: if something fails, after all others have ended: a state is missing or damaged, another process
        trains a run, or an error of ``train``.
    """
    start_time, changes = time.perf_counter(), dict(changes or {})
    trainer.refuse_fixed(changes)
    if changes.get("on_nan", "stop") != "stop":
        raise UsageError(_NO_REWIND)
    every, trained, failed = [], [], dict[Path, CrlvizError]()
    for collector in collectors:
        runs, seed_runs, programs = [collector], list[SeedRun](), None
        with contextlib.ExitStack() as locks:
            try:
                runs = members(collector)
                locks.enter_context(run_places.locked(*runs))
                seed_runs = _restored(runs, changes, progress, failed)
                programs = _again(seed_runs, changes, command, devices)
            except CrlvizError as error:
                failed[collector] = error
            if programs:
                where = again or [each.parent for each in collectors]
                _go(seed_runs, programs, start_time, where, progress)
        every += runs
        trained += seed_runs
        start_time = time.perf_counter()
    trainer.report(trained, len(every), failed)
    return every


def _restored(
    runs: Sequence[Path], changes: Mapping[str, Any], progress: bool | None, failed: dict[Path, CrlvizError]
) -> list[SeedRun]:
    """Locked learners and their collector, the last, at its newest state; empty if it is finished.

    Args:
      runs: their run directories.
      changes, progress: as in ``resume``.
      failed: gets the learners that have failed before, with the reason.
    """
    collector = trainer.unfinished(RunDirectory(runs[-1]), changes, progress)
    failed |= _align(runs[:-1], collector)
    if collector is None:
        return []
    directories = [RunDirectory(run) for run in runs[:-1] if run not in failed]
    return [*(SeedRun(each, trainer.changed(each, changes)) for each in directories), collector]


def _again(
    seed_runs: Sequence[SeedRun], changes: Mapping[str, Any], command: Sequence[str], devices: Devices
) -> FedPrograms | None:
    """Compile for resumed runs, and record in each that it was resumed; None if there are no runs."""
    if not seed_runs:
        return None
    contents = [seed_run.directory.read_config() for seed_run in seed_runs]
    own = [seed_run.config for seed_run in seed_runs]
    choices = [fused_choice.again(*each, devices) for each in zip(own, contents, strict=True)]
    programs = fed_by_collector.programs(own[:-1], own[-1], choices, devices)
    now = provenance.collect(devices.count) | {"command": list(command)}
    for seed_run, content, choice in zip(seed_runs, contents, choices, strict=True):
        trainer.warn_if_other_machine(seed_run.path, content, now)
        note = {"env_steps": seed_run.number, **now, "fused": choice.record}
        trainer.note_resumed(seed_run, content, changes, note | {"together": [seed_run.config.seed]})
    return programs


def _align(learners: Sequence[Path], collector: SeedRun | None) -> dict[Path, CrlvizError]:
    """Bring learners to the step of their collector: remove what a killed process saved beyond it.

    Args:
      learners: their run directories.
      collector: at its newest state or its start; None: it is finished.

    Returns:
      The learners that have failed before, with the reason.
    """
    failed = {}
    for learner in learners:
        directory, config = RunDirectory(learner), configs.read_run(learner)
        directory.remove_partial()
        if collector is None:
            behind = not directory.finished()
            if not behind and not config.keep_state:
                directory.remove_states()
        else:
            step = collector.number if collector.saved else -1
            for path in (*directory.checkpoints(), *directory.states()):
                if int(path.name) > step:
                    atomic_files.remove_directory(path)
            newest = directory.newest_state()
            behind = collector.saved is not None and (newest is None or int(newest.name) != step)
        if behind:
            failed[learner] = CrlvizError("it stopped before its collector, which continued without it")
    return failed
