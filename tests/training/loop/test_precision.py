"""``--precision``: which products are rounded, and the error of those that must stay exact, against float64."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.batches import shapes
from crlviz.algorithms.contrastive_losses import contrastive_loss
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.energies import pairwise_logits
from crlviz.envs import make
from crlviz.networks.config import NetworkConfig
from crlviz.networks.fused_layers import dense_norm_swish
from crlviz.networks.residual import Actor, Critic
from crlviz.precision import EXACT, within
from tests.helpers.rounded import MANTISSA, rounded

info_nce = partial(contrastive_loss, "forward")

PENALTY = 0.1
SHORT = pytest.mark.parametrize("precision", MANTISSA)
BATCH, WIDTH, DEPTH, STATE, ACTION, GOAL = 7, 24, 8, 5, 3, 2


def _gradients(phi: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradients of the critic's loss for phi and psi, written out term by term."""
    count = len(phi)
    difference = phi[:, None] - psi[None]
    logits = -np.linalg.norm(difference, axis=-1)
    normalizer = np.log(np.exp(logits).sum(1, keepdims=True))
    share = np.exp(logits - normalizer)
    slope = (share - np.eye(count) + 2 * PENALTY * (normalizer + 1e-6) * share) / count
    each = (slope / logits)[..., None] * difference
    return each.sum(1), -each.sum(0)


@SHORT
@pytest.mark.parametrize("spread", [1, 10], ids=["early", "late"])
def test_the_gradient_of_the_logits_is_that_of_float64(precision, spread):
    rng = np.random.default_rng(0)
    psi = spread * rng.normal(size=(64, 64)) + 5 * rng.normal(size=64)  # far from the origin, as trained embeddings are
    phi = psi + 0.1 * spread * rng.normal(size=psi.shape)
    phi, psi = phi.astype(np.float32), psi.astype(np.float32)
    with within(precision):
        gradient = jax.grad(lambda phi, psi: info_nce(pairwise_logits(phi, psi), PENALTY)[0], argnums=(0, 1))
        ours = rounded(gradient, MANTISSA[precision])(phi, psi)
    for found, truth in zip(ours, _gradients(phi.astype(float), psi.astype(float)), strict=True):
        assert np.linalg.norm(found - truth) < 1e-5 * np.linalg.norm(truth)
        assert np.median(np.abs(found - truth) / np.abs(truth)) < 1e-5


@SHORT
def test_sums_of_layer_norm_are_those_of_float64(precision):
    """Products with kernels are exact here, so all error comes from the rest."""
    rng = np.random.default_rng(1)
    layers = [
        {
            "dense": {"kernel": rng.normal(size=(WIDTH, WIDTH)), "bias": rng.normal(size=WIDTH)},
            "norm": {"scale": rng.uniform(0.5, 2, WIDTH), "bias": rng.normal(size=WIDTH)},
        }
        for _ in range(2)
    ]
    x, weight = rng.normal(size=(2, BATCH, WIDTH))

    def plain(layers, x):
        for layer in layers:
            y = x @ layer["dense"]["kernel"] + layer["dense"]["bias"]
            y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-6)
            x = jax.nn.swish(y * layer["norm"]["scale"] + layer["norm"]["bias"])
        return x

    with jax.enable_x64(True):
        truth = jax.jit(jax.grad(lambda layers, x: (plain(layers, x) * weight).sum(), argnums=(0, 1)))(layers, x)
    with within(precision):
        gradient = jax.grad(lambda layers, x: (dense_norm_swish(layers, x, EXACT) * weight).sum(), argnums=(0, 1))
        single = jax.tree.map(np.float32, (layers, x))
        ours = jax.jit(rounded(gradient, MANTISSA[precision]))(*single)
    for a, b in zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (ours, truth)), strict=True):
        assert b.dtype == np.float64
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)


@pytest.mark.parametrize(
    ("precision", "shape"),
    [("tf32", {}), pytest.param("bfloat16", {"activation": "relu"}, marks=pytest.mark.slow)],
    ids=["by hand", "by flax"],
)
def test_the_compiled_update_rounds_only_the_products_of_blocks(precision, shape):
    network = NetworkConfig(DEPTH, WIDTH, **shape)
    crl = CRL(CRLConfig(), Actor(network, STATE + GOAL, ACTION), Critic(network, STATE, ACTION, GOAL))
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = shapes(crl.rows, crl.sizes, BATCH)
    with within(precision):
        program = jax.jit(crl.gradients).lower(jax.eval_shape(crl.init, key), key, batch).compile()
    lines = [line for line in program.as_text().splitlines() if re.search(r" dot\(", line)]
    short = [line for line in lines if "operand_precision={highest,highest}" not in line]
    # Forward through the actor, phi (twice) and psi; backward to the inputs of each, to the kernels of phi only once.
    # The body of a scan occurs once, whatever the depth.
    assert len(short) == 11 * 4
    assert all("/blocks/" in line for line in short)
    # Nine products of stems and heads forward, thirteen back, and two of the logits; the others are sums of LayerNorm.
    exact = [line for line in lines if line not in short and f" f32[{BATCH},1]" not in line]
    assert len(exact) == 9 + 13 + 2


@pytest.mark.slow
def test_physics_and_agents_are_exact(toy_agent):
    env = make("reacher")
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(env.reset, key)
    action, observation = np.zeros(env.action_size), np.zeros((1, toy_agent.env.observation_size))
    calls = (env.reset, key), (env.step, state, action), (toy_agent.act, observation)
    for function, *arguments in calls:
        found = re.findall(r"precision=\(?([\w.]+)", str(jax.make_jaxpr(function)(*arguments)))
        assert set(found) == {"Precision.HIGHEST"}, function
