"""Environments by name, bounds of their initial states, and states that a scan can carry."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz import envs
from crlviz.envs import mazes
from crlviz.envs.physics import out_of
from crlviz.errors import UsageError

COUNT = 512
slow = pytest.mark.slow

# id: sizes of state, goal and action, goal indices, success distance and the easy one, seconds of a step.
SIZES = {
    "reacher": (10, 3, 2, (4, 5, 6), 0.05, None, 0.02),
    "pusher_easy": (20, 3, 7, (10, 11, 12), 0.1, None, 0.05),
    "pusher_hard": (20, 3, 7, (10, 11, 12), 0.1, None, 0.05),
    "cheetah": (18, 1, 6, (0,), 0.5, 2.0, 0.05),
    "ant": (29, 2, 8, (0, 1), 0.5, 2.0, 0.05),
    "ant_hardest_maze": (29, 2, 8, (0, 1), 0.5, 2.0, 0.05),
    "ant_ball": (31, 2, 8, (29, 30), 0.5, 2.0, 0.05),
    "ant_push": (31, 2, 8, (0, 1), 0.5, 2.0, 0.05),
    "humanoid": (268, 3, 17, (0, 1, 2), 0.5, 2.0, 0.015),
    "humanoid_hardest_maze": (268, 3, 17, (0, 1, 2), 0.5, 2.0, 0.015),
    "arm_reach": (13, 3, 4, (7, 8, 9), 0.1, 0.3, 0.05),
    "arm_grasp": (23, 7, 5, (16, 17, 18, 19, 20, 21, 22), 0.05, 0.15, 0.05),
    "arm_push_easy": (17, 3, 5, (0, 1, 2), 0.1, 0.3, 0.05),
    "arm_push_hard": (17, 3, 5, (0, 1, 2), 0.1, 0.3, 0.05),
    "arm_binpick_easy": (17, 3, 5, (0, 1, 2), 0.1, 0.3, 0.05),
    "arm_binpick_hard": (17, 3, 5, (0, 1, 2), 0.1, 0.3, 0.05),
}


# ---- names


def test_listing_names_imports_neither_jax_nor_engines():
    code = (
        "import sys; from crlviz import envs; assert len(envs.ids()) > 60; envs.check('ant_u4_maze');"
        "assert envs.check('humanoid') is None; assert not {'jax', 'brax', 'mujoco'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_walker_has_every_maze():
    known = envs.ids()
    assert len(known) == len(set(known))
    assert set(SIZES) <= set(known)
    for body in ("point", "ant", "humanoid"):
        assert {f"{body}_{layout}" for layout in mazes.LAYOUTS} <= set(known)
    for id in known:
        envs.check(id)
    assert not {"point", "arm", "ant_ball_maze", "cheetah_u_maze"} & set(known)


@pytest.mark.parametrize(
    ("wrong", "near"), [("ant_u4", "ant_u4_maze"), ("humanoid_bigmaze", "humanoid_big_maze"), ("arm_rech", "arm_reach")]
)
def test_unknown_names_suggest_the_nearest(wrong, near):
    with pytest.raises(UsageError) as error:
        envs.make(wrong)
    assert near in str(error.value).partition("nearest")[2]


def test_mazes_have_the_papers_positions():
    ant = envs.check("ant_u4_maze")
    assert (ant.cell_size, ant.origin) == (4.0, (0.0, 0.0))
    assert ant.xy(ant.starts).tolist() == [[8.0, 4.0]]
    humanoid = envs.check("humanoid_big_maze_eval")
    assert humanoid.cell_size == 2.0
    # The humanoid's evaluation maze has one goal more than the ant's.
    assert len(humanoid.goals) == len(envs.check("ant_big_maze_eval").goals) + 1 == 10
    custom = envs.check("ant_maze", ["####", "#rg#", "####"])
    assert custom.xy(custom.goals).tolist() == [[4.0, 8.0]]


@pytest.mark.parametrize(
    ("id", "options", "word"),
    [
        ("ant", {"backend": "warp"}, "spring"),
        ("humanoid", {"backend": "mjx"}, "spring"),
        ("ant", {"gravity": 0}, "normalize_quaternion"),
        ("ant_maze", {}, "layout"),
        ("ant", {"layout": ["####", "#rg#", "####"]}, "ant_maze"),
        ("ant_ball", {"layout": ["####", "#rg#", "####"]}, "_maze"),
    ],
)
def test_bad_options_are_refused(id, options, word):
    with pytest.raises(UsageError, match=word):
        envs.make(id, **options)


@pytest.mark.parametrize("id", SIZES)
def test_sizes(id):
    env = envs.make(id)
    sizes = (env.state_dim, env.goal_dim, env.action_size, env.goal_indices)
    assert (*sizes, env.goal_distance, env.goal_distance_easy) == SIZES[id][:-1]
    assert env.dt == pytest.approx(SIZES[id][-1])
    assert (env.id, env.episode_length) == (id, 1000)
    assert env.observation_size == env.state_dim + env.goal_dim


# ---- initial states


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


def test_push_goals_are_behind_the_box():
    _, body, goal, _ = _resets("ant_push")
    _fills(body[:, 2:3], 0.65, 0.85)
    _fills(body[:, 29:], 7.9, 8.1)
    first = goal[:, 0] > 12
    assert 0.4 < first.mean() < 0.6
    _fills(np.where(first[:, None], goal, goal[:, ::-1]), [16, 8], [18, 10])


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


def test_humanoid_in_a_maze():
    env, body, goal, _ = _resets("humanoid_u_maze")
    np.testing.assert_allclose(body[:, :3] - [2, 2, 1.4], 0, atol=1e-6)
    assert {tuple(g) for g in goal.tolist()} == {(*xy, 1.25) for xy in env.maze.xy(env.maze.goals).tolist()}


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
def test_pusher(id, y, x):
    _, body, goal, _ = _resets(id)
    center = np.array([0.45, -0.05])
    _fills(goal[:, :2] - center, (x[0], y[0]), (x[1], y[1]))
    cylinder = body[:, 10:12] - center
    kept = np.all((cylinder >= (-0.2, -0.3)) & (cylinder <= (0.2, 0)), axis=1)
    assert kept.mean() > 0.8  # the others were too near the goal, and were moved away from the center
    assert not body[:, :7].any()
    assert np.abs(body[:, 13:]).max() <= 0.005


def test_cheetah():
    _, body, goal, _ = _resets("cheetah")
    _fills(body[:, :9], -0.1, 0.1)
    np.testing.assert_allclose(body[:, 9:].std(0), 0.1, rtol=0.15)
    np.testing.assert_array_equal(goal, np.full((COUNT, 1), 5.0))


ARM = np.array([1.571, 0.742, 0, -1.571, 0, 3.054, 1.449])


@pytest.mark.slow
def test_arm_reach():
    _, body, goal, _ = _resets("arm_reach")
    np.testing.assert_allclose(body[:, :7] - ARM, 0, atol=1e-6)
    _fills(goal, np.array([0, 0.5, 0.3]) - 0.2, np.array([0, 0.5, 0.3]) + 0.2)


@pytest.mark.slow
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


@pytest.mark.slow
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
        ("cheetah", (1.0, 0.0), (3.0,)),
        ("arm_reach", None, (0.1, 0.5, 0.2)),
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


# ---- steps


@pytest.mark.parametrize(
    ("id", "backend"),
    [
        ("ant_u_maze", None),
        ("humanoid", None),
        ("cheetah", None),
        pytest.param("ant", "generalized", marks=slow),
        pytest.param("ant", "mjx", marks=slow),
        pytest.param("ant_ball", "mjx", marks=slow),
        pytest.param("reacher", "spring", marks=slow),
        pytest.param("pusher_hard", "spring", marks=slow),
        pytest.param("cheetah", "generalized", marks=slow),
        pytest.param("cheetah", "spring", marks=slow),
    ],
)
def test_a_scan_can_carry_the_state(id, backend):
    env = envs.make(id, backend=backend)
    actions = jax.random.uniform(jax.random.key(1), (20, env.action_size), minval=-1)

    def run(key):
        first = env.reset(key)
        return first, jax.lax.scan(lambda s, a: (env.step(s, a), s.obs), first, actions)

    first, (last, obs) = jax.jit(run)(jax.random.key(0))
    assert np.all(np.isfinite(obs))
    assert np.abs(last.obs - first.obs).max() > 1e-3
    np.testing.assert_array_equal(last.obs[env.state_dim :], first.obs[env.state_dim :])


def test_a_fallen_body_is_done():
    env = envs.make("ant")
    step = jax.jit(env.step)
    for height, done in ((0.5, 0), (1.2, 1)):
        q = env.sys.init_q.at[2].set(height)
        state = step(jax.jit(env.at)(q, np.zeros(16)), np.zeros(8))
        assert state.done == done
    # From a low start the floor may push it up within the step, so the lower limit is tested directly.
    assert [float(out_of(jnp.asarray(height), 0.2, 1.0)) for height in (0.19, 0.2, 1.0, 1.01)] == [1, 0, 0, 1]
    # NaN counts as failure.
    assert step(jax.jit(env.at)(env.sys.init_q.at[2].set(np.nan), np.zeros(16)), np.zeros(8)).done == 1


@pytest.mark.parametrize("id", ["ant", "ant_ball", "ant_push", "humanoid", "reacher", "ant_u_maze", "humanoid_u_maze"])
def test_options_of_the_paper_are_accepted(id):
    options = envs.paper_options(id)
    env = envs.make(id, **options)
    assert env.dt == pytest.approx({"humanoid": 0.03, "humanoid_u_maze": 0.015, "reacher": 0.04}.get(id, 0.05))
    assert ("normalize_quaternion" in options) == id.startswith("ant")
    assert env.goal_indices == {"ant_ball": (28, 29)}.get(id, envs.make(id).goal_indices)


@pytest.mark.parametrize(
    ("id", "place", "goal"),
    [
        ("point_u_maze", (1.2, 0.9), (-1.0, 1.0)),
        ("ant_u_maze", (7.5, 12.5), (4.0, 4.5)),
        ("humanoid", (1.5, -2.5), (3.0, 0.5, 1.25)),
        ("pusher_easy", (0.4, -0.2), (0.5, -0.4, -0.323)),
    ],
)
def test_placed_equals_a_reset_with_that_start(id, place, goal):
    """In the humanoid's state the inertias of the links change too, and the target."""
    env = envs.make(id)
    key, place, goal = jax.random.key(3), np.array(place, np.float32), np.array(goal, np.float32)

    @jax.jit
    def both(key):
        return env.placed(env.reset(key), place, goal), env.placed(env.reset(key), None, goal), env.reset(key).obs

    placed, only_goal, before = both(key)
    there = jax.jit(lambda key: env.reset(key, start=place, goal=goal).obs)(key)
    np.testing.assert_allclose(placed, there, rtol=1e-4, atol=2e-5)
    assert np.abs(np.asarray(before - there)).max() > 0.1
    np.testing.assert_array_equal(only_goal[env.state_dim :], goal)


@pytest.mark.parametrize("ball_is_goal", [True, False])
def test_placed_moves_the_ball(ball_is_goal):
    env = envs.make("ant_ball", ball_is_goal=ball_is_goal)
    place, goal = np.array([1.5, -2.0], np.float32), np.array([3.0, 4.0], np.float32)

    @jax.jit
    def both(key):
        state = env.reset(key)
        q, qd = state.pipeline_state.q, state.pipeline_state.qd
        return env.placed(state, place, goal), env.at(q.at[-4:].set(jnp.concatenate([place, goal])), qd).obs

    placed, there = both(jax.random.key(0))
    np.testing.assert_allclose(placed, there, atol=1e-5)


def test_an_arm_cannot_be_placed():
    env = envs.make("reacher")
    state = jax.jit(env.reset)(jax.random.key(0))
    with pytest.raises(UsageError, match="follows from its joints"):
        env.placed(state, jnp.zeros(2), jnp.zeros(3))
    np.testing.assert_array_equal(env.placed(state, None, jnp.ones(3))[:10], state.obs[:10])
