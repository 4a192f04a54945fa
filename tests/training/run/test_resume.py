"""Runs that are stopped and resumed: they end as an uninterrupted run does, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

from crlviz import cli
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import change_config, send, toy_config
from tests.torture.runs import differences
from training import trainer
from training.run import compiled, signals
from training.run import saved_state as states

STEPS = [120, 160, 200, 240, 280]  # environment steps of the toy run after each of its training steps


@pytest.mark.parametrize("number", range(4))
def test_a_run_that_died_ends_as_one_that_did_not(toy_run, tmp_path, killed, number):
    run = killed(tmp_path / "run", number)
    assert not trainer.finished(run)
    # Saved at the evaluations alone, after training steps 2 and 4.
    assert [path.name for path in (run / "state").glob("*")] == (["200"] if number >= 2 else [])
    assert trainer.resume(run, progress=False) == run
    assert differences(run, toy_run) == []
    assert trainer.finished(run)


@pytest.mark.parametrize(
    ("number", "sent"), [(1, signal.SIGTERM), (2, signal.SIGINT), (1, signal.SIGHUP), (2, signal.SIGUSR1)]
)
def test_a_signal_saves_after_the_training_step(toy_run, tmp_path, at_step, capsys, number, sent):
    run = tmp_path / "run"
    at_step(number, lambda: send(sent))
    with pytest.raises(signals.Stopped, match=f"crlviz train --resume {run}") as stopped:
        trainer.train(toy_config(), run, progress=False)
    assert stopped.value.exit_code == 128 + sent
    assert f"{sent.name}: stopping after this training step" in capsys.readouterr().err
    assert [path.name for path in (run / "state").iterdir()] == [str(STEPS[number + 1])]
    trainer.resume(run, progress=False)
    assert differences(run, toy_run) == []


def test_the_command_exits_with_the_signals_code(tmp_path, at_step, monkeypatch, capsys, killed):
    run = killed(tmp_path / "run", 2)
    at_step(2, lambda: send(signal.SIGTERM))
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "--resume", str(run)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 143
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"stopped at environment step 240; go on with: crlviz train --resume {run}"
    cli.main()
    assert capsys.readouterr().out == f"wrote {run}\n"


def test_leftovers_and_a_missing_checkpoint_of_a_killed_save_are_repaired(toy_run, tmp_path, killed):
    run = killed(tmp_path / "run", 2)
    shutil.rmtree(run / "checkpoints" / "200")  # as if killed between state and checkpoint
    for name in ("checkpoints/.280-x.part", "state/.240-x.part"):
        (run / name).mkdir()
        (run / name / "half").write_text("")
    (run / ".metrics.csv-x.part").write_text("")
    trainer.resume(run, progress=False)
    assert differences(run, toy_run) == []


def test_a_state_of_another_run_is_refused(tmp_path, killed):
    run, other = (killed(tmp_path / name, 2, seed=seed) for name, seed in (("run", 0), ("other", 5)))
    shutil.rmtree(run / "state")
    shutil.copytree(other / "state", run / "state")
    with pytest.raises(CrlvizError, match=r"state/200 is of another run: its manifest.json and .*config.json do not"):
        trainer.resume(run, progress=False)


def test_lost_evaluations_are_refused(tmp_path, killed):
    run = killed(tmp_path / "run", 2)
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join(rows[:-1]))
    with pytest.raises(CrlvizError, match=r"metrics.csv lacks evaluations from before environment step 200"):
        trainer.resume(run, progress=False)
    (run / "metrics.csv").write_text("".join(rows))
    assert trainer.finished(trainer.resume(run, progress=False))


def test_a_finished_run_is_left_unchanged(toy_run, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    monkeypatch.setattr(compiled, "compiled", None)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "--resume", str(run)])
    cli.main()
    assert capsys.readouterr().out == f"{run} is finished already\n"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert RunDirectory(run).newest_state()
    change_config(run, lambda content: content["config"].update(keep_state=False))
    cli.main()  # as if killed before its state was removed
    assert not (run / "state").exists()


def test_a_run_killed_before_its_config_was_written_starts_again(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json-x.part").touch()
    with pytest.raises(CrlvizError, match=r"config.json cannot be read"):
        trainer.resume(tmp_path)
    trainer.train(toy_config(), tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.part"))


def test_a_run_that_another_process_trains_is_refused(tmp_path, at_step):
    run = tmp_path / "run"
    refusals = []

    def second():
        for begin in (lambda: trainer.resume(run), lambda: trainer.train(toy_config(), run)):
            with pytest.raises(UsageError) as error:
                begin()
            refusals.append(str(error.value))

    at_step(1, second)
    trainer.train(toy_config(), run, progress=False)
    assert f"{run} is being trained by another process" in refusals[0]
    assert f"{run} exists already" in refusals[1]


def test_saving_does_not_block_training(tmp_path, at_step, monkeypatch):
    trained_on, real = threading.Event(), states.write

    def slow(*arguments):
        assert trained_on.wait(60), "training waits for the disk"
        real(*arguments)

    monkeypatch.setattr(states, "write", slow)
    at_step(2, trained_on.set)  # the first training step after the first save
    assert trainer.finished(trainer.train(toy_config(), tmp_path / "run", progress=False))


def test_save_every_and_keep(tmp_path):
    """Of four evaluations ``save_every=3`` saves the third and the last, and ``keep=2`` keeps the last two."""
    sparse = trainer.train(toy_config(evaluations=4, save_every=3), tmp_path / "sparse", progress=False)
    assert RunDirectory(sparse).checkpoint_steps() == [240, 280]
    few = trainer.train(toy_config(evaluations=4, keep=2), tmp_path / "few", progress=False)
    assert RunDirectory(few).checkpoint_steps() == [240, 280]


def test_without_a_saved_buffer_a_run_resumes_with_a_new_one(toy_run, tmp_path, killed):
    run = killed(tmp_path / "run", 3, save_replay=False)
    manifest = json.loads((run / "state" / "200" / "manifest.json").read_text())
    assert manifest["replay"] is False
    trainer.resume(run, progress=False)
    assert trainer.finished(run)
    assert RunDirectory(run).checkpoint_steps() == [200, 280]
    mine, other = ((each / "checkpoints" / "280" / "actor.safetensors").read_bytes() for each in (run, toy_run))
    assert mine != other  # what --no-save-replay costs


def test_what_may_change_on_resuming(tmp_path, killed):
    run = killed(tmp_path / "run", 2)
    with pytest.raises(UsageError, match="gamma is fixed once a run has started"):
        trainer.resume(run, {"gamma": 0.9})
    trainer.resume(run, {"keep": 1}, command=["crlviz", "again"], progress=False)
    content = RunDirectory(run).read_config()
    assert content["config"]["keep"] == 1
    assert [(each["env_steps"], each["command"]) for each in content["resumed"]] == [(200, ["crlviz", "again"])]
    assert RunDirectory(run).checkpoint_steps() == [280]


def test_other_versions_give_a_warning(tmp_path, killed, capsys):
    run = killed(tmp_path / "run", 2)
    change_config(run, lambda content: content["versions"].update(jax="0.0.1"))
    trainer.resume(run, progress=False)
    assert "was started with jax 0.0.1, which differs from this machine" in capsys.readouterr().err


def test_a_version_that_was_not_recorded_gives_no_warning(tmp_path, killed, capsys):
    run = killed(tmp_path / "run", 2)
    change_config(run, lambda content: content["versions"].update(crlviz=None))
    trainer.resume(run, progress=False)
    assert "was started with" not in capsys.readouterr().err


def test_checkpoints_without_a_state_are_not_overwritten(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    (run / "metrics.csv").unlink()
    shutil.rmtree(run / "state")
    with pytest.raises(CrlvizError, match="checkpoints but no saved state"):
        trainer.resume(run)
    assert RunDirectory(run).checkpoint_steps() == [200, 280]


# ---- the disk


@pytest.mark.parametrize("fails_at", range(0, 22, 3))  # the toy run flushes 22 times
def test_a_full_disk_at_any_time_loses_nothing(toy_run, tmp_path, monkeypatch, fails_at):
    run, calls, real = tmp_path / "run", [], os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) > fails_at:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CrlvizError, match="No space left on device") as error:
            trainer.train(toy_config(), run, progress=False)
    assert str(run) in str(error.value)
    assert not list(run.rglob("*.part"))
    if (run / "config.json").exists():
        trainer.resume(run, progress=False)
    else:
        trainer.train(toy_config(), run, progress=False)
    assert differences(run, toy_run) == []


def _may_not_write(run):
    """Put a file in place of the directory: even root cannot write in it then."""
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("")


def _immutable(run):
    if subprocess.run(["chattr", "+i", str(run), str(run / "state")], check=False, capture_output=True).returncode:
        pytest.skip("only root can make a directory immutable, on some file systems")


@pytest.mark.parametrize("forbid", [_may_not_write, _immutable], ids=["a file in its place", "immutable"])
def test_a_lost_permission_ends_the_run_with_a_sentence(
    toy_run, tmp_path, at_step, monkeypatch, capsys, forbid, killed
):
    run = killed(tmp_path / "run", 2)
    before = {path.relative_to(run): path.read_bytes() for path in (run / "checkpoints").rglob("*.*")}
    at_step(2, lambda: forbid(run))
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "--resume", str(run)])
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        if forbid is _immutable:
            subprocess.run(["chattr", "-i", str(run), str(run / "state")], check=True)
    assert left.value.code == 1
    *_, output = capsys.readouterr().err.strip().splitlines()
    assert output.startswith(f"Error: cannot write {run}/")
    assert "Not a directory" in output or "File exists" in output or "Operation not permitted" in output
    assert output.endswith(f"what was saved before is intact; fix the cause, then run crlviz train --resume {run}")
    assert not list(run.rglob("*.part"))
    if forbid is _may_not_write:
        (run / "checkpoints").unlink()
        for path, data in before.items():
            (run / path).parent.mkdir(parents=True, exist_ok=True)
            (run / path).write_bytes(data)
    trainer.resume(run, progress=False)
    assert differences(run, toy_run) == []


def test_a_run_whose_directory_is_removed_ends_with_a_sentence(tmp_path, at_step):
    run = tmp_path / "run"

    def remove():
        while run.exists():  # the saving thread may add a file meanwhile
            shutil.rmtree(run, ignore_errors=True)

    at_step(2, remove)
    with pytest.raises(CrlvizError, match=f"cannot write {run}.*No such file or directory; the run is gone"):
        trainer.train(toy_config(), run, progress=False)
    assert not run.exists()


def test_a_disk_too_small_is_refused_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match=r"make room, or give --no-save-replay"):
        trainer.train(toy_config(), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
