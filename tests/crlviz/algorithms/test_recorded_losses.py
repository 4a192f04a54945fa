"""Losses and gradients of SAC and TD3 against those recorded from brax and JaxGCRL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from crlviz.algorithms.batches import Batch, Sizes
from crlviz.algorithms.sac import SAC, SACConfig, SACLearner
from crlviz.algorithms.td3 import TD3, TD3Config, TD3Learner
from crlviz.networks.config import NetworkConfig
from crlviz.precision import exact

# A goal of no numbers: the recorded observations before and after a step have nothing in common.
SIZES = Sizes(7, 3, 0)
PLAIN = NetworkConfig(2, 32, layer_norm=False, activation="relu", kind="mlp")


def _ours(flat, prefix):
    """Parameters of an MLP of brax under a prefix, in our layout; the last layer is left whole."""
    layers = unflatten_dict({k[len(prefix) :]: v for k, v in flat.items() if k.startswith(prefix)}, sep="/")
    return {
        "stem": {"dense": layers["hidden_0"]},
        "hidden": {"layer": {"dense": jax.tree.map(lambda leaf: leaf[None], layers["hidden_1"])}},
        "head_0": layers["hidden_2"],
    }


def _policy(flat, prefix):
    """A stochastic policy of brax: its last layer gives means, then scales."""
    params = _ours(flat, f"{prefix}/params/")
    whole, actions = params.pop("head_0"), SIZES.action
    return params | {
        "head_0": {name: leaf[..., :actions] for name, leaf in whole.items()},
        "head_1": {name: leaf[..., actions:] for name, leaf in whole.items()},
    }


def _twins(flat, prefix):
    twins = [_ours(flat, f"{prefix}/params/MLP_{k}/") for k in range(2)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *twins)


def _batch(flat):
    names = ("next_observation", "reward", "discount", "truncation")
    return Batch(flat["observation"], flat["action"], flat["observation"][:, :0], *(flat[name] for name in names))


def _assert_close(ours, recorded):
    ours, recorded = flatten_dict(ours, sep="/"), flatten_dict(recorded, sep="/")
    assert ours.keys() == recorded.keys()
    for name, value in recorded.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.fixture(autouse=True)
def exact_products():
    with exact():
        yield


@pytest.fixture
def recorded(data):
    def load(name):
        with np.load(data / "losses" / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return load


def test_sac(recorded):
    flat = recorded("sac")
    batch = _batch(flat)
    sac = SAC.create(SACConfig(), PLAIN, PLAIN, SIZES, gamma=1.0)
    learner = SACLearner(
        actor=_policy(flat, "policy"),
        critic=_twins(flat, "q"),
        target=_twins(flat, "target_q"),
        log_alpha=flat["log_alpha"],
        actor_optimizer=None,
        critic_optimizer=None,
        alpha_optimizer=None,
    )

    @jax.jit
    def computed(learner):
        def noise(observation, raw):
            mean, log_std = sac.actor.distribution(learner.actor, observation)
            return (raw - mean) * jnp.exp(-log_std)

        own = noise(flat["observation"], flat["raw_action"])
        target = sac.targets(learner, batch, noise(flat["next_observation"], flat["raw_next_action"]))
        critic = jax.value_and_grad(sac.critic_loss, has_aux=True)(learner.critic, batch, target)
        alpha = jnp.exp(learner.log_alpha)
        actor = jax.value_and_grad(sac.actor_loss, has_aux=True)(learner.actor, learner.critic, alpha, batch, own)
        return critic, actor, jax.value_and_grad(sac.alpha_loss)(learner.log_alpha, actor[0][1])

    ((critic_loss, _), critic_grad), ((actor_loss, _), actor_grad), (alpha_loss, alpha_grad) = computed(learner)
    losses = {"critic_loss": critic_loss, "actor_loss": actor_loss, "alpha_loss": alpha_loss, "alpha_grad": alpha_grad}
    for name, value in losses.items():
        assert float(value) == pytest.approx(float(flat[name]), abs=1e-5), name
    _assert_close(critic_grad, _twins(flat, "critic_grad"))
    _assert_close(actor_grad, _policy(flat, "actor_grad"))


def test_td3(recorded):
    flat = recorded("td3")
    batch = _batch(flat)
    td3 = TD3.create(TD3Config(), PLAIN, PLAIN, SIZES, gamma=1.0)
    names = ("policy", "target_policy")
    actor, target_actor = (_ours(flat, f"{name}/params/") for name in names)
    critic, target = _twins(flat, "q"), _twins(flat, "target_q")
    learner = TD3Learner(actor, critic, target_actor, target, None, None, None, None)

    @jax.jit
    def computed(learner):
        y = td3.targets(learner, batch, flat["smoothing_noise"] / td3.config.target_noise)
        of_critic = jax.value_and_grad(td3.critic_loss, has_aux=True)(learner.critic, batch, y)
        return of_critic, jax.value_and_grad(td3.actor_loss)(learner.actor, learner.critic, batch)

    ((critic_loss, _), critic_grad), (actor_loss, actor_grad) = computed(learner)
    assert float(critic_loss) == pytest.approx(float(flat["critic_loss"]), abs=1e-5)
    assert float(actor_loss) == pytest.approx(float(flat["actor_loss"]), abs=1e-5)
    _assert_close(critic_grad, _twins(flat, "critic_grad"))
    _assert_close(actor_grad, _ours(flat, "actor_grad/params/"))
