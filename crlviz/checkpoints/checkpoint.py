"""Checkpoints on disk: finding them by path, and reading their networks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crlviz.checkpoints import checked_arrays
from crlviz.checkpoints.run_directory import RunDirectory, runs_in
from crlviz.errors import CrlvizError


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on disk.

    Attributes:
      path: its directory.
      manifest: contents of manifest.json.
      config: contents of the run's config.json.
      run: the run directory.
    """

    path: Path
    manifest: dict[str, Any]
    config: dict[str, Any]
    run: RunDirectory

    @property
    def env_steps(self) -> int:
        return self.manifest["env_steps"]

    @property
    def files(self) -> list[str]:
        """Names of the files in the manifest, sorted."""
        return sorted(self.manifest["files"])

    def read(self, name: str, max_bytes: int | None = None) -> dict[str, Any]:
        """Read the parameters of ``actor`` or ``critic`` as a tree of numpy arrays. As ``checked_arrays.read``."""
        return checked_arrays.read(self.path, self.manifest, name, max_bytes)

    def check(self, name: str, max_bytes: int | None = None) -> None:
        """Check a file of the checkpoint against the manifest. Raises as ``checked_arrays.read_bytes``."""
        checked_arrays.read_bytes(self.path, self.manifest, name, max_bytes)


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint at a path; for a run directory, its newest checkpoint.

    Raises:
      CrlvizError: the path does not exist or is neither a run directory nor a checkpoint, its config or manifest
        cannot be read, or the checkpoint belongs to another run or another number of environment steps.
    """
    run, folders = checkpoints_at(Path(path))
    if not folders:
        raise CrlvizError(f"{run.path} holds no checkpoint yet")
    config = run.read_config()
    return Checkpoint(folders[-1], run.read_manifest(folders[-1], {"gradient_steps": int | None}), config, run)


def checkpoints_at(path: Path) -> tuple[RunDirectory, list[Path]]:
    """The run and the checkpoints that a path names: all of a run, ascending, or one. Reads no file.

    Raises:
      CrlvizError: the path does not exist, or is neither a run directory nor a checkpoint.
    """
    if not path.exists():
        raise CrlvizError(f"there is no {path}")
    if (run := RunDirectory(path)).exists():
        return run, run.checkpoints()
    if not (path / "manifest.json").is_file():
        runs = [str(run.relative_to(path)) for run in runs_in(path)]
        listed = ", ".join(runs[:4]) + f" and {len(runs) - 4} more" * (len(runs) > 4)
        reason = "is neither a run directory (no config.json) nor a checkpoint (no manifest.json)"
        raise CrlvizError(f"{path} {reason}" + f"; it holds {listed}: give one of them" * bool(runs))
    run = RunDirectory(path.resolve().parent.parent)
    if not run.exists():
        raise CrlvizError(f"{path} is a checkpoint without its run: config.json is missing from {run.path}")
    return run, [path]


def through_training(path: str | Path, max_count: int) -> list[Path]:
    """At most ``max_count`` checkpoints of a run, evenly spaced from first to newest; a single one gives itself.

    Raises:
      CrlvizError: as in ``open_checkpoint``.
    """
    newest = open_checkpoint(path)
    if newest.path == Path(path):
        return [newest.path]
    folders = newest.run.checkpoints()
    count = min(max_count, len(folders))
    # Counted back from the newest, so that it is always included.
    chosen = [folders[len(folders) - 1 - round(k * (len(folders) - 1) / max(count - 1, 1))] for k in range(count)]
    return chosen[::-1]
