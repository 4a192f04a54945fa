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
from flax.traverse_util import flatten_dict

import crlviz
from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm, HasEmbeddings, HasQ
from crlviz.algorithms.batches import Batch, Sizes, shapes
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from tests.helpers.toys import toy_config
from tests.torture.runs import differences
from training import config as configs
from training import trainer
from training.config import TrainConfig
from training.loop import divergence
from training.loop.train_loop import update_or_skip

SIZES, COUNT = Sizes(4, 2, 2), 8
each = pytest.mark.parametrize("name", registry.NAMES)
# What compiles an update: of a contrastive critic and a bootstrapped one, whose parts the others share.
QUICK = ("crl", "sac")
each_compiled = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in registry.NAMES]
)


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
def _program(name: str):
    """The first learner, and a compiled update as a training step makes it: (learner, divergence), batch -> both."""
    algorithm = built(name)

    @jax.jit
    def update(carry, batch):
        return update_or_skip(algorithm, 1e6, carry, jnp.array(0), jax.random.key(1), batch)

    return jax.jit(algorithm.init)(jax.random.key(0)), update


def _same(before, after) -> list[bool]:
    """For each array of two trees, whether it is equal."""
    return [np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)]


@each_compiled
def test_updates_are_finite_and_change_all_networks(name):
    algorithm = built(name)
    first, update = _program(name)
    carry = first, divergence.none()
    for index in range(3):
        carry, metrics = update(carry, batch_of(algorithm, index))
        assert set(metrics) == set(algorithm.columns())
        assert {np.shape(value) for value in metrics.values()} == {()}
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((carry[0], metrics)))
    assert not carry[1].found
    assert jax.tree.structure(first) == jax.tree.structure(carry[0])
    for part, before in algorithm.networks(first).items():
        assert np.mean(_same(before, algorithm.networks(carry[0])[part])) < 0.1, part


@each_compiled
def test_from_a_bad_update_on_nothing_changes(name):
    algorithm = built(name)
    first, update = _program(name)
    batch = batch_of(algorithm)
    carry, _ = update((first, divergence.none()), batch.replace(state=batch.state.at[0, 0].set(jnp.nan)))
    assert carry[1].found
    assert re.search("loss|gradient", divergence.watched(algorithm.losses)[int(carry[1].quantity)])
    assert all(_same(first, carry[0]))
    assert all(_same(first, update(carry, batch)[0][0]))  # a good one after it is skipped too


@each
def test_what_is_trained_and_what_a_checkpoint_holds_are_parts_of_the_learner(name):
    algorithm = built(name)
    learner = jax.eval_shape(algorithm.init, jax.random.key(0))
    held = jax.tree.map(jnp.shape, dict(algorithm.networks(learner)))
    assert held == jax.tree.map(jnp.shape, dict(algorithm.network_shapes))
    assert "actor" in held
    shapes_of_all = {jnp.shape(leaf) for leaf in jax.tree.leaves(learner)}
    assert {jnp.shape(leaf) for leaf in jax.tree.leaves(algorithm.trained(learner))} <= shapes_of_all


@pytest.mark.slow
@each_compiled
def test_hyperspherical_networks_stay_on_the_sphere(name):
    """Each step ends with unit weights in every hidden layer of what acts and values, and a skipped one as it began."""
    network = NetworkConfig(4, 8, layer_norm=False, sphere=True)
    algorithm = registry.build(name, registry.of(name).Config(), network, network, SIZES, gamma=0.9)
    learner = jax.jit(algorithm.init)(jax.random.key(0))
    gradients, _ = jax.eval_shape(algorithm.gradients, learner, jax.random.key(1), batch_of(algorithm))
    gradients = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape), gradients)
    step = jax.jit(algorithm.step)
    for skip in (False, True):
        before, learner = learner, step(learner, gradients, skip)
        for path, kernel in flatten_dict(algorithm.networks(learner), sep="/").items():
            if path.endswith("dense/kernel"):
                np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=-2), 1, rtol=1e-6)
    for old, new in zip(*map(jax.tree.leaves, (before, learner)), strict=True):
        np.testing.assert_array_equal(old, new)


@each_compiled
@pytest.mark.parametrize("depth", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_depth_adds_layers_and_cost(name, depth):
    shallow, deep = (built(name, depth * times, 64).cost(COUNT) for times in (1, 2))
    assert 1.75 < deep["parameters"] / shallow["parameters"] < 2
    assert 1.75 < deep["flops_per_update"] / shallow["flops_per_update"] < 2


@each
def test_actions_are_deterministic_or_explored(name):
    algorithm = built(name)
    params = algorithm.networks(_program(name)[0])
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
    params = algorithm.networks(_program(name)[0])
    state, action, goal = jnp.ones((3, 4)), jnp.zeros((3, 2)), jnp.ones((3, 2))
    if isinstance(algorithm, HasQ):
        assert algorithm.q(params, state, action, goal).shape == (3,)
        assert all(algorithm.q_meaning)
    if isinstance(algorithm, HasEmbeddings):
        assert algorithm.embed(params, state, action).shape == algorithm.embed_goal(params, goal).shape


# ---- whole runs


# The quick suite trains one of each kind of rows and networks; the others share its code.
_QUICK = ("crl", "sac+her")
_RUNS = [
    pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow)
    for name in registry.NAMES
    if registry.of(name).online  # test_dataset_runs.py trains the others
]


@pytest.fixture(scope="module", params=_RUNS)
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
            lack = agent.algorithm.lacks.get(ability, ability.noun)
            with pytest.raises(UsageError, match=f"trained by {re.escape(name)}, which has no {lack}"):
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
    with pytest.raises(
        UsageError, match=f"{other}.learning_rate is not a setting of {re.escape(name)}; known are env,"
    ):
        configs.from_options("point_u_maze", "smoke", {"algorithm": name}, [f"{other}.learning_rate=1"])


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(UsageError, match="no algorithm is called 'dqn'; take crl, "):
        configs.from_options("point_u_maze", "smoke", {"algorithm": "dqn"})


def test_names_are_known_without_jax():
    code = "import sys; from crlviz.algorithms import registry; print(registry.NAMES, 'jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{registry.NAMES} False"
