"""The planar arm: forward kinematics against complex numbers, its contacts with pillars, and its goals."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from crlviz import envs
from crlviz.envs import planar_arm
from crlviz.envs.planar_arm import LENGTH, PlanarArm
from crlviz.envs.walls import CLEARANCE, RADIUS
from crlviz.errors import UsageError

COUNT, STEPS = 256, 100


@pytest.fixture(scope="module")
def arm() -> PlanarArm:
    return envs.make("planar_arm")


def _ends(joints: np.ndarray) -> np.ndarray:
    """x, y of the links' ends [..., N + 1, 2], base first, from joint angles [..., N]: sums of complex numbers."""
    joints = np.asarray(joints, float)
    ends = np.cumsum(LENGTH / joints.shape[-1] * np.exp(1j * np.cumsum(joints, -1)), -1)
    ends = np.concatenate([np.zeros_like(ends[..., :1]), ends], -1)
    return np.stack([ends.real, ends.imag], -1)


@functools.cache
def _pressed(links: int):
    """First states, and the states [T, B] after actions [T, B, N] that are constant for 5 steps, so that arms press."""
    env = envs.make("planar_arm", links=links)
    first = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), COUNT))
    rng = np.random.default_rng(links)
    actions = rng.choice([-1.0, -0.3, 0.0, 1.0], (STEPS // 5, COUNT, links)).repeat(5, axis=0).astype(np.float32)

    def run(state, actions):
        def step(state, action):
            state = jax.vmap(env.step)(state, action)
            return state, state

        return jax.lax.scan(step, state, actions)[1]

    return env, first, actions, jax.jit(run)(first, actions)


def test_the_tip_by_complex_numbers():
    env, _, _, states = _pressed(8)
    joints = np.asarray(states.pipeline_state.joints)
    np.testing.assert_allclose(states.obs[..., :2], _ends(joints)[..., -1, :], atol=1e-5)
    np.testing.assert_allclose(
        states.obs[..., 2:4], np.stack([np.cos(joints[..., 0]), np.sin(joints[..., 0])], -1), atol=1e-6
    )
    np.testing.assert_array_equal(states.obs[..., 4 : env.state_dim], joints[..., 1:])
    away = np.linalg.norm(_ends(joints)[..., -1, :] - states.obs[..., env.state_dim :], axis=-1)
    np.testing.assert_allclose(states.metrics["distance"], away, atol=1e-5)
    np.testing.assert_array_equal(states.metrics["success"], states.metrics["distance"] < 0.15)


@pytest.mark.parametrize("links", [*(pytest.param(count, marks=pytest.mark.slow) for count in (2, 8, 16)), 5])
def test_no_link_is_ever_in_a_wall(links):
    """Points on the center lines, 6 mm apart; and many arms press on walls all the time."""
    env, first, actions, states = _pressed(links)
    for joints in (first.pipeline_state.joints[None], states.pipeline_state.joints):
        ends = _ends(joints)[..., None, :]
        share = np.linspace(0, 1, 320 // links)[:, None]
        points = ends[..., :-1, :, :] * (1 - share) + ends[..., 1:, :, :] * share
        assert env.maze.is_free(points).all()
    others = np.asarray(states.pipeline_state.joints)[..., 1:]
    assert np.abs(others).max() <= env.limit
    before = np.concatenate([first.pipeline_state.joints[None], states.pipeline_state.joints[:-1]])[..., 1:]
    told = np.clip(before + env.rate * actions[..., 1:], -env.limit, env.limit)
    assert (np.abs(told - others).max(-1) > 1e-3).mean() > 0.05


def test_free_joints_turn_as_told_and_stop_at_the_limit(arm):
    """The last three joints curl in the open space at the start, where no wall is near."""
    state = arm.reset(jax.random.key(0))
    action = jnp.zeros(8).at[5:].set(jnp.array([1.0, -0.5, 3.0]))
    first, step = np.asarray(state.pipeline_state.joints), jax.jit(arm.step)
    for _ in range(10):
        state = step(state, action)
    turned = np.asarray(state.pipeline_state.joints) - first
    np.testing.assert_allclose(turned, 10 * arm.rate * np.array([0, 0, 0, 0, 0, 1, -0.5, 1]), atol=1e-5)
    for _ in range(20):
        state = step(state, jnp.zeros(8).at[7].set(1.0))
    assert state.pipeline_state.joints[7] == pytest.approx(arm.limit)


def test_joints_give_way_by_the_smallest_turns(arm):
    """Against numpy: the deepest disc by distances to the walls' squares, its motion by central differences."""
    _, _, _, states = _pressed(8)
    joints = np.asarray(states.pipeline_state.joints[::10]).reshape(-1, 8)[:1000].astype(float)
    turns = np.random.default_rng(0).uniform(-1, 1, joints.shape) * arm.rate / 4
    turned = np.concatenate([joints[:, :1], np.clip(joints[:, 1:], -arm.limit, arm.limit)], 1) + turns
    turned[:, 1:] = np.clip(turned[:, 1:], -arm.limit, arm.limit)
    half, walls = arm.maze.cell_size / 2, arm.maze.xy(arm.maze.cells("#"))

    def discs(joints):
        ends = _ends(joints)[..., None, :]
        share = np.arange(3)[:, None] / 3  # three a link of 25 cm, and the tip
        points = ends[..., :-1, :, :] * (1 - share) + ends[..., 1:, :, :] * share
        return np.concatenate([points.reshape(*joints.shape[:-1], -1, 2), ends[..., -1, :, :]], -2)

    def away(points):
        """Distances to the nearest wall's square [...]; 0 inside."""
        return np.hypot(*np.moveaxis(np.maximum(np.abs(points[..., None, :] - walls) - half, 0), -1, 0)).min(-1)

    result = np.asarray(jax.jit(jax.vmap(arm._turn))(joints, turns))
    distance = away(discs(turned))
    free, touching = distance.min(1) > RADIUS + 1e-4, (distance.min(1) < RADIUS - 1e-3) & (distance.min(1) > 1e-3)
    np.testing.assert_allclose(result[free], turned[free], atol=1e-5)
    assert free.sum() > 100
    checked = 0
    for k in np.flatnonzero(touching):
        order = np.sort(distance[k])
        if order[1] - order[0] < 1e-3:  # two discs are as deep
            continue
        disc, depth, h = distance[k].argmin(), RADIUS - distance[k].min(), 1e-5
        # How much farther from the wall a turn of each joint brings the disc.
        slope = [away(discs(turned[k] + d)[disc]) - away(discs(turned[k] - d)[disc]) for d in h * np.eye(8)]
        slope = np.array(slope) / (2 * h)
        expected = turned[k] + depth * slope / (slope @ slope + planar_arm._DAMPING)
        expected[1:] = np.clip(expected[1:], -arm.limit, arm.limit)
        if away(discs(expected)).min() < CLEARANCE - 1e-4:
            np.testing.assert_allclose(result[k], joints[k], atol=1e-6)
        elif away(discs(expected)).min() > CLEARANCE + 1e-4:
            np.testing.assert_allclose(result[k], expected, atol=2e-4)
            checked += 1
    assert checked > 20


def test_no_point_moves_by_half_a_cell_in_a_substep():
    """All joints of a straight arm turn the same way: its tip moves by the turn times the distances to the joints."""
    for links in range(2, 17):
        env = envs.make("planar_arm", links=links)
        fastest = env.rate / planar_arm._SUBSTEPS * sum(LENGTH * k / links for k in range(1, links + 1))
        assert fastest == pytest.approx(0.18)
        assert fastest < env.maze.cell_size / 2


def test_starts_are_nearly_straight_and_goals_within_reach(arm):
    _, first, _, _ = _pressed(8)
    tips = _ends(first.pipeline_state.joints)[:, -1]
    assert (np.abs(tips - [0, LENGTH]) < [0.18, 0.02]).all()
    assert tips[:, 0].std() > 0.02
    goals = arm.maze.xy(arm.maze.goals)
    np.testing.assert_array_equal(np.unique(first.pipeline_state.goal, axis=0), goals[np.lexsort(goals.T[::-1])])
    # A thread from the base around the pillars reaches these cells and no others, but for those it begins in.
    cells = np.array(arm.maze.free)
    near = cells[arm.maze.geodesics(arm.maze.xy(cells), np.zeros((1, 2)))[0] < 1.7]
    begins = {(5, 5), (5, 6), (5, 7), (5, 8)}
    assert {tuple(cell) for cell in near.tolist()} - begins == set(arm.maze.goals)
    given = arm.reset(jax.random.key(0), goal=jnp.array([0.5, -0.5]))
    np.testing.assert_array_equal(given.obs[-2:], [0.5, -0.5])


def test_the_model_and_the_outline_have_the_arms_pose(arm):
    _, _, _, states = _pressed(8)
    state = jax.tree.map(lambda leaf: leaf[-1, 0], states)
    ends, pose, data = _ends(state.pipeline_state.joints), np.asarray(arm.pose(state)), mujoco.MjData(arm.model)
    np.testing.assert_allclose(arm.outline(pose), ends, atol=1e-5)
    data.qpos[:] = pose
    mujoco.mj_kinematics(arm.model, data)
    for k in range(8):
        np.testing.assert_allclose(data.geom(f"segment_{k}").xpos[:2], (ends[k] + ends[k + 1]) / 2, atol=1e-5)
    np.testing.assert_allclose(data.body("target").xpos[:2], state.pipeline_state.goal, atol=1e-6)


def test_options_and_a_start_are_checked(arm):
    assert envs.make("planar_arm", links=5).observation_size == 3 + 5 + 2
    for links in (1, 17, 2.5):
        with pytest.raises(UsageError, match="take 2 to 16"):
            envs.make("planar_arm", links=links)
    with pytest.raises(UsageError, match="start of planar_arm cannot be chosen"):
        arm.reset(jax.random.key(0), start=jnp.zeros(2))
