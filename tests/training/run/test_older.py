"""Compatibility: runs of older versions are read and resumed; what a newer version adds is ignored or refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

import crlviz
from crlviz.checkpoints import checked_json
from crlviz.checkpoints.run_directory import RunDirectory, settings_digest
from crlviz.errors import CrlvizError
from crlviz.interchange import inspection
from tests.helpers import ROOT
from tests.helpers.toys import change_config, toy_config
from tests.torture.runs import differences
from training import config as configs
from training import trainer
from training.run.runner import Run

# The toy run, killed in its last epoch, recorded with the version of the time. The first format has no checksum of
# config.json and manifests; one run of the second lacks the settings that came with several devices.
BEGUN = ["format1", "format2-without-remat", "format2-with-precision"]
EXAMPLE = ROOT / "examples" / "depth4"


@pytest.fixture(params=BEGUN)
def begun(request, data, tmp_path):
    run = tmp_path / request.param
    shutil.copytree(data / "unfinished" / request.param, run)
    return run


def _as_today(begun: Path, run: Path) -> Path:
    """The same run as this version would have started it, with all current settings and checksums."""
    shutil.copytree(begun, run)
    content = RunDirectory(run).read_config() | {
        "config": configs.content(toy_config())["config"],
        "format": checked_json.FORMAT,
    }
    RunDirectory(run).write_config(content)
    for path in (run / "checkpoints" / "200", run / "state" / "200"):
        manifest = json.loads((path / "manifest.json").read_text())
        manifest |= {"format": checked_json.FORMAT, "settings": settings_digest(content)}
        manifest.pop("sha256", None)
        (path / "manifest.json").write_bytes(checked_json.encode(manifest))
    return run


def test_an_older_run_resumes_as_itself(begun, tmp_path):
    """It ends bit for bit as a run of this version from the same state, and its digest does not change."""
    before, agent = RunDirectory(begun).read_config(), crlviz.load(begun)
    reference = trainer.resume(_as_today(begun, tmp_path / "reference"), progress=False)
    assert trainer.resume(begun, progress=False) == begun
    assert [name for name in differences(begun, reference) if "manifest.json" not in name] == []
    after = RunDirectory(begun).read_config()
    assert after["config"] == before["config"]
    assert settings_digest(after) == settings_digest(before)
    assert not [fault for _, fault in inspection.check(begun) if fault]
    again = crlviz.load(begun / "checkpoints" / "200")
    assert jax.tree.all(jax.tree.map(np.array_equal, agent.params, again.params))
    assert crlviz.load(begun).env_steps == 280


def test_an_older_run_that_is_killed_after_resuming_loses_nothing(begun, tmp_path, monkeypatch):
    shutil.copytree(begun, tmp_path / "reference")
    reference = trainer.resume(tmp_path / "reference", progress=False)

    def die(self):
        raise MemoryError("as if killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", die)
        with pytest.raises(MemoryError):
            trainer.resume(begun, {"keep": 5}, progress=False)
    assert crlviz.load(begun).env_steps == 200
    trainer.resume(begun, progress=False)
    assert differences(begun, reference) == []


def test_an_older_run_ends_like_an_uninterrupted_run(data, toy_run, tmp_path):
    """To 1e-4: the recording may come from another machine, whose sums differ in their last digits."""
    run = tmp_path / "run"
    shutil.copytree(data / "unfinished" / "format2-with-precision", run)
    trainer.resume(run, progress=False)
    for name in ("actor", "critic"):
        mine, wanted = (
            safetensors.numpy.load_file(each / "checkpoints" / "280" / f"{name}.safetensors") for each in (run, toy_run)
        )
        for key, value in wanted.items():
            np.testing.assert_allclose(mine[key], value, atol=1e-4)


def test_a_config_with_only_the_settings_of_the_examples_resumes(data, tmp_path):
    """The examples were written before runs could be resumed."""
    run = tmp_path / "run"
    shutil.copytree(data / "unfinished" / "format1", run)
    content = json.loads((run / "config.json").read_text())
    first = json.loads((EXAMPLE / "config.json").read_text())["config"]
    content["config"] = {name: value for name, value in content["config"].items() if name in first}
    assert content["config"].keys() == first.keys()
    (run / "config.json").write_text(json.dumps(content))
    trainer.resume(run, progress=False)
    assert RunDirectory(run).read_config()["config"] == content["config"]
    assert crlviz.load(run).env_steps == 280


def test_the_first_format_gives_a_warning(data):
    from crlviz import agent

    agent.warn_once.cache_clear()
    with pytest.warns(UserWarning, match="format1 is of an early crlviz, without a checksum of its config.json"):
        crlviz.load(data / "unfinished" / "format1")


# ---- newer ones


def test_unknown_entries_beside_the_settings_are_ignored_and_kept(begun):
    change_config(begun, lambda content: content.update(license="MIT"))
    assert crlviz.load(begun).env_steps == 200
    trainer.resume(begun, progress=False)
    assert RunDirectory(begun).read_config()["license"] == "MIT"


def test_an_unknown_setting_is_not_trained_with(begun):
    change_config(begun, lambda content: content["config"].update(curriculum="near first"))
    assert crlviz.load(begun).env_steps == 200  # its networks can still be loaded
    with pytest.raises(CrlvizError, match=r"config.json is damaged or from another .*'curriculum'.* upgrade"):
        trainer.resume(begun, progress=False)


def test_a_network_of_a_newer_crlviz_is_refused(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    shutil.rmtree(run / "checkpoints")
    change_config(run, lambda content: content["config"]["actor"].update(spectral=True))
    RunDirectory(run).write_checkpoint(280, 12, {"actor": {"w": np.zeros(1)}, "critic": {"w": np.zeros(1)}})
    with pytest.raises(CrlvizError, match=r"no setting 'spectral' of a network; upgrade crlviz"):
        crlviz.load(run)


def test_an_unknown_algorithm_is_refused(begun):
    change_config(begun, lambda content: content.update(algorithm="nonesuch"))
    for read in (crlviz.load, trainer.resume, trainer.finished, inspection.describe):
        with pytest.raises(
            CrlvizError, match=r"config.json names the algorithm 'nonesuch', which this crlviz does not know"
        ):
            read(begun)


def test_the_digest_of_settings_does_not_change_between_versions():
    """New settings of this version must not change the digest of an older run (``run_directory.settings_digest``)."""
    content = {"algorithm": "crl", "config": {"env": "point_u_maze", "seed": 3, "gamma": 0.9}}
    assert settings_digest(content) == "8a744a995787795030e8027cdb6b47b9928eeb77db481711c9c3c5a54cf0d54f"
    assert configs.load(content["config"]).gamma == 0.9
