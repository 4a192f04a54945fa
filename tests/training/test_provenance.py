"""The state of git checkouts, against git itself and against folders made by hand."""

import shutil
import subprocess

import pytest

import crlviz
from training import provenance

COMMIT, OTHER = "1" * 40, "2" * 40


@pytest.fixture(autouse=True)
def _no_git(request, monkeypatch):
    if "real" not in request.node.name:
        monkeypatch.setattr(provenance.shutil, "which", lambda name: None)


def _make(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_branch_in_its_own_file(tmp_path):
    _make(tmp_path, {".git/HEAD": "ref: refs/heads/deep/er\n", ".git/refs/heads/deep/er": COMMIT + "\n"})
    expected = {"commit": COMMIT, "branch": "deep/er", "changed": None}
    assert provenance.git(tmp_path) == expected
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert provenance.git(tmp_path / "a" / "b") == expected


def test_a_packed_branch_and_a_detached_head(tmp_path):
    packed = f"# pack-refs with: peeled\n{OTHER} refs/heads/main2\n{COMMIT} refs/heads/main\n^{OTHER}\n"
    _make(tmp_path, {".git/HEAD": "ref: refs/heads/main\n", ".git/packed-refs": packed})
    assert provenance.git(tmp_path) == {"commit": COMMIT, "branch": "main", "changed": None}
    _make(tmp_path, {".git/HEAD": OTHER + "\n"})
    assert provenance.git(tmp_path) == {"commit": OTHER, "branch": None, "changed": None}


def test_a_worktree(tmp_path):
    main = {"main/.git/HEAD": "ref: refs/heads/main\n", "main/.git/refs/heads/side": COMMIT + "\n"}
    side = {"main/.git/worktrees/side/HEAD": "ref: refs/heads/side\n"}
    side |= {"main/.git/worktrees/side/commondir": "../..\n"}
    _make(tmp_path, main | side | {"side/.git": f"gitdir: {tmp_path}/main/.git/worktrees/side\n"})
    assert provenance.git(tmp_path / "side") == {"commit": COMMIT, "branch": "side", "changed": None}


def test_outside_a_checkout_there_is_no_state(tmp_path):
    assert provenance.git(tmp_path) is None
    _make(tmp_path, {".git/HEAD": "ref: refs/heads/main\n"})  # nothing committed yet
    assert provenance.git(tmp_path) is None
    installed = _make(tmp_path, {".git/HEAD": COMMIT, "site-packages/crlviz/x": ""}) / "site-packages" / "crlviz"
    assert provenance.git(installed) is None


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_state_equals_that_of_real_git(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--initial-branch=trunk")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert provenance.git(tmp_path) == {"commit": commit, "branch": "trunk", "changed": False}
    git("pack-refs", "--all")
    (tmp_path / "file").write_text("2")
    assert provenance.git(tmp_path) == {"commit": commit, "branch": "trunk", "changed": True}


def test_the_version_of_a_checkout_that_is_not_installed(monkeypatch):
    """Without package metadata crlviz still knows its own version; the others are None."""

    def none(name):
        raise provenance.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", none)
    versions = provenance.collect()["versions"]
    assert versions["crlviz"] == crlviz.__version__
    assert versions["jax"] is None
