"""Sweeps: grids, cell names, grouping of seeds, failing cells and resuming."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from crlviz.errors import UsageError
from tests.helpers.toys import TOY, change_config, toy_config
from training import trainer
from training.sweep import sweep_command

# The toy config, except what the options set.
SETTINGS = [f"{name}={value}" for name, value in TOY.items() if name not in ("batch_size", "env_steps")]
SMALL = ["--preset=paper", *(f"--set={setting}" for setting in ("redraw_goals=true", *SETTINGS))]


def names(**options):
    more = {name: options.pop(name) for name in ("settings", "ablate", "preset") if name in options}
    return [cell.name for cell in sweep_command.grid(options.pop("env", "point_u_maze"), Path("out"), options, **more)]


def test_every_combination_with_seeds_varying_fastest():
    assert names(depth="4,16", seed="0-2", width="64") == [
        *(f"depth{depth}-seed{seed}" for depth in (4, 16) for seed in (0, 1, 2))
    ]


def test_names_list_what_differs_from_the_preset():
    assert names(width="64,128", batch_size="64,256")[-1] == "depth4-width128-batch256-seed0"
    assert names(width="64,128", batch_size="64,256")[0] == "depth4-seed0"
    assert names(actor_depth="4,8", critic_depth="4,8") == [
        "depth4-seed0",
        "actor4-critic8-seed0",
        "actor8-critic4-seed0",
        "depth8-seed0",
    ]
    assert names(ablate="residual,swish") == ["depth4-seed0", "depth4-no-residual-seed0", "depth4-no-swish-seed0"]
    assert names(env="point_u_maze,point_big_maze", seed="3") == [
        "point_u_maze-depth4-seed3",
        "point_big_maze-depth4-seed3",
    ]
    assert names(max_pair_distance="3,none", seed="1") == ["depth4-pairs3-seed1", "depth4-seed1"]
    assert names(settings=["gamma=0.9,0.99", "unroll=75"]) == ["depth4-gamma=0.9-seed0", "depth4-gamma=0.99-seed0"]


def test_a_setting_of_one_algorithm_applies_to_its_cells():
    """Others are not doubled by its values; variants share it."""
    cells = sweep_command.grid(
        "point_u_maze",
        Path("out"),
        {"algorithm": "crl,sac,sac+her", "depth": "4", "seed": "0"},
        settings=["sac.tau=0.1,0.2", "gamma=0.9"],
    )
    assert [(cell.name, cell.config.sac.tau) for cell in cells] == [
        ("depth4-seed0", 0.005),
        ("sac-depth4-sac.tau=0.1-seed0", 0.1),
        ("sac-depth4-sac.tau=0.2-seed0", 0.2),
        ("sac+her-depth4-sac.tau=0.1-seed0", 0.1),
        ("sac+her-depth4-sac.tau=0.2-seed0", 0.2),
    ]
    assert all(cell.config.gamma == 0.9 for cell in cells)
    assert not any("sac.tau" in argument for argument in cells[0].arguments)
    assert ("--algorithm", "sac+her") in itertools.pairwise(cells[-1].arguments)
    with pytest.raises(UsageError, match=r"sac.tau is not a setting of crl"):
        names(settings=["sac.tau=0.1"])
    with pytest.raises(UsageError, match=r"td3.tau is not a setting of crl"):
        names(algorithm="crl,sac", settings=["td3.tau=0.1"])
    with pytest.raises(UsageError, match="no algorithm is called 'sca'"):
        names(algorithm="crl,sca")


def test_log_names_fit_the_file_system():
    """For many seeds, with and without gaps between them."""
    near, far = (
        sweep_command.grid("point_u_maze", Path("out"), {"seed": ",".join(map(str, seeds)), "depth": "4"})
        for seeds in (range(100), range(0, 300, 3))
    )
    name = sweep_command.Group(tuple(near), begun=False).name
    assert name == "depth4-seeds0-99"
    names = {sweep_command.Group(tuple(cells), begun=False).name for cells in (far, far[1:], far[:-1])}
    assert len(names) == 3
    assert all(len(f"{name}.txt".encode()) <= 255 for name in names)


def test_a_larger_grid_keeps_the_names_of_a_smaller_one():
    small, large = names(depth="4", seed="0"), names(depth="4,8", seed="0-3", width="64,128")
    assert set(small) < set(large)


def test_arguments_of_a_cell_train_its_config(monkeypatch):
    """``crlviz train`` parses the arguments of each cell to the cell's config."""
    from training.train_command import command

    cells = sweep_command.grid(
        "point_u_maze",
        Path("out"),
        {"depth": "4,8", "batch_size": "32,1e2", "seed": "1,2"},
        settings=["crl.learning_rate=1e-3,1e-4"],
        ablate="layer-norm,residual",
    )
    assert len(cells) == 2 * 2 * 2 * 2 * 3
    seen = []
    monkeypatch.setattr(trainer, "train", lambda config, out, **_: seen.append((config, out)) or out)
    cells = [cells[0], cells[-1]]
    for cell in cells:
        verb, *arguments = sweep_command.Group((cell,), begun=False).arguments
        assert verb == "train"
        done = CliRunner().invoke(command, [text.replace("1e2", "100") for text in arguments])
        assert done.exit_code == 0, done.output
    assert seen == [(cell.config, cell.out) for cell in cells]
    monkeypatch.setattr(trainer, "train_seeds", lambda config, outs, **_: calls.append((config, outs)) or [])
    calls: list = []
    pair = sweep_command.grid("point_u_maze", Path("out"), {"depth": "8", "seed": "3,4"})
    _, *arguments = sweep_command.Group(tuple(pair), begun=False).arguments
    assert CliRunner().invoke(command, arguments).exit_code == 0
    ((config, outs),) = calls
    assert outs == {cell.config.seed: cell.out for cell in pair}
    assert [dataclasses.replace(config, seed=seed) for seed in outs] == [cell.config for cell in pair]
    assert not cells[-1].config.actor.residual
    assert cells[-1].config.crl.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": "4,6"}, "depth 6 is not a positive multiple of 4"),
        ({"depth": "4,,8"}, "--depth takes values with commas between, or a range as 0-4, not '4,,8'"),
        ({"depth": "four"}, "takes a value of type int, not 'four'"),
        ({"batch_size": "1"}, "needs at least 2"),
        ({"max_pair_distance": "all"}, "--max-pair-distance takes whole numbers of cells or none"),
        ({"max_pair_distance": "9"}, "cells of this maze are 1 to 6 apart"),
        ({"ablate": "dropout"}, "--ablate takes residual, layer-norm, swish, hyperspherical, not 'dropout'"),
        ({"env": "point_nowhere"}, "no environment is called"),
        ({"settings": ["gamma"]}, "--set takes NAME=VALUE"),
        ({"eval_env": "nowhere"}, "no environment is called 'nowhere'"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        names(**options)


def invoke(*arguments):
    return CliRunner().invoke(sweep_command.command, list(map(str, arguments)))


@pytest.mark.slow
def test_dry_run_prints_the_cost_and_trains_nothing(tmp_path):
    out = tmp_path / "runs"
    done = invoke(
        "point_u_maze", "--depth", "4,8", "--seed", "0-1", "--batch-size", 8, "--out", out, "--dry-run", *SMALL
    )
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    for depth, line in ((4, lines[1]), (8, lines[3])):
        cost = trainer.build(toy_config(critic__depth=depth, actor__depth=depth)).algorithm.cost(8)
        assert f"{cost['parameters']:,}" in line
        assert f"{cost['flops_per_update']:.3g}" in line
    counts = toy_config(env_steps=100_000_000).schedule
    total = counts.env_steps(counts.steps)
    assert lines[-1] == (f"4 runs, 0 of them finished; {4 * total:,} environment steps, {4 * total:,} of them left")
    assert not out.exists()


@pytest.mark.slow
def test_a_failed_cell_does_not_stop_the_others_and_is_retried(tmp_path):
    """One cell evaluates a point body on a reacher task and fails. The other finishes; the next sweep skips it."""
    out = tmp_path / "runs"
    arguments = ("point_u_maze", "--batch-size", 8, "--env-steps", 280, "--out", out, "--jobs", 2, *SMALL)
    arguments += ("--eval-env", "reacher,point_u_maze_eval")
    done = invoke(*arguments)
    assert done.exit_code == 1
    bad, good = (f"depth4-width8-batch8-eval_env={env}-seed0" for env in ("reacher", "point_u_maze_eval"))
    assert f"{good}: success" in done.output
    assert f"{bad}: failed: reacher differs from point_u_maze in its observations" in done.output
    assert f"1 of 2 runs failed: {bad}; their logs are in {out / 'logs'}" in str(done.exception)
    assert "reacher differs from point_u_maze in its observations" in (out / "logs" / f"{bad}.txt").read_text()
    assert json.loads((out / good / "config.json").read_text())["cost"]["flops_per_update"] > 0

    before = (out / good / "metrics.csv").stat().st_mtime_ns
    again = invoke(*arguments)
    assert "2 runs in" in again.output
    assert "1 finished" in again.output
    assert (out / good / "metrics.csv").stat().st_mtime_ns == before
    assert str(again.exception) == str(done.exception)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ([], "point_u_maze-depth4-seed0"),
        (["--depth=16", "--seed=3", "--no-keep-state"], "point_u_maze-depth16-seed3"),
        (["--critic-depth=8", "--width=32", "--batch-size=128"], "point_u_maze-actor4-critic8-width32-batch128-seed0"),
        (["--max-pair-distance=3"], "point_u_maze-depth4-pairs3-seed0"),
        (["--set=gamma=0.9", "--env-steps=5e5"], None),
        (["--set=gamma=0.9", "--env-steps=500000"], "point_u_maze-depth4-env_steps=500000-gamma=0.9-seed0"),
        (["--seed=0-1", "--depth=8"], "point_u_maze-depth8-seed0"),
        (["--seeds=4", "--depth=8"], "point_u_maze-depth8-seed4"),
    ],
)
def test_train_without_out_names_its_run_as_a_sweep_would(monkeypatch, tmp_path, typed, name):
    from training.train_command import command

    outs: list = []
    monkeypatch.setattr(trainer, "train", lambda config, out, **_: outs.append(out) or out)
    monkeypatch.setattr(trainer, "train_seeds", lambda config, runs, **_: outs.extend(runs.values()) or [])
    done = CliRunner().invoke(command, ["point_u_maze", *typed])
    if name is None:  # --env-steps takes a whole number
        assert done.exit_code == 2
        return
    assert done.exit_code == 0, done.output
    assert outs[0] == Path("runs") / name


