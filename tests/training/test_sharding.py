"""Four devices give the results of one and split the work; a CPU configured as four devices stands in for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from crlviz import cli
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import UsageError
from tests.helpers.same import same
from tests.torture.runs import ROOT, differences
from training import sharding


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """The folder of runs and measurements that ``tests.helpers.four_devices`` makes."""
    folder = tmp_path_factory.mktemp("four")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.four_devices", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr.txt").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def measured(four):
    """The measurements of its compiled programs."""
    return json.loads((four / "told.json").read_text())


@pytest.mark.slow  # compiles for two numbers of devices
@pytest.mark.parametrize("name", ["on4", "from1to4", "from4to1", "from4to4"])
def test_any_number_of_devices_gives_the_result_of_one(four, name):
    same(four / name, four / "on1")


@pytest.mark.slow
def test_any_number_of_devices_gives_the_result_of_one_with_transitions(four):
    same(four / "sac-on4", four / "sac-on1")


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_on_as_many_devices_and_warns_on_others(four):
    assert differences(four / "from4to4", four / "on4") == []
    output = (four / "stderr.txt").read_text()
    assert f"{four / 'from1to4'} was started with devices 1, which differs from this machine" in output
    assert "from4to4 was started" not in output
    content = RunDirectory(four / "from1to4").read_config()
    assert (content["devices"], content["resumed"][0]["devices"]) == (1, 4)
    assert content["config"] == RunDirectory(four / "on4").read_config()["config"]


@pytest.mark.slow
def test_several_seeds_at_once_use_all_devices(four):
    same(four / "together3", four / "on1")
    assert RunDirectory(four / "together3").read_config()["together"] == [3, 4]


@pytest.mark.slow
def test_the_buffer_is_not_moved_between_devices(measured):
    """Only rows of a batch, indices and gradients are communicated; each is far smaller than the buffer."""
    assert {name for name, _ in measured["collectives"]} <= {"all-reduce", "all-gather"}
    assert 0 < max(max(sizes) for _, sizes in measured["collectives"]) < measured["rows"] / 4


@pytest.mark.slow
def test_no_conditional_communicates(measured):
    """XLA starts what follows a conditional before it ends. Between processes on CPUs, gloo tells collectives apart by
    their order alone: out of order, they mix up their data or abort."""
    assert measured["in_conditionals"] == []


@pytest.mark.slow
def test_environments_are_sharded_and_networks_replicated(measured):
    for name, (shape, part) in measured["lies"].items():
        axis = 2 if ".replay.rows" in name else 1 if ".collector" in name else None
        assert part == [size // 4 if index == axis else size for index, size in enumerate(shape)], name
    one, four = measured["memory"]
    assert four < 0.6 * one


@pytest.mark.slow
@pytest.mark.parametrize("program", ["collect", "learn", "evaluate_policy"])
def test_each_device_does_a_quarter_of_the_arithmetic(measured, program):
    """Except Adam, which each device runs for all parameters: with this batch a tenth of an update."""
    one, four = measured["flops"][program]
    assert 0.25 <= four / one < (0.36 if program == "learn" else 0.26)


def test_one_device_changes_nothing():
    one, tree = sharding.select("1"), {"rows": np.ones((3, 2))}
    assert one == sharding.ONE
    assert one.shard_rows(tree) is tree
    assert one.replicate(tree) is tree
    assert (one.sharding(), one.sharding(2)) == (None, None)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        ("64", r"--devices 64: jax finds \d+ here .*set XLA_FLAGS=--xla_force_host_platform_device_count=64$"),
        ("0", "--devices takes a number from 1 on, or all, not '0'"),
        ("some", "--devices takes a number from 1 on, or all, not 'some'"),
    ],
)
def test_wrong_devices_are_refused(tmp_path, monkeypatch, capsys, count, words):
    with pytest.raises(UsageError, match=words):
        sharding.select(count)
    out = str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "point_u_maze", "--out", out, "--devices", count])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "--devices" in capsys.readouterr().err
    assert not os.path.exists(out)


def test_counts_that_do_not_divide_evenly_are_refused():
    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    four = sharding.Devices(mesh)
    four.check(8, 512)
    with pytest.raises(UsageError, match="num_envs is 6, which 4 devices cannot share evenly; give a multiple of 4"):
        four.check(6, 512)
    with pytest.raises(UsageError, match="batch_size is 510, which 4 devices cannot share evenly"):
        four.check(8, 510)
