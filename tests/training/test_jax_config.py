"""Results do not depend on the user's jax configuration, in a program or in the command."""

import contextlib
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import crlviz
from analyses import norms
from analyses.heatmap import q_map
from crlviz import envs, jax_config, rollouts
from crlviz.interchange import exporting
from crlviz.interchange.importing import import_runs
from tests.helpers.toys import toy_config
from tests.torture.runs import differences
from training import trainer

SWITCHED = {"jax_enable_x64": True, "jax_default_prng_impl": "rbg", "jax_threefry_partitionable": False}


@pytest.fixture
def switched():
    """A context in which each of these options of jax differs from what crlviz needs."""

    @contextlib.contextmanager
    def within():
        before = {name: getattr(jax.config, name) for name in SWITCHED}
        try:
            for name, value in SWITCHED.items():
                jax.config.update(name, value)
            yield
            assert {
                name: getattr(jax.config, name) for name in SWITCHED
            } == SWITCHED  # crlviz restores the user's values
        finally:
            for name, value in before.items():
                jax.config.update(name, value)

    return within


def test_a_run_is_the_same_bit_for_bit(switched, toy_run, tmp_path):
    with switched():
        trainer.train(toy_config(), tmp_path / "run", command=["crlviz", "train"], progress=False)
    assert differences(tmp_path / "run", toy_run) == []


@pytest.mark.slow
def test_results_of_an_agent_are_the_same(switched, toy_run, tmp_path, data):
    def computed(folder):
        agent = crlviz.load(toy_run)
        goal = np.zeros((3, agent.env.goal_dim))
        state, action = np.ones((3, agent.env.state_dim)), np.zeros((3, agent.env.action_size))
        arrays = [agent.q(state, action, goal), agent.embed(state, action), agent.embed_goal(goal)]
        arrays.append(agent.act(np.concatenate([state, goal], axis=1), jax.random.key(0, impl="threefry2x32")))
        folder.mkdir()
        (exported,) = exporting.export(agent, folder / "agent.safetensors")
        (run,) = import_runs([data / "runs" / "ant_big_maze_1000_20261121-001006"], folder / "theirs")
        files = [exported, *run.rglob("*.safetensors")]
        datasets = [q_map.compute([agent], coverage=True, resolution=2), norms.compute([agent], episodes=2)]
        datasets.append(rollouts.rollout(agent, 2, policy="sample"))
        return (
            [np.asarray(array) for array in arrays],
            datasets,
            [safetensors.numpy.load_file(file) for file in sorted(files)],
        )

    usual = computed(tmp_path / "usual")
    with switched():
        arrays, datasets, files = computed(tmp_path / "switched")
        made_of_float64 = crlviz.load(toy_run).embed_goal(jax.numpy.zeros((3, 2)))
    for got, wanted in zip(arrays, usual[0], strict=True):
        assert got.dtype == wanted.dtype == np.float32
        np.testing.assert_array_equal(got, wanted)
    for got, wanted in zip(datasets, usual[1], strict=True):
        assert got.identical(wanted)
    for got, wanted in zip(files, usual[2], strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, wanted)
    np.testing.assert_array_equal(made_of_float64, usual[0][2])
    assert made_of_float64.dtype == np.float32


def test_an_environment_uses_float32(switched):
    with switched():
        env = envs.make("point_u_maze")
    state = jax.jit(env.reset)(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(state) if leaf.dtype.kind == "f"} == {np.dtype("float32")}


@pytest.mark.slow
def test_the_command_ignores_the_variables(toy_run, tmp_path):
    variables = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0"}
    out = tmp_path / "map.json"
    command = [sys.executable, "-m", "crlviz", "heatmap", toy_run, "--resolution", "2", "--no-coverage", "--out", out]
    drawn = []
    for environment in ({}, variables):
        done = subprocess.run(
            list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        drawn.append(out.read_text())
    assert drawn[0] == drawn[1]


def test_programs_can_be_made_for_another_platform():
    assert jax_config.platform() == jax.default_backend()
    with jax_config.made_for("gpu"):
        assert jax_config.platform() == "gpu"
    assert jax_config.platform() == jax.default_backend()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="tells a CPU's programs from a GPU's")
def test_mjx_steps_a_batch_one_by_one_on_a_cpu_alone():
    """A plan for a GPU must compile the GPU's program: all states at once, not a loop over the batch."""
    from crlviz.envs.mjx import MjxState, sequential_on_cpu

    def forward(x):
        return MjxState(jax.numpy.sin(x), x, x, x, x)

    def text() -> str:
        return str(jax.make_jaxpr(jax.vmap(sequential_on_cpu(forward)))(jax.numpy.ones((4, 3))))

    assert "scan" in text()
    with jax_config.made_for("gpu"):
        assert "scan" not in text()
