"""Initial states: their bounds, and starts and goals that are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz import envs
from crlviz.errors import UsageError

COUNT = 512
slow = pytest.mark.slow


def _resets(id: str, count: int = COUNT, **options):
    env = envs.make(id, **options)
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))
    assert np.all(np.isfinite(state.obs))
    assert not state.done.any()
    assert not state.reward.any()
    body, goal = np.asarray(state.obs[:, : env.state_dim]), np.asarray(state.obs[:, env.state_dim :])
    return env, body, goal, state


def _fills(values: np.ndarray, low, high) -> None:
    """Values are within the bounds and cover the range: 512 uniform draws come within 4 % of both ends."""
    low, high = np.broadcast_to(low, values.shape[1:]), np.broadcast_to(high, values.shape[1:])
    slack = 1e-5 + 0.04 * (high - low)
    assert np.all(values >= low - 1e-5)
    assert np.all(values <= high + 1e-5)
    assert np.all(values.min(0) <= low + slack)
    assert np.all(values.max(0) >= high - slack)


LEGS = np.array([0, 1, 0, -1, 0, -1, 0, 1])


def test_ant_starts_near_the_origin():
    _, body, goal, state = _resets("ant")
    _fills(body[:, :3], np.array([0, 0, 0.55]) - 0.1, np.array([0, 0, 0.55]) + 0.1)
    _fills(body[:, 7:15], LEGS - 0.1, LEGS + 0.1)
    np.testing.assert_allclose(np.linalg.norm(body[:, 3:7], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(body[:, 15:].std(0), 0.1, rtol=0.15)
    np.testing.assert_allclose(np.linalg.norm(goal, axis=1), 10, rtol=1e-5)
    angle = np.arctan2(*goal.T)
    assert all(np.any(np.abs(angle - x) < 0.2) for x in np.linspace(-3, 3, 13))
    np.testing.assert_allclose(state.metrics["distance"], np.linalg.norm(body[:, :2] - goal, axis=1), rtol=1e-5)


@pytest.mark.slow
def test_ant_with_the_papers_quaternions():
    _, body, _, _ = _resets("ant", normalize_quaternion=False)
    length = np.linalg.norm(body[:, 3:7], axis=1)
    assert 0.89 < length.min() < 0.93
    assert 1.07 < length.max() < 1.12


def test_ant_in_a_maze_starts_in_its_start_cell():
    env, body, goal, _ = _resets("ant_big_maze_eval")
    start = env.maze.xy(env.maze.starts)[0]
    _fills(body[:, :2], start - 0.1, start + 0.1)
    goals = env.maze.xy(env.maze.goals)
    np.testing.assert_array_equal(np.unique(goal, axis=0), goals[np.lexsort(goals.T[::-1])])


def test_generated_pairs_are_centers_of_cells():
    env, body, goal, _ = _resets("ant_u_maze_gen_1f2f3f", count=1024)
    pairs, weights = env.maze.pairs
    seen = np.round(np.stack([body[:, :2], goal], 1) / 4, 4)
    found = [(seen == pair).all((1, 2)).mean() for pair in pairs]
    assert sum(found) == pytest.approx(1)
    np.testing.assert_allclose(found, weights, atol=0.04)


@pytest.mark.slow
def test_ball_starts_between_ant_and_goal():
    for options in ({}, {"independent_offset": False}):
        _, body, goal, _ = _resets("ant_ball", **options)
        np.testing.assert_allclose(np.linalg.norm(goal, axis=1), 5, rtol=1e-5)
        off = body[:, 29:] - 0.2 * goal
        if options:
            np.testing.assert_allclose(off[:, 1], goal[:, 1] / 5, atol=1e-5)
            _fills(off[:, :1], -1, 1)
        else:
            np.testing.assert_allclose(np.linalg.norm(off, axis=1), 1, atol=1e-5)
    env = envs.make("ant_ball", ball_is_goal=False)
    assert (env.goal_indices, env.goal_dim) == ((28, 29), 2)


@slow
def test_push_goals_are_behind_the_box():
    _, body, goal, _ = _resets("ant_push")
    _fills(body[:, 2:3], 0.65, 0.85)
    _fills(body[:, 29:], 7.9, 8.1)
    first = goal[:, 0] > 12
    assert 0.4 < first.mean() < 0.6
    _fills(np.where(first[:, None], goal, goal[:, ::-1]), [16, 8], [18, 10])


@pytest.mark.slow
def test_humanoid_stands_at_the_origin():
    _, body, goal, _ = _resets("humanoid")
    first = np.zeros(26)
    first[[2, 3]] = 1.4, 1
    np.testing.assert_allclose(body[:, :24] - first[:24], 0, atol=1e-6)
    np.testing.assert_allclose(body[:, 24:26], goal[:, :2], atol=1e-6)
    assert not body[:, 26:51].any()
    distance = np.linalg.norm(goal[:, :2], axis=1)
    _fills(distance[:, None], 1, 5)
    np.testing.assert_allclose(goal[:, 2], 1.25)


@pytest.mark.slow
def test_humanoid_in_a_maze():
    env, body, goal, _ = _resets("humanoid_u_maze")
    np.testing.assert_allclose(body[:, :3] - [2, 2, 1.4], 0, atol=1e-6)
    assert {tuple(g) for g in goal.tolist()} == {(*xy, 1.25) for xy in env.maze.xy(env.maze.goals).tolist()}


@pytest.mark.slow
def test_reacher():
    _, body, goal, _ = _resets("reacher")
    angles = np.arctan2(body[:, 2:4], body[:, :2])
    _fills(angles, -0.1, 0.1)
    radius = np.linalg.norm(goal[:, :2], axis=1)
    _fills(radius[:, None], 0, 0.2)  # uniform in the radius: denser near the middle
    assert 0.4 < (radius < 0.1).mean() < 0.6
    np.testing.assert_allclose(goal[:, 2], 0.01, atol=1e-6)


@pytest.mark.parametrize(
    ("id", "y", "x"), [("pusher_easy", (-0.55, -0.25), (-0.2, 0.2)), ("pusher_hard", (-0.65, 0.35), (-0.55, 0.45))]
)
@slow
def test_pusher(id, y, x):
    _, body, goal, _ = _resets(id)
    center = np.array([0.45, -0.05])
    _fills(goal[:, :2] - center, (x[0], y[0]), (x[1], y[1]))
    cylinder = body[:, 10:12] - center
    kept = np.all((cylinder >= (-0.2, -0.3)) & (cylinder <= (0.2, 0)), axis=1)
    assert kept.mean() > 0.8  # the others were too near the goal, and were moved away from the center
    assert not body[:, :7].any()
    assert np.abs(body[:, 13:]).max() <= 0.005


@pytest.mark.slow
def test_cheetah():
    _, body, goal, _ = _resets("cheetah")
    _fills(body[:, :9], -0.1, 0.1)
    np.testing.assert_allclose(body[:, 9:].std(0), 0.1, rtol=0.15)
    np.testing.assert_array_equal(goal, np.full((COUNT, 1), 5.0))


ARM = np.array([1.571, 0.742, 0, -1.571, 0, 3.054, 1.449])


@slow
def test_arm_reach():
    _, body, goal, _ = _resets("arm_reach")
    np.testing.assert_allclose(body[:, :7] - ARM, 0, atol=1e-6)
    _fills(goal, np.array([0, 0.5, 0.3]) - 0.2, np.array([0, 0.5, 0.3]) + 0.2)


@slow
@pytest.mark.parametrize(
    ("id", "cube", "cube_spread", "target", "target_spread"),
    [
        ("arm_push_easy", (-0.1, 0.6), 0.1, (0.1, 0.6), 0.1),
        ("arm_push_hard", (-0.25, 0.65), 0.25, (0.25, 0.65), 0.25),
        ("arm_binpick_easy", (-0.15, 0.6), 0.09, (0.17, 0.6), 0.09),
        ("arm_binpick_hard", (-0.3, 0.6), 0.15, (0.3, 0.6), 0.15),
    ],
)
def test_arm_with_a_cube(id, cube, cube_spread, target, target_spread):
    _, body, goal, _ = _resets(id)
    cube, target = np.array(cube), np.array(target)
    _fills(body[:, :2], cube - cube_spread, cube + cube_spread)
    np.testing.assert_allclose(body[:, 2], 0.07, atol=1e-6)
    np.testing.assert_allclose(body[:, 3:10] - ARM, 0, atol=1e-6)
    np.testing.assert_allclose(body[:, 16], 0.08, atol=1e-5)
    _fills(goal[:, :2], target - target_spread, target + target_spread)
    np.testing.assert_allclose(goal[:, 2], 0.03, atol=1e-6)


@slow
def test_arm_grasp():
    _, body, goal, _ = _resets("arm_grasp")
    _fills(body[:, :2], np.array([0, 0.6]) - 0.3, np.array([0, 0.6]) + 0.3)
    np.testing.assert_allclose((goal[:, :3] + goal[:, 3:6]) / 2, body[:, :3], atol=1e-6)
    np.testing.assert_allclose(goal[:, 0] - goal[:, 3], 0.075, atol=1e-6)
    np.testing.assert_allclose(goal[:, 6], 0.075)


# ---- given starts and goals


@pytest.mark.parametrize(
    ("id", "start", "goal"),
    [
        ("ant", (1.0, 2.0), (3.0, -1.0)),
        ("ant_u4_maze", (12.0, 12.0), (4.0, 8.0)),
        ("ant_ball", (1.0, 2.0), (3.0, -1.0)),
        ("humanoid", (1.0, 2.0), (3.0, -1.0, 1.25)),
        ("humanoid_u_maze", (6.0, 6.0), (2.0, 4.0, 1.25)),
        ("reacher", None, (0.1, -0.05, 0.01)),
        pytest.param("cheetah", (1.0, 0.0), (3.0,), marks=pytest.mark.slow),
        pytest.param("arm_reach", None, (0.1, 0.5, 0.2), marks=pytest.mark.slow),
    ],
)
def test_start_and_goal_can_be_given(id, start, goal):
    env = envs.make(id)
    key = jax.random.key(1)
    state = jax.jit(env.reset)(key, None if start is None else jnp.array(start), jnp.array(goal))
    np.testing.assert_allclose(state.obs[env.state_dim :], goal, atol=1e-6)
    if start is not None:
        position = state.obs[:2] if env.goal_dim > 1 else state.obs[:1]
        np.testing.assert_allclose(position, start[: len(position)], atol=1e-6)


@slow
def test_object_and_goal_can_be_given():
    env = envs.make("pusher_easy")
    state = jax.jit(env.reset)(jax.random.key(1), jnp.array([0.5, -0.2]), jnp.array([0.4, -0.5, -0.323]))
    np.testing.assert_allclose(state.obs[10:12], (0.5, -0.2), atol=1e-6)
    np.testing.assert_allclose(state.obs[20:], (0.4, -0.5, -0.323), atol=1e-6)
    env = envs.make("arm_push_easy")
    state = jax.jit(env.reset)(jax.random.key(1), jnp.array([0.0, 0.5]), jnp.array([0.1, 0.5, 0.2]))
    np.testing.assert_allclose(state.obs[:2], (0.0, 0.5), atol=1e-6)
    np.testing.assert_allclose(state.obs[17:], (0.1, 0.5, 0.2), atol=1e-6)


@pytest.mark.parametrize("id", ["reacher", "arm_reach"])
def test_arms_without_an_object_take_no_start(id):
    with pytest.raises(UsageError, match="start"):
        envs.make(id).reset(jax.random.key(0), jnp.zeros(2))
