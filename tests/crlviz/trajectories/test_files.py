"""Files of trajectories: OGBench's own samples, round trips, files larger than memory, and faults a user can meet."""

import dataclasses
import io
import os
import shutil
import zipfile

import netCDF4
import numpy as np
import pytest

from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import checks, files, netcdf
from crlviz.trajectories.data import Trajectories

OGBENCH = "pointmaze-medium-random-v0.npz"


@pytest.fixture
def sample(data):
    return data / "trajectories" / OGBENCH


def made(lengths=(3, 1, 5), seed=0, **changes) -> Trajectories:
    """Random trajectories of these numbers of transitions."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(np.array(lengths) + 1) - 1
    rows = int(ends[-1]) + 1

    def numbers(width):
        return rng.uniform(-1, 1, (rows, width)).astype(np.float32)

    arrays = {"state": numbers(4), "action": numbers(2), "goal": numbers(2), "qpos": numbers(3), "qvel": numbers(2)}
    facts = {"goal_indices": (0, 1), "env": "point_u_maze", "made": {"policy": "mean", "seed": 3}}
    return Trajectories(ends=ends, **(arrays | facts | changes))


def assert_same(one: Trajectories, other: Trajectories) -> None:
    assert one.per_row.keys() == other.per_row.keys()
    for name, array in one.per_row.items():
        np.testing.assert_array_equal(np.asarray(array[:]), np.asarray(other.per_row[name][:]), strict=True)
    np.testing.assert_array_equal(one.ends, other.ends)
    assert (one.goal_indices, one.env, one.made) == (other.goal_indices, other.env, other.made)


def transitions(trajectories: Trajectories) -> tuple[np.ndarray, ...]:
    """(state, action, next state) of all transitions."""
    rows = np.setdiff1d(np.arange(trajectories.rows), trajectories.ends)
    return trajectories.state[rows], trajectories.action[rows], trajectories.state[rows + 1]


def ogbench_transitions(path) -> tuple[np.ndarray, ...]:
    """The same by OGBench's loader: next is the row after, and the rows where a trajectory ends are left out."""
    file = np.load(path)
    keep = (1 - file["terminals"])[:-1].astype(bool)
    states = file["observations"]
    return states[:-1][keep], file["actions"][:-1][keep], states[1:][keep]


