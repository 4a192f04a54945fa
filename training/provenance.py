"""Where a run was made: package versions, device, and the state of the git checkouts it came from."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import crlviz

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "brax", "mujoco", "mujoco-mjx", "numpy")


def collect(devices: int = 1) -> dict[str, Any]:
    """For config.json: ``versions``, ``device``, and ``git`` of crlviz's own checkout and of the working directory.

    Args:
      devices: how many train together.
    """
    import jax

    checkouts = {"crlviz": git(Path(__file__).parent), "directory": git(Path.cwd())}
    return {
        "versions": {
            "crlviz": crlviz.__version__,  # which a checkout that nobody installed has too
            **{name: _version(name) for name in _PACKAGES},
            "python": sys.version.split()[0],
        },
        "device": str(jax.devices()[0].device_kind),
        "devices": devices,
        "git": {name: state for name, state in checkouts.items() if state},
    }


def git(path: Path) -> dict[str, Any] | None:
    """The commit that is checked out around a path, read from the files of git.

    Returns:
      ``commit``, ``branch`` (None where the head is detached), and ``changed``: whether tracked files differ from the
      commit, which only git itself can tell (None where it is not installed). None outside a checkout, and for an
      installed package, whose surroundings are somebody else's.
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
    """The commit of a branch: a file of its own, or a line of packed-refs; for a worktree in the common folder."""
    common = folder / "commondir"
    folders = [folder, folder / common.read_text(encoding="utf-8").strip()] if common.is_file() else [folder]
    for place in folders:
        if (place / name).is_file():
            return (place / name).read_text(encoding="utf-8").strip()
        if (place / "packed-refs").is_file():
            for line in (place / "packed-refs").read_text(encoding="utf-8").splitlines():
                commit, _, reference = line.partition(" ")
                if reference == name:
                    return commit
    return None


def _changed(top: Path) -> bool | None:
    program = shutil.which("git")
    if not program:
        return None
    asked = [program, "-C", str(top), "--no-optional-locks", "diff", "--quiet", "--no-ext-diff", "HEAD"]
    try:
        code = subprocess.run(asked, capture_output=True, timeout=10, check=False).returncode
    except (OSError, subprocess.SubprocessError):
        return None
    return {0: False, 1: True}.get(code)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
