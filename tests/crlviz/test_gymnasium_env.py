"""crlviz's environments behind Gymnasium's interface, with its checker, wrappers and vector environments."""

import contextlib
import subprocess
import sys

import imageio.v3 as imageio
import jax
import numpy as np
import pytest

from crlviz import envs
from crlviz.errors import UsageError
from tests.helpers.toys import ROOM, FallingPoint

gymnasium = pytest.importorskip("gymnasium")
from crlviz import gymnasium_env  # noqa: E402  # it needs gymnasium

ID = "crlviz/point_u_maze-v0"


@pytest.fixture
def env():
    made = envs.gymnasium("point_u_maze", render_mode="rgb_array", width=64, height=48)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:.*infinity")  # positions have no bound
@pytest.mark.filterwarnings("error")
def test_gymnasiums_own_checker_is_content():
    from gymnasium.utils.env_checker import check_env

    made = gymnasium.make(ID, render_mode="rgb_array", width=64, height=48)
    check_env(made.unwrapped)
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("id", ["ant_u_maze", "pusher_easy"])
def test_the_checker_is_content_with_bodies_of_physics(id):
    from gymnasium.utils.env_checker import check_env

    check_env(gymnasium.make(f"crlviz/{id}-v0").unwrapped, skip_render_check=True)


def test_every_environment_is_registered():
    registered = {id for id in gymnasium.registry if id.startswith("crlviz/")}
    assert registered == {f"crlviz/{id}-v0" for id in envs.ids()}
    spec = gymnasium.spec("crlviz/ant_u4_maze-v0")
    assert spec.kwargs == {"env_id": "ant_u4_maze"}


def test_an_episode_is_that_of_our_environment(env):
    """The same start, goal and actions in the environment beneath."""
    rng = np.random.default_rng(0)
    first, info = env.reset(seed=3, options={"start": [0.9, -0.9], "goal": [-1.0, 1.0]})
    below = envs.make("point_u_maze")
    state = below.reset(jax.random.key(0), np.array([0.9, -0.9]), np.array([-1.0, 1.0]))
    np.testing.assert_array_equal(first["desired_goal"], [-1, 1])
    assert info == {"is_success": False, "distance": pytest.approx(np.hypot(1.9, 1.9)), "fell": False}
    for _ in range(5):
        action = rng.uniform(-1, 1, 2).astype(np.float32)
        state = below.step(state, action)
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(observation["observation"], state.obs[:4], atol=1e-6)
        np.testing.assert_array_equal(observation["achieved_goal"], observation["observation"][:2])
        assert (reward, terminated, truncated) == (0, False, False)
        assert info["distance"] == pytest.approx(float(state.metrics["distance"]), abs=1e-5)


def test_seeds_repeat_and_go_on(env):
    def starts(seed, count=3):
        return [env.reset(seed=seed if number == 0 else None)[0]["observation"] for number in range(count)]

    np.testing.assert_array_equal(starts(5), starts(5))
    assert len(np.unique(np.concatenate([starts(5), starts(6)])[:, :2], axis=0)) == 6


def test_rewards_are_those_of_the_goals(env):
    goals = np.array([[0, 0], [0.24, 0], [0.26, 0], [0.2, 0.2]])
    np.testing.assert_array_equal(env.compute_reward(np.zeros((4, 2)), goals, {}), [1, 1, 0, 0])
    assert env.compute_reward(np.zeros(2), goals[1], {}) == 1
    start = envs.make("point_u_maze").maze.xy((1, 1))
    env.reset(options={"start": start, "goal": start + np.array([0, 0.2])})
    observation, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, info["is_success"]) == (1, False, True)
    assert reward == env.compute_reward(observation["achieved_goal"], observation["desired_goal"], info)
    assert not env.compute_terminated(start, start, info)
    assert not env.compute_truncated(start, start, info)


def test_the_time_limit_truncates():
    env = gymnasium.make(ID, episode_length=3)
    for _ in range(2):
        env.reset(seed=0)
        ends = [env.step(env.action_space.sample())[2:4] for _ in range(3)]
        assert ends == [(False, False), (False, False), (False, True)]


