"""New files and directories have default permissions under every umask, whichever library writes them."""

import os
import stat
from pathlib import Path

import pytest

from crlviz.checkpoints import atomic_files
from crlviz.interchange.importing import import_runs


@pytest.fixture(params=[0o002, 0o027, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check(top: Path, umask: int) -> None:
    for path in (top, *top.rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_everything_has_default_permissions(tmp_path, umask):
    top = tmp_path / "top"
    top.mkdir()
    atomic_files.write(top / "written", b"1")
    with atomic_files.temporary_file(top / "elsewhere") as temporary:
        temporary.touch(0o600)  # as safetensors does
    with atomic_files.directory(top / "folder") as folder:
        (folder / "private").touch(0o600)
        (folder / "inner").mkdir()
        (folder / "inner" / "deeper").touch(0o600)
    check(top, umask)
    names = sorted(path.name for path in top.rglob("*"))
    assert names == ["deeper", "elsewhere", "folder", "inner", "private", "written"]
    atomic_files.remove_directory(top / "folder")
    assert sorted(path.name for path in top.iterdir()) == ["elsewhere", "written"]


def test_an_imported_run_has_default_permissions(data, tmp_path, umask):
    (run,) = import_runs([data / "runs" / "ant_big_maze_1000_20261121-001006"], tmp_path / "theirs")
    assert list(run.glob("checkpoints/*/actor.safetensors"))
    check(run, umask)


def test_the_umask_is_never_changed(tmp_path, monkeypatch):
    """It belongs to the whole process: changing it, even to read it, affects files that other threads create."""
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask was set"))
    atomic_files.write(tmp_path / "written", b"1")
    atomic_files.write_directory(tmp_path / "folder", {"inner": b"1"})
    with atomic_files.temporary_file(tmp_path / "elsewhere") as temporary:
        temporary.touch()
