"""What the verbs do with runs: pictures, data, and one sentence for each mistake."""

import json

import numpy as np
import pytest
import xarray as xr

from crlviz.errors import CrlvizError
from tests.helpers.command import QUICK, error_of
from tests.helpers.toys import ROOM, toy_config, untrained_run


def test_train_inspect_heatmap(crlviz, tmp_path):
    run = tmp_path / "run"
    code, out, _ = crlviz("train", "point_u_maze", "--depth", 8, "--seed", 3, "--out", run, *QUICK)
    assert (code, out.strip()) == (0, f"wrote {run}")
    config = json.loads((run / "config.json").read_text())
    assert config["config"]["critic"]["depth"] == config["config"]["actor"]["depth"] == 8
    assert config["config"]["seed"] == 3
    assert config["command"][:3] == ["crlviz", "train", "point_u_maze"]

    code, out, _ = crlviz("inspect", run)
    assert code == 0
    assert "depth 8, width 8, swish" in out
    assert "280 environment steps" in out

    picture, data = tmp_path / "map.svg", tmp_path / "map.nc"
    code, out, _ = crlviz("heatmap", run, "--goal", "1,0", "--resolution", 2, "--out", picture, "--out", data)
    assert code == 0
    assert picture.read_text().startswith("<svg")
    assert data.stat().st_size > 1000
    assert "1,0" in out


@pytest.mark.slow
def test_train_in_a_custom_maze(crlviz, tmp_path):
    layout = tmp_path / "room.txt"
    layout.write_text("\n".join(ROOM))
    run = tmp_path / "run"
    code, _, _ = crlviz("train", "point_maze", "--layout", layout, "--depth", 4, "--out", run, *QUICK)
    assert code == 0
    layout.unlink()  # the run directory contains the maze
    code, *_ = crlviz("heatmap", run, "--resolution", 2, "--no-coverage", "--out", tmp_path / "map.json")
    assert code == 0
    assert "point_maze" in (tmp_path / "map.json").read_text()


@pytest.mark.slow
def test_actor_and_critic_can_differ_in_depth_and_the_evaluation_in_its_environment(crlviz, tmp_path):
    options = ["--critic-depth", 8, "--eval-env", "point_u_maze_eval"]
    code, *_ = crlviz("train", "point_u_maze", *options, "--out", tmp_path / "run", *QUICK)
    assert code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["critic"]["depth"], config["actor"]["depth"]) == (8, 4)
    assert config["eval_env"] == "point_u_maze_eval"


def test_max_pair_distance_selects_the_environment(crlviz, tmp_path, monkeypatch):
    from training import trainer

    configs = []
    monkeypatch.setattr(trainer, "train", lambda config, out, **_: configs.append(config) or out)
    for env in ("point_u_maze", "ant_big_maze"):
        assert crlviz("train", env, "--max-pair-distance", 3, "--out", tmp_path / env)[0] == 0
    assert [config.env for config in configs] == ["point_u_maze_gen_1f2f3f", "ant_big_maze_gen_1f2f3f"]


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("stitch", "of     6"),
        ("norms", "(block 1)"),
        ("calibrate", "rank_achieved"),
        ("embed", "effective rank"),
        ("behavior", "Critical depth: none found, because there is one depth only."),
    ],
)
def test_each_analysis_writes_a_picture_and_data(crlviz, toy_run, tmp_path, verb, words):
    picture, data = tmp_path / f"{verb}.svg", tmp_path / f"{verb}.nc"
    code, out, _ = crlviz(verb, toy_run, "--out", picture, "--out", data)
    assert code == 0, out
    assert words in out
    assert f"wrote {picture}, {data}" in out
    assert "one seed" in picture.read_text()
    assert data.stat().st_size > 0
    assert "cannot tell the format" in error_of(crlviz(verb, toy_run, "--out", tmp_path / "picture.jpg"), 2)