def test_an_interrupted_run_resumes(tmp_path, toy_run):
    cell = toy_cell(tmp_path, toy_run)
    assert (cell.begun, cell.finished, cell.done) == (True, True, 280)
    for saved in ("checkpoints", "state"):
        shutil.rmtree(cell.out / saved)  # as if it was killed before its first save
    lines = (cell.out / "metrics.csv").read_text().splitlines()
    (cell.out / "metrics.csv").write_text("\n".join([*lines[:2], ""]))
    assert (cell.begun, cell.finished, cell.done) == (True, False, 120)
    (group,) = sweep_command.grouped([cell], 1)
    assert group.arguments == ("train", "--resume", str(cell.out))
    assert sweep_command.train_groups([cell], [group], tmp_path / "logs", 1) == {}
    assert cell.finished


def toy_cell(folder, toy_run):
    """A cell whose run directory is a copy of the toy run."""
    (cell,) = toy_cells(folder, "0")
    shutil.copytree(toy_run, cell.out)
    return cell


def toy_cells(folder, seeds):
    options = {"batch_size": "8", "env_steps": "280", "seed": seeds}
    settings = [text.removeprefix("--set=") for text in SMALL[1:]]
    return sweep_command.grid("point_u_maze", folder / "runs", options, settings=settings, preset="paper")


