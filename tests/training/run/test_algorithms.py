"""What every algorithm of the registry must do, from its first update to the Agent of its checkpoint."""

import dataclasses
import re
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm, Batch, HasEmbeddings, HasQ, Sizes, shapes
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import UsageError
from crlviz.networks.residual import NetworkConfig
from tests.helpers.toys import toy_config
from tests.torture.runs import differences
from training import config as configs
from training import trainer
from training.config import TrainConfig
from training.loop import divergence
from training.loop.train_loop import update_or_skip

SIZES, COUNT = Sizes(4, 2, 2), 8
each = pytest.mark.parametrize("name", registry.NAMES)


def built(name: str, depth: int = 4, width: int = 8) -> Algorithm:
    network = NetworkConfig(depth, width)
    return registry.build(name, registry.of(name).Config(), network, network, SIZES, gamma=0.9)


def batch_of(algorithm: Algorithm, seed: int = 0) -> Batch:
    """Random rows that a buffer could give: actions within their bounds, rewards and flags 0 or 1."""
    rng = np.random.default_rng(seed)
    wanted = shapes(algorithm.rows, SIZES, COUNT)
    batch = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), wanted)
    flags = {
        name: (value > 0).astype(float) for name, value in vars(batch).items() if value is not None and value.ndim == 1
    }
    return batch.replace(action=jnp.tanh(batch.action), **flags)


@cache
def _updated(name: str):
    """A learner before and after three updates, a skipped one after those, and the metrics."""
    algorithm = built(name)

    @jax.jit
    def run(key):
        first = learner = algorithm.init(key)
        found = []
        for index in range(3):
            learner, metrics = algorithm.update(learner, jax.random.fold_in(key, index), batch_of(algorithm))
            found.append(metrics)
        gradients, _ = algorithm.gradients(learner, key, batch_of(algorithm, 1))
        return first, learner, algorithm.step(learner, gradients, jnp.array(True)), gradients, found

    return run(jax.random.key(0))


@each
def test_updates_are_finite_and_change_all_networks(name):
    algorithm = registry.of(name)
    first, last, _, gradients, metrics = _updated(name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((last, gradients, metrics)))
    for found in metrics:
        assert set(found) == set(algorithm.columns())
        assert {np.shape(value) for value in found.values()} == {()}
    networks = built(name).networks
    for part, before in networks(first).items():
        moved = [
            not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, networks(last)[part])), strict=True)
        ]
        assert np.mean(moved) > 0.9, part
    assert jax.tree.structure(first) == jax.tree.structure(last)


@each
def test_a_skipped_update_changes_nothing(name):
    _, last, skipped, _, _ = _updated(name)
    for before, after in zip(*map(jax.tree.leaves, (last, skipped)), strict=True):
        np.testing.assert_array_equal(before, after)


@each
def test_what_is_trained_and_what_a_checkpoint_holds_are_parts_of_the_learner(name):
    algorithm = built(name)
    learner = jax.eval_shape(algorithm.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, algorithm.networks(learner)) == jax.tree.map(
        jnp.shape, dict(algorithm.network_shapes)
    )
    parts = [jnp.shape(leaf) for leaf in jax.tree.leaves(learner)]
    for leaf in jax.tree.leaves(algorithm.trained(learner)):
        assert jnp.shape(leaf) in parts
    assert "actor" in algorithm.network_shapes


@each
def test_a_number_that_is_not_finite_is_found_and_skipped(name):
    algorithm = built(name)
    learner = jax.jit(algorithm.init)(jax.random.key(0))
    batch = batch_of(algorithm)
    bad = batch.replace(state=batch.state.at[0, 0].set(jnp.nan))
    step = jax.jit(
        lambda batch: update_or_skip(
            algorithm, 1e6, (learner, divergence.none()), jnp.array(0), jax.random.key(1), batch
        )[0]
    )
    for rows, found in ((batch, False), (bad, True)):
        after, diverged = step(rows)
        assert bool(diverged.found) == found
        same = [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (learner, after)), strict=True)]
        assert all(same) == found
    watched = divergence.watched(algorithm.losses)[int(diverged.quantity)]
    assert re.search("loss|gradient", watched)


@each
@pytest.mark.parametrize("depth", [4, 64])
def test_depth_adds_layers_and_cost(name, depth):
    shallow, deep = (built(name, depth * times).cost(COUNT) for times in (1, 2))
    assert 1.4 < deep["parameters"] / shallow["parameters"] < 2
    assert 1.4 < deep["flops_per_update"] / shallow["flops_per_update"] < 2


@each
def test_actions_are_deterministic_or_explored(name):
    algorithm = built(name)
    params = jax.jit(lambda key: algorithm.networks(algorithm.init(key)))(jax.random.key(0))
    observation = jax.random.normal(jax.random.key(1), (3, 5, 6))
    act = jax.jit(algorithm.act)
    still, one, other = act(params, observation), *(act(params, observation, jax.random.key(k)) for k in (2, 3))
    assert still.shape == one.shape == (3, 5, 2)
    assert all(float(jnp.abs(action).max()) <= 1 for action in (still, one, other))
    np.testing.assert_array_equal(still, act(params, observation))
    assert not np.allclose(one, other)
    alone = act(params, observation[1, 2])
    np.testing.assert_allclose(alone, still[1, 2], atol=1e-5)


