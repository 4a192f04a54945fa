"""``crlviz inspect``: its text compared with config.json, and its checks."""

import json
import shutil
from pathlib import Path

import pytest

from crlviz.checkpoints import checked_arrays
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from crlviz.interchange import inspection
from tests.helpers.toys import change_config, toy_config, untrained_run
from training.run.saved_state import Counters

ORIGIN = {
    "versions": {"crlviz": "0.1.0", "jax": "0.10.2", "brax": "0.14.2", "flax": None},
    "device": "NVIDIA H100",
    "git": {"crlviz": {"commit": "1" * 40, "branch": "deep", "changed": True}},
    "command": ["crlviz", "train", "point_u_maze", "--seed", "3"],
}
AGAIN = ORIGIN | {"env_steps": 90, "command": ["crlviz", "train", "--resume", "run"]}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("pristine") / "run", toy_config(seed=3), (90, 1000))


@pytest.fixture
def run(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def _faults(path: Path) -> dict[str, str]:
    return {place.name: fault for place, fault in inspection.check(path)}


def _save_state(run: Path, env_steps: int = 95) -> Path:
    """A saved state with valid checksums; ``inspect`` checks nothing else."""
    path = run / "state" / str(env_steps)
    path.mkdir(parents=True)
    (path / "state.safetensors").write_bytes(b"arrays")
    entry = {"bytes": 6, "sha256": checked_arrays.digest(path / "state.safetensors")}
    more = {"counters": vars(Counters(step=1)), "replay": True}
    RunDirectory(run).write_manifest(path, path, {"state.safetensors": entry}, more)
    return path


def test_provenance_is_printed(run):
    change_config(run, lambda content: content.update(ORIGIN))
    lines = inspection.describe(run).splitlines()
    assert "made with   crlviz 0.1.0, jax 0.10.2, brax 0.14.2" in lines
    assert "on          NVIDIA H100" in lines
    assert f"source      crlviz commit {'1' * 40}, branch deep, changed True" in lines
    assert "by          crlviz train point_u_maze --seed 3" in lines
    assert lines[-1] == "2 checkpoints in this run: 90 to 1,000 environment steps"


def test_a_quiet_start_is_printed(tmp_path):
    run = untrained_run(tmp_path / "run", toy_config(actor__start="quiet"))
    lines = {line.split()[0]: line for line in inspection.describe(run).splitlines()}
    assert lines["actor"].endswith("swish, begun quiet")
    assert lines["phi"].endswith("swish")


def test_changes_on_resuming_are_printed(run):
    elsewhere = {"device": "cpu", "versions": ORIGIN["versions"] | {"jax": "0.11.0"}, "git": {}}
    resumed = [AGAIN, AGAIN | elsewhere | {"env_steps": 95}, AGAIN | {"env_steps": 98, "devices": 4}]
    change_config(run, lambda content: content.update(ORIGIN, resumed=resumed))
    lines = inspection.describe(run / "checkpoints" / "90").splitlines()
    first = lines.index("resumed     at environment step 90: crlviz train --resume run")
    # Nothing had changed at the first resumption; these changed at the second and third.
    assert lines[first + 1 : -1] == [
        "resumed     at environment step 95: crlviz train --resume run",
        "            made with jax 0.11.0",
        "            on cpu",
        "            source unknown",
        "resumed     at environment step 98: crlviz train --resume run",
        "            on devices 4, each NVIDIA H100",
    ]


def test_an_unfinished_run_says_so(run):
    assert "unfinished:" not in inspection.describe(run)
    _save_state(run)
    RunDirectory(run).write_metrics([{"env_steps": 90}, {"env_steps": 1000}], ())
    assert inspection.describe(run).endswith(f"finished; to train longer: crlviz train --resume {run} --env-steps N")
    change_config(run, lambda content: content["config"].update(env_steps=5000))
    last = inspection.describe(run).splitlines()[-1]
    assert last == f"unfinished: saved at environment step 95; go on with: crlviz train --resume {run}"


def test_control_characters_in_a_config_are_escaped(run):
    change_config(run, lambda content: content.update(command=["\x1b[2J", "a\nmade with   crlviz 9"], device="\r\x07"))
    text = inspection.describe(run)
    assert not {c for c in text if not c.isprintable()} - {"\n"}
    assert "by          ?[2J a?made with   crlviz 9" in text.splitlines()


def test_every_file_is_checked(run):
    assert set(_faults(run).values()) == {""}
    one = _faults(run / "checkpoints" / "90")
    assert set(one) == {"config.json", "manifest.json", "actor.safetensors", "critic.safetensors", "90"}
    assert set(one.values()) == {""}
    path = run / "checkpoints" / "1000" / "actor.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert set(_faults(run / "checkpoints" / "90").values()) == {""}  # the damaged file belongs to the other checkpoint
    faults = [fault for fault in _faults(run).values() if fault]
    assert faults == [f"{path} is damaged: its checksum is not the one in manifest.json"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda path: (path / "state.safetensors").write_bytes(b"Arrays"),
            "state.safetensors is damaged: its checksum",
        ),
        (lambda path: (path / "state.safetensors").write_bytes(b"array"), "but manifest.json gives another size"),
        (lambda path: (path / "state.safetensors").unlink(), "state.safetensors cannot be read: No such file"),
        (lambda path: (path / "manifest.json").write_text("[" * 100_000), "manifest.json is damaged"),
        (lambda path: _by_hand(path, counters={"step": 0}), "manifest.json was changed since it was written"),
        (lambda path: path.rename(path.with_name("96")), "of another checkpoint, at 95 environment steps"),
        (lambda path: _of_another_run(path), "is of another run"),
    ],
)
@pytest.mark.parametrize("checkpoint", [True, False], ids=["", "no checkpoint yet"])
def test_a_saved_state_is_checked(run, checkpoint, damage, words):
    if not checkpoint:
        shutil.rmtree(run / "checkpoints")
    path = _save_state(run)
    assert _faults(run)["95"] == ""
    damage(path)
    (fault,) = [fault for fault in _faults(run).values() if fault]
    assert words in fault
    assert str(run / "state") in fault


def _by_hand(path: Path, **changes) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(content | changes))


def _of_another_run(path: Path) -> None:
    config = path.parent.parent / "config.json"
    before = config.read_bytes()
    change_config(config.parent, lambda content: content["config"].update(seed=4))
    shutil.rmtree(path)
    _save_state(config.parent)
    config.write_bytes(before)


def test_a_run_without_a_checkpoint(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CrlvizError, match="holds no checkpoint yet"):
        list(inspection.check(run))
    _save_state(run)
    assert _faults(run) == {"config.json": "", "95": ""}
    assert RunDirectory(run).newest_state() == run / "state" / "95"
