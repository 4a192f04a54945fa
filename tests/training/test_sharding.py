"""Four devices do what one does, and share the work; a CPU that is told to be four stands for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import crlviz
from crlviz import cli
from crlviz.checkpoints import run_directory
from crlviz.errors import UsageError
from tests.torture.runs import ROOT, TIMES, differences
from training import sharding
from training.run import metrics_table


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Path:
    """The run directories that ``four`` made, and what it told."""
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
def told(four):
    return json.loads((four / "told.json").read_text())


def same(run: Path, other: Path) -> None:
    """Evaluations, losses and parameters of two runs are the same to 1e-4."""
    for mine, theirs in zip(*(metrics_table.read(each, 10**9) for each in (run, other)), strict=True):
        for name in set(mine) - set(TIMES):
            assert mine[name] == theirs[name] or float(mine[name]) == pytest.approx(float(theirs[name]), 1e-4, 1e-4)
    for mine, theirs in zip(*(jax.tree.leaves(crlviz.load(each).params) for each in (run, other)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # compiles for two numbers of devices
@pytest.mark.parametrize("name", ["on4", "from1to4", "from4to1", "from4to4"])
def test_any_number_of_devices_gives_the_numbers_of_one(four, name):
    same(four / name, four / "on1")


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_on_as_many_devices_and_says_so_on_others(four):
    assert differences(four / "from4to4", four / "on4") == []
    said = (four / "stderr.txt").read_text()
    assert f"{four / 'from1to4'} was started with devices 1, which differs from this machine" in said
    assert "from4to4 was started" not in said
    content = run_directory.read_config(four / "from1to4")
    assert (content["devices"], content["resumed"][0]["devices"]) == (1, 4)
    assert content["config"] == run_directory.read_config(four / "on4")["config"]


@pytest.mark.slow
def test_several_seeds_at_once_share_the_devices_too(four):
    same(four / "together3", four / "on1")
    assert run_directory.read_config(four / "together3")["together"] == [3, 4]


@pytest.mark.slow
def test_the_ring_stays_where_it_is(told):
    """Rows of a batch, indices and gradients go from device to device; each of them is far smaller than replay."""
    assert {name for name, _ in told["collectives"]} <= {"all-reduce", "all-gather"}
    assert 0 < max(max(sizes) for _, sizes in told["collectives"]) < told["rows"] / 4


@pytest.mark.slow
def test_each_device_has_a_quarter_of_the_environments_and_all_of_the_networks(told):
    for name, (shape, part) in told["lies"].items():
        axis = 2 if ".replay.rows" in name else 1 if ".collector" in name else None
        assert part == [size // 4 if place == axis else size for place, size in enumerate(shape)], name
    one, four = told["memory"]
    assert four < 0.6 * one


@pytest.mark.slow
@pytest.mark.parametrize("program", ["collect", "learn", "measure"])
def test_each_device_does_a_quarter_of_the_arithmetic(told, program):
    """But for Adam, which each does for all parameters: with this batch a tenth of an update."""
    one, four = told["flops"][program]
    assert 0.25 <= four / one < (0.36 if program == "learn" else 0.26)


def test_one_device_changes_nothing():
    one, tree = sharding.chosen("1"), {"rows": np.ones((3, 2))}
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
def test_mistakes_with_devices(tmp_path, monkeypatch, capsys, count, words):
    with pytest.raises(UsageError, match=words):
        sharding.chosen(count)
    out = str(tmp_path / "run")
    monkeypatch.setattr("sys.argv", ["crlviz", "train", "point_u_maze", "--out", out, "--devices", count])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "--devices" in capsys.readouterr().err
    assert not os.path.exists(out)


def test_what_cannot_be_shared_evenly_is_refused():
    mesh = jax.sharding.AbstractMesh((4,), ("data",))
    four = sharding.Devices(mesh)
    four.check(8, 512)
    with pytest.raises(UsageError, match="num_envs is 6, which 4 devices cannot share evenly; give a multiple of 4"):
        four.check(6, 512)
    with pytest.raises(UsageError, match="batch_size is 510, which 4 devices cannot share evenly"):
        four.check(8, 510)
