"""Numbers of a chain's strokes against motions in closed form, and the names of its episodes."""

import jax.numpy as jnp
import numpy as np
import pytest

from analyses.behavior import naming, strokes
from analyses.behavior.descriptors import DESCRIPTORS, describe
from crlviz import envs
from crlviz.rollouts import rollout
from tests.helpers.toys import Handmade

TIME = np.arange(400) * 0.1  # phase in radians: 0.1 per step, 40 in all
CORRIDOR = ["#" * 15, "#g.....r.....g#", "#" * 15]  # along y


def test_strokes_are_swings_there_and_back():
    angles = np.stack([np.sin(TIME), np.sin(2 * TIME)], 1)
    assert strokes.count(angles) == pytest.approx(1.5 * 40 / (2 * np.pi), abs=0.5)
    assert strokes.count(0.24 * angles) == 0  # swings of less than half a radian
    shaking = angles + 0.1 * np.random.default_rng(0).uniform(-1, 1, angles.shape)
    assert strokes.count(shaking) == strokes.count(angles)
    assert strokes.count(np.cumsum(np.full((50, 2), 0.1), 0)) == 0  # one direction only


@pytest.mark.parametrize("lag", [0, 0.3, 1.0, np.pi / 2, np.pi])
def test_wave_of_sines_against_quadrature(lag):
    """Neighboring sines of equal amplitude with a phase lag: the definition, by fine quadrature."""
    angles = 0.4 + np.stack([np.sin(TIME + k * lag) for k in range(3)], 1)
    t = np.linspace(0, 2 * np.pi, 100_001)
    a, b, da, db = np.sin(t), np.sin(t + lag), np.cos(t), np.cos(t + lag)
    expected = abs((a * db - b * da).mean()) / (np.hypot(a, b) * np.hypot(da, db)).mean()
    assert strokes.wave(angles) == pytest.approx(expected, abs=0.02)
    assert strokes.wave(angles[:1]) == strokes.wave(0 * angles) == 0


def _gait(observation, key=None):
    """A wave of amplitude 0.9, period 8 steps and lag 0.8 per joint; the phase is estimated from the joints."""
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
def swum(env):
    """Four episodes of the gait along a corridor, and their descriptors."""
    runs = rollout(Handmade(env, _gait), 4, length=200)
    return runs, describe(env, runs)


@pytest.mark.slow
def test_descriptors_of_a_gait(env, swum):
    runs, dataset = swum
    assert set(dataset.data_vars) == {name for name, what in DESCRIPTORS.items() if "torso" not in what.needs}
    for k in range(4):
        described, episode = dataset.isel(episode=k), runs.isel(episode=k)
        assert float(described.stroke_frequency) == pytest.approx(1 / 8 / env.dt, rel=0.1)
        assert float(described.wave) > 0.6
        steps = int(episode.success.values.argmax()) + 1 if episode.success.any() else 200
        places = np.concatenate([episode.state.values[:1, :2], episode.achieved.values[:steps]])
        nearer = np.abs(places[0] - episode.goal.values).max() - np.abs(places[-1] - episode.goal.values).max()
        assert float(described.stroke_length) == pytest.approx(nearer / (steps / 8), rel=0.15, abs=0.01)


@pytest.mark.slow
def test_wall_contact_counts_every_link(env):
    """A body across the corridor has its middle far from the walls and its ends near them."""
    runs = rollout(Handmade(env, lambda observation, key=None: 0 * observation[..., :3]), 64, length=1)
    dataset = describe(env, runs)
    poses = runs.pose.values[:, 0]
    angles = poses[:, 4:5] + np.concatenate([0 * poses[:, :1], np.cumsum(poses[:, 5:8], 1)], 1)
    ends = poses[:, 2:3] + np.concatenate([0 * poses[:, :1], np.cumsum(np.cos(angles), 1) / 4], 1)
    gap = env.maze.cell_size / 2 - np.abs(ends - env.maze.xy((1, 0))[0]).max(1) - 0.05
    assert np.abs(runs.state.values[:, 0, 0]).max() < 0.2
    np.testing.assert_array_equal(dataset.wall_contact.values > 0, gap < 0.01)
    assert (gap < 0.01).any()


def test_names_of_swimmers():
    swimmer = {
        "fell": 0,
        "displacement_over_geodesic": 1,
        "progress": 1,
        "travel_over_geodesic": 1,
        "staying": 1,
        "stroke_frequency": 1.2,
        "late_displacement_over_geodesic": 0.5,
    }
    there = swimmer | {"time_at_goal": 50, "wave": 0.7, "wall_contact": 0.6}
    assert naming.behavior(there) == "undulated to the goal"
    assert naming.behavior(there | {"wave": 0.1}) == "reached the goal"
    away = there | {"time_at_goal": 0}
    assert naming.behavior(away) == "did not reach the goal"
    assert naming.behavior(away | {"late_displacement_over_geodesic": 0.02}) == "got stuck at a wall"
    assert (
        naming.behavior(away | {"late_displacement_over_geodesic": 0.02, "wall_contact": 0.1})
        == "did not reach the goal"
    )
    assert (
        naming.behavior(away | {"late_displacement_over_geodesic": 0.02, "stroke_frequency": 0})
        == "did not reach the goal"
    )
