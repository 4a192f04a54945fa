"""FLOPs of matrix products, against the formula and against XLA's count of unrolled programs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from crlviz.algorithms.batches import shapes
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.networks import flops
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic

STATE, ACTION, GOAL, EMBEDDING = 4, 2, 2, 64


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def test_products_by_definition():
    assert flops.count(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert flops.count(lambda a, b: jnp.einsum("bij,bkj->bik", a, b), shape(2, 3, 5), shape(2, 4, 5)) == 2 * 2 * 12 * 5
    assert flops.count(jnp.sin, shape(100)) == 0
    assert flops.count(jnp.matmul, shape(3, 5), shape(5)) == 0  # matrix-vector products do not count


def test_loops_branches_and_nested_programs():
    @jax.jit
    def product(x):
        return x @ x

    one = 2 * 8**3
    x = shape(8, 8)
    assert flops.count(lambda x: jax.lax.scan(lambda y, _: (product(y), None), x, length=7)[0], x) == 7 * one
    assert flops.count(lambda x: jax.lax.cond(x[0, 0] > 0, lambda y: product(product(y)), product, x), x) == 2 * one
    assert flops.count(jax.checkpoint(product), x) == one
    with pytest.raises(ValueError, match="while loop"):
        flops.count(lambda x: jax.lax.while_loop(lambda y: y[0, 0] < 9, product, x), x)


def algorithm(depth, width):
    network = NetworkConfig(depth, width)
    return CRL(CRLConfig(), Actor(network, STATE + GOAL, ACTION), Critic(network, STATE, ACTION, GOAL))


@pytest.mark.parametrize(
    ("depth", "width", "batch"), [(4, 16, 8), (8, 16, 8), (64, 16, 8), (1024, 32, 16), (4, 64, 32)]
)
def test_an_update_against_the_formula(depth, width, batch):
    """A Dense layer with n inputs and m outputs takes 2nm FLOPs per row: forward, for the gradient of its weights, and
    for the gradient of its inputs. The first layer needs the last only in the actor's update, by the action."""

    def forward(inputs, outputs):
        return 2 * (inputs * width + depth * width**2 + width * outputs)

    actor, phi = forward(STATE + GOAL, 2 * ACTION), forward(STATE + ACTION, EMBEDDING)
    psi = forward(GOAL, EMBEDDING)
    first = {n: 2 * n * width for n in (STATE + GOAL, STATE + ACTION, GOAL)}
    actor_step = 3 * actor - first[STATE + GOAL] + 2 * phi  # phi forward and backward to the action; psi is reused
    critic_step = 3 * phi - first[STATE + ACTION] + 3 * psi - first[GOAL] + 2 * 2 * batch * EMBEDDING  # and the logits
    assert algorithm(depth, width).cost(batch)["flops_per_update"] == batch * (actor_step + critic_step)


def test_parameters_against_the_formula():
    depth, width = 8, 16
    norm, head = 2 * width, width + 1
    hidden = depth * (width**2 + width + norm)
    trunks = sum(n * width + width + norm + hidden for n in (STATE + GOAL, STATE + ACTION, GOAL))
    assert algorithm(depth, width).cost(8)["parameters"] == trunks + head * (2 * ACTION + 2 * EMBEDDING)


@pytest.mark.slow
def test_matrix_products_are_most_of_xlas_count(monkeypatch):
    """XLA counts the body of a scan once, so the scan is unrolled here. Both counts must grow alike with depth."""
    scan = nn.scan
    monkeypatch.setattr(nn, "scan", lambda *args, **options: scan(*args, **options, unroll=options["length"]))
    counts = {}
    for depth in (4, 8):
        method = algorithm(depth, 128)
        learner = jax.eval_shape(lambda method=method: method.init(jax.random.key(0)))
        batch = shapes(method.rows, method.sizes, 64)
        lowered = jax.jit(method.update).lower(learner, jax.random.key(0), batch)
        counts[depth] = method.cost(64)["flops_per_update"], lowered.cost_analysis()["flops"]
    (ours, xlas), (ours_deep, xlas_deep) = counts[4], counts[8]
    assert 0.85 < ours / xlas < 1
    assert 0.85 < (ours_deep - ours) / (xlas_deep - xlas) < 1
