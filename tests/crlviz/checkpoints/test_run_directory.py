"""Run directories: metrics, evenly spaced checkpoints, and whether a run is finished."""

import pytest

from crlviz.checkpoints.checkpoint import through_training
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError


@pytest.mark.parametrize(
    ("most", "chosen"),
    [(1, [900]), (2, [100, 900]), (3, [100, 500, 900]), (9, range(100, 901, 100)), (50, range(100, 901, 100))],
)
def test_through_training_spaces_checkpoints_evenly(tmp_path, most, chosen):
    RunDirectory(tmp_path).write_config({"algorithm": "crl", "config": {}})
    paths = {steps: RunDirectory(tmp_path).write_checkpoint(steps, 0, {}) for steps in range(100, 901, 100)}
    assert through_training(tmp_path, most) == [paths[steps] for steps in chosen]
    assert through_training(paths[300], most) == [paths[300]]


@pytest.mark.parametrize(
    ("rows", "checkpoints", "wanted", "asked", "finished"),
    [
        ([], [], 100, None, False),
        ([80, 120], [80, 120], 100, None, True),  # rounded up to whole epochs
        ([80], [80], 100, None, False),
        ([80, 120], [80], 100, None, False),  # evaluated, but stopped before its checkpoint was written
        ([80], [80, 120], 100, None, False),  # metrics.csv lost its last row
        ([80, 120], [120], 100, 120, True),
        ([80, 120], [80, 120], 100, 160, False),  # asked whether it was trained longer
        ([80, 120], [120], 100, 80, False),  # --keep 1 removed that checkpoint
        ([80, 120], [80, 120], None, None, False),  # an imported run records no total
    ],
)
def test_a_run_is_finished_with_its_last_evaluation_and_that_checkpoint(
    tmp_path, rows, checkpoints, wanted, asked, finished
):
    run = RunDirectory(tmp_path)
    run.write_config({"algorithm": "crl", "config": {} if wanted is None else {"env_steps": wanted}})
    if rows:
        run.write_metrics([{"env_steps": steps, "success": 0.5} for steps in rows], ["loss"])
    for steps in checkpoints:
        (tmp_path / "checkpoints" / str(steps)).mkdir(parents=True)
    assert run.finished(asked) is finished


def test_metrics_are_read_as_they_were_written(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.read_metrics() == []
    run.write_metrics([{"env_steps": 80, "success": 0.123456789}, {"env_steps": 160, "success": 1.0}], ["loss"])
    text, rows = run.metrics_file.read_bytes(), run.read_metrics()
    assert [(row["env_steps"], row["success"], row["loss"]) for row in rows] == [
        ("80", "0.123457", ""),
        ("160", "1", ""),
    ]
    run.write_metrics(rows, ["loss"])
    assert run.metrics_file.read_bytes() == text


@pytest.mark.parametrize(
    "text", ["env_steps,success\n80\n", "env_steps,success\n80,1,2\n", "env_steps\nx\n", "success\n1\n"]
)
def test_a_damaged_table_of_metrics_is_one_sentence(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(CrlvizError, match=r"metrics\.csv is not a table of evaluations") as error:
        RunDirectory(tmp_path).read_metrics()
    assert "\n" not in str(error.value)
