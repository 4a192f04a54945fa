"""Distractors: what they add to a state, and that nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import envs
from crlviz.errors import UsageError
from tests.helpers.toys import toy_config, untrained_run

COUNT, STEPS, REDUNDANT, NOISY = 64, 200, 6, 5


@pytest.fixture(scope="module")
def episodes():
    """Observations [T, B, n] of the point mass under the same actions, with and without distractors."""
    actions = jax.random.uniform(jax.random.key(1), (STEPS, COUNT, 2), minval=-1)

    def run(env):
        state = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), COUNT))

        def step(state, action):
            state = jax.vmap(env.step)(state, action)
            return state, (state.obs, state.metrics["distance"])

        return jax.tree.map(np.asarray, jax.jit(lambda: jax.lax.scan(step, state, actions)[1])())

    plain, distracted = envs.make("point_u_maze"), envs.make("point_u_maze", distractors=REDUNDANT + NOISY)
    return run(plain), run(distracted)


def test_the_environment_is_as_before(episodes):
    (plain, distance), (distracted, same) = episodes
    np.testing.assert_array_equal(np.concatenate([distracted[..., :4], distracted[..., -2:]], -1), plain)
    np.testing.assert_array_equal(same, distance)
    env = envs.make("point_u_maze", distractors=11)
    assert (env.state_dim, env.goal_dim, env.observation_size) == (15, 2, 17)
    assert env.maze.rows == envs.check("point_u_maze").rows


def test_half_follow_from_the_state_and_half_are_noise(episodes):
    states = episodes[1][0][..., :-2].astype(float)
    own, redundant, noise = np.split(states, [4, 4 + REDUNDANT], axis=-1)
    flat = own.reshape(-1, 4)
    _, residuals, rank, _ = np.linalg.lstsq(flat, redundant.reshape(-1, REDUNDANT), rcond=None)
    assert rank == 4
    assert residuals.max() < 1e-6
    assert redundant.std((0, 1)).min() > 0.05
    # Normal noise of variance 1 whose correlation falls by a tenth a step, and which tells nothing of anything else.
    assert noise.std() == pytest.approx(1, abs=0.05)
    for lag in (1, 5):
        assert (noise[lag:] * noise[:-lag]).mean() == pytest.approx(0.9**lag, abs=0.06)
    others = np.corrcoef(np.concatenate([flat, noise.reshape(-1, NOISY)], -1).T)
    assert np.abs(others[4:] - np.eye(9)[4:]).max() < 0.15


@pytest.mark.slow
def test_an_agent_has_them_from_its_config(tmp_path):
    """They follow from the config, are the same in every process, and keep their place when a position is set."""
    run = untrained_run(tmp_path / "run", toy_config(env_options={"distractors": 11}))
    agent = crlviz.load(run)
    assert agent.env.state_dim == 15
    state = agent.env.reset(jax.random.key(0))
    moved = agent.env.observation_at(state, jnp.array([1.0, -1.0]), jnp.array([0.5, 0.25]))
    np.testing.assert_array_equal(moved[:2], [1, -1])
    np.testing.assert_array_equal(moved[-2:], [0.5, 0.25])
    np.testing.assert_array_equal(moved[4 + REDUNDANT : 15], state.obs[4 + REDUNDANT : 15])
    draws = np.random.default_rng(0).normal(size=(4, REDUNDANT)) / 2
    np.testing.assert_allclose(moved[4 : 4 + REDUNDANT], np.asarray(moved[:4]) @ draws, atol=1e-5)
    assert crlviz.rollout(agent, episodes=2, length=5).sizes["state_index"] == 15


@pytest.mark.parametrize("wrong", [-1, 2.5, True, "many", 100_000])
def test_a_wrong_number_is_refused(wrong):
    with pytest.raises(UsageError, match="distractors"):
        envs.make("point_u_maze", distractors=wrong)
