"""The Agent: shapes, agreement of its parts, and what it tells of itself."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from tests.toys import ROOM, toy_config, untrained_run

BATCHES = [(), (1,), (5,), (2, 3)]


def _inputs(batch: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(*batch, n)).astype(np.float32) for n in (4, 2, 2))


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_shapes_follow_the_batch(toy_agent, batch):
    state, action, goal = _inputs(batch)
    observation = np.concatenate([state, goal], -1)
    assert toy_agent.act(observation).shape == (*batch, 2)
    assert toy_agent.act(observation, jax.random.key(0)).shape == (*batch, 2)
    assert toy_agent.q(state, action, goal).shape == batch
    assert toy_agent.embed(state, action).shape == (*batch, 64)
    assert toy_agent.embed_goal(goal).shape == (*batch, 64)


def test_numpy_and_jax_in_give_the_same(toy_agent):
    state, action, goal = _inputs((5,))
    for convert in (jnp.asarray, lambda x: x.astype(np.float64)):
        np.testing.assert_array_equal(
            toy_agent.q(state, action, goal), toy_agent.q(convert(state), convert(action), convert(goal))
        )
        observation = np.concatenate([state, goal], -1)
        np.testing.assert_array_equal(toy_agent.act(observation), toy_agent.act(convert(observation)))


def test_q_is_minus_the_distance_of_the_embeddings(toy_agent):
    state, action, goal = _inputs((50,))
    phi, psi = (np.asarray(x, float) for x in (toy_agent.embed(state, action), toy_agent.embed_goal(goal)))
    q = toy_agent.q(state, action, goal)
    np.testing.assert_allclose(q, -np.sqrt(((phi - psi) ** 2).sum(-1)), rtol=1e-4)
    assert (np.asarray(q) < 0).all()


def test_rows_do_not_touch_each_other(toy_agent):
    state, action, goal = _inputs((5,))
    alone = [float(toy_agent.q(state[k], action[k], goal[k])) for k in range(5)]
    np.testing.assert_allclose(toy_agent.q(state, action, goal), alone, rtol=1e-4)
    # Batch dimensions broadcast against each other where they are spelled out.
    grid = toy_agent.q(*(np.broadcast_to(x[:1], x.shape) for x in (state, action)), goal)
    np.testing.assert_allclose(grid[0], alone[0], rtol=1e-4)


def test_actions(toy_agent):
    observation = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    mean = np.asarray(toy_agent.act(observation))
    np.testing.assert_array_equal(mean, toy_agent.act(observation))
    key = jax.random.key(1)
    drawn = np.asarray(toy_agent.act(observation, key))
    np.testing.assert_array_equal(drawn, toy_agent.act(observation, key))
    assert (drawn != toy_agent.act(observation, jax.random.key(2))).mean() > 0.9
    for action in (mean, drawn):
        assert np.abs(action).max() <= 1
    # Draws scatter about the mean, in the units before the tanh.
    expected, log_std = toy_agent.actor.distribution(toy_agent.params["actor"], observation)
    z = (np.arctanh(np.clip(drawn, -0.999999, 0.999999)) - expected) / np.exp(log_std)
    assert abs(float(z.mean())) < 0.2
    assert float(z.std()) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(np.arctanh(mean), expected, atol=1e-3)


def test_an_agent_tells_what_it_is(toy_agent, toy_run):
    assert toy_agent.facts == {
        "algorithm": "crl",
        "env": "point_u_maze",
        "network": "full network",
        "depth": 4,
        "width": 8,
        "actor_depth": 4,
        "actor_width": 8,
        "batch_size": 8,
        "seed": 0,
        "env_steps": 280,
    }
    assert toy_agent.env.id == "point_u_maze"
    assert toy_agent.eval_env is toy_agent.env
    assert toy_agent.source == toy_run / "checkpoints" / "280"
    assert toy_agent.config["gamma"] == 0.99


def test_shapes_come_from_the_config(tmp_path):
    changes = {"actor__depth": 8, "critic__width": 5, "actor__layer_norm": False, "critic__residual": False}
    config = toy_config(**changes, critic__activation="relu", env="point_u2_maze", eval_env="point_u2_maze_eval")
    agent = crlviz.load(untrained_run(tmp_path / "run", config))
    assert agent.params["actor"]["blocks"]["layer_0"]["dense"]["kernel"].shape == (2, 8, 8)
    assert "norm" not in agent.params["actor"]["stem"]
    assert agent.params["critic"]["phi"]["stem"]["dense"]["kernel"].shape == (6, 5)
    assert agent.critic.config.activation == "relu"
    assert not agent.critic.config.residual
    assert (agent.facts["depth"], agent.facts["actor_depth"], agent.facts["width"]) == (4, 8, 5)
    assert (agent.env.id, agent.eval_env.id) == ("point_u2_maze", "point_u2_maze_eval")
    assert agent.q(*_inputs((3,))).shape == (3,)


def test_an_agent_of_your_own_layout(tmp_path):
    config = toy_config(env="point_maze", layout=tuple(ROOM))
    agent = crlviz.load(untrained_run(tmp_path / "run", config))
    assert agent.env.maze.rows == tuple(ROOM)
    assert agent.env.id == "point_maze"


def _python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_crlviz_waits_for_nothing():
    _python(
        "import sys, crlviz, crlviz.cli; slow = {'jax', 'brax', 'flax', 'altair', 'xarray', 'pandas', 'scipy'}; "
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys(); assert 'load' in dir(crlviz)"
    )


def test_names_of_the_package():
    import crlviz.agent
    import crlviz.rollouts

    assert crlviz.load is crlviz.agent.load
    assert crlviz.rollout is crlviz.rollouts.rollout
    assert all(hasattr(crlviz, name) for name in crlviz.__all__)
    with pytest.raises(AttributeError, match="laod"):
        _ = crlviz.laod


def test_a_point_masss_heatmap_imports_no_physics():
    _python(
        "import sys, crlviz.envs, analyses.heatmap; crlviz.envs.make('point_u_maze'); "
        "slow = {'brax', 'mujoco', 'trimesh', 'scipy.stats'} & sys.modules.keys(); assert not slow, slow"
    )
