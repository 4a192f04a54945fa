"""What other tools are told of a run: the rows of metrics.csv, once each; and that none of them stops a run."""

import csv
import math
from typing import ClassVar

import jax
import numpy as np
import pytest

import crlviz as library
from crlviz.errors import UsageError
from tests.helpers.shared_programs import shared
from tests.helpers.toys import toy_config
from tests.helpers.wandb_file import history
from training import trainer
from training.run import loggers
from training.run.loggers import Logger, Logs


def _rows(run):
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(value) for name, value in row.items() if value != ""} for row in rows]


def _tensorboard(run):
    """Rows by step, from the event file, and its text."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            row = rows.setdefault(event.step, {})
            assert name not in row, "it is there twice"
            row[name] = event.value
    (text,) = events.Tensors("config/text_summary")
    return list(rows.values()), text.tensor_proto.string_val[0].decode()


def _wandb(run):
    (file,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    rows = history(file)
    steps = [row["_step"] for row in rows]
    return [{name: value for name, value in row.items() if name[0] != "_"} for row in rows], steps, file


def _assert_mirrored(run, lines=None):
    expected = _rows(run)
    found = [_tensorboard(run)[0], _wandb(run)[0]]
    for rows in found:
        assert len(rows) == len(expected) == (lines or len(expected))
        for row, own in zip(rows, expected, strict=True):
            assert row.keys() == own.keys()
            for name, value in own.items():
                assert math.isclose(row[name], value, rel_tol=1e-5, abs_tol=1e-7), name


@pytest.mark.slow
def test_both_logs_hold_the_rows_of_metrics_csv_also_after_going_on(tmp_path, monkeypatch, toy_run):
    for name in ("tensorboard", "wandb"):
        pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "toy run"
    with shared():
        trainer.train(toy_config(log="tensorboard,wandb"), run, progress=False)
        _assert_mirrored(run, 3)
        first = _wandb(run)[2]
        trainer.resume(run, {"env_steps": 360}, progress=False)
    _assert_mirrored(run, 4)
    assert _wandb(run)[1] == [120, 200, 280, 360]
    assert _wandb(run)[2].name == first.name != "run-.wandb"  # the same run of W&B goes on
    assert '"num_envs": 4' in _tensorboard(run)[1]
    with_logs, without = (library.load(path / "checkpoints" / "280").params["actor"] for path in (run, toy_run))
    jax.tree.map(np.testing.assert_array_equal, with_logs, without)


class Recorder(Logger):
    package = "json", "json"
    said: ClassVar[list] = []

    def __init__(self, run, config, wall_seconds):
        self.said.append(("begin", wall_seconds))

    def write(self, step, values):
        self.said.append((step, values["success"]))

    def close(self):
        self.said.append(("end", None))


def _row(step, success):
    return {"env_steps": step, "wall_seconds": step / 10, "success": success, "alpha": ""}


def test_what_is_rewound_leaves_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "said", [])
    monkeypatch.setitem(loggers.LOGGERS, "recorder", Recorder)
    logs = Logs(loggers.read("recorder"), tmp_path, {})
    rows = [_row(10, 0.1), _row(20, 0.2)]
    logs.record(rows[:1])
    logs.record(rows)
    assert Recorder.said == [("begin", 1.0), (10, 0.1), (20, 0.2)]
    logs.close()
    Recorder.said.clear()
    logs.record([rows[0], _row(20, 0.3)])  # the second was computed anew
    logs.close()
    assert Recorder.said == [("begin", 2.0), (10, 0.1), (20, 0.3), ("end", None)]


def test_a_tensorboard_file_is_begun_anew(tmp_path):
    pytest.importorskip("tensorboard")
    for second in (0.2, 0.3):
        logs = Logs(["tensorboard"], tmp_path, {})
        logs.record([_row(10, 0.1), _row(20, second)])
        logs.close()
    assert [row["success"] for row in _tensorboard(tmp_path)[0]] == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize("where", ["__init__", "write", "close"])
def test_a_logger_that_fails_is_given_up_with_one_warning(tmp_path, monkeypatch, capsys, where):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Recorder, where, fail)
    monkeypatch.setitem(loggers.LOGGERS, "recorder", Recorder)
    with shared():
        run = trainer.train(toy_config(log="recorder"), tmp_path / "run", progress=False)
    assert len(_rows(run)) == 3
    warned = [line for line in capsys.readouterr().err.splitlines() if "recorder" in line]
    assert len(warned) == 1
    assert "--log recorder is switched off, the run continues: [Errno 28] No space left on device" in warned[0]


def test_what_cannot_be_logged_is_refused_before_training(crlviz, tmp_path, monkeypatch):
    out = tmp_path / "run"
    monkeypatch.setattr("training.run.compiled.compile_for", lambda *_: pytest.fail("it was compiled"))
    code, _, err = crlviz("train", "point_u_maze", "--log", "paper", "--out", out)
    assert code == 2
    assert err == "Error: no logger is called 'paper'; log takes tensorboard or wandb\n"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"--log wandb needs a package .*pip install 'crlviz\[wandb\]'"):
        trainer.train(toy_config(log="wandb"), out)
    assert not out.exists()
