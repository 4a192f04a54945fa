"""SAC and TD3: one update against optax and numpy, and what their rows ask for."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crlviz.algorithms.batches import Batch, Rows, Sizes
from crlviz.algorithms.sac import SAC, SACHER, SACConfig
from crlviz.algorithms.td3 import TD3, TD3HER, TD3Config
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig

SIZES, COUNT = Sizes(4, 2, 2), 6
SHAPE = NetworkConfig(2, 8, kind="mlp", layer_norm=False)


def _batch(seed=0):
    rng = np.random.default_rng(seed)
    state, action, goal, next_state = (rng.normal(size=(COUNT, n)).astype(np.float32) for n in (4, 2, 2, 4))
    reward, discount = np.float32([0, 1, 0, 1, 0, 0]), np.float32([1, 1, 0, 1, 0, 1])
    return Batch(state, np.tanh(action), goal, next_state, reward, discount, np.float32([0, 0, 0, 0, 1, 0]))


def _close(ours, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, expected)


def test_an_update_of_sac():
    """Three optax steps from the old parameters, and the target a tenth of the way to the new critic."""
    config = SACConfig(tau=0.1, learning_rate=1e-2, temperature_learning_rate=3e-2, reward_scale=2.0)
    sac = SAC.create(config, SHAPE, SHAPE, SIZES, gamma=0.9)
    batch, key = _batch(), jax.random.key(1)

    @jax.jit
    def both():
        learner = sac.init(jax.random.key(0))
        learner = learner.replace(target=jax.tree.map(lambda leaf: leaf + 0.1, learner.critic))
        ours, metrics = sac.update(learner, key, batch)
        noise, next_noise = (jax.random.normal(each, (COUNT, 2)) for each in jax.random.split(key))
        alpha = jnp.exp(learner.log_alpha)
        after = jnp.concatenate([batch.next_state, batch.goal], -1)
        next_action, next_log_prob = sac.actor.sample(learner.actor, after, next_noise)
        pair = sac.critic.values(learner.target, batch.next_state, next_action, batch.goal)
        y = 2 * batch.reward + 0.9 * batch.discount * (jnp.minimum(pair[0], pair[1]) - alpha * next_log_prob)

        def critic_loss(params):
            q = sac.critic.values(params, batch.state, batch.action, batch.goal)
            errors = (q - y)[:, jnp.array([0, 1, 2, 3, 5])]  # row 4 was cut by the time limit
            return (errors**2).sum() / (2 * 2 * COUNT)

        def actor_loss(params):
            action, log_prob = sac.actor.sample(params, jnp.concatenate([batch.state, batch.goal], -1), noise)
            q = sac.critic.values(learner.critic, batch.state, action, batch.goal)
            return (alpha * log_prob - jnp.minimum(q[0], q[1])).mean(), log_prob

        def step(rate, gradient, params):
            optimizer = optax.adam(rate)
            return optax.apply_updates(params, optimizer.update(gradient, optimizer.init(params))[0])

        actor_grad, log_prob = jax.grad(actor_loss, has_aux=True)(learner.actor)
        critic = step(1e-2, jax.grad(critic_loss)(learner.critic), learner.critic)
        log_alpha = step(3e-2, alpha * (-log_prob + 0.5 * 2).mean(), learner.log_alpha)
        target = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, learner.target, critic)
        return (ours.actor, ours.critic, ours.target, ours.log_alpha, metrics["critic_loss"]), (
            step(1e-2, actor_grad, learner.actor),
            critic,
            target,
            log_alpha,
            critic_loss(learner.critic),
        )

    _close(*both())


def test_the_actor_of_td3_moves_in_every_second_update():
    td3 = TD3.create(TD3Config(tau=0.1, learning_rate=1e-2), SHAPE, SHAPE, SIZES, gamma=0.9)
    update = jax.jit(td3.update)
    learners, losses = [jax.jit(td3.init)(jax.random.key(0))], []
    for index in range(4):
        learner, metrics = update(learners[-1], jax.random.key(index), _batch(index))
        learners.append(learner)
        losses.append(float(metrics["actor_loss"]))
    for index, (before, after) in enumerate(pairwise(learners)):
        assert not np.array_equal(before.critic["stem"]["dense"]["kernel"], after.critic["stem"]["dense"]["kernel"])
        averages = after.target, after.target_actor
        if index % 2:
            _close((after.actor, *averages), (before.actor, before.target, before.target_actor))
            assert losses[index] == losses[index - 1]
        else:
            expected = jax.tree.map(
                lambda old, new: 0.9 * old + 0.1 * new,
                (before.target, before.target_actor),
                (after.critic, after.actor),
            )
            _close(averages, expected)
            assert not np.array_equal(before.actor["head_0"]["bias"], after.actor["head_0"]["bias"])
    assert losses[0] != losses[2]
    assert learners[-1].updates == 4
    assert learners[-1].actor_optimizer[0].count == 2


def test_cost_of_td3_counts_the_steps_of_the_actor():
    """One layer of 8 units: products of the actor forward and backward, of one critic forward and to its inputs."""
    shape = NetworkConfig(1, 8, kind="mlp")
    costs = [
        TD3.create(TD3Config(policy_delay=delay), shape, shape, SIZES, gamma=0.9).cost(COUNT)["flops_per_update"]
        for delay in (1, 4)
    ]
    observation, action, width = 6, 2, 8
    actor = 2 * (observation * width + width * action) + width * action
    critic = 2 * ((observation + action) * width + width)
    assert costs[0] - costs[1] == 3 / 4 * 2 * COUNT * (actor + critic)


def test_noise_of_td3_is_bounded():
    td3 = TD3.create(TD3Config(), SHAPE, SHAPE, SIZES, gamma=0.9)
    params = td3.networks(jax.jit(td3.init)(jax.random.key(0)))
    observation = np.zeros((4000, 6), np.float32)
    action = td3.act(params, observation)
    noise = td3.act(params, observation, jax.random.key(1)) - action
    inside = np.abs(action + 0.5).max() < 1 and np.abs(action - 0.5).max() < 1
    assert inside  # so that nothing is clipped at 1
    assert np.abs(noise).max() == pytest.approx(0.5)
    # The share of a normal distribution beyond 0.5 / 0.4 standard deviations, and its density within.
    assert np.mean(np.abs(noise) > 0.4999) == pytest.approx(0.2113, abs=0.02)
    assert np.median(np.abs(noise)) == pytest.approx(0.4 * 0.6745, abs=0.02)
    assert np.abs(td3.noisy(np.ones((9, 2)), 0.4, np.ones((9, 2)))).max() == 1


def test_rows():
    kinds = {}
    for kind in (SAC, SACHER, TD3, TD3HER):
        for changes in ({}, {"her_goals": "future", "her_share": 0.8}):
            algorithm = kind.create(kind.Config(**changes), SHAPE, SHAPE, SIZES, gamma=0.97)
            kinds[algorithm.name, len(changes)] = algorithm.rows
    for name in ("sac", "td3"):
        assert kinds[name, 0] == kinds[name, 2] == Rows("commanded", transitions=True)
        assert kinds[f"{name}+her", 0] == Rows("final", 0.97, 1.0, transitions=True)
        assert kinds[f"{name}+her", 2] == Rows("future", 0.97, 0.8, transitions=True)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (SACConfig, {"tau": 0.0}, "sac.tau is 0.0; it must be positive"),
        (SACConfig, {"tau": 1.5}, "sac.tau is 1.5; it must be above 0 and at most 1"),
        (TD3Config, {"discount": 1.1}, "td3.discount is 1.1; it must be from 0 to 1"),
        (TD3Config, {"her_share": -0.1}, "td3.her_share is -0.1; it must be from 0 to 1"),
        (SACConfig, {"her_goals": "best"}, "sac.her_goals is 'best'; take final or future"),
        (SACConfig, {"learning_rate": float("nan")}, "sac.learning_rate is nan"),
        (TD3Config, {"policy_delay": 0}, "td3.policy_delay is 0; it must be at least 1"),
        (TD3Config, {"explore_noise": -1.0}, "td3.explore_noise is -1.0"),
    ],
)
def test_a_wrong_setting(kind, changes, words):
    with pytest.raises(UsageError, match=words):
        kind(**changes)