def test_a_fall_terminates(monkeypatch):
    falling = FallingPoint("point_maze", envs.make("point_maze", layout=ROOM).maze)
    monkeypatch.setattr(gymnasium_env, "_programs", lambda *_: (falling, jax.jit(falling.reset), jax.jit(falling.step)))
    env = envs.gymnasium("point_maze", layout=ROOM)
    env.reset(options={"start": [0.0, 0.3]})
    env.step(np.zeros(2, np.float32))
    up = np.array([0, 1], np.float32)
    for _ in range(5):
        observation, _, terminated, truncated, info = env.step(up)
        assert terminated == info["fell"] == (observation["observation"][1] > FallingPoint.line)
        assert not truncated
        if terminated:
            break
    assert terminated
    assert env.compute_terminated(np.zeros(2), np.zeros(2), info)


def test_gymnasium_steps_several_at_once():
    together = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="sync")
    observation, _ = together.reset(seed=0)
    assert observation["observation"].shape == (3, 4)
    observation, reward, *_ = together.step(together.action_space.sample())
    assert (observation["achieved_goal"].shape, reward.shape) == ((3, 2), (3,))
    together.close()


def test_a_picture_shows_the_state(env):
    """As our own renderer and camera draw it."""
    from crlviz.rendering.cameras import Cameraman
    from crlviz.rendering.renderers import open_renderer

    start, goal = np.array([0.9, -0.9], np.float32), np.array([-1, 1], np.float32)
    env.reset(options={"start": start, "goal": goal})
    pose, cameraman = (
        np.concatenate([start, goal]),
        Cameraman(env.env, np.concatenate([start, goal]), goal, "follow", 4 / 3),
    )
    shown = env.render()
    assert env.metadata["render_fps"] == 10
    with contextlib.closing(open_renderer(env.env.model, 64, 48)) as renderer:
        np.testing.assert_array_equal(shown, renderer.render(pose, cameraman.shot(pose, 0.1)))
        observation, *_ = env.step(np.array([0, 1], np.float32))
        pose = np.concatenate([observation["achieved_goal"], goal])
        np.testing.assert_array_equal(env.render(), renderer.render(pose, cameraman.shot(pose, 0.1)))


def test_record_video_films_it(tmp_path):
    pytest.importorskip("moviepy")
    from gymnasium.wrappers import RecordVideo

    made = gymnasium.make(ID, render_mode="rgb_array", width=96, height=64, episode_length=5)
    filmed = RecordVideo(made, str(tmp_path / "films"), disable_logger=True)
    filmed.reset(seed=1)
    for _ in range(5):
        filmed.step(np.ones(2, np.float32))
    filmed.close()
    (film,) = tmp_path.glob("films/*.mp4")
    frames = imageio.imread(film)
    assert frames.shape[1:] == (64, 96, 3)
    assert len(frames) >= 5
    assert frames[0].std() > 10  # a picture, not a blank
    assert np.abs(frames[0].astype(int) - frames[4]).max() > 30  # that moves
    assert imageio.immeta(film)["fps"] == 10


def test_mistakes_are_one_sentence(env):
    fresh = envs.gymnasium("point_u_maze")
    for act, sentence in {
        lambda: envs.gymnasium("point_v_maze"): "no environment is called 'point_v_maze'",
        lambda: envs.gymnasium("point_u_maze", gravity=3): "has no option 'gravity'",
        lambda: envs.gymnasium("point_u_maze", render_mode="human"): "render_mode 'human' is unknown",
        lambda: envs.gymnasium("point_u_maze", episode_length=0): "0 steps",
        lambda: envs.gymnasium("point_u_maze", width=5): "a picture of 5x360",
        lambda: fresh.step(np.zeros(2)): "call reset before step",
        lambda: (fresh.reset(), fresh.step(np.zeros(3))): "takes 2 finite numbers as an action",
        lambda: fresh.step(np.array([np.nan, 0])): "takes 2 finite numbers as an action",
        lambda: fresh.reset(options={"start": [9.0, 9.0]}): "which is not in a free cell",
        lambda: fresh.reset(options={"goal": [1.0]}): "goals have shape",
        lambda: fresh.reset(options={"wind": 1}): "reset has no option 'wind'",
        env.render: "call reset before render",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            act()
    fresh.reset()
    assert fresh.render() is None


def test_crlviz_imports_it_only_when_asked():
    code = """
import sys, crlviz, crlviz.envs
assert not {"gymnasium", "jax"} & set(sys.modules)
sys.modules["gymnasium"] = None  # as if it were not installed
try: crlviz.envs.gymnasium("point_u_maze")
except Exception as error: print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "UsageError environments of Gymnasium need it: pip install 'crlviz[gymnasium]'\n"
