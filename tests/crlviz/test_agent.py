"""The Agent: shapes, agreement of its functions, its facts, and its error messages."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import datasets
from crlviz.errors import UsageError
from tests.helpers.toys import ROOM, toy_config, untrained_run
from training.config import names

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


def test_rows_of_a_batch_are_independent(toy_agent):
    state, action, goal = _inputs((5,))
    single = [float(toy_agent.q(state[k], action[k], goal[k])) for k in range(5)]
    np.testing.assert_allclose(toy_agent.q(state, action, goal), single, rtol=1e-4)
    # Batch dimensions of states and goals broadcast against each other.
    grid = toy_agent.q(*(np.broadcast_to(x[:1], x.shape) for x in (state, action)), goal)
    np.testing.assert_allclose(grid[0], single[0], rtol=1e-4)


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
    # Before the tanh, samples have the mean and the standard deviation of the distribution.
    expected, log_std = toy_agent.actor.distribution(toy_agent.params["actor"], observation)
    z = (np.arctanh(np.clip(drawn, -0.999999, 0.999999)) - expected) / np.exp(log_std)
    assert abs(float(z.mean())) < 0.2
    assert float(z.std()) == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(np.arctanh(mean), expected, atol=1e-3)


def test_facts_of_an_agent(toy_agent, toy_run):
    assert {name: toy_agent.facts[name] for name in datasets.FACTS} == {
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


def test_a_setting_that_an_older_config_lacks_has_its_default(toy_agent):
    kept = ("loss_bound", "on_nan", "rewinds", "save_every", "keep", "save_replay")
    config = {
        name: value for name, value in toy_agent.config.items() if name not in (*kept, "precision", "env_options")
    }
    for network in ("actor", "critic"):
        config[network] = {name: value for name, value in config[network].items() if name not in ("tail", "remat")}
    old = dataclasses.replace(toy_agent, config=config, source=Path("old"))
    assert old.facts.items() <= toy_agent.facts.items()
    assert toy_agent.facts.keys() - old.facts.keys() == set(kept)
    assert datasets.differing([old, dataclasses.replace(toy_agent, env_steps=7)]) == ["env_steps"]
    new = dataclasses.replace(toy_agent, config=toy_agent.config | {"precision": "bfloat16"})
    assert datasets.values([old, new], "precision") == ["float32", "bfloat16"]
    assert datasets.differing([old, new]) == ["precision"]


def test_every_setting_is_a_fact(toy_agent):
    """Every setting of the training config, and every option of the environment."""
    config = toy_config(gamma=0.5, crl__learning_rate=0.25, critic__remat=True)
    facts = dataclasses.replace(toy_agent, config=dataclasses.asdict(config)).facts
    assert (facts["gamma"], facts["crl.learning_rate"], facts["critic.remat"]) == (0.5, 0.25, True)
    covered = {"actor.depth", "actor.width", "critic.depth", "critic.width"}  # by depth, width, network
    covered |= {
        f"{network}.{name}"
        for network in ("actor", "critic")
        for name in ("layer_norm", "activation", "residual", "kind", "sphere")
    }
    assert set(names(config)) - facts.keys() == covered | {"env_options"}
    ant = dataclasses.replace(toy_agent, config=dataclasses.asdict(toy_config(env="ant")))
    assert ant.facts["env_options.backend"] == "spring"


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


def test_an_agent_in_a_custom_maze(tmp_path):
    config = toy_config(env="point_maze", layout=tuple(ROOM))
    agent = crlviz.load(untrained_run(tmp_path / "run", config))
    assert agent.env.maze.rows == tuple(ROOM)
    assert agent.env.id == "point_maze"


def test_repr_is_one_line(toy_agent):
    source = toy_agent.source
    assert repr(toy_agent) == f"Agent(point_u_maze, depth 4, width 8, 280 environment steps, seed 0, from {source})"


def test_lists_are_accepted_as_arrays(toy_agent):
    state, action, goal = ([0.5, 0, 0, 0], [0, 1], [1, -1])
    observation = [*state, *goal]
    np.testing.assert_array_equal(toy_agent.act([observation]), toy_agent.act(np.array([observation])))
    results = toy_agent.q(state, action, goal), toy_agent.q(*map(np.array, (state, action, goal)))
    np.testing.assert_array_equal(*results)
    assert toy_agent.embed([state] * 2, [action] * 2).shape == (2, 64)
    assert toy_agent.embed_goal([goal]).shape == (1, 64)
    # Inside a traced function the numbers are unknown, so they are not checked.
    np.testing.assert_allclose(jax.jit(toy_agent.act)(jnp.array(observation)), toy_agent.act(observation), atol=1e-6)


S, A, G = [0.0] * 4, [0.0] * 2, [0.0] * 2


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        (
            "act",
            ([0.0] * 5,),
            "observation has shape (5,); point_u_maze takes [..., 6]: 4 of the state and 2 of the goal",
        ),
        ("act", (0.0,), "observation has shape (); point_u_maze takes [..., 6]"),
        ("act", ([[0.0] * 6, [0.0]],), "observation is not an array of numbers"),
        ("act", ("east",), "observation is not an array of numbers"),
        ("act", (None,), "observation holds numbers that are not finite: nan"),
        ("act", ([0.0] * 5 + [float("nan")],), "observation holds numbers that are not finite: nan"),
        ("act", (jnp.full(6, jnp.inf),), "observation holds numbers that are not finite: inf"),
        ("act", ([1e300] * 6,), "not finite"),
        ("act", ([0.0] * 6, 7), "key is 7; give a random key"),
        ("q", (S, [0.0] * 3, G), "action has shape (3,); point_u_maze takes [..., 2]"),
        ("q", (S, A, [0.0]), "goal has shape (1,); point_u_maze takes [..., 2]"),
        ("q", ([S] * 3, [A] * 2, G), "states of shape (3, 4) and actions of shape (2, 2) have different batch shapes"),
        ("q", ([S] * 3, [A] * 3, [G] * 2), "(3, 4) and goals of shape (2, 2) have different batch shapes"),
        ("embed", ([0.0], A), "state has shape (1,); point_u_maze takes [..., 4]"),
        ("embed_goal", ([[G[0]]],), "goal has shape (1, 1); point_u_maze takes [..., 2]"),
    ],
)
def test_bad_inputs_of_an_agent_raise_one_sentence(toy_agent, function, arguments, words):
    with pytest.raises(UsageError) as error:
        getattr(toy_agent, function)(*arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"goals": [[1.0, 1.0]]}, "goals have shape (1, 2); 2 episodes of point_u_maze take (2, 2)"),
        ({"starts": [[1.0, float("nan")]] * 2}, "starts holds numbers that are not finite"),
        ({"goals": [["x", 1], [1, 1]]}, "goals is not an array of numbers"),
        ({"length": 2.5}, "give whole numbers"),
    ],
)
def test_bad_inputs_of_a_rollout_raise_one_sentence(toy_agent, options, words):
    with pytest.raises(UsageError) as error:
        crlviz.rollout(toy_agent, 2, **options)
    assert words in str(error.value)


def test_a_rollout_takes_lists(toy_agent):
    goals = toy_agent.env.maze.xy(toy_agent.env.maze.goals[:1]).tolist()
    runs = crlviz.rollout(toy_agent, 1, goals=goals, length=2)
    np.testing.assert_allclose(runs.goal.values, goals)


def _python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_crlviz_imports_no_slow_package():
    _python(
        "import sys, crlviz, crlviz.cli; slow = {'jax', 'brax', 'flax', 'altair', 'xarray', 'pandas', 'scipy'}; "
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys(); assert 'load' in dir(crlviz)"
    )


def test_public_names_of_the_package():
    import crlviz.agent
    import crlviz.rollouts

    assert crlviz.load is crlviz.agent.load
    assert crlviz.rollout is crlviz.rollouts.rollout
    assert all(hasattr(crlviz, name) for name in crlviz.__all__)
    with pytest.raises(AttributeError, match="laod"):
        _ = crlviz.laod


def test_a_heatmap_of_a_point_mass_imports_no_physics():
    _python(
        "import sys, crlviz.envs, analyses.heatmap; crlviz.envs.make('point_u_maze'); "
        "slow = {'brax', 'mujoco', 'trimesh', 'scipy.stats'} & sys.modules.keys(); assert not slow, slow"
    )
