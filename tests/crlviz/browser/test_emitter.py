"""Programs in JavaScript against the jax programs that they were made of."""

import jax
import numpy as np

from crlviz import envs
from crlviz.browser.emitter import emit
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
