"""Minari's data sets: its own library reads crlviz's files, and crlviz reads the files of others."""

import json

import numpy as np
import pytest

from crlviz.errors import CrlvizError, UsageError
from crlviz.trajectories import checks, files
from crlviz.trajectories.data import Trajectories

minari = pytest.importorskip("minari")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def walk(**changes) -> Trajectories:
    """Three trajectories of a point; the second one fell."""
    rng = np.random.default_rng(0)
    ends = np.array([4, 6, 11])

    def numbers(width):
        return rng.uniform(-1, 1, (12, width)).astype(np.float32)

    action = numbers(2)
    action[ends] = 0  # Minari has no action there
    made = {"length": 4, "goal_distance": 0.5, "seed": 3}
    facts = {"env": "point_u_maze", "goal_indices": (0, 1), "made": made, "qpos": numbers(3), "qvel": numbers(1)}
    return Trajectories(state=numbers(4), action=action, ends=ends, goal=numbers(2), **(facts | changes))


def assert_same(one, other):
    assert one.per_row.keys() == other.per_row.keys()
    for name, array in one.per_row.items():
        np.testing.assert_array_equal(array, other.per_row[name], strict=True)
    np.testing.assert_array_equal(one.ends, other.ends)
    assert (one.goal_indices, one.env, one.made) == (other.goal_indices, other.env, other.made)


def test_minari_reads_what_is_written(place):
    whole = walk()
    files.write("minari:mazes/walk-v0", (whole.part(0, 1), whole.part(1, 3)))
    assert "mazes/walk-v0" in minari.list_local_datasets()
    episodes = list(minari.load_dataset("mazes/walk-v0").iterate_episodes())
    assert [len(episode) for episode in episodes] == [4, 1, 5 - 1]
    for episode, first, last in zip(episodes, whole.starts, whole.ends, strict=True):
        rows = slice(first, last + 1)
        np.testing.assert_array_equal(episode.observations["observation"], whole.state[rows])
        np.testing.assert_array_equal(episode.observations["achieved_goal"], whole.state[rows, :2])
        np.testing.assert_array_equal(episode.observations["desired_goal"], whole.goal[rows])
        np.testing.assert_array_equal(episode.actions, whole.action[first:last])
        distance = np.linalg.norm(whole.state[rows, :2] - whole.goal[rows], axis=1)
        np.testing.assert_array_equal(episode.rewards, distance[1:] < 0.5)
    assert [bool(episode.terminations[-1]) for episode in episodes] == [False, True, False]
    assert [bool(episode.truncations[-1]) for episode in episodes] == [True, False, True]
    assert not any(episode.terminations[:-1].any() or episode.truncations[:-1].any() for episode in episodes)


@pytest.mark.parametrize("goal", [True, False])
def test_what_is_written_is_read(goal, place, crlviz, tmp_path):
    whole = walk() if goal else walk(goal_indices=None, env="", made={}, qpos=None, qvel=None)
    if not goal:
        whole = Trajectories(whole.state, whole.action, whole.ends)
    files.write("minari:walk-v0", whole)
    assert_same(files.read("minari:walk-v0"), whole)
    assert_same(files.read(place / "walk-v0"), whole)
    parts = list(files.blocks("minari:walk-v0", rows=4))
    assert [part.rows for part in parts] == [5, 7]
    code, text, _ = crlviz("inspect", "minari:walk-v0")
    assert code == 0
    assert "3 trajectories, 9 transitions" in text
    assert crlviz("record", "--from", "minari:walk-v0", "--out", tmp_path / "a.nc")[0] == 0
    assert_same(files.read(tmp_path / "a.nc"), whole)


