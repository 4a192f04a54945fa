"""Environments by name, and states that a scan can carry."""

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


# ---- steps


@pytest.mark.parametrize(
    ("id", "backend"),
    [
        pytest.param("ant_u_maze", None, marks=slow),
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


@pytest.mark.slow
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
        pytest.param("humanoid", (1.5, -2.5), (3.0, 0.5, 1.25), marks=slow),
        pytest.param("pusher_easy", (0.4, -0.2), (0.5, -0.4, -0.323), marks=slow),
    ],
)
def test_placed_equals_a_reset_with_that_start(id, place, goal):
    """In the humanoid's state the inertias of the links change too, and the target."""
    env = envs.make(id)
    key, place, goal = jax.random.key(3), np.array(place, np.float32), np.array(goal, np.float32)

    @jax.jit
    def both(key):
        state = env.reset(key)
        return env.observation_at(state, place, goal), env.observation_at(state, None, goal), state.obs

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
        return env.observation_at(state, place, goal), env.at(q.at[-4:].set(jnp.concatenate([place, goal])), qd).obs

    placed, there = both(jax.random.key(0))
    np.testing.assert_allclose(placed, there, atol=1e-5)


def test_an_arm_cannot_be_placed():
    env = envs.make("reacher")
    state = jax.jit(env.reset)(jax.random.key(0))
    with pytest.raises(UsageError, match="follows from its joints"):
        env.observation_at(state, jnp.zeros(2), jnp.zeros(3))
    np.testing.assert_array_equal(env.observation_at(state, None, jnp.ones(3))[:10], state.obs[:10])
