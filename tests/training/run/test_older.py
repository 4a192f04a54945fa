"""Runs that an older crlviz began, and what a newer one may write: what is read, gone on with, or refused."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import crlviz
from crlviz.checkpoints import run_directory
from crlviz.errors import CrlvizError
from crlviz.interchange import inspection
from tests.helpers import ROOT
from tests.helpers.toys import change_config, toy_config
from tests.torture.runs import differences
from training import config as configs
from training import trainer
from training.run import compiled
from training.run.runner import Run

# Recorded by the crlviz of their time: the toy run, killed in its last epoch. The first format had no checksum of
# config.json and manifests; of the second, one lacks the settings that came with several devices.
BEGUN = ["format1", "format2-without-remat", "format2-with-precision"]
EXAMPLE = ROOT / "examples" / "depth4"


@pytest.fixture(autouse=True, scope="module")
def _compiled_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "compiled", functools.cache(compiled.compiled))
        yield


@pytest.fixture(params=BEGUN)
def begun(request, data, tmp_path):
    run = tmp_path / request.param
    shutil.copytree(data / "unfinished" / request.param, run)
    return run


def _as_today(begun: Path, run: Path) -> Path:
    """The same run as if this crlviz had begun it: all of today's settings, all of today's checksums."""
    shutil.copytree(begun, run)
    content = run_directory.read_config(run) | {
        "config": dataclasses.asdict(toy_config()),
        "format": run_directory.FORMAT,
    }
    run_directory.write_config(run, content)
    for path in (run / "checkpoints" / "200", run / "state" / "200"):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest |= {"format": run_directory.FORMAT, "settings": run_directory.settings_digest(content)}
        manifest.pop("sha256", None)
        (path / "manifest.json").write_bytes(run_directory.to_json(manifest))
    return run


def test_it_goes_on_as_itself(begun, tmp_path):
    """To the bit where today's crlviz would end from that state, and nothing in it becomes another run's."""
    before, agent = run_directory.read_config(begun), crlviz.load(begun)
    reference = trainer.resume(_as_today(begun, tmp_path / "reference"), progress=False)
    assert trainer.resume(begun, progress=False) == begun
    assert [name for name in differences(begun, reference) if "manifest.json" not in name] == []
    after = run_directory.read_config(begun)
    assert after["config"] == before["config"]
    assert run_directory.settings_digest(after) == run_directory.settings_digest(before)
    assert not [fault for _, fault in inspection.check(begun) if fault]
    again = crlviz.load(begun / "checkpoints" / "200")
    assert jax.tree.all(jax.tree.map(np.array_equal, agent.params, again.params))
    assert crlviz.load(begun).env_steps == 280


def test_a_kill_while_it_goes_on_loses_nothing(begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "reference")
    reference = trainer.resume(tmp_path / "reference", progress=False)

    def die(self):
        raise MemoryError("as if killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_step", die)
        with pytest.raises(MemoryError):
            trainer.resume(begun, {"keep": 5}, progress=False)
    assert crlviz.load(begun).env_steps == 200
    trainer.resume(begun, progress=False)
    assert differences(begun, reference) == []


def test_numbers_are_those_of_a_run_that_was_never_stopped(data, toy_run, tmp_path):
    """Recorded on another machine, perhaps, whose sums differ in their last digits."""
    run = tmp_path / "run"
    shutil.copytree(data / "unfinished" / "format2-with-precision", run)
    trainer.resume(run, progress=False)
    for name in ("actor", "critic"):
        mine, wanted = (
            safetensors.numpy.load_file(each / "checkpoints" / "280" / f"{name}.safetensors") for each in (run, toy_run)
        )
        for key, value in wanted.items():
            np.testing.assert_allclose(mine[key], value, atol=1e-4)


def test_the_settings_of_the_shipped_examples_are_enough(data, tmp_path):
    """They were written before runs could be resumed."""
    run = tmp_path / "run"
    shutil.copytree(data / "unfinished" / "format1", run)
    content = json.loads((run / "config.json").read_text())
    first = json.loads((EXAMPLE / "config.json").read_text())["config"]
    content["config"] = {name: value for name, value in content["config"].items() if name in first}
    assert content["config"].keys() == first.keys()
    (run / "config.json").write_text(json.dumps(content))
    trainer.resume(run, progress=False)
    assert run_directory.read_config(run)["config"] == content["config"]
    assert crlviz.load(run).env_steps == 280


def test_the_first_format_is_said_to_be_unchecked(data):
    from crlviz import agent

    agent._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="format1 is of an early crlviz, without a checksum of its config.json"):
        crlviz.load(data / "unfinished" / "format1")


# ---- newer ones


def test_what_a_newer_crlviz_says_beside_the_settings_is_no_obstacle(begun):
    change_config(begun, lambda content: content.update(license="MIT"))
    assert crlviz.load(begun).env_steps == 200
    trainer.resume(begun, progress=False)
    assert run_directory.read_config(begun)["license"] == "MIT"


def test_a_setting_of_a_newer_crlviz_is_not_trained_past(begun):
    change_config(begun, lambda content: content["config"].update(curriculum="near first"))
    assert crlviz.load(begun).env_steps == 200  # the networks are what they are
    with pytest.raises(CrlvizError, match=r"config.json is damaged or from another .*'curriculum'.* upgrade"):
        trainer.resume(begun, progress=False)


def test_a_network_of_a_newer_crlviz_is_refused(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    shutil.rmtree(run / "checkpoints")
    change_config(run, lambda content: content["config"]["actor"].update(spectral=True))
    run_directory.write(run, 280, 12, {"actor": {"w": np.zeros(1)}, "critic": {"w": np.zeros(1)}})
    with pytest.raises(CrlvizError, match=r"no setting 'spectral' of a network; upgrade crlviz"):
        crlviz.load(run)


def test_an_unknown_algorithm_is_no_crl(begun):
    change_config(begun, lambda content: content.update(algorithm="sac"))
    for read in (crlviz.load, trainer.resume, trainer.finished, inspection.describe):
        with pytest.raises(
            CrlvizError, match=r"config.json names the algorithm 'sac', which this crlviz does not know"
        ):
            read(begun)


def test_settings_that_are_fixed_are_all_written_or_read_as_they_were():
    """The identity of a run must not change with what this crlviz adds: see ``checkpoints.settings_digest``."""
    content = {"algorithm": "crl", "config": {"env": "point_u_maze", "seed": 3, "gamma": 0.9}}
    assert run_directory.settings_digest(content) == "8a744a995787795030e8027cdb6b47b9928eeb77db481711c9c3c5a54cf0d54f"
    assert configs.load(content["config"]).gamma == 0.9
