"""The kernels of the fused path, interpreted, against the plain path."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crlviz.algorithms.batches import Batch
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.optimizer import norm
from crlviz.networks.config import NetworkConfig
from crlviz.networks.fused_trunk import FusedTrunk
from crlviz.networks.residual import Actor, Critic, ResidualNetwork, apply
from crlviz.precision import exact

STATE, ACTION, GOAL = 5, 2, 3
FUSED = FusedTrunk("float32", interpret=True)

# Depth, width, rows and start: rows of whole tiles, and not; then deeper and wider.
SHAPES = [
    (4, 20, 7, "norm"),
    *(
        pytest.param(*shape, "paper", marks=pytest.mark.slow)
        for shape in [(4, 64, 16), (8, 100, 48), (4, 256, 48), (64, 64, 512), (64, 100, 7), (256, 64, 48)]
    ),
]


def networks(depth, width, rows, start="paper", count=3):
    """Networks of equal shape with parameters away from their initial values, and inputs."""
    network = ResidualNetwork(NetworkConfig(depth, width, start=start), (3, 2))
    rng = np.random.default_rng(0)
    critic = Critic(network.config, STATE, ACTION, GOAL)
    shapes = critic.shapes["psi"] | {"head_0": {"kernel": (width, 3), "bias": (3,)}}
    shapes |= {"head_1": {"kernel": (width, 2), "bias": (2,)}}

    def draw(path, leaf):
        shape = getattr(leaf, "shape", leaf)
        values = rng.normal(size=shape) * (shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.3)
        return jnp.asarray(values + (path[-1].key == "scale"), jnp.float32)

    def drawn():
        return jax.tree.map_with_path(draw, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple))

    return network, [(drawn(), rng.normal(size=(rows, GOAL)).astype(np.float32)) for _ in range(count)]


def outputs(trunk, network, cases):
    return apply(trunk, [(network, params, x) for params, x in cases])


def relative(ours, theirs):
    """Largest difference of corresponding arrays, relative to the largest number of each."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.max(jnp.abs(one - other)) / jnp.max(jnp.abs(other))) for one, other in pairs)


@pytest.mark.parametrize(("depth", "width", "rows", "start"), SHAPES)
def test_outputs_and_gradients_agree(depth, width, rows, start):
    network, cases = networks(depth, width, rows, start)
    weights = [[np.random.default_rng(1).normal(size=(rows, size)) for size in (3, 2)] for _ in cases]

    def total(cases, trunk):
        results = outputs(trunk, network, cases)
        return sum(jnp.sum(y * w) for y, w in zip(jax.tree.leaves(results), jax.tree.leaves(weights), strict=True)), (
            results
        )

    with exact():
        ours, theirs = (
            jax.jit(jax.value_and_grad(lambda cases, trunk=trunk: total(cases, trunk), has_aux=True))(cases)
            for trunk in (FUSED, None)
        )
        alone = jax.jit(lambda cases: outputs(FUSED, network, cases))(cases)
    assert relative(ours[0][1], theirs[0][1]) < 1e-5
    assert relative(ours[1], theirs[1]) < 1e-5
    # Without a backward pass the kernel keeps nothing for it.
    assert relative(alone, theirs[0][1]) < 1e-5


def test_gradient_of_the_inputs_alone_agrees():
    """As the actor's loss needs it of phi."""
    network, cases = networks(8, 20, 7, count=1)

    def total(x, trunk):
        return outputs(trunk, network, [(cases[0][0], x)])[0][0].sum()

    with exact():
        ours, theirs = (jax.jit(jax.grad(lambda x, t=trunk: total(x, t)))(cases[0][1]) for trunk in (FUSED, None))
    assert relative(ours, theirs) < 1e-5


@pytest.mark.slow
def test_networks_of_different_shapes_take_a_launch_each():
    (deep, deep_cases), (flat, flat_cases) = networks(8, 20, 7, count=1), networks(4, 16, 5, count=1)
    both = [(deep, *deep_cases[0]), (flat, *flat_cases[0])]
    with exact():
        assert relative(apply(FUSED, both), apply(None, both)) < 1e-5
    text = str(jax.make_jaxpr(lambda: apply(FUSED, both))())
    assert text.count("pallas_call[") == 2
    alike = [(deep, *case) for case in networks(8, 20, 7)[1]]
    assert str(jax.make_jaxpr(lambda: apply(FUSED, alike))()).count("pallas_call[") == 1


