"""The page of a training run: its contents, and when its process ends."""

import base64
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import pytest
from click.testing import CliRunner

from analyses.pages import watch
from crlviz.envs import mazes
from crlviz.errors import CrlvizError, UsageError
from crlviz.rendering import video
from tests.helpers.command import QUICK
from tests.helpers.toys import FallingPoint, Handmade, change_config

AUTOGROUP = Path("/proc/self/autogroup")


@pytest.fixture
def unfinished(toy_run, tmp_path):
    """A copy of the toy run with more environment steps left to train."""
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    change_config(run, lambda content: content["config"].update(env_steps=10 * content["config"]["env_steps"]))
    return run


@pytest.mark.slow
def test_the_page_shows_curves_map_and_clip(unfinished, open_page):
    index = watch.write(unfinished, over=False)
    assert index == unfinished / "watch" / "index.html"
    assert [path.name for path in index.parent.iterdir()] == ["index.html"]  # written atomically, no partial files
    opened = open_page(index)
    assert "point_u_maze, depth 4, width 8, seed 0" in opened.inner_text("h1")
    assert opened.locator("meta[http-equiv=refresh]").count() == 1
    widths = opened.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 4 + 2  # curves, map, clip
    assert min(widths) > 100
    assert float(opened.locator("progress").evaluate("bar => bar.value / bar.max")) == pytest.approx(0.1, abs=0.01)
    watch.write(unfinished, over=True)
    assert "The run has ended" in index.read_text()
    assert 'http-equiv="refresh"' not in index.read_text()


@pytest.mark.slow
def test_other_bodies_get_a_short_video(monkeypatch):
    env = FallingPoint("a_body", mazes.get("u_maze", centered=True))  # not the name of a point body
    agent = Handmade(env, lambda observation, key: 0 * observation[..., :2])
    values = watch.clip_of(agent)
    frames = imageio.imread(base64.b64decode(values["clip"]), extension=".gif")
    assert len(frames) == 60  # ten of the episode's fifteen seconds, at six frames per second
    assert frames.shape[2] == 240
    assert values["refresh"] > 10
    assert values["clip_shows"] == "first 10 s of an episode with one goal"

    def fail(*arguments, **options):
        raise CrlvizError("there is no encoder")

    monkeypatch.setattr(video, "write", fail)
    assert watch.clip_of(agent) == {"no_clip": "there is no encoder"}


@pytest.mark.slow
def test_watch_ends_with_its_trainer(unfinished):
    """If the trainer is killed, the watch draws once more and ends."""
    _orphan(unfinished, "'--trainer', str(os.getpid())")
    _wait_for_the_end(unfinished)


@pytest.mark.slow
def test_watch_started_by_hand_outlives_its_shell(unfinished):
    """As under nohup; it ends with the run."""
    process = _orphan(unfinished, "")
    try:
        time.sleep(3)
        os.kill(process, 0)
        assert "The run has ended" not in (unfinished / "watch" / "index.html").read_text()
        change_config(unfinished, lambda content: content["config"].update(env_steps=280))
        _wait_for_the_end(unfinished)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _orphan(run: Path, options: str) -> int:
    """Start a watch whose parent ends after the first drawing; returns its process id."""
    watcher = f"subprocess.Popen([sys.executable, '-m', 'crlviz', 'watch', sys.argv[1], {options}]"
    watcher += ", start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    drawn = f"while not pathlib.Path({str(run / 'watch' / 'index.html')!r}).exists(): time.sleep(0.2)"
    spawn = f"import os, pathlib, subprocess, sys, time\nprint({watcher}.pid)\n{drawn}"
    done = subprocess.run(
        [sys.executable, "-c", spawn, str(run)], check=True, capture_output=True, text=True, timeout=300
    )
    return int(done.stdout)


def test_a_run_is_finished_with_its_last_checkpoint(toy_run, tmp_path):
    """Not with its last evaluation: the checkpoint is written in parallel, after the row of metrics."""
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    assert watch.progress_of(run) == (280, 280, True)
    shutil.rmtree(run / "checkpoints" / "280")
    assert watch.progress_of(run) == (280, 200, False)


@pytest.mark.slow
def test_the_page_of_a_finished_run_is_drawn_once(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    command = [sys.executable, "-m", "crlviz", "watch", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"wrote {run / 'watch' / 'index.html'}\n"
    assert "The run has ended" in (run / "watch" / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "words"),
    [("typo", "does not exist; name a run that has started"), ("import", "was imported and is not training")],
)
def test_a_run_that_is_not_training_is_refused(toy_run, tmp_path, name, words):
    shutil.copytree(toy_run, tmp_path / "import")
    change_config(tmp_path / "import", lambda content: content.update(imported={"code": "paper"}))
    done = CliRunner().invoke(watch.command, [str(tmp_path / name)])
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)
    assert not (tmp_path / name / "watch").exists()


@pytest.mark.slow
def test_the_page_of_an_extended_run_is_updated_until_its_new_end(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    arguments = ["train", "--resume", str(run), "--env-steps", "360", "--watch"]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    _wait_for_the_end(run)
    assert 'value="360"' in (run / "watch" / "index.html").read_text()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="the kernel has no autogroups")
@pytest.mark.parametrize("own_session", [True, False])
def test_watch_lowers_the_priority_of_its_own_session_only(own_session):
    """`train --watch` starts it in its own session. Started by hand it must not slow the session of its terminal."""
    before = AUTOGROUP.read_text().rpartition(" ")[2]
    code = "from analyses.pages import watch; watch.set_session_nice(10); "
    code += f"print(open('{AUTOGROUP}').read().rpartition(' ')[2])"
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=own_session, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("10" if own_session else before.strip())


@pytest.mark.slow
def test_train_watch(tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "point_u_maze", "--out", str(run), "--watch", *QUICK]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    _wait_for_the_end(run)


def _wait_for_the_end(run):
    """Wait long: the watch runs at a low priority, and the machine may be busy."""
    index, end = run / "watch" / "index.html", time.monotonic() + 300
    while not (index.exists() and "The run has ended" in index.read_text()):
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.mark.slow
def test_a_refused_run_gets_no_page(toy_run):
    arguments = ["train", "point_u_maze", "--out", str(toy_run), "--watch", *QUICK]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    time.sleep(2)
    assert not (toy_run / "watch").exists()
