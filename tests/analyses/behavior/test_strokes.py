"""How a chain beats, against motions whose numbers are known, and what its episodes are called."""

import jax.numpy as jnp
import numpy as np
import pytest

from analyses.behavior import naming, strokes
from analyses.behavior.descriptors import DESCRIPTORS, describe
from crlviz import envs
from crlviz.rollouts import rollout
from tests.helpers.toys import Handmade

TIME = np.arange(400) * 0.1  # radians of phase a step: 40 radians
CORRIDOR = ["#" * 15, "#g.....r.....g#", "#" * 15]  # along y


def test_strokes_are_swings_there_and_back():
    angles = np.stack([np.sin(TIME), np.sin(2 * TIME)], 1)
    assert strokes.count(angles) == pytest.approx(1.5 * 40 / (2 * np.pi), abs=0.5)
    assert strokes.count(0.24 * angles) == 0  # swings of less than half a radian
    shaking = angles + 0.1 * np.random.default_rng(0).uniform(-1, 1, angles.shape)
    assert strokes.count(shaking) == strokes.count(angles)
    assert strokes.count(np.cumsum(np.full((50, 2), 0.1), 0)) == 0  # one way only


@pytest.mark.parametrize("lag", [0, 0.3, 1.0, np.pi / 2, np.pi])
def test_a_wave_goes_round_and_a_scallop_does_not(lag):
    """Two sines of equal size with a lag: their area over what it would be, by fine quadrature of the definition."""
    angles = 0.4 + np.stack([np.sin(TIME + k * lag) for k in range(3)], 1)
    t = np.linspace(0, 2 * np.pi, 100_001)
    a, b, da, db = np.sin(t), np.sin(t + lag), np.cos(t), np.cos(t + lag)
    expected = abs((a * db - b * da).mean()) / (np.hypot(a, b) * np.hypot(da, db)).mean()
    assert strokes.wave(angles) == pytest.approx(expected, abs=0.02)
    assert strokes.wave(angles[:1]) == strokes.wave(0 * angles) == 0


def _gait(observation, key=None):
    """A wave of amplitude 0.9 and period 8 steps, a lag of 0.8 a joint: the phase is read off the joints."""
    joints, lags = observation[..., 4:7], 0.8 * jnp.arange(3)
    # cos(p + lag) = cos p cos lag - sin p sin lag, solved for cos p and sin p in least squares.
    basis = jnp.stack([jnp.cos(lags), -jnp.sin(lags)])
    c, s = jnp.moveaxis(joints @ jnp.linalg.pinv(basis), -1, 0)
    wanted = 0.9 * jnp.cos(jnp.arctan2(s, c)[..., None] + 2 * jnp.pi / 8 + lags)
    return jnp.clip((wanted - joints) / 0.8, -1, 1)


@pytest.fixture(scope="module")
def env():
    return envs.make("swimmer_maze", layout=CORRIDOR)


@pytest.fixture(scope="module")
def told(env):
    """Four waves along a corridor, and what is told of them."""
    runs = rollout(Handmade(env, _gait), 4, length=200)
    return runs, describe(env, runs)


def test_a_gait_in_numbers(env, told):
    runs, dataset = told
    assert set(dataset.data_vars) == {name for name, what in DESCRIPTORS.items() if "torso" not in what.needs}
    for k in range(4):
        one, way = dataset.isel(episode=k), runs.isel(episode=k)
        assert float(one.stroke_frequency) == pytest.approx(1 / 8 / env.dt, rel=0.1)
        assert float(one.wave) > 0.6
        steps = int(way.success.values.argmax()) + 1 if way.success.any() else 200
        places = np.concatenate([way.state.values[:1, :2], way.achieved.values[:steps]])
        nearer = np.abs(places[0] - way.goal.values).max() - np.abs(places[-1] - way.goal.values).max()
        assert float(one.stroke_length) == pytest.approx(nearer / (steps / 8), rel=0.15, abs=0.01)


def test_contact_is_that_of_all_links(env):
    """The middle of a body that lies across the corridor is far from its walls, its ends are not."""
    runs = rollout(Handmade(env, lambda observation, key=None: 0 * observation[..., :3]), 64, length=1)
    dataset = describe(env, runs)
    poses = runs.pose.values[:, 0]
    angles = poses[:, 4:5] + np.concatenate([0 * poses[:, :1], np.cumsum(poses[:, 5:8], 1)], 1)
    ends = poses[:, 2:3] + np.concatenate([0 * poses[:, :1], np.cumsum(np.cos(angles), 1) / 4], 1)
    gap = env.maze.cell_size / 2 - np.abs(ends - env.maze.xy((1, 0))[0]).max(1) - 0.05
    assert np.abs(runs.state.values[:, 0, 0]).max() < 0.2
    np.testing.assert_array_equal(dataset.wall_contact.values > 0, gap < 0.01)
    assert (gap < 0.01).any()


def test_names_of_swimmers(told):
    swum = {
        "fell": 0,
        "reach": 1,
        "progress": 1,
        "roaming": 1,
        "staying": 1,
        "stroke_frequency": 1.2,
        "late_reach": 0.5,
    }
    there = swum | {"time_at_goal": 50, "wave": 0.7, "wall_contact": 0.6}
    assert naming.behavior(there) == "undulates"
    assert naming.behavior(there | {"wave": 0.1}) == "reaches the goal"
    away = there | {"time_at_goal": 0}
    assert naming.behavior(away) == "never reaches"
    assert naming.behavior(away | {"late_reach": 0.02}) == "stuck at a wall"
    assert naming.behavior(away | {"late_reach": 0.02, "wall_contact": 0.1}) == "never reaches"
    assert naming.behavior(away | {"late_reach": 0.02, "stroke_frequency": 0}) == "never reaches"
