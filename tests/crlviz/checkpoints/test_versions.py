"""Checkpoints that were made with other versions of packages, or that hold other arrays than their config says."""

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import crlviz
from crlviz import agent as agents
from crlviz.checkpoints.run_directory import RunDirectory
from tests.helpers.edited import at, edit
from tests.helpers.two_checkpoints import refusal


def _made_with(run: Path, **versions: str) -> None:
    edit(run / "config.json", lambda content: content.update(versions=versions))


def test_other_package_versions_warn_once(run, recwarn):
    agents.warn_once.cache_clear()
    _made_with(run, jax="0.0.1", brax=importlib.metadata.version("brax"), numpy="0.1")
    for _ in range(2):
        crlviz.load(run)
    (warning,) = recwarn
    assert "jax 0.0.1 (here " in (text := str(warning.message))
    assert "brax" not in text
    assert "\n" not in text


def test_the_same_package_versions_do_not_warn(run, recwarn):
    agents.warn_once.cache_clear()
    _made_with(run, **{name: importlib.metadata.version(name) for name in ("jax", "brax")})
    crlviz.load(run)
    edit(run / "config.json", lambda content: content.update(versions="none"))
    crlviz.load(run)
    assert not list(recwarn)


def test_arrays_of_another_network_do_not_fit(run):
    """Intact files with valid checksums, of a network that the config does not describe."""
    agent = crlviz.load(run)
    actor = dict(agent.params["actor"])
    for wrong in (
        {k: v for k, v in actor.items() if k != "head_1"},
        actor | {"head_2": actor["head_1"]},
        actor | {"stem": {**actor["stem"], "dense": {k: v[..., :3] for k, v in actor["stem"]["dense"].items()}}},
        {},
    ):
        path = RunDirectory(run).write_checkpoint(5000, 1, {"actor": wrong, "critic": agent.params["critic"]})
        message = refusal(run)
        assert str(path / "actor.safetensors") in message
        assert "does not fit" in message
        shutil.rmtree(path)


def test_a_file_that_is_not_safetensors_is_refused(run):
    path = run / "checkpoints" / "1000"
    (path / "actor.safetensors").write_bytes(b"not arrays at all")
    digest = hashlib.sha256(b"not arrays at all").hexdigest()
    edit(path / "manifest.json", at("files", {"actor.safetensors": {"sha256": digest}}))
    assert str(path / "actor") in refusal(run)
