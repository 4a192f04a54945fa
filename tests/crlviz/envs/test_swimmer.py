"""The swimmer in the open, against a float64 reference of the forces, and as an environment."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.stats import kstest

from crlviz import envs
from crlviz.envs.swimmer import Swimmer, drift
from crlviz.errors import UsageError
from tests.helpers.swimmers import KNOTS, chain, connection, first_states, integrate, simulate


@pytest.fixture(scope="module")
def plane() -> Swimmer:
    return envs.make("swimmer")


@pytest.fixture(scope="module")
def knots() -> Swimmer:
    return envs.make("swimmer_maze", layout=KNOTS)


def _world(joints, turns, ratio, angle):
    """``drift`` as x, y, angle [3] in the world, for the first link's angle at the midpoint."""
    (x, y), turn = drift(jnp.asarray(joints, jnp.float32), jnp.asarray(turns, jnp.float32), ratio)
    return np.array([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, turn])


@pytest.mark.parametrize(("links", "ratio"), [(3, 10.0), (4, 20.0), (5, 1.5)])
def test_drift_balances_forces_and_torque(links, ratio):
    rng = np.random.default_rng(links)
    for _ in range(20):
        q = np.concatenate([rng.normal(size=2), rng.uniform(-3, 3, 1), rng.uniform(-1.5, 1.5, links - 1)])
        turns = rng.uniform(-1, 1, links - 1)
        np.testing.assert_allclose(_world(q[3:], turns, ratio, q[2]), connection(q, ratio) @ turns, atol=3e-5)


