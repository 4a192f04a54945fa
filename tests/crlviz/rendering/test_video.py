"""Videos (timing, panels, captions, streaming, atomic writing) and the rollout command."""

import json
import weakref

import imageio.v3 as imageio
import numpy as np
import pytest
import xarray as xr

from crlviz import envs
from crlviz.cli import main
from crlviz.errors import CrlvizError, UsageError
from crlviz.rendering import video
from crlviz.rendering.video import Panel
from crlviz.rollouts import rollout
from tests.helpers.toys import FallingPoint, Handmade, assert_described


@pytest.fixture(scope="module")
def env():
    return envs.make("point_u_maze")


def _episode(env, steps, fell=None):
    """A point that walks along x, and falls at step ``fell`` (counted from 1) if given."""
    x = np.linspace(-1, 1, steps)
    pose = np.stack([x, np.full(steps, -1.0), np.full(steps, 1.0), np.full(steps, -1.0)], axis=1)
    return xr.Dataset(
        {
            "pose": (("time", "joint"), pose),
            "achieved": (("time", "goal_index"), pose[:, :2]),
            "goal": ("goal_index", np.array([1.0, -1.0])),
            "distance": ("time", 1 - x),
            "q": ("time", x),
            "success": ("time", 1 - x < 0.25),
            "alive": ("time", np.arange(steps) < (fell or steps)),
        }
    )


@pytest.mark.slow
def test_video_plays_in_real_time(env, tmp_path):
    panel = Panel("alone", env, _episode(env, 31))  # steps of 0.1 s
    assert (
        "EGL" in (name := video.write(tmp_path / "a.mp4", [[panel]], size=(64, 48)))
        or "ray" in name
        or "OSMesa" in name
    )
    frames = imageio.imread(tmp_path / "a.mp4", plugin="FFMPEG")
    assert imageio.immeta(tmp_path / "a.mp4", plugin="FFMPEG")["fps"] == pytest.approx(10)
    assert len(frames) == 31
    video.write(tmp_path / "b.mp4", [[panel]], size=(64, 48), fps=25)
    meta = imageio.immeta(tmp_path / "b.mp4", plugin="FFMPEG")
    assert meta["fps"] == pytest.approx(25)
    assert meta["duration"] == pytest.approx(3, abs=0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "b.mp4"}


def test_panels_are_arranged_in_rows_and_in_sync(env, tmp_path):
    one = Panel("one", env, _episode(env, 12))
    video.write(tmp_path / "grid.gif", [[one, one, one], [one, one, one]], size=(60, 40))
    frames = imageio.imread(tmp_path / "grid.gif").astype(int)
    height, width = frames.shape[1] // 2, frames.shape[2] // 3
    assert (width, len(frames)) == (60, 12)
    tile = frames[5, :height, :width]
    for row in range(2):
        for column in range(3):
            other = frames[5, row * height : (row + 1) * height, column * width : (column + 1) * width]
            assert np.abs(other - tile).mean() < 3  # palettes
    assert np.abs(frames[0] - frames[11]).max() > 50  # the point has moved


def test_step_shown_at_a_time(env):
    panel = Panel("", env, _episode(env, 50))
    assert [panel.step(t) for t in (0, 0.1, 0.26, 4.9, 99)] == [0, 1, 3, 49, 49]
    assert panel.fell is None
    fallen = Panel("", env, _episode(env, 50, fell=20))
    assert fallen.fell == 20
    assert fallen.step(99) == 35  # 1.5 s later
    assert fallen.seconds == pytest.approx(3.5)


def test_frame_rates():
    assert video.frame_rate(0.05) == pytest.approx(20)  # ant: every step
    assert video.frame_rate(0.015) == pytest.approx(1 / 0.03)  # humanoid: every other
    assert video.frame_rate(0.1) == pytest.approx(10)


def test_captions_show_success_and_falls(env):
    def caption(episode, step):
        return video.caption_picture(Panel("depth 4", env, episode), step, 300).astype(int)

    walking, at_goal = caption(_episode(env, 50), 3), caption(_episode(env, 50), 49)
    fallen = caption(_episode(env, 50, fell=20), 30)

    def hue(strip, channel):
        others = [k for k in range(3) if k != channel]
        return (strip[..., channel] - strip[..., others].max(-1)).max()

    assert walking.shape == at_goal.shape == fallen.shape
    assert hue(walking, 0) < 10
    assert hue(walking, 1) < 10
    assert hue(at_goal, 1) > 40  # green
    assert hue(fallen, 0) > 80  # red
    np.testing.assert_array_equal(fallen, caption(_episode(env, 50, fell=20), 40))


