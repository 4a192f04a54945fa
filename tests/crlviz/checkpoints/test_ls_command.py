"""The table of runs, of run directories written by hand."""

import csv
import shutil

import filelock
import pytest
from click.testing import CliRunner

from crlviz.checkpoints import ls_command
from crlviz.errors import CrlvizError, UsageError
from tests.helpers.toys import planted_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    # The last evaluation of a finished run is at its env_steps; planted evaluations are 100 steps apart.
    for depth, curve in ((4, [0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.6]), (16, [0.9])):
        planted_run(folder / f"d{depth}", curve, critic__depth=depth, actor__depth=depth, env_steps=600)
    planted_run(folder / "mixed", [0, 0.5], critic__depth=8, env_steps=600)
    return folder


def _row(runs, name):
    return ls_command.describe(runs / name)


def test_a_row_tells_network_score_and_state(runs):
    row = _row(runs, "d4")
    assert (row["depth"], row["width"], row["seed"], row["env"]) == (4, 8, 0, "point_u_maze")
    assert row["success"] == pytest.approx((0.4 * 4 + 0.6) / 5)  # the last five of seven
    assert row["env_steps"] == 600
    assert row["state"] == "finished"
    assert _row(runs, "d16")["state"] == "broken off at 0 %"
    assert _row(runs, "mixed")["depth"] == "8/4"


def test_a_run_that_trains_now_and_one_that_can_go_on(runs, tmp_path):
    shutil.copytree(runs / "d16", run := tmp_path / "run")
    with filelock.FileLock(run / ".lock"):
        assert ls_command.describe(run)["state"] == "training"
    (run / "state" / "0").mkdir(parents=True)
    assert ls_command.describe(run)["state"] == "stopped at 0 %"
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "state")
    assert ls_command.describe(run)["state"] == "no checkpoint"
    (run / "config.json").write_text("{")
    damaged = ls_command.describe(run)
    assert damaged["state"].startswith("damaged: ")
    assert "config.json" in damaged["state"]
    assert ls_command.table([damaged]).count("\n") == 1


def test_filters_take_columns_and_settings(runs):
    rows = [ls_command.describe(path) for path in ls_command.find([runs])]
    assert [row["run"].rpartition("/")[2] for row in rows] == ["d4", "d16", "mixed"]  # 4 before 16

    def names(*filters):
        return [row["run"].rpartition("/")[2] for row in ls_command.chosen(rows, filters)]

    assert names("depth=4,16") == ["d4", "d16"]
    assert names("depth=4,16", "state=finished") == ["d4"]
    assert names("critic.depth=8") == ["mixed"]
    assert names("critic.residual=true", "seed=0-4") == ["d4", "d16", "mixed"]
    assert names("gamma=0.5") == []
    with pytest.raises(UsageError, match="did you mean depth"):
        ls_command.chosen(rows, ["dept=4"])
    with pytest.raises(UsageError, match="NAME=VALUE"):
        ls_command.chosen(rows, ["depth"])


def test_the_command_sorts_and_writes_a_csv(runs, tmp_path):
    out = tmp_path / "runs.csv"
    result = CliRunner().invoke(ls_command.command, [str(runs), "--sort", "success", "--out", str(out)])
    assert result.exit_code == 0, result.output
    first, *lines = result.output.splitlines()
    assert first == "algorithm crl, env point_u_maze"  # the same for all
    assert [line.split()[0].rpartition("/")[2] for line in lines[1:]] == ["d16", "d4", "mixed"]
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["success"] == "0.9"
    assert list(rows[0]) == list(ls_command.COLUMNS)


def test_what_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(CrlvizError, match="holds no run"):
        ls_command.find([tmp_path])
    with pytest.raises(CrlvizError, match="there is no"):
        ls_command.find([tmp_path / "none"])