def test_a_step_is_a_midpoint_step():
    """Against the finely integrated reference: half the step has an eighth of the error."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(6):
        q = np.concatenate([np.zeros(2), rng.uniform(-3, 3, 1), rng.uniform(-0.7, 0.7, 3)])
        turns = rng.uniform(-0.8, 0.8, 3)
        row = []
        for part in (turns, turns / 2):
            exact = integrate(q, part, 20.0, 16)
            moved = _world(q[3:] + part / 2, part, 20.0, 0.0)
            moved[:2] = _world(q[3:] + part / 2, part, 20.0, q[2] + moved[2] / 2)[:2]
            row.append(np.abs(moved - (exact - q)[:3]).max())
        errors.append(row)
    whole, half = np.array(errors).T
    assert whole.max() < 0.05
    assert np.median(whole / half) == pytest.approx(8, rel=0.25)


def test_steps_follow_the_reference_and_joints_stop_at_their_limits(plane):
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1.5, 1.5, (6, 4, 3))
    q = simulate(plane, actions, angle=[0, 1, 2, -3]).astype(float)
    joints = [q[0, :, 3:]]
    for action in actions:
        joints.append(np.clip(joints[-1] + 0.8 * np.clip(action, -1, 1), -1.5, 1.5))
    np.testing.assert_allclose(q[..., 3:], joints, atol=1e-5)
    assert (np.abs(joints) == 1.5).any()
    for before, after in zip(q[:-1].reshape(-1, 6), q[1:].reshape(-1, 6), strict=True):
        turns = after[3:] - before[3:]
        turn = connection(np.r_[0, 0, 0, before[3:] + turns / 2], 20.0)[2] @ turns
        shift = connection(np.r_[0, 0, before[2] + turn / 2, before[3:] + turns / 2], 20.0)[:2] @ turns
        np.testing.assert_allclose(after[:2] - before[:2], shift, atol=1e-5)
        assert np.sin((after[2] - before[2] - turn) / 2) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("ratio", [2.0, 20.0])
def test_small_square_strokes_of_purcells_swimmer(ratio):
    """With three links, nearly straight, a square stroke of side s moves it by 5 (ratio - 1) / 243 s^2 body lengths.

    That is the curvature d1 A2 - d2 A1 + [A1, A2] of the connection A at the straight body, derived by hand for links
    of length 1/3; the other components are zero there.
    """
    h = 1e-3

    def at(first, second):
        return connection(np.array([0, 0, 0, first, second]), ratio)

    d1, d2 = (at(h, 0) - at(-h, 0)) / 2 / h, (at(0, h) - at(0, -h)) / 2 / h
    (x1, y1, w1), (x2, y2, w2) = at(0, 0).T
    curvature = d1[:, 1] - d2[:, 0] + np.array([w2 * y1 - w1 * y2, w1 * x2 - w2 * x1, 0])
    closed = -5 * (ratio - 1) / 243
    np.testing.assert_allclose(curvature, [closed, 0, 0], atol=1e-5 * ratio)

    env, side, cut = envs.make("swimmer", links=3, drag_ratio=ratio), 0.1, 5
    stroke = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)]).repeat(cut, 0) * side / cut / env.rate
    actions = np.tile(stroke, (30, 1))[:, None]
    q = simulate(env, actions, joints=-side / 2)[-1, 0]
    assert np.hypot(*q[:2]) == pytest.approx(30 * abs(closed) * side**2, rel=0.02)
    assert abs(q[2]) < 0.01  # it returns to its angle


def test_a_scallop_gets_nowhere(plane):
    """Joints that turn along a path of shapes and back along the same path, at any speed, bring it back."""
    rng = np.random.default_rng(2)
    turns = rng.uniform(-0.3, 0.3, (10, 8, 3))
    # The path avoids the joint limits, which would not be met in the same way on the way back.
    forward = np.clip(np.cumsum(turns, 0), -1.4, 1.4)
    turns = np.diff(forward, axis=0, prepend=np.zeros((1, 8, 3))) / plane.rate
    q = simulate(plane, np.concatenate([turns, -turns[::-1]]))
    assert np.abs(q[10] - q[0])[:, :2].max() > 0.1
    np.testing.assert_allclose(q[-1], q[0], atol=2e-6)


def test_isotropic_drag_gives_no_motion():
    env = envs.make("swimmer", drag_ratio=1)
    q = simulate(env, np.random.default_rng(3).uniform(-1, 1, (100, 8, 3)), joints=[0.1, 0.2, -0.3])
    np.testing.assert_allclose(q[..., :2], 0, atol=1e-5)
    assert np.ptp(q[..., 2], axis=0).max() > 0.5  # but it turns


def test_a_rotated_start_rotates_the_path(plane):
    actions = np.random.default_rng(4).uniform(-1, 1, (50, 4, 3))
    turn, away, angle = 1.1, np.array([3.0, -2.0]), np.linspace(-1, 1, 4)
    q = simulate(plane, actions, angle=angle)
    turned = simulate(plane, actions, middle=away, angle=angle + turn)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(turned[..., :2], q[..., :2] @ matrix.T + away, atol=5e-5)
    np.testing.assert_allclose(np.sin((turned[..., 2] - q[..., 2] - turn) / 2), 0, atol=5e-5)


# Body lengths in 200 steps of the best sine gait on a coarse grid, by an earlier program for the same physics.
GAITS = [
    (3, 10, 0.4, 1.2, 3.5),
    (3, 20, 0.8, 1.5, 9.4),
    (4, 20, 0.8, 1.5, 7.7),
    (5, 20, 0.8, 1.5, 6.3),
    (5, 10, 0.4, 1.2, 2.8),
]


@pytest.mark.parametrize(("links", "ratio", "rate", "limit", "recorded"), GAITS)
def test_traveling_waves_move_the_body(links, ratio, rate, limit, recorded):
    """Sines with a phase lag between joints: the best is as fast as recorded and as the reference; noise is not."""

    class Body(Swimmer):
        pass

    Body.rate, Body.limit = rate, limit
    env = Body("swimmer", links=links, drag_ratio=ratio)
    periods, lags = (x.ravel() for x in np.meshgrid(np.arange(8, 20, 2), np.arange(1, 9) * 0.2))
    phase = 2 * np.pi * np.arange(200)[:, None] / periods
    actions = np.sin(phase[..., None] + lags[:, None] * np.arange(links - 1))
    q = simulate(env, actions)
    far = np.hypot(*q[-1, :, :2].T)
    best = far.argmax()
    assert recorded <= far[best] < 2.2 * recorded
    # As far as the reference with the same joint angles, over a few strokes.
    reference = q[0, best].astype(float)
    for before, after in zip(q[:20, best], q[1:21, best], strict=True):
        reference = integrate(reference, (after - before)[3:].astype(float), ratio, 2)
    np.testing.assert_allclose(q[20, best, :2], reference[:2], atol=0.1 * np.abs(q[:21, best, :2]).max())
    noise = simulate(env, np.random.default_rng(5).uniform(-1, 1, actions.shape))
    assert np.hypot(*noise[-1, :, :2].T).mean() < 0.2 * recorded


# ---- as an environment


def test_goals_in_the_open_are_uniform_in_a_disc(plane):
    goal = np.asarray(first_states(plane, 4000).pipeline_state.goal)
    assert kstest(np.hypot(*goal.T) ** 2 / 4, "uniform").pvalue > 1e-3
    assert kstest(np.arctan2(*goal.T), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
    np.testing.assert_array_equal(first_states(plane, 4000).pipeline_state.middle, 0)


def test_the_observation_is_the_whole_state(plane):
    state = plane.step(plane.reset(jax.random.key(3)), jnp.array([1.0, -0.5, 0.2]))
    body = state.pipeline_state
    expected = [*body.middle, np.cos(body.angle), np.sin(body.angle), *body.joints, *body.goal]
    np.testing.assert_allclose(state.obs, expected, atol=1e-6)
    assert state.obs.shape == (plane.observation_size,) == (9,)
    assert float(state.metrics["distance"]) == pytest.approx(np.hypot(*(body.middle - body.goal)), rel=1e-5)


@pytest.mark.parametrize(("away", "success", "easy"), [(0.249, 1, 1), (0.251, 0, 1), (0.499, 0, 1), (0.501, 0, 0)])
def test_success_is_within_a_quarter_of_the_body_length(plane, away, success, easy):
    after = plane.step(plane.reset(jax.random.key(0), jnp.array([away, 0.0]), jnp.zeros(2)), jnp.zeros(3))
    assert (float(after.metrics["success"]), float(after.metrics["success_easy"])) == (success, easy)


def test_a_scan_agrees_with_plain_steps(knots):
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 3)).astype(np.float32)
    state = first = jax.jit(knots.reset)(jax.random.key(1))
    for action in actions:
        state = knots.step(state, action)
    scanned = jax.jit(lambda state: jax.lax.scan(lambda s, a: (knots.step(s, a), None), state, actions)[0])(first)
    np.testing.assert_allclose(scanned.obs, state.obs, atol=1e-5)


def test_the_mujoco_model_has_the_bodys_pose(plane):
    state = plane.step(plane.reset(jax.random.key(5)), jnp.array([1.0, -1.0, 1.0]))
    body, data = state.pipeline_state, mujoco.MjData(plane.model)
    data.qpos[:] = np.asarray(plane.pose(state))
    mujoco.mj_kinematics(plane.model, data)
    middles, angles = chain(np.r_[body.middle, body.angle, body.joints].astype(float))
    for k in range(4):
        np.testing.assert_allclose(data.geom(f"link_{k}").xpos[:2], middles[k], atol=1e-5)
        along = data.geom(f"link_{k}").xmat.reshape(3, 3)[:, 2]  # a capsule's axis
        np.testing.assert_allclose(np.abs(along[:2] @ [np.cos(angles[k]), np.sin(angles[k])]), 1, atol=1e-5)
    outline = plane.outline(np.asarray(plane.pose(state)))
    np.testing.assert_allclose((outline[1:] + outline[:-1]) / 2, middles, atol=1e-5)
    np.testing.assert_allclose(data.body("middle").xpos[:2], body.middle, atol=1e-6)
    np.testing.assert_allclose(data.body("target").xpos[:2], body.goal, atol=1e-6)


def test_sizes_and_options():
    env = envs.make("swimmer_u_maze", links=6)
    assert (env.state_dim, env.action_size, env.observation_size) == (9, 5, 11)
    assert env.model.nq == 2 + 2 + 6 + 2
    with pytest.raises(UsageError, match="take 3 to 12"):
        envs.make("swimmer", links=2)
    with pytest.raises(UsageError, match=r"links = 3\.5"):
        envs.make("swimmer", links=3.5)
    with pytest.raises(UsageError, match="drag_ratio = 0"):
        envs.make("swimmer", drag_ratio=0)
    with pytest.raises(UsageError, match="drag_ratio = 'much'"):
        envs.make("swimmer", drag_ratio="much")