def test_frames_are_streamed(tmp_path):
    references, alive = [], []

    class Frame(np.ndarray):
        """A subclass, as weak references to plain arrays are not possible."""

    def frames():
        for _ in range(60):
            frame = np.zeros((32, 32, 3), np.uint8).view(Frame)
            references.append(weakref.ref(frame))
            alive.append(sum(reference() is not None for reference in references))
            yield frame
            del frame

    video.write_frames(tmp_path / "long.mp4", frames(), 30)
    assert len(alive) == 60
    assert max(alive) <= 3


def test_a_failing_frame_leaves_no_file(tmp_path):
    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise CrlvizError("no more")

    with pytest.raises(CrlvizError, match="no more"):
        video.write_frames(tmp_path / "broken.mp4", frames(), 30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "sentence"), [({"fps": 0}, "--fps"), ({"fps": 1e9}, "--fps"), ({"size": (1, 1)}, "1x1")]
)
def test_impossible_videos(env, tmp_path, change, sentence):
    with pytest.raises(UsageError, match=sentence):
        video.write(tmp_path / "v.mp4", [[Panel("", env, _episode(env, 3))]], **change)
    with pytest.raises(UsageError, match=r"\.mp4 or \.gif"):
        video.write(tmp_path / "v.avi", [[Panel("", env, _episode(env, 3))]])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_rollout_can_be_filmed(tmp_path):
    from crlviz.envs import mazes

    falling = FallingPoint("falling", mazes.get("u_maze", centered=True))
    episodes = rollout(Handmade(falling, lambda obs, key: obs[..., :2] * 0 + 1.0), 2, length=30)
    panel = Panel("falls", falling, episodes.isel(episode=0))
    assert panel.fell == int(episodes.alive.isel(episode=0).sum())
    video.write(tmp_path / "fall.mp4", [[panel]], size=(64, 48))
    assert (tmp_path / "fall.mp4").stat().st_size > 500


@pytest.mark.slow
def test_the_command_writes_every_format(toy_run, tmp_path, monkeypatch, capsys):
    outs = [tmp_path / name for name in ("v.mp4", "v.gif", "v.html", "v.nc", "v.png")]
    arguments = [part for out in outs for part in ("--out", str(out))]
    run = ["crlviz", "rollout", str(toy_run), "--episodes", "2", "--steps", "12", "--size", "64x48", "--goal", "1,1"]
    monkeypatch.setattr("sys.argv", [*run, *arguments])
    main()
    printed = capsys.readouterr().out
    assert "depth 4, seed 0: reached the goal in" in printed
    assert "drawn by" in printed
    assert all(out.stat().st_size > 500 for out in outs)
    frames = imageio.imread(outs[0], plugin="FFMPEG")
    assert frames.shape[2] == 64  # episodes one below the other
    with xr.open_dataset(outs[3]) as data:
        assert data.sizes["episode"] == 2
        np.testing.assert_allclose(data.goal.values.reshape(2, 2), 1)
        assert_described(data)
    assert "https://" not in outs[2].read_text()
    assert json.dumps("depth 4, seed 0, episode 2")[1:-1] in outs[2].read_text()


@pytest.mark.slow
def test_each_goal_gets_an_episode(toy_run, tmp_path, monkeypatch):
    out = tmp_path / "v.nc"
    for more, expected in (([], [(1, 1), (-1, 1)]), (["--episodes", "3"], [(1, 1), (-1, 1), (1, 1)])):
        goals = ["--goal", "1,1", "--goal", "-1,1"]
        run = ["crlviz", "rollout", str(toy_run), *goals, *more, "--steps", "3", "--out", str(out)]
        monkeypatch.setattr("sys.argv", run)
        main()
        with xr.open_dataset(out) as data:
            assert [tuple(goal) for goal in data.goal.values.reshape(-1, 2).tolist()] == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--goal", "1,1", "--goal", "-1,1", "--episodes", "1"], "2 goals take at least 2"),
        (["--goal", "99,99"], "99,99"),
        (["--goal", "north"], "--goal takes X,Y"),
        (["--size", "large"], "--size takes WIDTHxHEIGHT"),
        (["--size", "3x3"], "3x3"),
        (["--camera", "drone"], "drone"),
        (["--out", "v.avi"], "v.avi"),
        (["--episodes", "0"], "0 episodes"),
        (["--steps", "0"], "steps"),
        (["--fps", "-1"], "--fps"),
    ],
)
def test_mistakes_get_one_sentence(toy_run, arguments, sentence, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    short = [] if "--steps" in arguments else ["--steps", "3"]
    monkeypatch.setattr("sys.argv", ["crlviz", "rollout", str(toy_run), *short, *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    words = capsys.readouterr().err
    assert sentence in words
    assert len(words.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
