"""Checkpoints: round trips, and one sentence that names the file for every kind of damage."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import crlviz
from crlviz.checkpoints import checked_json
from crlviz.checkpoints.checkpoint import open_checkpoint
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from tests.helpers.edited import at, edit
from tests.helpers.toys import toy_config, untrained_run
from tests.helpers.two_checkpoints import STEPS, refusal


def test_parameters_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    tree = {
        "blocks": {"layer_0": {"kernel": rng.normal(size=(2, 3, 4)).astype(np.float32)}},
        "scalar": np.float32(3.5),
        "transposed": rng.normal(size=(3, 5)).astype(np.float32).T,  # not contiguous
        "whole": np.arange(3),
        "empty": np.zeros((0, 2), np.float32),
        "device": jax.numpy.ones(2),
    }
    run = tmp_path / "run"
    RunDirectory(run).write_config({"algorithm": "crl", "config": {"a": [1, "ü"]}})
    path = RunDirectory(run).write_checkpoint(128, 7, {"actor": tree, "critic": {"x": np.ones(1)}})
    assert path == run / "checkpoints" / "128"
    found = open_checkpoint(path)
    assert (found.env_steps, found.manifest["gradient_steps"], found.config["config"]) == (128, 7, {"a": [1, "ü"]})
    back = found.read("actor")
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.asarray(b).dtype


def test_a_checkpoints_permissions_follow_the_umask(tmp_path):
    """safetensors writes files that only their owner can read; a group that shares runs sets its umask."""
    before = os.umask(0o027)
    try:
        run = untrained_run(tmp_path / "run")
    finally:
        os.umask(before)
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert {oct(file.stat().st_mode & 0o777) for file in checkpoint.iterdir()} == {"0o640"}


def test_a_run_means_its_newest_checkpoint(run):
    assert RunDirectory(run).checkpoint_steps() == sorted(STEPS)
    assert open_checkpoint(run).env_steps == 1000
    assert crlviz.load(str(run)).env_steps == 1000
    first = crlviz.load(run / "checkpoints" / "90")
    assert (first.env_steps, first.gradient_steps) == (90, 9)
    assert first.source == run / "checkpoints" / "90"
    both = crlviz.load_all([run, run / "checkpoints" / "90"])
    assert [agent.env_steps for agent in both] == [1000, 90]


def test_partial_checkpoints_are_ignored(run):
    (run / "checkpoints" / ".2000-abc").mkdir()
    assert crlviz.load(run).env_steps == 1000


@pytest.mark.parametrize("name", ["actor.safetensors", "critic.safetensors"])
@pytest.mark.parametrize("where", [0, 9, 0.5, -1])
def test_a_flipped_bit_is_detected(run, name, where):
    path = run / "checkpoints" / "1000" / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * where) if isinstance(where, float) else where] ^= 1
    path.write_bytes(data)
    assert str(path) in (message := refusal(run))
    assert "damaged" in message


@pytest.mark.parametrize("name", ["actor.safetensors", "critic.safetensors", "manifest.json"])
@pytest.mark.parametrize("length", [0, 10])
def test_truncation_is_detected(run, name, length):
    path = run / "checkpoints" / "1000" / name
    path.write_bytes(path.read_bytes()[:length])
    assert str(path) in (message := refusal(run))
    assert "damaged" in message


@pytest.mark.parametrize("name", ["actor.safetensors", "critic.safetensors", "manifest.json"])
def test_a_missing_file_is_named(run, name):
    path = run / "checkpoints" / "1000" / name
    path.unlink()
    assert name in (message := refusal(run))
    assert "1000" in message


def test_a_missing_path_is_named(tmp_path, run):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    assert "neither a run directory" in refusal(tmp_path)
    (run / "config.json").unlink()
    assert str(run) in refusal(run)


def test_a_run_without_a_checkpoint_says_so(run):
    shutil.rmtree(run / "checkpoints")
    assert "no checkpoint" in (message := refusal(run))
    assert str(run) in message


def test_a_checkpoint_copied_without_its_run_says_so(run, tmp_path):
    lone = Path(shutil.copytree(run / "checkpoints" / "1000", tmp_path / "a" / "b" / "1000"))
    message = refusal(lone)
    assert str(lone) in message
    assert "config.json" in message


def test_relative_paths_find_their_run(run, monkeypatch):
    monkeypatch.chdir(run / "checkpoints" / "90")
    assert crlviz.load(".").env_steps == 90
    monkeypatch.chdir(run)
    assert crlviz.load("checkpoints/90").env_steps == 90


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"text"', "{}", '{"format": "1"}', "[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_json_that_is_not_from_crlviz_is_refused(run, name, text):
    (run / name).write_text(text)
    assert str(run / name) in refusal(run)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_bytes_that_are_not_utf8_are_refused(run, name):
    (run / name).write_bytes(b"\xff\xfe\x80")
    assert str(run / name) in refusal(run)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_a_newer_format_asks_for_a_newer_crlviz(run, name):
    edit(run / name, lambda content: content.update(format=checked_json.FORMAT + 1))
    message = refusal(run)
    assert str(run / name) in message
    assert "newer" in message
    assert "upgrade" in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", []),
        ("algorithm", KeyError),
        ("config.env", KeyError),
        ("config.env", None),
        ("config.env", "point_nowhere"),
        ("config.layout", 5),
        ("config.layout", ["####", "#r.#", "####"]),
        ("config.actor", KeyError),
        ("config.critic", None),
        ("config.critic", []),
        ("config.critic.depth", "4"),
        ("config.critic.depth", 6),
        ("config.critic.depth", 8),
        ("config.actor.width", 16),
        ("config.actor.width", 0),
        ("config.actor.width", None),
        ("config.actor.layer_norm", False),
        ("config.actor.activation", "tanh"),
        ("config.critic.color", "red"),
    ],
)
def test_an_edited_config_is_refused_by_name(run, field, value):
    edit(run / "config.json", at(field, value))
    message = refusal(run)
    assert "config.json" in message
    assert str(run) in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env_steps", "1000"),
        ("gradient_steps", KeyError),
        ("files", KeyError),
        ("files", []),
        ("files", {}),
        ("files", {"actor.safetensors": "abc", "critic.safetensors": "abc"}),
        ("files", {"actor.safetensors": {}, "critic.safetensors": {}}),
        ("files", {"actor.safetensors": None, "critic.safetensors": None}),
    ],
)
def test_an_edited_manifest_is_refused_by_name(run, field, value):
    path = run / "checkpoints" / "1000" / "manifest.json"
    edit(path, at(field, value))
    assert str(path.parent) in refusal(run)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_an_edit_by_hand_is_detected(run, name):
    text = (run / name).read_text()
    for old, new in (
        ('"seed": 0', '"seed": 1'),
        ('"gradient_steps": 100', '"gradient_steps": 101'),
        ("}", ', "x": 1}'),
    ):
        changed = text[::-1].replace(old[::-1], new[::-1], 1)[::-1]
        if changed != text:
            (run / name).write_text(changed)
            assert str(run / name) in (message := refusal(run))
            assert "changed since it was written" in message
    (run / name).write_text(
        "".join(line for line in text.splitlines(True) if 'sha256": "' not in line or "  " * 3 in line)
    )
    assert str(run / name) in refusal(run)
    (run / name).write_text(json.dumps(json.loads(text)))  # another layout of the same contents is accepted
    assert crlviz.load(run).env_steps == 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"format"', '"format": 1, "format"'),
        lambda text: text.replace('"format": 2', '"format": NaN'),
        lambda text: text.replace('"format": 2', '"format": 1e999'),
        lambda text: text.replace("{", '{"x": ' + "[" * 900 + "]" * 900 + ",", 1),
        lambda text: " " * (1 << 21) + text,
    ],
    ids=["twice", "nan", "infinite", "deep", "long"],
)
@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_malformed_json_is_refused(run, name, change):
    (run / name).write_text(change((run / name).read_text()))
    assert str(run / name) in refusal(run)


@pytest.mark.parametrize("name", ["config.json", "checkpoints/1000/manifest.json"])
def test_claiming_format_1_does_not_bypass_the_checksums(run, name):
    """Format 1 had no checksums of config.json and the manifest, and the manifest did not identify its run."""

    def as_first(content):
        content |= {"format": 1, "config": {**content["config"], "seed": 9}} if "config" in content else {"format": 1}

    content = json.loads((run / name).read_text())
    as_first(content)
    (run / name).write_text(json.dumps(content))
    assert "changed since it was written" in refusal(run)  # a checksum that is present is checked
    content.pop("sha256")
    content.pop("settings", None)
    (run / name).write_text(json.dumps(content))
    assert "of another run" in refusal(run)  # the other file still has format 2


def test_a_checkpoint_in_the_wrong_place_is_refused(run, tmp_path):
    old, new = (run / "checkpoints" / str(step) for step in STEPS)
    old.rename(tmp_path / "spare"), new.rename(old), (tmp_path / "spare").rename(new)
    assert "of another checkpoint, at 90 environment steps" in refusal(run)
    other = untrained_run(tmp_path / "other", toy_config(seed=5), steps=[1000])
    shutil.rmtree(run / "checkpoints" / "1000")
    shutil.copytree(other / "checkpoints" / "1000", run / "checkpoints" / "1000")
    assert "of another run" in (message := refusal(run))
    assert str(run / "checkpoints" / "1000") in message


@pytest.mark.parametrize("make", ["directory", "loop", "device", "pipe", "grown"])
@pytest.mark.parametrize("name", ["actor.safetensors", "manifest.json"])
def test_only_regular_files_of_the_right_size_are_read(run, name, make):
    path = run / "checkpoints" / "1000" / name
    path.unlink()
    {
        "directory": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "pipe": lambda: os.mkfifo(path),
        "grown": lambda: path.write_bytes(b"0" * 5_000_000),
    }[make]()
    assert str(path) in refusal(run)


def test_arrays_larger_than_the_config_says_are_not_read(run):
    path = run / "checkpoints" / "1000" / "actor.safetensors"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    edit(path.parent / "manifest.json", at("files", {path.name: {"bytes": 1 << 40, "sha256": "0" * 64}}))
    assert "more than its arrays take" in refusal(run)


def test_arrays_of_another_type_do_not_fit(run):
    agent = crlviz.load(run)
    wrong = jax.tree.map(lambda leaf: leaf.astype(np.float16), agent.params["actor"])
    RunDirectory(run).write_checkpoint(5000, None, {"actor": wrong, "critic": agent.params["critic"]})
    assert "float16" in refusal(run)


def test_the_number_of_updates_may_be_unknown(run):
    agent = crlviz.load(run)
    RunDirectory(run).write_checkpoint(5000, None, agent.params)
    assert crlviz.load(run).gradient_steps is None


def test_a_checkpoint_is_never_overwritten(run):
    before = (run / "checkpoints" / "1000" / "actor.safetensors").read_bytes()
    with pytest.raises(CrlvizError, match=r"not empty|exists"):
        RunDirectory(run).write_checkpoint(1000, 1, {"actor": {"x": np.ones(3)}})
    assert (run / "checkpoints" / "1000" / "actor.safetensors").read_bytes() == before
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["1000", "90"]
