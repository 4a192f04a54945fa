"""Run directories: the output of the trainer. ``RunDirectory`` reads and writes everything in one.

    RUN/config.json                 all that rebuilds environment, networks and trainer; versions, device, command
    RUN/metrics.csv                 one row per evaluation (metrics_table.py)
    RUN/checkpoints/<env_steps>/    actor.safetensors, critic.safetensors, manifest.json (checkpoint.py reads them)
    RUN/state/<env_steps>/          only for resuming and training longer (training/run/saved_state.py)
    RUN/.lock                       held by the training process

A run on a data set steps no environment: its checkpoints and states are named by updates instead, also as ``env_steps``
in manifests.

The manifest holds a SHA-256 of every file and of the run's settings. The manifest and config.json each end with a
SHA-256 of their own contents. A checkpoint appears by one rename, so a directory that exists is complete.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlviz.algorithms import registry
from crlviz.checkpoints import atomic_files, checked_arrays, checked_json, metrics_table
from crlviz.errors import CrlvizError

# Settings that never change during a run. The digest of their values on disk identifies every existing run, so adding
# a name here would change all digests. Fix a new setting in training/config.py only, or put it inside one of these.
_FIXED = (
    "env",
    "layout",
    "env_options",
    "eval_env",
    "seed",
    "actor",
    "critic",
    "crl",
    "batch_size",
    "gamma",
    "updates",
)
# Settings that do not affect what an update computes. They may change when a run is resumed, and runs that differ only
# in these count as the same configuration.
KEEPING = ("loss_bound", "on_nan", "rewinds", "save_every", "keep", "save_replay", "keep_state", "log")


@dataclass(frozen=True)
class RunDirectory:
    """A run on disk. Nothing is cached: every method reads or writes the files as they are now.

    Attributes:
      path: the directory.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """Path of config.json, which makes a directory a run directory."""
        return self.path / "config.json"

    @property
    def metrics_file(self) -> Path:
        """Path of metrics.csv."""
        return self.path / "metrics.csv"

    def exists(self) -> bool:
        """Whether the path is a run directory: it has a config.json."""
        return self.config_file.is_file()

    def read_config(self) -> dict[str, Any]:
        """Read config.json.

        Raises:
          CrlvizError: the file is unreadable, was changed since it was written, is not a config, or names an unknown
            algorithm.
        """
        content = checked_json.read(self.config_file, {"algorithm": str, "config": dict})
        if content["algorithm"] not in registry.NAMES:
            raise CrlvizError(
                f"{self.config_file} names the algorithm {content['algorithm'][:100]!r}, which this crlviz does not "
                f"know (it knows {', '.join(registry.NAMES)}); upgrade crlviz"
            )
        return content

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Create the directory and write config.json, in format ``config["format"]`` or else the current one.

        Raises:
          WriteError: the directory or the file cannot be written.
        """
        atomic_files.make_directory(self.path)
        atomic_files.write(self.config_file, checked_json.encode({"format": checked_json.FORMAT, **config}))

    def read_metrics(self) -> list[dict[str, str]]:
        """Read metrics.csv: one row for each evaluation so far, values as text; empty if there is no file.

        Raises:
          CrlvizError: the file cannot be read or is not a table of evaluations.
        """
        try:
            return metrics_table.read(self.metrics_file)
        except FileNotFoundError:
            return []

    def write_metrics(self, rows: Sequence[metrics_table.Row], own: Sequence[str]) -> None:
        """Write metrics.csv in place of the old one; ``own`` are the columns of the run's algorithm.

        Raises:
          WriteError: it cannot be written.
        """
        metrics_table.write(self.metrics_file, rows, own)

    def checkpoints(self) -> list[Path]:
        """The directories of the checkpoints, by ascending environment steps."""
        return _numbered(self.path / "checkpoints")

    def checkpoint_steps(self) -> list[int]:
        """Environment steps of the checkpoints, ascending."""
        return [int(path.name) for path in self.checkpoints()]

    def write_checkpoint(
        self, env_steps: int, gradient_steps: int | None, networks: Mapping[str, Mapping[str, Any]]
    ) -> Path:
        """Save parameters as ``RUN/checkpoints/<env_steps>``.

        Args:
          env_steps: environment steps so far; the checkpoint's name.
          gradient_steps: updates so far; None if unknown.
          networks: file stem (``actor``, ``critic``) to a tree of arrays.

        Returns:
          The checkpoint's directory.

        Raises:
          CrlvizError: the checkpoint cannot be written, or exists already.
        """
        from flax.traverse_util import flatten_dict

        path = self.path / "checkpoints" / str(env_steps)
        with atomic_files.directory(path) as folder:
            entries = {
                f"{name}.safetensors": checked_arrays.write(folder / f"{name}.safetensors", flatten_dict(tree, sep="/"))
                for name, tree in networks.items()
            }
            self.write_manifest(folder, path, entries, {"gradient_steps": gradient_steps})
        return path

    def remove_checkpoints(self, keep: int) -> None:
        """Remove all checkpoints but the newest ``keep``, which must be positive."""
        for path in self.checkpoints()[:-keep]:
            atomic_files.remove_directory(path)

    def states(self) -> list[Path]:
        """The directories of the saved states, by ascending environment steps. A run usually has one."""
        return _numbered(self.path / "state")

    def newest_state(self) -> Path | None:
        """The directory of the newest saved state; None if there is none."""
        return next(reversed(self.states()), None)

    def remove_states(self) -> None:
        """Remove the saved states."""
        if (self.path / "state").exists():
            atomic_files.remove_directory(self.path / "state")

    def finished(self, env_steps: int | None = None) -> bool:
        """Whether the run has its last evaluation and the checkpoint of the same step.

        Args:
          env_steps: environment steps of the last evaluation, on a data set updates. None: it is the first evaluation
            at or after those of config.json, because a run is rounded up to whole epochs.

        Raises:
          CrlvizError: config.json or metrics.csv cannot be read.
        """
        done = set(map(metrics_table.number, self.read_metrics())) & set(self.checkpoint_steps())
        if env_steps is not None:
            return env_steps in done
        wanted = self.wanted(self.read_config())
        return isinstance(wanted, int) and max(done, default=-1) >= wanted

    @staticmethod
    def wanted(content: Mapping[str, Any]) -> Any:
        """The length in a config.json: environment steps, or on a data set updates; None if it has none."""
        config = content["config"]
        return config.get("gradient_steps" if "dataset" in config else "env_steps")

    def remove_partial(self) -> None:
        """Remove partial files that a killed process left. No process may be writing here now."""
        for folder in (self.path, self.path / "checkpoints", self.path / "state"):
            atomic_files.remove_partial(folder)

    def read_manifest(self, folder: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Read the manifest of a checkpoint or a saved state of this run.

        Args:
          folder: its directory, named by its environment steps.
          fields: further required fields and their types, besides ``env_steps`` and ``files``.

        Raises:
          CrlvizError: the manifest is unreadable, was changed since it was written, or belongs to another run or
            another number of environment steps.
        """
        config = self.read_config()
        manifest = checked_json.read(folder / "manifest.json", {"env_steps": int, "files": dict, **fields})
        if str(manifest["env_steps"]) not in (folder.name, folder.resolve().name):
            raise CrlvizError(
                f"{folder / 'manifest.json'} is of another checkpoint, at {manifest['env_steps']} environment steps"
            )
        without_digest = manifest["format"] == config.get("format") == 1
        if not without_digest and manifest.get("settings") != settings_digest(config):
            raise CrlvizError(
                f"{folder} is of another run: its manifest.json and {self.config_file} do not belong together"
            )
        return manifest

    def write_manifest(self, folder: Path, path: Path, files: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Write the manifest of a checkpoint or a saved state of this run.

        Args:
          folder: the temporary directory to write in.
          path: its final name, ``RUN/checkpoints/<env_steps>`` or ``RUN/state/<env_steps>``.
          files: file name to manifest entry, as ``checked_arrays.write`` returns it.
          more: further fields of the manifest.

        Raises:
          WriteError: the run's config.json is missing or was changed.
        """
        try:
            settings = settings_digest(self.read_config())
        except CrlvizError as error:
            raise atomic_files.WriteError(f"cannot write {path}: {error}") from error
        steps = {"format": checked_json.FORMAT, "env_steps": int(path.name)}
        manifest = steps | dict(more) | {"settings": settings, "files": files}
        (folder / "manifest.json").write_bytes(checked_json.encode(manifest))


def settings_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the settings that never change during a run; links a checkpoint to its run.

    Args:
      config: content of config.json.
    """
    settings, names = config["config"], [*_FIXED, registry.section(config["algorithm"])]
    return checked_json.digest({"algorithm": config["algorithm"]} | {name: settings.get(name) for name in names})


def runs_in(folder: Path) -> list[Path]:
    """The run directories in a directory, sorted with numbers by value (4 before 16).

    Those of ``crlviz sweep`` are directly in it, those of ``train --seed 0-4`` one level deeper.
    """
    configs = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]
    runs = [config.parent for config in configs if not config.relative_to(folder).as_posix().startswith(".")]
    return sorted(runs, key=by_number)


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key for paths: compares numbers in the name by value."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", str(path))]


def _numbered(folder: Path) -> list[Path]:
    """Entries of a folder that are named by environment steps, ascending."""
    return sorted((p for p in folder.glob("*") if p.name.isascii() and p.name.isdigit()), key=lambda p: int(p.name))
