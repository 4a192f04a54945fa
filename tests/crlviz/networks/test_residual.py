"""Networks against recorded outputs of the paper's code, and against an implementation in numpy."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm as normal

from crlviz.algorithms.contrastive_losses import contrastive_loss
from crlviz.algorithms.crl import CRL
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.energies import pairwise_logits
from crlviz.errors import UsageError
from crlviz.interchange.paper_format import from_paper_layout
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import EMBEDDING, Actor, Critic, ResidualNetwork, distance, parameter_count, shapes_of
from crlviz.precision import exact

info_nce = partial(contrastive_loss, "forward")

GOLDEN = {"a_ant_u4_maze_d8_w64": (8, 64), "b_ant_big_maze_d4_w32": (4, 32), "c_humanoid_d16_w32": (16, 32)}


class Recorded:
    """An agent of the paper's code: its parameters in our layout, and its outputs on recorded inputs."""

    def __init__(self, folder: Path, depth: int, width: int):
        with np.load(folder / "golden.npz") as file:
            self.out = dict(file)
        with np.load(folder / "params_final.npz") as file:
            self.flat = dict(file)
        self.state, self.action, self.goal, self.eps = (self.out[k] for k in ("state", "action", "goal", "eps"))
        tree = unflatten_dict({tuple(name.split("/")): leaf for name, leaf in self.flat.items()})
        self.tree = tree
        self.log_alpha = tree["alpha"]["log_alpha"]
        self.actor_params = from_paper_layout(tree["actor"]["params"], 2)
        self.critic_params = {
            "phi": from_paper_layout(tree["critic"]["sa_encoder"]["params"], 1),
            "psi": from_paper_layout(tree["critic"]["g_encoder"]["params"], 1),
        }
        sizes = [array.shape[-1] for array in (self.state, self.action, self.goal)]
        config = NetworkConfig(depth, width)
        self.actor = Actor(config, sizes[0] + sizes[2], sizes[1])
        self.critic = Critic(config, *sizes)
        self.crl = CRL(CRLConfig(), self.actor, self.critic)
        self.observation = np.concatenate([self.state, self.goal], -1)


@pytest.fixture(autouse=True)
def exact_products():
    """A GPU multiplies with fewer digits unless it is told; crlviz tells it wherever it runs these networks."""
    with exact():
        yield


# One is enough to see an error; the humanoid is the deepest.
_MARKS = dict.fromkeys(("a_ant_u4_maze_d8_w64", "b_ant_big_maze_d4_w32"), pytest.mark.slow)


@pytest.fixture(scope="module", params=[pytest.param(name, marks=_MARKS.get(name, [])) for name in GOLDEN])
def recorded(request, data, optimized) -> Recorded:
    return Recorded(data / "networks" / request.param, *GOLDEN[request.param])