@pytest.mark.parametrize("inside", [True, False])
def test_others_data_sets_are_read(inside):
    """Of gymnasium-robotics: a point's observation holds its place, an ant's does not."""
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    vector = lambda width: spaces.Box(-np.inf, np.inf, (width,), np.float64)  # noqa: E731
    observation = rng.normal(size=(6, 5))
    achieved = observation[:, [3, 1]] if inside else rng.normal(size=(6, 2))
    named = {"observation": observation, "achieved_goal": achieved, "desired_goal": np.ones((6, 2))}
    action = rng.uniform(-1, 1, (5, 2))
    nothing = np.zeros(5, bool)
    buffer = minari.data_collector.EpisodeBuffer(
        observations=named, actions=action, rewards=[0.0] * 5, terminations=nothing, truncations=nothing
    )
    widths = {"observation": vector(5), "achieved_goal": vector(2), "desired_goal": vector(2)}
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers(
            "other-v1", [buffer], observation_space=spaces.Dict(widths), action_space=spaces.Box(-1, 1, (2,))
        )
    read = files.read("minari:other-v1")
    np.testing.assert_array_equal(read.state[:, read.goal_indices], achieved.astype(np.float32))
    np.testing.assert_array_equal(read.state[:, -5:], observation.astype(np.float32))
    np.testing.assert_array_equal(read.action, np.concatenate([action, np.zeros((1, 2))]).astype(np.float32))
    assert read.goal_indices == ((3, 1) if inside else (0, 1))
    assert (read.state.shape[1], read.env) == (5 if inside else 7, "")


def test_faults_are_one_sentence(place, monkeypatch):
    with pytest.raises(CrlvizError, match=r"minari:none-v0 is not a data set of Minari"):
        files.read("minari:none-v0")
    with pytest.raises(UsageError, match="Minari's names are"):
        files.write("minari:walk", walk())
    files.write("minari:walk-v0", walk())
    with pytest.raises(UsageError, match="exists already: raise the version"):
        files.write("minari:walk-v0", walk())
    with monkeypatch.context() as patch:
        patch.setattr(checks, "free_memory", lambda: 100)
        with pytest.raises(CrlvizError, match="takes more than half of the free memory"):
            files.read("minari:walk-v0")
    data = place / "walk-v0" / "data" / "main_data.hdf5"
    content = data.read_bytes()
    for damaged in (content[: len(content) // 2], b"text", b""):
        data.write_bytes(damaged)
        with pytest.raises(CrlvizError, match=r"is damaged|cannot be read") as error:
            files.read("minari:walk-v0")
        assert "\n" not in str(error.value)


def test_no_environment_is_built_that_a_file_names(place, tmp_path):
    """Minari builds it where a space is missing: ``os:mkdir`` in place of its class would then run."""
    from gymnasium.envs.registration import EnvSpec

    files.write("minari:walk-v0", walk())
    metadata = place / "walk-v0" / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    trap = EnvSpec("trap-v0", "os:mkdir", kwargs={"path": str(tmp_path / "trap")}, disable_env_checker=True)
    content["env_spec"] = trap.to_json()
    del content["observation_space"]
    metadata.write_text(json.dumps(content))
    with pytest.raises(CrlvizError, match="does not record its spaces"):
        files.read("minari:walk-v0")
    assert not (tmp_path / "trap").exists()
    with pytest.raises(Exception):  # noqa: B017, PT011
        minari.load_dataset("walk-v0")  # it would have
    assert (tmp_path / "trap").exists()


def test_minari_recovers_the_environment():
    from tests.helpers.toys import ROOM

    made = {"code": "crlviz 0.1.0", "layout": ROOM, "length": 4}
    files.write("minari:walk-v0", walk(made=made, env="point_maze"))
    env = minari.load_dataset("walk-v0").recover_environment()
    assert env.unwrapped.env.maze.rows == tuple(ROOM)
    assert env.observation_space == minari.load_dataset("walk-v0").observation_space


def test_a_failed_recording_leaves_nothing(place):
    def parts():
        yield walk().part(0, 1)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        files.write("minari:walk-v0", parts())
    assert not list(place.rglob("*.hdf5"))