@pytest.mark.slow
def test_behavior_writes_a_video(crlviz, toy_run, tmp_path):
    video = tmp_path / "b.mp4"
    code, out, _ = crlviz("behavior", toy_run, "--episodes", 3, "--size", "96x72", "--out", video)
    assert code == 0
    assert f"wrote {video} (drawn by " in out
    assert [path.name for path in tmp_path.iterdir()] == ["b.mp4"]
    assert video.read_bytes()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["point_u_maze", "--max-pair-distance", "0"], "pairs at most 0 cells apart"),
        (["point_u_maze", "--max-pair-distance", "9"], "cells of this maze are 1 to 6 apart"),
        (["humanoid", "--max-pair-distance", "3"], "humanoid cannot be given pairs by distance"),
        (["point_bigmaze"], "no environment is called 'point_bigmaze'; nearest: point_big_maze"),
        (
            ["point_u_maze", "--depth", "6"],
            "depth 6 is not a positive multiple of 4 (a block has 4 layers); take 4 or 8",
        ),
        (["point_u_maze", "--batch-size", "10000000"], "but the buffer provides"),
        (["point_u_maze", "--batch-size", "1"], "needs at least 2"),
        (["point_u_maze", "--eval-env", "nowhere"], "no environment is called 'nowhere'"),
        (["point_u_maze", "--preset", "huge"], "no preset is called 'huge'; take paper or smoke or laptop"),
        (["point_u_maze", "--set", "gama=0.9"], "no setting is called 'gama'"),
        (["point_u_maze", "--set", "gamma=high"], "gamma takes a value of type float, not 'high'"),
        (["point_u_maze", "--set", "gamma"], "--set takes NAME=VALUE"),
        (["point_u_maze", "--layout", "none.txt"], "cannot read the maze file none.txt: No such file"),
        (["point_maze"], "point_maze is for a maze of your own: give its file with --layout"),
    ],
)
def test_train_user_errors(crlviz, tmp_path, arguments, words):
    out = tmp_path / "run"
    assert words in error_of(crlviz("train", *arguments, "--out", out), 2)
    assert not out.exists()  # nothing was started


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--depth", "8"], "train takes ENV, or --resume RUN"),
        (["point_u_maze", "--resume", "run"], "an ENV cannot be given beside it"),
        (["--resume", "run", "--actor-depth", "8"], "--actor-depth cannot be given beside it"),
        (["--resume", "run", "--set", "gamma=1"], "--set gamma cannot be given beside it"),
        (
            ["--resume", "run", "--set", "keep=1", "--set", "critic.depth=8"],
            "--set critic.depth cannot be given beside it",
        ),
        (["--resume", "run", "--set", "loss_bond=1e9"], "no setting is called 'loss_bond' (did you mean loss_bound?)"),
        (["--resume", "run", "--set", "keep=few"], "keep takes a value of type int, not 'few'"),
        (["point_u_maze", "--out", "run", "--rewinds", "-1"], "rewinds is -1; it must be at least 0"),
        (["point_u_maze", "--out", "run", "--save-every", "0"], "save_every is 0; it must be at least 1"),
        (["point_u_maze", "--out", "run", "--set", "on_nan=hope"], "on_nan is 'hope'; take stop or rewind"),
    ],
)
def test_resume_user_errors(crlviz, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in error_of(crlviz("train", *arguments), 2)
    assert not list(tmp_path.iterdir())


def test_resume_without_a_run(crlviz, tmp_path):
    assert "cannot be read: No such file" in error_of(crlviz("train", "--resume", tmp_path), 1)
    assert not list(tmp_path.iterdir())


def test_train_refuses_an_existing_run(crlviz, toy_run):
    before = sorted(toy_run.rglob("*"))
    assert "exists already" in error_of(crlviz("train", "point_u_maze", "--out", toy_run, *QUICK), 2)
    assert sorted(toy_run.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--goal", "9,9"], "is not in a free cell of point_u_maze"),
        (["--goal", "somewhere"], "--goal takes X,Y in meters"),
        (["--scale", "mine"], "scale 'mine' is unknown; take own or shared"),
        (["--action", "jump"], "action 'jump' is unknown; take policy or zeros"),
        (["--resolution", "0"], "resolution 0"),
        (["--over", "walls"], "over 'walls' is unknown; take positions or goals"),
        (["--over", "goals", "--goal", "1,0"], "--over goals keeps the start fixed: give --start"),
        (["--over", "goals", "--start", "9,9"], "the start 9,9 is not in a free cell"),
        (["--max-checkpoints", "0"], "--max-checkpoints 0: at least one is needed"),
        (["--max-checkpoints", "1", "--out", "q.gif"], "a GIF shows the checkpoints of a run"),
        (["--out", "map.jpeg"], "cannot tell the format of map.jpeg"),
        (["--out", "no/such/map.png"], "there is no directory no/such"),
    ],
)
def test_heatmap_user_errors(crlviz, toy_run, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in error_of(crlviz("heatmap", toy_run, *options), 2)
    assert not list(tmp_path.iterdir())


def test_import_verify_export(crlviz, data, tmp_path):
    source, run = data / "runs" / "ant_big_maze_1000_20261121-001006", tmp_path / "theirs"
    code, out, _ = crlviz("import", source, "--out", run)
    assert (code, out) == (0, f"wrote {run}: ant_big_maze, depth 4, width 32, after 2,400, 3,200 environment steps\n")
    assert "exists already" in error_of(crlviz("import", source, "--out", run), 2)

    code, out, _ = crlviz("inspect", run, "--verify")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert len(out.splitlines()) == 1 + 2 * 5
    damaged = run / "checkpoints" / "2400" / "critic.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, out, err = crlviz("inspect", run, "--verify")
    assert code == 1
    assert [line for line in out.splitlines() if line.startswith("BAD")] == [
        f"BAD  {damaged} is damaged: it has {damaged.stat().st_size:,} bytes, but manifest.json gives another size"
    ]
    assert "1 of 10 checks" in err

    for name in ("agent.onnx", "agent.safetensors"):
        code, out, _ = crlviz("export", run, "--out", tmp_path / name)
        assert (code, out.splitlines()[0]) == (0, f"wrote {tmp_path / name}")
    from analyses.common import runs

    with pytest.raises(CrlvizError, match=r"has no metrics\.csv"):
        runs.compute([run])


def test_other_package_versions_give_a_one_line_warning(crlviz, toy_run, tmp_path):
    import shutil

    from crlviz import agent
    from crlviz.checkpoints.run_directory import RunDirectory

    run = shutil.copytree(toy_run, tmp_path / "run")
    config = RunDirectory(run).read_config()
    RunDirectory(run).write_config(config | {"versions": {"brax": "0.0.9"}})
    agent.warn_once.cache_clear()
    code, _, err = crlviz("inspect", run)
    assert code == 0
    assert err.startswith("Warning: trained under brax 0.0.9 (here ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("verb", ["heatmap", "inspect"])
def test_no_checkpoint(crlviz, tmp_path, verb):
    assert "there is no" in error_of(crlviz(verb, tmp_path / "nothing"), 1)
    assert "neither a run directory" in error_of(crlviz(verb, tmp_path), 1)


def test_the_same_checkpoint_twice(crlviz, toy_run, tmp_path):
    result = crlviz("heatmap", toy_run, toy_run, "--out", tmp_path / "map.json")
    assert "do not differ" in error_of(result, 2)


@pytest.mark.slow
def test_heatmap_html_shows_all_checkpoints_unless_a_goal_is_given(crlviz, toy_run, tmp_path):
    page, still, moving, data = (tmp_path / name for name in ("page.html", "still.html", "q.gif", "q.nc"))
    code, out, _ = crlviz("heatmap", toy_run, "--resolution", 2, "--out", page, "--out", moving, "--out", data)
    assert code == 0
    assert "mean of" in out
    assert 'type="range"' in page.read_text()
    assert moving.read_bytes().startswith(b"GIF89a")
    with xr.open_dataset(data) as read:
        assert read.sizes["env_steps"] == len(list((toy_run / "checkpoints").iterdir()))
        assert read.sizes["goal"] == int(np.isfinite(read.straight[0]).sum()) / 4  # every free cell
    assert crlviz("heatmap", toy_run, "--goal", "1,0", "--resolution", 2, "--out", still)[0] == 0
    assert "vega" in still.read_text()


def test_heatmap_of_different_mazes_is_refused(crlviz, toy_run, tmp_path):
    other = untrained_run(tmp_path / "other", toy_config(env="point_u2_maze"))
    result = crlviz("heatmap", toy_run, other, "--out", tmp_path / "map.json")
    words = "walks in point_u_maze and"
    assert words in error_of(result, 2)


@pytest.mark.slow
def test_runs_with_different_training_pairs_can_be_compared(crlviz, toy_run, tmp_path):
    """The pairs trained on are a setting; the maze is the same."""
    near = untrained_run(tmp_path / "near", toy_config(env="point_u_maze_gen_1f2f"))
    options = {"heatmap": ["--goal=1,0", "--resolution=2", "--no-coverage"], "behavior": ["--episodes=2"]}
    options |= {"stitch": [], "norms": ["--episodes=2"], "embed": ["--episodes=2"]}
    for verb, more in options.items():
        data, picture = tmp_path / f"{verb}.nc", tmp_path / f"{verb}.json"
        code, _, err = crlviz(verb, toy_run, near, *more, "--out", data, "--out", picture)
        assert code == 0, err
        assert "point_u_maze_gen_1f2f" in picture.read_text()
        with xr.open_dataset(data) as read:
            assert sorted(read.env.values.tolist()) == ["point_u_maze", "point_u_maze_gen_1f2f"]


@pytest.mark.slow
def test_runs_that_differ_in_any_setting_are_compared(crlviz, tmp_path):
    settings = [{"gamma": 0.9}, {"gamma": 0.95}, {"gamma": 0.95, "crl__learning_rate": 0.001}]
    runs = [untrained_run(tmp_path / str(n), toy_config(**changes)) for n, changes in enumerate(settings)]
    for verb, more in {"heatmap": ["--goal=1,0", "--resolution=2", "--no-coverage"], "norms": ["--episodes=2"]}.items():
        data, picture = tmp_path / f"{verb}.nc", tmp_path / f"{verb}.json"
        code, out, err = crlviz(verb, *runs, *more, "--out", data, "--out", picture)
        assert code == 0, err
        assert "crl.learning_rate 0.001, gamma 0.95" in out
        assert "crl.learning_rate 0.0003, gamma 0.9" in picture.read_text()
        with xr.open_dataset(data) as read:
            assert read["gamma"].values.tolist() == [0.9, 0.95, 0.95]
    code, out, _ = crlviz("rollout", *runs[:2], "--steps", 3, "--out", tmp_path / "walk.nc")
    assert (code, out.splitlines()[0].split(":")[0]) == (0, "depth 4, gamma 0.9, seed 0")
    with xr.open_dataset(tmp_path / "walk.nc") as read:
        assert read.sizes["gamma"] == 2


def test_a_directory_of_runs_means_all_of_them(crlviz, tmp_path):
    """As train --seed 0-4 and sweep make it. A verb that takes one run lists the runs there."""
    for seed in (0, 1, 10):
        untrained_run(tmp_path / "five" / f"seed{seed}", toy_config(seed=seed))
    (tmp_path / "five" / "logs").mkdir()
    untrained_run(tmp_path / "five" / "seed2", toy_config(seed=2), steps=())
    code, out, err = crlviz("norms", tmp_path / "five", "--episodes", 2, "--out", tmp_path / "n.svg")
    assert code == 0, err
    blocks = out.split("\n\n")[0]  # a line for each network of each run
    assert [line.split(",")[0].split("  ")[0] for line in blocks.splitlines()[1::3]] == ["seed 0", "seed 1", "seed 10"]
    assert err == f"Warning: left out: {tmp_path / 'five' / 'seed2'} holds no checkpoint yet\n"
    for verb in ("inspect", "export"):
        more = ["--out", tmp_path / "a.safetensors"] * (verb == "export")
        words = error_of(crlviz(verb, tmp_path / "five", *more), 1)
        assert words.endswith("it holds seed0, seed1, seed2, seed10: give one of them")


def test_envs_lists_every_id(crlviz):
    from crlviz import envs

    code, out, _ = crlviz("envs")
    assert code == 0
    table = out.split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[1:]] == envs.ids()


@pytest.mark.slow
def test_bench_measures_compile_time(crlviz, tmp_path):
    code, out, _ = crlviz("bench", "--compile", "point_u_maze,point_u4_maze", "--json", tmp_path / "times.json")
    assert code == 0
    ids = ["point_u_maze", "point_u4_maze"]
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ids
    rows = json.loads((tmp_path / "times.json").read_text())["compiled"]  # the table rounds a short time to 0.0
    assert [row.pop("id") for row in rows] == ids
    assert all(number > 0 for row in rows for number in row.values())
    assert "ant_push" in error_of(crlviz("bench", "--compile", "point_u_maze,ant_posh"), 2)