def test_outputs_are_the_papers(recorded):
    r = recorded

    @jax.jit
    def outputs(critic, actor):
        phi, psi = r.critic.phi(critic, r.state, r.action), r.critic.psi(critic, r.goal)
        mean, log_std = r.actor.distribution(actor, r.observation)
        named = {"phi": phi, "psi": psi, "Q": -distance(phi, psi), "critic_logits": pairwise_logits(phi, psi)}
        return named | {"actor_mean": mean, "actor_log_std": log_std}

    for name, value in outputs(r.critic_params, r.actor_params).items():
        # float32 sums of hundreds of terms: 1e-5 of the largest outputs.
        np.testing.assert_allclose(value, r.out[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_critic_loss_and_gradient_are_the_papers(recorded):
    r = recorded
    loss, norm, _, after = _loss_before_and_after(
        lambda params: r.crl.critic_loss(params, r.state, r.action, r.goal), r.critic_params
    )
    assert loss == pytest.approx(float(r.out["critic_loss"]), rel=1e-4)
    assert norm == pytest.approx(float(r.out["critic_grad_norm"]), rel=1e-3)
    assert after == pytest.approx(float(r.out["critic_loss_after_one_adam_step"]), rel=1e-3)
    plain = jax.jit(info_nce)(r.out["critic_logits"], 0.0)[0]
    assert float(plain) == pytest.approx(float(r.out["critic_infonce"]), rel=1e-5, abs=1e-5)


def test_actor_and_temperature_losses_are_the_papers(recorded):
    r = recorded
    alpha = np.exp(r.log_alpha)
    loss, norm, log_prob, after = _loss_before_and_after(
        lambda params: r.crl.actor_loss(
            params, r.critic_params, alpha, r.state, r.goal, r.critic.psi(r.critic_params, r.goal), r.eps
        ),
        r.actor_params,
    )
    # For a saturated action, 1 - a^2 + 1e-6 has few correct digits in float32: in a few rows a small error of tanh is a
    # large error of the logarithm. The median row shows that the formula is the same.
    error = np.abs(log_prob - r.out["actor_log_prob"])
    assert np.median(error) < 2e-5
    assert error.max() < 1e-2 * np.abs(r.out["actor_log_prob"]).max()
    assert loss == pytest.approx(float(r.out["actor_loss"]), rel=2e-3)
    assert norm == pytest.approx(float(r.out["actor_grad_norm"]), rel=5e-3)
    assert after == pytest.approx(float(r.out["actor_loss_after_one_adam_step"]), rel=5e-3)

    assert float(r.log_alpha) == float(r.out["log_alpha"])
    assert r.crl.config.entropy_per_dimension * r.actor.action_size == float(r.out["target_entropy"])
    loss = r.crl.alpha_loss(r.log_alpha, r.out["actor_log_prob"])
    assert float(loss) == pytest.approx(float(r.out["alpha_loss"]), rel=1e-4)


def _loss_before_and_after(loss, params):
    """The loss, the norm of its gradient, its auxiliary output, and the loss after one Adam step."""
    optimizer = optax.adam(3e-4)

    @jax.jit
    def run(params):
        (value, detail), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return value, norm, detail, loss(optax.apply_updates(params, updates))[0]

    value, norm, detail, after = run(params)
    return float(value), float(norm), detail, float(after)


def test_paper_layout_keeps_every_number(recorded):
    ours = flatten_dict({"actor": recorded.actor_params, "critic": recorded.critic_params})
    theirs = {name: leaf for name, leaf in recorded.flat.items() if not name.startswith("alpha")}
    assert sum(leaf.size for leaf in ours.values()) == sum(leaf.size for leaf in theirs.values())
    total = sum(float(np.sum(leaf, dtype=float)) for leaf in ours.values())
    assert total == pytest.approx(sum(float(np.sum(leaf, dtype=float)) for leaf in theirs.values()))
    expected = jax.eval_shape(recorded.actor.init, jax.random.key(0))
    assert jax.tree.map(np.shape, recorded.actor_params) == jax.tree.map(lambda leaf: leaf.shape, dict(expected))


# ---- an implementation in numpy


def _plain(layers: dict, config: NetworkConfig, heads: int, x: np.ndarray) -> list[np.ndarray]:
    """The paper's network, layer by layer, in float64."""

    def hidden(index, x):
        x = x @ layers[f"Dense_{index}"]["kernel"] + layers[f"Dense_{index}"]["bias"]
        if config.layer_norm:
            norm = layers[f"LayerNorm_{index}"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * norm["scale"] + norm["bias"]
        return np.maximum(x, 0) if config.activation == "relu" else x / (1 + np.exp(-x))

    x = hidden(0, x)
    for block in range(config.depth // 4):
        y = x
        for index in range(4 * block + 1, 4 * block + 5):
            y = hidden(index, y)
        x = x + y if config.residual else y
    last = [layers[f"Dense_{config.depth + 1 + k}"] for k in range(heads)]
    return [x @ head["kernel"] + head["bias"] for head in last]


def _paper_layers(config: NetworkConfig, inputs: int, heads: list[int], seed: int) -> dict:
    rng = np.random.default_rng(seed)
    width, layers = config.width, {}
    sizes = [inputs, *[width] * (config.depth + 1)]
    for index in range(config.depth + 1):
        layers[f"Dense_{index}"] = {
            "kernel": rng.normal(size=(sizes[index], width)) / np.sqrt(sizes[index]),
            "bias": rng.normal(size=width) / 3,
        }
        if config.layer_norm:
            layers[f"LayerNorm_{index}"] = {"scale": rng.uniform(0.5, 1.5, width), "bias": rng.normal(size=width) / 3}
    for index, size in enumerate(heads):
        kernel = rng.normal(size=(width, size)) / np.sqrt(width)
        layers[f"Dense_{config.depth + 1 + index}"] = {"kernel": kernel, "bias": rng.normal(size=size)}
    return layers


@settings(max_examples=10)
@given(
    depth=st.sampled_from([4, 8, 12]),
    width=st.integers(2, 9),
    heads=st.lists(st.integers(1, 9), min_size=1, max_size=2),
    layer_norm=st.booleans(),
    activation=st.sampled_from(["swish", "relu"]),
    residual=st.booleans(),
    seed=st.integers(0, 2**30),
)
def test_forward_pass_against_numpy(depth, width, heads, layer_norm, activation, residual, seed):
    config = NetworkConfig(depth, width, layer_norm, activation, residual)
    layers = _paper_layers(config, 3, heads, seed)
    x = np.random.default_rng(seed + 1).normal(size=(5, 3))
    apply = jax.jit(ResidualNetwork(config, tuple(heads)).apply)
    outputs = apply({"params": from_paper_layout(layers, len(heads))}, x.astype(np.float32))
    for output, expected in zip(outputs, _plain(layers, config, len(heads), x), strict=True):
        # LayerNorm over two units may divide by a small difference, so the tolerance is loose.
        np.testing.assert_allclose(output, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("layer_norm", "heads", "width"), [(True, [64], 8), (False, [64], 8), (False, [8], 8), (False, [2, 2], 5)]
)
def test_paper_layout_with_and_without_layer_norm(layer_norm, heads, width):
    for depth in (4, 8, 20):
        config = NetworkConfig(depth, width, layer_norm=layer_norm)
        ours = from_paper_layout(_paper_layers(config, 6, heads, seed=0), len(heads))
        expected = jax.eval_shape(ResidualNetwork(config, tuple(heads)).init, jax.random.key(0), jnp.zeros(6))
        assert jax.tree.map(np.shape, ours) == jax.tree.map(lambda leaf: leaf.shape, dict(expected["params"]))


def test_every_ablation_changes_the_outputs():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    seen = []
    for changes in ({}, {"activation": "relu"}, {"residual": False}, {"layer_norm": False}):
        network, rng = ResidualNetwork(NetworkConfig(4, 6, **changes), (2,)), np.random.default_rng(0)
        params = jax.tree.map(lambda leaf, rng=rng: rng.normal(size=leaf.shape), shapes_of(network, 3))
        seen.append(np.asarray(jax.jit(network.apply)({"params": params}, x)[0]))
    for a in range(4):
        for b in range(a):
            assert np.abs(seen[a] - seen[b]).max() > 1e-3


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a GPU library's workspace is larger than this network")
@pytest.mark.slow
def test_remat_saves_memory_and_keeps_the_gradient():
    x = np.random.default_rng(0).normal(size=(512, 6)).astype(np.float32)
    params = jax.jit(Actor(NetworkConfig(16, 16), 6, 2).init)(jax.random.key(0))

    def gradient(remat):
        actor = Actor(NetworkConfig(16, 16, remat=remat), 6, 2)
        run = jax.jit(jax.grad(lambda params: (actor.mean_action(params, x) ** 2).sum())).lower(params).compile()
        return run(params), run.memory_analysis().temp_size_in_bytes

    (plain, plain_bytes), (remat, remat_bytes) = gradient(False), gradient(True)
    assert remat_bytes < 0.8 * plain_bytes
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(remat), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


# ---- initial values, sizes, errors


def test_initial_kernels_are_uniform_by_fan_in():
    params = jax.jit(Actor(NetworkConfig(8, 64), 30, 5).init)(jax.random.key(0))
    corners = []
    for path, leaf in flatten_dict(dict(params)).items():
        assert not leaf.weak_type, path  # a weak type would make jit compile again for the updated parameters
        leaf = np.asarray(leaf)
        if path[-1] == "kernel":
            bound = 1 / np.sqrt(leaf.shape[-2])  # a uniform distribution of variance 1 / 3 / fan_in
            assert np.abs(leaf).max() <= bound
            assert leaf.var() == pytest.approx(bound**2 / 3, rel=0.15)
            corners += list((leaf.reshape(-1, *leaf.shape[-2:])[:, :8, :5] / bound).reshape(-1, 40))
        else:
            np.testing.assert_array_equal(leaf, 1.0 if path[-1] == "scale" else 0.0)
    assert len(corners) == 1 + 8 + 2
    correlation = np.corrcoef(corners) - np.eye(len(corners))
    assert np.abs(correlation).max() < 0.6  # no two kernels share random numbers


@pytest.mark.parametrize(
    ("depth", "near"), [(6, "4 or 8"), (3, "take 4"), (0, "take 4"), (-4, "take 4"), (66, "64 or 68")]
)
def test_depth_comes_in_blocks_of_four(depth, near):
    with pytest.raises(UsageError) as error:
        NetworkConfig(depth=depth)
    assert f"depth {depth} " in str(error.value)
    assert near in str(error.value)


@pytest.mark.parametrize(("setting", "word"), [({"width": 0}, "width 0"), ({"activation": "tanh"}, "swish or relu")])
def test_bad_network_settings_are_refused(setting, word):
    with pytest.raises(UsageError, match=word):
        NetworkConfig(**setting)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize(("depth", "width"), [(4, 16), (12, 7)])
def test_parameter_count_in_closed_form(depth, width, layer_norm):
    state, action, goal = 29, 8, 2
    config = NetworkConfig(depth, width, layer_norm=layer_norm)
    hidden = depth * (width + 1) * width + (depth + 1) * 2 * width * layer_norm

    def network(inputs, outputs):
        return (inputs + 1) * width + hidden + (width + 1) * outputs

    critic = jax.eval_shape(Critic(config, state, action, goal).init, jax.random.key(0))
    assert parameter_count(critic) == network(state + action, EMBEDDING) + network(goal, EMBEDDING)
    actor = jax.eval_shape(Actor(config, state + goal, action).init, jax.random.key(0))
    assert parameter_count(actor) == network(state + goal, 2 * action)


def test_the_shapes_of_a_network_are_traced_once(monkeypatch):
    """A page that estimates sweeps asks for the same networks hundreds of times."""
    first = Actor(NetworkConfig(depth=12, width=24), 5, 2).shapes
    monkeypatch.setattr(jax, "eval_shape", lambda *_: pytest.fail("traced again"))
    assert Actor(NetworkConfig(depth=12, width=24), 5, 2).shapes == first


def test_programs_do_not_grow_with_depth():
    def length(depth):
        critic = Critic(NetworkConfig(depth, 8), 4, 2, 2)
        params = jax.eval_shape(critic.init, jax.random.key(0))

        def loss(params, state, action, goal):
            return distance(critic.phi(params, state, action), critic.psi(params, goal)).sum()

        batch = [jax.ShapeDtypeStruct((3, n), jnp.float32) for n in (4, 2, 2)]
        return len(jax.jit(jax.grad(loss)).lower(params, *batch).as_text())

    assert length(1024) == pytest.approx(length(4), rel=0.05)


# ---- the policy and the distance


def test_sampled_actions_and_their_density():
    """The density by a change of variables, with the derivative by finite differences in float64."""
    actor = Actor(NetworkConfig(4, 8), 6, 2)
    params = jax.jit(actor.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    observation, noise = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(50, 2)).astype(np.float32)
    mean, log_std = (np.asarray(x, float) for x in jax.jit(actor.distribution)(params, observation))
    assert (log_std > -5).all()
    assert (log_std < 2).all()
    action, log_prob = jax.jit(actor.sample)(params, observation, noise)
    raw = mean + np.exp(log_std) * noise
    np.testing.assert_allclose(action, np.tanh(raw), atol=1e-6)

    slope = (np.tanh(raw + 1e-5) - np.tanh(raw - 1e-5)) / 2e-5
    expected = (normal.logpdf(raw, mean, np.exp(log_std)) - np.log(slope)).sum(-1)
    clear = (np.abs(raw) < 3).all(-1)  # the paper's 1e-6 bounds the density of saturated actions
    assert clear.sum() > 20
    np.testing.assert_allclose(log_prob[clear], expected[clear], atol=1e-3)
    np.testing.assert_allclose(jax.jit(actor.mean_action)(params, observation), np.tanh(mean), atol=1e-6)
    assert log_prob.shape == (50,)


def test_a_saturated_action_has_a_bounded_density():
    actor = Actor(NetworkConfig(4, 8), 6, 2)
    params = dict(jax.jit(actor.init)(jax.random.key(0)))
    params["head_0"] = {**params["head_0"], "bias": jnp.full(2, 50.0)}

    def density(params):
        return actor.sample(params, jnp.zeros(6), jnp.zeros(2))[1]

    value, gradient = jax.jit(jax.value_and_grad(density))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@given(st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6))
def test_distance_is_euclidean(numbers):
    a, b = np.reshape(np.float32(numbers), (2, 3))
    assert float(distance(a, b)) == pytest.approx(np.linalg.norm(a.astype(float) - b), rel=1e-5, abs=1e-6)


def test_distance_has_a_gradient_where_points_coincide():
    a = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    b = jnp.array([[1.0, 2.0], [0.0, 0.0]])
    gradient = jax.grad(lambda a: distance(a, b).sum())(a)
    np.testing.assert_allclose(gradient, [[0, 0], [0.6, 0.8]], rtol=1e-6)