def seeds_of(groups):
    return [[cell.config.seed for cell in group.cells] for group in groups]


def cells_of(**options):
    return sweep_command.grid("point_u_maze", Path("out"), {"depth": "4", **options})


def test_seeds_form_one_group_unless_a_core_would_be_idle():
    assert seeds_of(sweep_command.grouped(cells_of(seed="0-4"), 1)) == [[0, 1, 2, 3, 4]]
    assert sorted(map(len, seeds_of(sweep_command.grouped(cells_of(seed="0-3"), 2)))) == [2, 2]
    assert sorted(map(len, seeds_of(sweep_command.grouped(cells_of(seed="0-4"), 9)))) == [1] * 5
    assert seeds_of(sweep_command.grouped(cells_of(seed="0-2"), 1, apart=True)) == [[0], [1], [2]]
    assert seeds_of(sweep_command.grouped(cells_of(seed="0-2", depth="4,8"), 1)) == [[0, 1, 2], [0, 1, 2]]


def test_groups_balance_the_cores_and_the_longest_starts_first():
    """Depth 64 is 16 times the work of depth 4: its seeds go to both cores, then the seeds of depth 4."""
    groups = sweep_command.grouped(cells_of(seed="0-2", depth="4,64"), 2)
    assert [group.cells[0].config.actor.depth for group in groups] == [64, 64, 4]
    assert [len(group.cells) for group in groups] == [2, 1, 3]
    assert [group.seconds for group in groups] == sorted((group.seconds for group in groups), reverse=True)


