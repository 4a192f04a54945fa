"""Programs in JavaScript against the jax programs that they were made of."""

import jax
import numpy as np
import pytest

from crlviz import envs
from crlviz.browser.emitter import emit
from crlviz.browser.tracing import RULES
from crlviz.errors import CrlvizError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic
from tests.helpers import node


def test_a_point_mass_walks_as_in_jax(tmp_path):
    env = envs.make("point_u_maze")
    states = jax.device_get(jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 200)))
    actions = np.random.default_rng(0).uniform(-2, 2, (200, 2)).astype(np.float32)
    rows = [jax.tree.map(lambda leaf, n=n: leaf[n], (states, actions)) for n in range(200)]
    program = emit("step", env.step, *rows[0])
    expected = jax.jit(jax.vmap(env.step))(states, actions)
    got = node.run(program, rows, tmp_path)
    for number, leaf in enumerate(jax.tree.leaves(expected)):
        np.testing.assert_allclose([row[number] for row in got], leaf, atol=1e-6)


def test_outputs_may_be_the_next_inputs_though_they_change_places(tmp_path):
    program = emit("a swap", lambda x, y: (y, x, x + y), np.zeros(3, np.float32), np.ones(3, np.float32))
    rows = node.walk(program, [np.float32([1, 2, 3]), np.float32([4, 5, 6])], [()] * 3, tmp_path)
    np.testing.assert_array_equal([row[0] for row in rows], [[4, 5, 6], [1, 2, 3], [4, 5, 6]])
    assert [leaf[:2] for leaf in program.inputs] == [("[0]", (3,)), ("[1]", (3,))]


def test_an_unknown_operation_is_named():
    for function, what in ((jax.lax.lgamma, "lgamma"), (jax.numpy.fft.fft, "convert_element_type on complex64")):
        with pytest.raises(CrlvizError, match=f"^the step of a body uses the operation {what}, which"):
            emit("the step of a body", function, np.zeros(4, np.float32))


def test_large_constants_are_halved_on_request(tmp_path):
    table = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    whole, half = (
        emit("a product", lambda x: x @ table, np.zeros(40, np.float32), half=half) for half in (False, True)
    )
    assert len(half.constants) == len(whole.constants) - 2 * table.size
    x = np.ones(40, np.float32)
    rounded = table.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(node.run(half, [x], tmp_path)[0][0], x @ rounded, rtol=1e-4, atol=1e-5)


def test_what_nothing_needs_is_not_emitted():
    costly = emit("a part", lambda x: (jax.numpy.sin(x), jax.numpy.tanh(x))[0], np.zeros(4, np.float32))
    assert "Math.sin" in costly.source
    assert "Math.tanh" not in costly.source


@pytest.mark.parametrize(
    ("depth", "width", "start"),
    [
        (4, 16, "norm"),
        (16, 64, "paper"),
        *(pytest.param(d, w, "paper", marks=pytest.mark.slow) for d, w in [(64, 256), (256, 64)]),
    ],
)
def test_networks_of_any_depth_agree(depth, width, start, tmp_path):
    config = NetworkConfig(depth, width, start=start)
    actor, critic = Actor(config, 29, 8), Critic(config, 27, 8, 2)
    params, other = jax.jit(lambda key: (actor.init(key), critic.init(key)))(jax.random.key(0))

    def function(x):
        action = actor.mean_action(params, x)
        return action, critic.phi(other, x[:, :27], action), critic.psi(other, x[:, :2])

    x = np.random.default_rng(0).normal(size=(5, 29)).astype(np.float32)
    program = emit("networks", function, x)
    for got, expected in zip(node.run(program, [x], tmp_path)[0], jax.jit(function)(x), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4, rtol=1e-4)
    assert len(program.source) < 30_000  # whatever the depth


def test_a_fault_in_a_rule_is_no_unknown_operation(monkeypatch):
    """A name that a rule looks up in vain is a bug, and must not blame the body that is emitted."""

    def faulty(trace, operands, params, out, name):
        return params["no such parameter"]

    monkeypatch.setitem(RULES, "sin", faulty)
    with pytest.raises(KeyError, match="no such parameter"):
        emit("the step of a body", jax.numpy.sin, np.zeros(4, np.float32))
