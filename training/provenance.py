"""Provenance of a run: package versions, device, and the state of the git checkouts."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import crlviz

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx", "numpy")


def collect(devices: int = 1) -> dict[str, Any]:
    """The provenance for config.json: ``versions``, ``device``, ``devices`` and ``git``.

    ``git`` describes crlviz's own checkout and that of the working directory.

    Args:
      devices: number of devices that train the run.
    """
    import jax

    checkouts = {"crlviz": git(Path(__file__).parent), "directory": git(Path.cwd())}
    return {
        "versions": {
            "crlviz": crlviz.__version__,  # known even in a checkout that is not installed
            **{name: _version(name) for name in _PACKAGES},
            "python": sys.version.split()[0],
        },
        "device": str(jax.devices()[0].device_kind),
        "devices": devices,
        "git": {name: state for name, state in checkouts.items() if state},
    }


def git(path: Path) -> dict[str, Any] | None:
    """The state of the git checkout that contains a path, read from git's files.

    Returns:
      ``commit``; ``branch``, None if the head is detached; and ``changed``: whether tracked files differ from the
      commit. Only git itself can tell the last; None if it is not installed. None in place of all three outside a
      checkout, and for an installed package, which may lie in a checkout of another project.
    """
    if "site-packages" in path.parts:
        return None
    try:
        top = next(folder for folder in (path, *path.parents) if (folder / ".git").exists())
        folder = top / ".git"
        if folder.is_file():  # a worktree or submodule: "gitdir: PATH"
            folder = top / folder.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (folder / "HEAD").read_text(encoding="utf-8").strip()
    except (StopIteration, OSError, ValueError):
        return None
    if not head.startswith("ref: "):
        return {"commit": head, "branch": None, "changed": _changed(top)}
    name = head.removeprefix("ref: ")
    commit = _reference(folder, name)
    return {"commit": commit, "branch": name.removeprefix("refs/heads/"), "changed": _changed(top)} if commit else None


def _reference(folder: Path, name: str) -> str | None:
    """The commit of a branch, from its own file or packed-refs; a worktree keeps these in the common folder."""
    common = folder / "commondir"
    folders = [folder, folder / common.read_text(encoding="utf-8").strip()] if common.is_file() else [folder]
    for root in folders:
        if (root / name).is_file():
            return (root / name).read_text(encoding="utf-8").strip()
        if (root / "packed-refs").is_file():
            for line in (root / "packed-refs").read_text(encoding="utf-8").splitlines():
                commit, _, reference = line.partition(" ")
                if reference == name:
                    return commit
    return None


def _changed(top: Path) -> bool | None:
    program = shutil.which("git")
    if not program:
        return None
    arguments = [program, "-C", str(top), "--no-optional-locks", "diff", "--quiet", "--no-ext-diff", "HEAD"]
    try:
        code = subprocess.run(arguments, capture_output=True, timeout=10, check=False).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    return {0: False, 1: True}.get(code)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
