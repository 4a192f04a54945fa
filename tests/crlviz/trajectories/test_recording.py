"""Recording: rows against the environment's own rules, who acts, how episodes end, and the command."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz import envs
from crlviz.errors import UsageError
from crlviz.trajectories import files, recording
from crlviz.trajectories.recording import Source
from tests.helpers.toys import ROOM, FallingPoint, Handmade


@dataclasses.dataclass(frozen=True, eq=False)
class Acting(Handmade):
    env_steps: int = 7


def _to_the_right(observation, key=None):
    return jnp.broadcast_to(jnp.array([0.2, 0.6]), (*observation.shape[:-1], 2))


@pytest.fixture(scope="module")
def room():
    return envs.make("point_maze", layout=ROOM)


@pytest.fixture(scope="module")
def at_random(room):
    return list(recording.record(room, [Source(None, 40)], seed=1, length=30))


def test_rows_follow_one_another_as_the_environment_steps(room, at_random):
    (block,) = at_random
    assert block.lengths.tolist() == [30] * 40
    assert (block.env, block.goal_indices, block.qpos) == ("point_maze", (0, 1), None)
    state, action = block.state.reshape(40, 31, 4), block.action.reshape(40, 31, 2)
    place, velocity = state[..., :2], state[..., 2:]
    pushed = 0.5 * velocity[:, :-1] + 0.15 * action[:, :-1]
    free = np.abs(place[:, 1:]).max(-1) < 2.4  # a step away from the room's walls at 2.5
    assert free.sum() > 500
    np.testing.assert_allclose(velocity[:, 1:][free], pushed[free], atol=1e-6)
    np.testing.assert_allclose((place[:, :-1] + velocity[:, 1:])[free], place[:, 1:][free], atol=1e-6)
    np.testing.assert_array_equal(velocity[:, 0], 0)
    np.testing.assert_allclose(block.goal, np.broadcast_to(room.maze.xy((5, 1)), block.goal.shape))
    assert len(np.unique(place[:, 0, 0])) == 40  # each episode has its own start


def test_random_actions_are_uniform(at_random):
    action = at_random[0].action
    assert np.abs(action).max() <= 1
    np.testing.assert_allclose(np.quantile(action, [0.1, 0.5, 0.9]), [-0.8, 0, 0.8], atol=0.06)
    np.testing.assert_allclose(np.corrcoef(action.T)[0, 1], 0, atol=0.08)


def test_seeds_decide_and_batches_join(room, monkeypatch):
    sources = [Source(None, 5), Source(Acting(room, _to_the_right), 3)]

    def recorded(seed=0):
        blocks = list(recording.record(room, sources, seed=seed, length=4))
        return np.concatenate([block.state for block in blocks]), [len(block.ends) for block in blocks]

    (first, counts), (again, _), (other, _) = recorded(), recorded(), recorded(1)
    assert counts == [5, 3]
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    monkeypatch.setattr(recording, "_MOST_AT_ONCE", 2)
    states, counts = recorded()
    assert counts == [2, 2, 1, 2, 1]
    assert len(np.unique(states.reshape(8, 5, 4)[:, 0, 0])) == 8


def test_an_agent_acts_on_what_it_sees_and_noise_is_added(room):
    def record(noise):
        source = Source(Acting(room, _to_the_right), 60, noise=noise)
        return next(recording.record(room, [source], length=30))

    np.testing.assert_allclose(record(0.0).action, np.broadcast_to([0.2, 0.6], (60 * 31, 2)), rtol=1e-6)
    noisy = record(0.1)
    np.testing.assert_allclose(noisy.action.mean(0), [0.2, 0.6], atol=0.01)
    np.testing.assert_allclose(noisy.action.std(0), 0.1, atol=0.005)
    loud = record(5.0).action
    assert np.abs(loud).max() == 1
    assert (np.abs(loud) == 1).mean() > 0.8
    assert noisy.made["sources"] == [
        {"checkpoint": "by hand", "env_steps": 7, "policy": "mean", "noise": 0.1, "episodes": 60}
    ]


def test_a_trained_agents_actions_are_those_of_its_policy(toy_agent):
    block = next(recording.record(toy_agent.env, [Source(toy_agent, 3)], length=10))
    observation = np.concatenate([block.state, block.goal], axis=1)
    np.testing.assert_allclose(block.action, toy_agent.act(observation), atol=1e-5)


def test_a_fall_ends_a_trajectory_and_a_goal_does_not():
    room = envs.make("point_maze", layout=ROOM)
    falling = FallingPoint("point_maze", room.maze)
    block = next(recording.record(falling, [Source(Acting(falling, _to_the_right), 4)], length=25))
    y = block.state[:, 1]
    assert (y[block.ends] > FallingPoint.line).all()  # the last row is the one after the fall
    assert (np.delete(y, block.ends) <= FallingPoint.line).all()
    assert (block.lengths < 10).all()
    at_goal = Acting(room, lambda observation, key=None: jnp.clip(observation[..., 4:] - observation[..., :2], -1, 1))
    block = next(recording.record(room, [Source(at_goal, 4)], length=60))
    assert block.lengths.tolist() == [60] * 4
    assert (np.linalg.norm(block.state[block.ends, :2] - block.goal[block.ends], axis=1) < 0.25).all()


class Exploding(FallingPoint):
    """A point whose physics breaks where x exceeds a line, at once for some starts."""

    line = np.inf

    def step(self, state, action):
        state = super().step(state, action)
        broken = state.pipeline_state.position[0] > 0.02
        return state.replace(obs=jnp.where(broken, jnp.nan, state.obs))


def test_rows_that_are_not_finite_are_left_out():
    room = envs.make("point_maze", layout=ROOM)
    env = Exploding("point_maze", room.maze)
    blocks = list(recording.record(env, [Source(Acting(env, _to_the_right), 50)], length=8))
    lengths = np.concatenate([block.lengths for block in blocks])
    assert 0 < len(lengths) < 50  # a trajectory without a transition is none
    assert len(set(lengths)) > 1
    assert all(np.isfinite(array).all() for block in blocks for array in block.per_row.values())


def test_starts_anywhere_cover_the_free_cells():
    env = envs.make("point_u_maze")
    block = next(recording.record(env, [Source(None, 200)], length=1, anywhere=True))
    starts = block.state[block.starts, :2]
    assert env.maze.is_free(starts).all()
    cells, counts = np.unique(env.maze.cell(starts), axis=0, return_counts=True)
    assert sorted(map(tuple, cells)) == sorted(env.maze.free)
    assert counts.min() > 200 / len(env.maze.free) / 2.5
    offsets = starts - env.maze.xy(env.maze.cell(starts))
    assert 0.2 < np.abs(offsets).max() <= 0.25


def test_what_cannot_be_recorded_is_refused(room):
    agent = Acting(room, _to_the_right)
    for source, sentence in {
        Source(None, 0): "0 episodes: at least one",
        Source(None, 1, noise=0.1): "random actions take no noise",
        Source(agent, 1, noise=-1.0): "noise of -1",
        Source(agent, 1, policy="nice"): "'nice' is not a way to choose actions",
    }.items():
        with pytest.raises(UsageError, match=sentence):
            next(recording.record(room, [source]))
    with pytest.raises(UsageError, match="0 steps"):
        next(recording.record(room, [Source(None, 1)], length=0))
    arm = envs.make("planar_arm")
    with pytest.raises(UsageError, match="no maze in which a start can be chosen"):
        next(recording.record(arm, [Source(None, 1)], anywhere=True))


def test_command_mixes_and_splits_off_a_twin(crlviz, toy_run, tmp_path):
    out = tmp_path / "mixed.npz"
    code, said, complaint = crlviz(
        "record",
        toy_run,
        "random",
        "--shares",
        "1,3",
        "--episodes",
        10,
        "--steps",
        5,
        "--out",
        out,
        "--validation",
        0.2,
    )
    assert (code, complaint) == (0, "")
    assert "10 trajectories, 50 transitions" in said
    rest, held = files.read(out), files.read(files.validation(out))
    assert (len(rest.ends), len(held.ends)) == (8, 2)
    mean, at_random = rest.made["sources"]
    assert (mean["episodes"], at_random) == (3, {"policy": "random", "episodes": 7})  # 2.5 and 7.5: the first gains
    assert mean["checkpoint"].startswith(str(toy_run))
    assert (rest.env, rest.made["seed"], rest.made["length"]) == ("point_u_maze", 0, 5)
    json.dumps(dict(rest.made))
    code, said, _ = crlviz("record", "--from", out, "--out", tmp_path / "again.nc")
    assert code == 0
    np.testing.assert_array_equal(files.read(tmp_path / "again.nc").state, rest.state)


def test_command_records_random_actions_in_a_custom_maze(crlviz, tmp_path):
    (tmp_path / "room.txt").write_text("\n".join(ROOM))
    out = tmp_path / "a.nc"
    code, _, complaint = crlviz(
        "record", "--env", "point_maze", "--layout", tmp_path / "room.txt", "--policy", "random", "--episodes", 3,
        "--steps", 4, "--starts", "anywhere", "--out", out,
    )  # fmt: skip
    assert (code, complaint) == (0, "")
    assert files.read(out).made["layout"] == ROOM


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "name a checkpoint; or, for random actions, an environment with --env"),
        (["--env", "point_u_maze"], "only --policy random needs none"),
        (["RUN", "--env", "point_u_maze"], "a checkpoint has its own"),
        (["RUN", "--shares", "1,2"], "give a number for each of the 1 that act"),
        (["RUN", "random", "--shares", "0,0"], "give a number for each of the 2 that act"),
        (["RUN", "--starts", "here"], "--starts 'here' is unknown; take env or anywhere"),
        (["RUN", "--policy", "random", "--noise", "1"], "leave out --noise"),
        (["RUN", "random", "--policy", "random"], "--policy random uses no agent"),
        (["RUN", "--episodes", "2", "--validation", "0.1"], "leaves one of the two files without any"),
        (["--from", "missing.npz", "--env", "x"], "--from converts a file"),
        (["--from", "missing.npz"], "missing.npz cannot be read"),
    ],
)
def test_mistakes_are_one_sentence(crlviz, toy_run, tmp_path, options, sentence):
    words = [str(toy_run) if word == "RUN" else word for word in options]
    code, _, complaint = crlviz("record", *words, "--out", tmp_path / "a.nc")
    assert code in (1, 2)
    assert sentence in complaint
    assert complaint.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_joints_of_a_body_with_physics_are_kept():
    env = envs.make("reacher")
    block = next(recording.record(env, [Source(None, 2)], length=3))
    assert block.qpos.shape == (8, env.model.nq)
    assert block.qvel.shape == (8, env.model.nv)
    state = jax.jit(env.at)(block.qpos[5], block.qvel[5])
    np.testing.assert_allclose(state.obs[: env.state_dim], block.state[5], atol=1e-4)
