"""Runs that are extended with ``env_steps``, against runs started with that value."""

import shutil

import pytest

from crlviz import cli
from crlviz.checkpoints.run_directory import KEEPING, RunDirectory
from crlviz.errors import CrlvizError, UsageError
from crlviz.interchange import inspection
from tests.helpers.toys import toy_config
from tests.torture.runs import differences
from training import trainer
from training.run.runner import Run
from training.schedule import extended, rounded, schedule


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The toy run, started with a third epoch."""
    config = toy_config(env_steps=360, evaluations=3)
    return trainer.train(config, tmp_path_factory.mktemp("longer") / "run", progress=False)


@pytest.fixture
def run(toy_run, tmp_path):
    shutil.copytree(toy_run, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("wanted", [360, 281])
def test_an_extended_run_equals_one_started_with_its_length(run, longer, wanted):
    trainer.resume(run, {"env_steps": wanted}, command=["crlviz", "on"], progress=False)
    assert differences(run, longer) == []
    content = RunDirectory(run).read_config()
    assert (content["config"]["env_steps"], content["config"]["evaluations"]) == (360, 3)
    (note,) = content["resumed"]
    assert (note["env_steps"], note["before"]) == (280, {"env_steps": 280, "evaluations": 2})
    assert not [fault for _, fault in inspection.check(run) if fault]


def test_an_extended_run_that_is_killed_loses_nothing(run, longer, monkeypatch):
    def die(self):
        raise MemoryError("as if killed")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", die)
        with pytest.raises(MemoryError):
            trainer.resume(run, {"env_steps": 360}, progress=False)
    assert not trainer.finished(run)
    trainer.resume(run, progress=False)
    assert differences(run, longer) == []


def test_an_unfinished_run_can_be_shortened(toy_run, longer, tmp_path, monkeypatch):
    real = Run.advance

    def step(self):
        if self.step == 3:
            raise MemoryError("as if killed")
        real(self)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "advance", step)
        with pytest.raises(MemoryError):
            trainer.train(toy_config(env_steps=440, evaluations=4), run, progress=False)
    trainer.resume(run, {"env_steps": 360}, progress=False)  # less than it was started with
    assert differences(run, longer) == []


def test_the_command(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "--resume", str(run), "--env-steps", "281"])
    cli.main()
    captured = capsys.readouterr()
    assert captured.out == f"wrote {run}\n"
    assert "env_steps 281 is rounded up to 360" in captured.err
    cli.main()
    assert capsys.readouterr().out == f"{run} is finished already\n"


@pytest.mark.slow
def test_set_changes_every_setting_that_may_change(run, monkeypatch, capsys):
    """``--set`` parses text as the setting's type; the setting's own option has precedence."""
    values = {"loss_bound": "2e6", "keep": "1", "save_replay": "false", "on_nan": "rewind", "rewinds": "5"}
    values |= {"save_every": "2", "keep_state": "true", "log": "tensorboard", "env_steps": "281"}
    assert set(values) == {*KEEPING, "env_steps"}
    typed = [text for name, value in values.items() for text in ("--set", f"{name}={value}")]
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "--resume", str(run), *typed, "--keep", "2"])
    cli.main()
    assert "env_steps 281 is rounded up to 360" in capsys.readouterr().err
    config = RunDirectory(run).read_config()["config"]
    now = {name: config[name] for name in KEEPING}
    assert now == {
        "loss_bound": 2e6, "on_nan": "rewind", "rewinds": 5, "save_every": 2, "keep": 2, "save_replay": False,
        "keep_state": True, "log": "tensorboard",
    }  # fmt: skip
    assert all(type(value) is type(getattr(toy_config(), name)) for name, value in now.items())
    assert config["env_steps"] == 360
    assert RunDirectory(run).checkpoint_steps()[-1] == 360


def test_fewer_steps_than_already_done_are_refused(run):
    with pytest.raises(UsageError, match=r"has already done 280 environment steps; env_steps 150 would end it at 200"):
        trainer.resume(run, {"env_steps": 150}, progress=False)
    with pytest.raises(UsageError, match="env_steps is 0; it must be at least 1"):
        trainer.resume(run, {"env_steps": 0}, progress=False)
    assert RunDirectory(run).read_config()["config"]["env_steps"] == 280


def test_a_finished_run_without_a_state_is_refused(run, tmp_path):
    shutil.rmtree(run / "state")  # as an older crlviz left it
    with pytest.raises(CrlvizError, match=r"is finished and has no saved state to continue from"):
        trainer.resume(run, {"env_steps": 360}, progress=False)
    assert trainer.finished(trainer.resume(run, progress=False))
    small = trainer.train(toy_config(keep_state=False), tmp_path / "small", progress=False)
    assert RunDirectory(small).newest_state() is None


def test_inspect_shows_the_command_that_extends_a_run(run):
    description = inspection.describe(run)
    assert f"finished; to train longer: crlviz train --resume {run} --env-steps N" in description
    assert "unfinished" not in description


@pytest.mark.parametrize("env_steps", [100, 280, 281, 641])
@pytest.mark.parametrize("evaluations", [1, 2, 7])
def test_an_extended_config_keeps_the_length_of_epochs(env_steps, evaluations):
    before = toy_config(env_steps=env_steps, evaluations=evaluations)
    config = extended(before, 1000)
    old, new = schedule(before), schedule(config)
    assert new.steps_per_epoch == old.steps_per_epoch
    assert 1000 <= config.env_steps == new.env_steps(new.steps) < 1000 + 40 * old.steps_per_epoch
    assert config.evaluations == new.epochs
    # Only the last evaluation is at env_steps or beyond; crlviz watch relies on it to know the end.
    ends = [old.env_steps(epoch * old.steps_per_epoch) for epoch in range(1, old.epochs + 1)]
    assert [end >= env_steps for end in ends] == [False] * (old.epochs - 1) + [True]


def test_rounding_is_reported():
    assert rounded(toy_config()) == ""
    assert rounded(toy_config(env_steps=10)) == (
        "env_steps 10 is rounded up to 160: 120 to fill the buffer, then whole training steps of 40, 1 for each "
        "evaluation; "
        "evaluations 2 become 1"
    )
