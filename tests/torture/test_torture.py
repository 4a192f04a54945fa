"""A few cases of each torture test, with real processes. The scripts run any number."""

import random
import signal
import time

import pytest

from crlviz.checkpoints.run_directory import RunDirectory
from tests.torture import full_disk, kills, runs

pytestmark = pytest.mark.slow


def test_kills(tmp_path):
    table, wrong = kills.torture(3, 0, tmp_path)
    assert wrong == []
    assert table["kills"] == 3
    assert table["runs that ended as the uninterrupted one"] == table["runs"]


def test_full_disk(tmp_path):
    with full_disk.tmpfs(tmp_path) as small:
        table, wrong = full_disk.torture(2, 0, tmp_path, small)
    assert wrong == []
    assert sum(table.values()) == 2


def test_second_ctrl_c(tmp_path):
    """The second Ctrl-C ends a run at once, even while saving, and the run resumes from its last complete state."""
    rng, run, reference = random.Random(0), tmp_path / "run", tmp_path / "reference"
    assert runs.finish(runs.start(reference)) == (0, "")
    for _ in range(2):
        before, process = RunDirectory(run).newest_state(), runs.start(run)
        while RunDirectory(run).newest_state() in (None, before):  # until it trains and has saved
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGINT)
        line = runs.read_line(process)  # printed at once, by another thread
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        code, words = runs.finish(process)
        assert (code, line[:7]) == (130, "SIGINT:"), line + words
        assert time.monotonic() - sent < 2
        assert words == "" or words.startswith("stopped at environment step")  # it may have saved before
    assert runs.finish(runs.start(run)) == (0, "")
    assert runs.differences(run, reference) == []
