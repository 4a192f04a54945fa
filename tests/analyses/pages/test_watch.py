"""The page about a run in training: what it shows, and when its process ends."""

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
from tests.crlviz.test_cli import QUICK
from tests.helpers.toys import FallingPoint, Handmade, change_config

AUTOGROUP = Path("/proc/self/autogroup")


@pytest.fixture
def going(toy_run, tmp_path):
    """A copy of the toy run that says it has more to do."""
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    change_config(run, lambda content: content["config"].update(env_steps=10 * content["config"]["env_steps"]))
    return run


def test_the_page_shows_curves_map_and_clip(going, open_page):
    index = watch.write(going, over=False)
    assert index == going / "watch" / "index.html"
    assert [path.name for path in index.parent.iterdir()] == ["index.html"]  # it appears whole or not at all
    opened = open_page(index)
    assert "point_u_maze, depth 4, width 8, seed 0" in opened.inner_text("h1")
    assert opened.locator("meta[http-equiv=refresh]").count() == 1
    widths = opened.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 3
    assert min(widths) > 100
    assert float(opened.locator("progress").evaluate("bar => bar.value / bar.max")) == pytest.approx(0.1, abs=0.01)
    watch.write(going, over=True)
    assert "The run has ended" in index.read_text()
    assert 'http-equiv="refresh"' not in index.read_text()


def test_other_bodies_are_filmed_for_some_seconds(monkeypatch):
    env = FallingPoint("a_body", mazes.get("u_maze", centered=True))  # no name of a point's
    agent = Handmade(env, lambda observation, key: 0 * observation[..., :2])
    shown = watch._clip(agent)
    frames = imageio.imread(base64.b64decode(shown["clip"]), extension=".gif")
    assert len(frames) == 60  # ten of the episode's fifteen seconds, six a second
    assert frames.shape[2] == 240
    assert shown["refresh"] > 10
    assert shown["clip_shows"] == "its first 10 s to one goal"

    def fail(*arguments, **options):
        raise CrlvizError("there is no encoder")

    monkeypatch.setattr(video, "write", fail)
    assert watch._clip(agent) == {"no_clip": "there is no encoder"}


def test_it_ends_when_its_parent_does(going):
    """The trainer may be killed; its watcher draws once more and goes."""
    _orphan(going, "'--trainer', str(os.getpid())")
    _wait_for_the_end(going)


def test_begun_by_hand_it_outlives_its_shell(going):
    """As under nohup; it ends with the run."""
    process = _orphan(going, "")
    try:
        time.sleep(3)
        os.kill(process, 0)
        assert "The run has ended" not in (going / "watch" / "index.html").read_text()
        change_config(going, lambda content: content["config"].update(env_steps=280))
        _wait_for_the_end(going)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _orphan(run: Path, options: str) -> int:
    """A watcher whose parent has ended after the first drawing; its id."""
    watcher = f"subprocess.Popen([sys.executable, '-m', 'crlviz', 'watch', sys.argv[1], {options}]"
    watcher += ", start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)"
    drawn = f"while not pathlib.Path({str(run / 'watch' / 'index.html')!r}).exists(): time.sleep(0.2)"
    spawn = f"import os, pathlib, subprocess, sys, time\nprint({watcher}.pid)\n{drawn}"
    done = subprocess.run(
        [sys.executable, "-c", spawn, str(run)], check=True, capture_output=True, text=True, timeout=300
    )
    return int(done.stdout)


def test_a_run_is_over_with_its_last_checkpoint_not_its_last_evaluation(toy_run, tmp_path):
    """Which is written beside training, after the row."""
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    assert watch._seen(run) == (280, 280, True)
    shutil.rmtree(run / "checkpoints" / "280")
    assert watch._seen(run) == (280, 200, False)


def test_of_a_finished_run_the_page_is_drawn_once(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    command = [sys.executable, "-m", "crlviz", "watch", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == f"wrote {run / 'watch' / 'index.html'}\n"
    assert "The run has ended" in (run / "watch" / "index.html").read_text()


@pytest.mark.parametrize(
    ("name", "words"), [("typo", "does not exist; name a run that has begun"), ("import", "was imported, and nothing")]
)
def test_what_nothing_trains_is_not_waited_for(toy_run, tmp_path, name, words):
    shutil.copytree(toy_run, tmp_path / "import")
    change_config(tmp_path / "import", lambda content: content.update(imported={"code": "paper"}))
    done = CliRunner().invoke(watch.command, [str(tmp_path / name)])
    assert isinstance(done.exception, UsageError)
    assert words in str(done.exception)
    assert not (tmp_path / name / "watch").exists()


@pytest.mark.slow
def test_of_a_run_that_is_trained_longer_the_page_does_not_end_before_it(toy_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    arguments = ["train", "--resume", str(run), "--env-steps", "360", "--watch"]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    _wait_for_the_end(run)
    assert 'value="360"' in (run / "watch" / "index.html").read_text()


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="a kernel without autogroups")
@pytest.mark.parametrize("own_session", [True, False])
def test_it_gives_way_to_other_sessions(own_session):
    """As `train --watch` starts it; started by hand it must not slow its terminal's other processes."""
    before = AUTOGROUP.read_text().rpartition(" ")[2]
    code = f"from analyses import watch; watch._session_nice(10); print(open('{AUTOGROUP}').read().rpartition(' ')[2])"
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=own_session, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("10" if own_session else before.strip())


def test_train_watch(tmp_path):
    run = tmp_path / "run"
    arguments = ["train", "point_u_maze", "--out", str(run), "--watch", *QUICK]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr
    _wait_for_the_end(run)


def _wait_for_the_end(run):
    """It runs at a low priority, so a busy machine lets it wait."""
    index, end = run / "watch" / "index.html", time.monotonic() + 300
    while not (index.exists() and "The run has ended" in index.read_text()):
        assert time.monotonic() < end
        time.sleep(0.5)


def test_a_refused_run_is_left_alone(toy_run):
    arguments = ["train", "point_u_maze", "--out", str(toy_run), "--watch", *QUICK]
    done = subprocess.run([sys.executable, "-m", "crlviz", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    time.sleep(2)
    assert not (toy_run / "watch").exists()