@each
def test_abilities_give_one_number_or_one_vector_for_each_row(name):
    algorithm = built(name)
    params = jax.jit(lambda key: algorithm.networks(algorithm.init(key)))(jax.random.key(0))
    state, action, goal = jnp.ones((3, 4)), jnp.zeros((3, 2)), jnp.ones((3, 2))
    if isinstance(algorithm, HasQ):
        assert algorithm.q(params, state, action, goal).shape == (3,)
        assert all(algorithm.q_meaning)
    if isinstance(algorithm, HasEmbeddings):
        assert algorithm.embed(params, state, action).shape == algorithm.embed_goal(params, goal).shape


# ---- whole runs


@pytest.fixture(scope="module", params=registry.NAMES)
def trained(request, tmp_path_factory):
    """A complete run of each algorithm with two seeds."""
    folder = tmp_path_factory.mktemp("algorithms")
    config = toy_config(algorithm=request.param)
    outs = {seed: folder / f"seed{seed}" for seed in (0, 1)}
    trainer.train_seeds(config, outs, progress=False)
    return request.param, config, outs


def test_a_run_holds_its_own_settings_columns_and_networks(trained):
    name, config, outs = trained
    content = RunDirectory(outs[0]).read_config()
    assert content["algorithm"] == name
    sections = set(map(registry.section, registry.NAMES)) & content["config"].keys()
    assert sections == {registry.section(name)}
    assert "algorithm" not in content["config"]
    assert configs.read_run(outs[0]) == config
    rows = RunDirectory(outs[0]).read_metrics()
    assert tuple(rows[0]) == metrics_table.columns(registry.of(name).columns())
    assert all(np.isfinite(float(value)) for value in rows[-1].values())
    files = {path.stem for path in (RunDirectory(outs[0]).checkpoints()[-1]).glob("*.safetensors")}
    assert files == set(built(name).network_shapes)


def test_two_seeds_differ(trained):
    _, _, outs = trained
    first, second = (RunDirectory(out).read_metrics()[-1]["actor_loss"] for out in outs.values())
    assert first != second


def test_a_run_that_died_resumes_bit_for_bit(trained, tmp_path, killed):
    name, _, outs = trained
    run = killed(tmp_path / "run", 3, algorithm=name)
    assert not RunDirectory(run).finished()
    trainer.resume(run, progress=False)
    assert differences(run, outs[0]) == []


def test_a_checkpoint_is_an_agent_that_acts_as_its_networks(trained):
    name, _, outs = trained
    agent = crlviz.load(outs[0])
    assert agent.facts["algorithm"] == name
    observation = np.linspace(-1, 1, 12).reshape(2, 6)
    inputs = agent.params, jnp.asarray(observation, jnp.float32)
    np.testing.assert_allclose(agent.act(observation), jax.jit(built(name).act)(*inputs), atol=1e-6)
    state, action, goal = np.ones((2, 4)), np.zeros((2, 2)), np.ones((2, 2))
    for ability, ask in (
        (HasQ, lambda: agent.q(state, action, goal)),
        (HasEmbeddings, lambda: agent.embed(state, action)),
        (HasEmbeddings, lambda: agent.embed_goal(goal)),
    ):
        if isinstance(agent.algorithm, ability):
            assert np.isfinite(ask()).all()
        else:
            with pytest.raises(UsageError, match=f"trained by {re.escape(name)}, which has no {ability.noun}"):
                ask()
    assert set(crlviz.rollout(agent, 2, length=3)) >= {"state", "action"}
    assert ("q" in crlviz.rollout(agent, 2, length=3)) == isinstance(agent.algorithm, HasQ)


# ---- settings


@each
def test_settings_are_those_of_the_algorithm(name):
    section, cls = registry.section(name), registry.of(name)
    assert type(getattr(TrainConfig(env=""), section)) is cls.Config
    known = configs.names(TrainConfig(env="", algorithm=name))
    assert {known_name.partition(".")[0] for known_name in known if "." in known_name} == {"actor", "critic", section}
    for field in dataclasses.fields(cls.Config):
        assert f"{section}.{field.name}" in known
    set_to = configs.from_options("point_u_maze", "smoke", {"algorithm": name}, [f"{section}.learning_rate=0.5"])
    assert set_to.own.learning_rate == 0.5
    assert configs.load(configs.content(set_to)["config"] | {"algorithm": name}) == set_to
    with pytest.raises(UsageError, match=f"{section}.learning_rate is -1.0; it must be positive and finite"):
        configs.from_options("point_u_maze", "smoke", {"algorithm": name}, [f"{section}.learning_rate=-1"])
    other = next(other for other in map(registry.section, registry.NAMES) if other != section)
    with pytest.raises(UsageError, match=f"{other}.learning_rate is no setting of {re.escape(name)}; known are env,"):
        configs.from_options("point_u_maze", "smoke", {"algorithm": name}, [f"{other}.learning_rate=1"])


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(UsageError, match="no algorithm is called 'dqn'; take crl, "):
        configs.from_options("point_u_maze", "smoke", {"algorithm": "dqn"})


def test_names_are_known_without_jax():
    code = "import sys; from crlviz.algorithms import registry; print(registry.NAMES, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{registry.NAMES} False"
