"""The page about a run in training: what it shows, and when its process ends."""

import base64
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import pytest

from analyses import watch
from crlviz import mazes, video
from crlviz.errors import CrlvizError
from tests.crlviz.test_cli import QUICK
from tests.toys import FallingPoint, Handmade, change_config

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
    env = FallingPoint("a_body", mazes.get("u_maze", centred=True))  # no name of a point's
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
    watcher = "subprocess.Popen([sys.executable, '-m', 'crlviz', 'watch', sys.argv[1]], start_new_session=True)"
    drawn = f"while not pathlib.Path({str(going / 'watch' / 'index.html')!r}).exists(): time.sleep(0.2)"
    spawn = f"import pathlib, subprocess, sys, time\n{watcher}\n{drawn}"
    subprocess.run([sys.executable, "-c", spawn, str(going)], check=True, stdout=subprocess.DEVNULL)
    _wait_for_the_end(going)


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
