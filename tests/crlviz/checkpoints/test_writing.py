"""Files and checkpoints that are written: complete or not at all, with the usual permissions."""

import os

import numpy as np
import pytest

import crlviz
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_failed_write_leaves_no_files(run, monkeypatch, fails_at):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")

    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrlvizError, match=r"cannot write .*3000: No space"):
        RunDirectory(run).write_checkpoint(3000, 1, {"actor": {"x": np.ones(3)}, "critic": {"x": np.ones(3)}})
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert crlviz.load(run).env_steps == 1000


def test_an_error_names_the_final_path_not_the_temporary_one(tmp_path):
    with pytest.raises(atomic_files.WriteError) as error, atomic_files.directory(tmp_path / "run") as temporary:
        atomic_files.write(temporary / "none" / "config.json", b"")
    assert str(error.value) == f"cannot write {tmp_path}/run/none/config.json: No such file or directory"
    assert not list(tmp_path.iterdir())


def test_files_written_by_other_code_appear_atomically(tmp_path):
    path = tmp_path / "data.nc"
    path.write_bytes(b"old")

    def fail_halfway(temporary):
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with (
        pytest.raises(atomic_files.WriteError, match=f"cannot write {path}: No space"),
        atomic_files.temporary_file(path) as temporary,
    ):
        fail_halfway(temporary)
    assert path.read_bytes() == b"old"
    with atomic_files.temporary_file(path) as temporary:
        assert temporary.suffix == ".nc"
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    atomic_files.write(path, b"old")

    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_have_default_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    atomic_files.write(tmp_path / "file", b"")
    atomic_files.write_directory(tmp_path / "folder", {"inside": b"1"})
    (tmp_path / "plain_folder").mkdir()
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "plain_folder").stat().st_mode