def test_splitting_never_lengthens_a_sweep():
    for seeds, depth, at_once in itertools.product(("0-2", "0-6"), ("4", "4,64", "4,8,16", "16,20,64"), (1, 2, 3, 8)):
        cells = cells_of(seed=seeds, depth=depth)
        unsplit = [
            sweep_command.Group(tuple(c for c in cells if c.kind == kind), False) for kind in {c.kind for c in cells}
        ]
        groups = sweep_command.grouped(cells, at_once)
        assert sorted(cell.name for group in groups for cell in group.cells) == sorted(cell.name for cell in cells)
        assert sweep_command.busy_seconds(groups, at_once)[0] <= sweep_command.busy_seconds(unsplit, at_once)[0]
        if len(unsplit) < at_once:
            assert len(groups) >= min(at_once, len(cells))


@pytest.mark.slow
def test_a_group_with_a_finished_an_interrupted_and_a_damaged_run(tmp_path, toy_run):
    """Only the damaged run fails."""
    finished, interrupted, damaged = toy_cells(tmp_path, "0-2")
    shutil.copytree(toy_run, finished.out)
    for seed, cell in enumerate((interrupted, damaged), 1):
        shutil.copytree(toy_run, cell.out)
        change_config(cell.out, lambda content, seed=seed: content["config"].update(seed=seed))
        for saved in ("checkpoints", "state"):
            shutil.rmtree(cell.out / saved)
    (damaged.out / "state" / "200").mkdir(parents=True)
    before = (finished.out / "metrics.csv").stat().st_mtime_ns
    groups = sweep_command.grouped((cells := [finished, interrupted, damaged]), 1)
    assert seeds_of(groups) == [[1, 2]]
    failed = sweep_command.train_groups(cells, groups, tmp_path / "logs", 1)
    assert list(failed) == [damaged.name]
    assert "cannot be read" in failed[damaged.name]
    assert [cell.finished for cell in cells] == [True, True, False]
    assert (finished.out / "metrics.csv").stat().st_mtime_ns == before
    assert len(interrupted.rows) == 3
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["depth4-width8-batch8-seeds1-2.txt"]


def test_a_run_with_other_settings_is_not_overwritten(tmp_path, toy_run):
    run = toy_cell(tmp_path, toy_run).out
    arguments = ["point_u_maze", "--batch-size", 8, "--out", tmp_path / "runs", *SMALL]
    done = invoke(*arguments, "--env-steps", 280, "--dry-run")
    assert done.output.splitlines()[1].endswith("finished")
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    done = invoke(*arguments, "--env-steps", 560)
    assert isinstance(done.exception, UsageError)
    assert "holds a run with other settings: env_steps is 280 there and 560 in this sweep" in str(done.exception)
    assert sorted(path.stat().st_mtime_ns for path in run.rglob("*")) == before
    (tmp_path / "runs" / "depth4-width8-batch8-seed1").write_text("mine")
    assert "is not a run directory" in str(invoke(*arguments, "--seed", 1, "--env-steps", 280).exception)


def test_ctrl_c_says_how_to_continue(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_command, "train_groups", interrupted)
    done = invoke("point_u_maze", "--batch-size", 8, "--out", tmp_path / "runs", "--jobs", 1, *SMALL)
    assert "0 of 1 runs are finished; run the same command again to continue" in done.output
    assert isinstance(done.exception, (click.Abort, SystemExit, KeyboardInterrupt))