def test_a_file_of_ogbench_is_read_as_its_loader_does(sample):
    read = files.read(sample)
    assert (read.rows, len(read.ends), set(read.lengths)) == (4000, 20, {199})
    assert (read.goal, read.goal_indices, read.env) == (None, None, "")
    assert read.qpos.shape == read.qvel.shape == (4000, 2)
    for mine, theirs in zip(transitions(read), ogbench_transitions(sample), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert files.validation(sample) == sample.with_name("pointmaze-medium-random-v0-val.npz")
    assert files.validation(files.validation(sample)) is None


@pytest.mark.parametrize("ending", files.ENDINGS)
def test_what_is_written_is_read(tmp_path, ending):
    path, whole = tmp_path / f"päth{ending}", made()
    files.write(path, whole)
    assert_same(files.read(path), whole)
    assert os.listdir(tmp_path) == [path.name]
    few = dataclasses.replace(whole, goal=None, qpos=None, qvel=None, goal_indices=None, env="", made={})
    files.write(path, few)
    assert_same(files.read(path), few)
    if ending == ".npz":
        for mine, theirs in zip(transitions(whole), ogbench_transitions(path), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("ending", files.ENDINGS)
def test_blocks_are_whole_trajectories_in_order(tmp_path, ending):
    whole = made((3, 1, 5, 9, 2, 30, 1))
    path = tmp_path / f"a{ending}"
    files.write(path, (whole.part(first, last) for first, last in ((0, 2), (2, 3), (3, 7))))  # written in blocks too
    assert_same(files.read(path), whole)
    parts = list(files.blocks(path, rows=10))
    assert len(parts) > 2
    assert max(part.rows for part in parts) <= 10 + 30  # the last trajectory of a block may pass its end
    np.testing.assert_array_equal(np.concatenate([part.lengths for part in parts]), whole.lengths)
    for name, array in whole.per_row.items():
        np.testing.assert_array_equal(np.concatenate([part.per_row[name] for part in parts]), array)


@pytest.mark.parametrize("ending", files.ENDINGS)
def test_a_file_larger_than_memory_is_sliced_from_disk(tmp_path, ending, monkeypatch):
    whole = made()
    path = tmp_path / f"a{ending}"
    files.write(path, whole)
    monkeypatch.setattr(checks, "free_memory", lambda: 2 * 4 * 13 * whole.rows - 1)
    large = files.read(path)
    assert not any(type(array) is np.ndarray for array in large.per_row.values())
    assert_same(large, whole)
    assert_same(large.part(1, 3), whole.part(1, 3))
    monkeypatch.setattr(checks, "free_memory", lambda: 2 * 4 * 13 * whole.rows)
    assert all(type(array) is np.ndarray for array in files.read(path).per_row.values())


def test_a_compressed_file_larger_than_memory_is_converted_in_blocks(sample, tmp_path, monkeypatch):
    whole = files.read(sample)
    monkeypatch.setattr(checks, "free_memory", lambda: 100_000)
    with pytest.raises(CrlvizError, match=r"is compressed and takes .* convert it once with: crlviz record --from"):
        files.read(sample)
    files.write(tmp_path / "a.nc", files.blocks(sample, 500))
    assert_same(files.read(tmp_path / "a.nc"), whole)


def test_a_large_file_of_float64_is_converted_too(tmp_path, monkeypatch):
    np.savez(path := tmp_path / "a.npz", **members(actions=np.full((6, 2), 0.1)))
    monkeypatch.setattr(checks, "free_memory", lambda: 100)
    with pytest.raises(CrlvizError, match="holds numbers of 8 bytes and takes"):
        files.read(path)
    assert [part.action.dtype for part in files.blocks(path)] == [np.float32]


def test_a_twin_is_split_off_on_demand(tmp_path):
    path, whole = tmp_path / "a.npz", made((3, 1, 5, 9, 2, 7, 4, 6, 8, 10))
    files.write(path, whole)
    assert files.validation(path) is None
    twin = files.split(path, 0.3)
    assert files.validation(path) == twin
    rest, held = files.read(path), files.read(twin)
    assert len(held.ends) == 3
    assert sorted([*rest.lengths, *held.lengths]) == sorted(whole.lengths)
    rows = np.concatenate([rest.state, held.state])
    assert set(map(tuple, rows)) == set(map(tuple, whole.state))
    with pytest.raises(UsageError, match="exists already"):
        files.split(path, 0.3)
    twin.unlink()
    with pytest.raises(UsageError, match="without any"):
        files.split(path, 0.01)


def members(**changes) -> dict[str, np.ndarray]:
    """OGBench's arrays of two trajectories, some changed; None leaves one out."""
    terminals = np.zeros(6, np.float32)
    terminals[[2, 5]] = 1
    arrays = {"observations": np.ones((6, 4), np.float32), "actions": np.zeros((6, 2), np.float32)}
    arrays |= {"terminals": terminals, "qpos": np.zeros((6, 2), np.float32)}
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def with_value(name, value):
    array = members()[name].copy()
    array[3] = value
    return {name: array}


FAULTS = {
    "no observations": ({"observations": None}, "has no observations"),
    "no actions": ({"actions": None}, "has no actions"),
    "no terminals": ({"terminals": None}, "has no terminals"),
    "NaN": (with_value("observations", np.nan), "observations hold nan at row 3, which is not finite"),
    "infinite": (with_value("qpos", -np.inf), "qpos hold -inf at row 3, which is not finite"),
    "actions of another scale": (with_value("actions", 7.5), r"actions hold 7.5 at row 3, .* far outside \[-1, 1\]"),
    "NaN in an action": (with_value("actions", np.nan), "actions hold nan at row 3"),
    "images": ({"observations": np.ones((6, 8, 8, 3), np.float16)}, r"shape \(6, 8, 8, 3\), as images have"),
    "half floats": ({"observations": np.ones((6, 4), np.float16)}, "observations are float16"),
    "whole numbers": ({"actions": np.zeros((6, 2), np.int32)}, "actions are int32"),
    "one dimension": ({"actions": np.zeros(6, np.float32)}, r"actions have shape \(6,\)"),
    "no columns": ({"actions": np.zeros((6, 0), np.float32)}, r"actions have shape \(6, 0\)"),
    "another length": ({"actions": np.zeros((5, 2), np.float32)}, "observations 6, actions 5, qpos 6"),
    "terminals of another length": ({"terminals": np.ones(5, np.float32)}, r"terminals have shape \(5,\)"),
    "terminals between": (with_value("terminals", 0.5), "terminals must be 0, or 1"),
    "no end": ({"terminals": np.zeros(6, np.float32)}, "no row is marked"),
    "cut": ({"terminals": np.eye(6, dtype=np.float32)[2]}, "last row, 5, does not end a trajectory"),
    "an empty trajectory": ({"terminals": np.ones(6, np.float32)}, "ends at row 0 has no transition"),
    "text": ({"terminals": np.array(list("001001"))}, "terminals are str"),
    "by column": ({"observations": np.asfortranarray(np.ones((6, 4), np.float32))}, "stored by column"),
    "complex": ({"observations": np.ones((6, 4), np.complex64)}, "observations are complex64"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_a_file_is_one_sentence(tmp_path, kind):
    changes, sentence = FAULTS[kind]
    np.savez(path := tmp_path / "a.npz", **members(**changes))
    with pytest.raises(CrlvizError, match=sentence) as error:
        files.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_intact_members_are_read(tmp_path):
    """The faults above are the faults, not the file around them; numbers of float64 are rounded."""
    np.savez(path := tmp_path / "a.npz", **members(actions=np.full((6, 2), 0.1)))
    read = files.read(path)
    assert (read.action == np.float32(0.1)).all()
    assert read.action.dtype == np.float32


def test_names_of_files_that_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.npz").mkdir()
    for path, sentence in {
        "a.npz": "a.npz cannot be read: No such file",
        "folder.npz": "folder.npz is not a file",
        "a.csv": "a.csv: a file of trajectories ends in .nc or .npz",
    }.items():
        with pytest.raises(CrlvizError, match=sentence):
            files.read(path)
    with pytest.raises(UsageError, match="there is no directory"):
        files.write("nowhere/a.nc", made())


def test_a_changed_file_of_ours_is_refused(tmp_path):
    """Also where the change is one that the format allows."""
    files.write(path := tmp_path / "a.nc", made())
    with netCDF4.Dataset(path, "a") as file:
        file["state"][0, 0] = 0.5
    with pytest.raises(CrlvizError, match=r"was changed since|its checksum is not"):
        files.read(path)
    files.write(path := tmp_path / "a.npz", made())
    with zipfile.ZipFile(path) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    contents["goals.npy"], contents["actions.npy"] = contents["actions.npy"], contents["goals.npy"]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    with pytest.raises(CrlvizError, match="was changed since it was written"):
        files.read(path)


@pytest.mark.parametrize("ending", files.ENDINGS)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, ending, monkeypatch):
    def full(*_):
        raise RuntimeError("NetCDF: HDF error")

    if ending == ".nc":
        monkeypatch.setattr(netcdf, "_define", full)
        expected = "a.nc: NetCDF: HDF error; is the disk full"
    else:
        monkeypatch.setattr(shutil, "copyfileobj", lambda *_: os.open("/dev/full/x", 0))
        expected = "a.npz: Not a directory"
    with pytest.raises(CrlvizError, match=f"cannot write .*{expected}"):
        files.write(tmp_path / f"a{ending}", made())
    assert not list(tmp_path.iterdir())


def test_pickled_objects_are_refused(tmp_path):
    trap = tmp_path / "trap"

    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    holder = np.empty((6, 4), object)
    holder[:] = Harmful()
    np.savez(path := tmp_path / "a.npz", **members(observations=holder))
    with pytest.raises(CrlvizError, match="hold Python objects, which could run code"):
        files.read(path)
    assert not trap.exists()
    np.load(io.BytesIO(path.read_bytes()), allow_pickle=True)["observations"]  # it would have
    assert trap.exists()