def algorithm(trunk, actor=8, critic=4, width=20):
    shapes = NetworkConfig(actor, width), NetworkConfig(critic, width)
    return CRL(
        CRLConfig(), Actor(shapes[0], STATE + GOAL, ACTION, trunk), Critic(shapes[1], STATE, ACTION, GOAL, trunk)
    )


def batch(rows, seed=3):
    rng = np.random.default_rng(seed)
    return Batch(*(rng.normal(size=(rows, size)).astype(np.float32) for size in (STATE, ACTION, GOAL)))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")  # the bounds are those of programs as in use
@pytest.mark.parametrize("depths", [(8, 4), (64, 64)], ids=lambda depths: f"{depths[0]}, {depths[1]}")
def test_ten_updates_agree(depths):
    learners, gradients = [], []
    with exact():
        for trunk in (FUSED, None):
            own = algorithm(trunk, *depths)
            first = learner = jax.jit(own.init)(jax.random.key(0))
            gradients.append(jax.jit(own.gradients)(learner, jax.random.key(1), batch(12))[0])
            update = jax.jit(own.update)
            for index in range(10):
                learner, metrics = update(learner, jax.random.key(index), batch(12, index))
            learners.append((learner.actor, learner.critic, metrics["critic_loss"]))
    # The gradients of the losses magnify rounding errors of the embeddings, those of the plain path as well.
    assert relative(gradients[0], gradients[1]) < 1e-3
    assert relative(learners[0][2], learners[1][2]) < 1e-5
    # Adam moves a parameter by up to 3e-4 in an update however small its gradient is, so where rounding turns the sign
    # of a tiny one, a single parameter differs by that much. All together differ little beside how far they have moved.
    moved = jax.tree.map(jnp.subtract, learners[1][:2], (first.actor, first.critic))
    apart = jax.tree.map(jnp.subtract, learners[0][:2], learners[1][:2])
    assert norm(apart) < 0.05 * norm(moved)


@pytest.mark.slow
def test_seeds_run_together():
    network, cases = networks(4, 20, 5, count=2)
    pair = jax.tree.map(lambda one, other: jnp.stack([one, other]), *cases)

    def gradient(params, x, trunk=FUSED):
        return jax.grad(lambda params: outputs(trunk, network, [(params, x)])[0][1].sum())(params)

    with exact():
        together = jax.jit(jax.vmap(gradient))(*pair)
        for slot, case in enumerate(cases):
            alone = jax.jit(lambda params, x: gradient(params, x, None))(*case)
            assert (
                relative(jax.tree.map(lambda leaf, slot=slot: leaf[slot], together)["blocks"], alone["blocks"]) < 1e-5
            )


@pytest.mark.slow
def test_bfloat16_rounds_products_alone():
    """Errors are as large as those of the plain path: products of rounded numbers, everything else in float32."""
    network, cases = networks(8, 64, 16, count=1)
    rounded = dataclasses.replace(FUSED, precision="bfloat16")
    with exact():
        truth, ours = outputs(None, network, cases), outputs(rounded, network, cases)

    def round(x):
        return x.astype(jnp.bfloat16).astype(jnp.float32)

    def normed(layer, y):
        y = y + layer["dense"]["bias"]
        y = y - y.mean(-1, keepdims=True)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + 1e-6)
        return jax.nn.swish(y * layer["norm"]["scale"] + layer["norm"]["bias"])

    def in_bfloat16(params, x):
        """The plain path, written out: a CPU does not round by itself."""
        x = normed(params["stem"], x @ params["stem"]["dense"]["kernel"])
        for block in range(2):
            y = x
            for index in range(4):
                layer = jax.tree.map(lambda leaf, block=block: leaf[block], params["blocks"][f"layer_{index}"])
                y = normed(layer, round(y) @ round(layer["dense"]["kernel"]))
            x = x + y
        return tuple(x @ params[f"head_{index}"]["kernel"] + params[f"head_{index}"]["bias"] for index in range(2))

    with exact():
        expected = [in_bfloat16(*cases[0])]
    assert relative(ours, expected) < 1e-3 < relative(expected, truth)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("width", [16, 256, 512])
@pytest.mark.parametrize("shared", [95_000, 160_000, 220_000])
def test_slices_fit_the_shared_memory(precision, width, shared):
    how = FusedTrunk(precision, shared_memory=shared)
    rows, count = how.slices(width)
    size = 2 if precision == "bfloat16" else 4
    assert (count + (precision == "float32")) * rows * (width + how.rows) * size <= shared
    assert width % rows == 0
    assert rows >= 16
    assert 1 <= count <= width // rows
