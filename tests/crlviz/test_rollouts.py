"""Rollouts of policies with known outcomes, and statistics recomputed in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz import envs
from crlviz.envs import mazes
from crlviz.rollouts import evaluate, rollout
from tests.helpers.toys import ROOM, FallingPoint, Handmade, assert_described


def _steer(observation, key=None):
    """Push so that the next step ends on the goal if the force suffices: optimal in an empty room."""
    position, velocity, goal = jnp.split(observation, 3, axis=-1)
    return jnp.clip((goal - position - 0.5 * velocity) / 0.15, -1, 1)


def _stay(observation, key=None):
    return jnp.zeros((*observation.shape[:-1], 2))


def _wander(observation, key):
    return jax.random.uniform(jax.random.key(7) if key is None else key, (len(observation), 2), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def room():
    return envs.make("point_maze", layout=ROOM)


def test_a_perfect_controller_reaches_its_goal(room):
    ds = rollout(Handmade(room, _steer), 8, length=60)
    assert ds.success.any("time").all()
    assert float(ds.distance.isel(time=-1).max()) < 1e-3
    assert (np.diff(ds.distance, axis=1) <= 1e-5).all()  # the distance never grows
    np.testing.assert_allclose(ds.goal, np.broadcast_to(room.maze.xy((5, 1)), ds.goal.shape))
    # 2 m in y at most, at a top speed of 0.3 m a step reached within a few steps.
    first = ds.success.argmax("time")
    assert int(first.max()) <= 12


def test_without_actions_nothing_moves(room):
    starts = np.array([[0.0, 0.0], [1.3, -0.7]])
    ds = rollout(Handmade(room, _stay), 2, length=15, starts=starts, goals=np.array([[1.0, 1.0], [1.3, -0.8]]))
    np.testing.assert_allclose(ds.achieved, np.broadcast_to(starts[:, None], ds.achieved.shape), rtol=1e-6)
    np.testing.assert_allclose(ds.distance, [[2**0.5] * 15, [0.1] * 15], rtol=1e-5)
    assert ds.success.values.tolist() == [[False] * 15, [True] * 15]
    np.testing.assert_array_equal(ds.action, 0)


def test_dataset_is_consistent(room):
    ds = rollout(Handmade(room, _wander), 5, length=20, seed=3)
    assert dict(ds.sizes) == {
        "episode": 5,
        "time": 20,
        "state_index": 4,
        "action_index": 2,
        "goal_index": 2,
        "joint": 4,
    }
    np.testing.assert_array_equal(ds.state[:, 1:, :2], ds.achieved[:, :-1])
    distance = np.linalg.norm(ds.achieved.values - ds.goal.values[:, None], axis=-1)
    np.testing.assert_allclose(ds.distance, distance, rtol=1e-5)
    np.testing.assert_array_equal(ds.success, ds.distance < 0.25)
    np.testing.assert_allclose(ds.time, np.arange(20) * room.dt)
    np.testing.assert_array_equal(ds.pose[..., :2], ds.state[..., :2])
    np.testing.assert_allclose(ds.pose[..., 2:], np.broadcast_to(ds.goal.values[:, None], (5, 20, 2)))
    assert ds.alive.all()
    assert_described(ds)
    assert ds.attrs["env"] == "point_maze"


def test_seeds_decide_starts_and_noise(toy_agent):
    def states(**options):
        return rollout(toy_agent, 4, length=10, **options).state.values

    np.testing.assert_array_equal(states(seed=1), states(seed=1))
    assert (states(seed=1)[:, 0, :2] != states(seed=2)[:, 0, :2]).all()
    noisy = states(seed=1, policy="sample")
    np.testing.assert_array_equal(noisy[:, 0], states(seed=1)[:, 0])
    assert (noisy[:, -1] != states(seed=1)[:, -1]).any()
    np.testing.assert_array_equal(noisy, states(seed=1, policy="sample"))


def test_rollout_uses_the_agents_actions(toy_agent):
    ds = rollout(toy_agent, 4, length=10)
    goal = np.broadcast_to(ds.goal.values[:, None], (4, 10, 2))
    np.testing.assert_allclose(toy_agent.act(np.concatenate([ds.state, goal], -1)), ds.action, atol=1e-5)
    np.testing.assert_allclose(toy_agent.q(ds.state.values, ds.action.values, goal), ds.q, atol=1e-5)


def test_rollout_takes_another_environment_and_its_length(toy_agent):
    env = envs.make("point_u_maze_single_eval")
    ds = rollout(toy_agent, 3, env=env)
    assert ds.sizes["time"] == env.episode_length
    np.testing.assert_allclose(ds.goal, np.broadcast_to(env.maze.xy((3, 1)), (3, 2)))
    assert ds.attrs["env"] == env.id


def _statistics(ds) -> dict[str, float]:
    """The statistics of ``evaluate``, computed one episode at a time."""
    rows = []
    for episode in range(ds.sizes["episode"]):
        one = ds.isel(episode=episode)
        alive = one.alive.values
        steps = int(alive.sum())
        assert alive[:steps].all()
        distance = one.distance.values[:steps]
        rows.append(
            {
                "time_at_goal": (distance < 0.25).sum(),
                "success": (distance < 0.25).any(),
                "success_easy": (distance < 0.5).any(),
                "distance": distance[-1],
                "episode_steps": steps,
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize("falls", [False, True])
def test_evaluate_against_numpy(falls):
    env = envs.make("point_u_maze")
    if falls:
        env = FallingPoint("falling", mazes.get("u_maze", centered=True))
    # Both draw starts and goals from the first half of the split key, so the episodes are the same.
    ds = rollout(Handmade(env, _steer), 40, seed=11, length=50)
    scores = jax.jit(lambda key: evaluate(env, _steer, key, 40, 50))(jax.random.key(11))
    expected = _statistics(ds)
    assert {name: float(value) for name, value in scores.items()} == pytest.approx(expected, rel=1e-5)
    assert 0 < expected["success"] < 1
    if falls:
        assert 1 < expected["episode_steps"] < 50
        # After the end of an episode nothing counts, wherever the body lies.
        assert not (ds.success & ~ds.alive).any()
        over = ds.achieved.values[..., 1] > env.line
        np.testing.assert_array_equal(ds.alive[:, 1:], ~np.logical_or.accumulate(over, axis=1)[:, :-1])
        assert ds.alive[:, 0].all()
    else:
        assert expected["episode_steps"] == 50


def test_distinct_episodes_use_every_goal_before_repeating_one():
    agent = Handmade(envs.make("point_u_maze"), _stay)
    goals = {tuple(cell) for cell in agent.env.maze.goals}
    count = len(goals)
    for seed in range(3):
        plain = rollout(agent, 2 * count, length=1, seed=seed)
        ds = rollout(agent, 2 * count, length=1, seed=seed, distinct=True)
        cells = [tuple(cell) for cell in agent.env.maze.cell(ds.goal.values).tolist()]
        assert set(cells[:count]) == set(cells[count:]) == goals
        # The first episode is unchanged.
        np.testing.assert_array_equal(ds.state.values[0], plain.state.values[0])
        np.testing.assert_array_equal(ds.goal.values[0], plain.goal.values[0])
        assert len({tuple(cell) for cell in agent.env.maze.cell(plain.goal.values[:count]).tolist()}) < count
