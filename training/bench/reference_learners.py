"""Reference implementations of SAC, TD3 and behavioral cloning, written plainly, as JaxGCRL's code is.

Networks have one module per layer, unrolled; the two critics are two networks; optimizers are optax's. They compute
what ``crlviz.algorithms`` computes. Only the benchmark and its tests use this module.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from crlviz.algorithms.batches import Batch
from crlviz.algorithms.gcbc import CloningLearner
from crlviz.algorithms.optimizer import norm
from crlviz.algorithms.sac import SACConfig, SACLearner
from crlviz.algorithms.td3 import ActorLoss, TD3Config, TD3Learner
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import LOG_STD_MAX, LOG_STD_MIN
from training.bench.reference import ReferenceCRL, ReferenceNetwork


def _concat(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts, -1)


def _log_prob(mean: jax.Array, std: jax.Array, raw: jax.Array) -> jax.Array:
    slope = 2 * (jnp.log(2.0) - raw - jax.nn.softplus(-2 * raw))
    return (jax.scipy.stats.norm.logpdf(raw, mean, std) - slope).sum(-1)


def _average(tau: float, old: Any, new: Any) -> Any:
    return jax.tree.map(lambda old, new: (1 - tau) * old + tau * new, old, new)


@dataclass(frozen=True)
class _Reference:
    """An algorithm's settings, the depth and width of its networks, and the sizes of states, actions and goals."""

    config: Any
    network: NetworkConfig
    sizes: tuple[int, int, int]

    def _new(self, network: ReferenceNetwork, key: jax.Array, inputs: int) -> Any:
        return network.init(key, jnp.zeros((1, inputs)))["params"]

    def _apply(self, network: ReferenceNetwork, params: Any, x: jax.Array) -> Any:
        return network.apply({"params": params}, x)

    def _step(self, rate: float, gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = optax.adam(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    @property
    def _q(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (1,))

    def _new_twins(self, key: jax.Array) -> tuple[Any, Any]:
        first, second = jax.random.split(key)
        return self._new(self._q, first, sum(self.sizes)), self._new(self._q, second, sum(self.sizes))

    def _values(self, twins: Any, *parts: jax.Array) -> jax.Array:
        return jnp.stack([self._apply(self._q, params, _concat(*parts))[0][:, 0] for params in twins])


class ReferenceSAC(_Reference):
    """Reference of ``crlviz.algorithms.sac.SAC``, for commanded or hindsight goals."""

    config: SACConfig

    def init(self, key: jax.Array) -> SACLearner:
        """Initialize parameters and optimizer states."""
        state, _, goal = self.sizes
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self._new(self._actor, actor_key, state + goal), self._new_twins(critic_key)
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        states = [optax.adam(1e-3).init(params) for params in (actor, critic, log_alpha)]
        return SACLearner(actor, critic, jax.tree.map(jnp.copy, critic), log_alpha, *states)

    def update(self, learner: SACLearner, key: jax.Array, batch: Batch) -> tuple[SACLearner, dict[str, jax.Array]]:
        """Same as ``SAC.update`` for a batch [B, ...]."""
        config, alpha = self.config, jnp.exp(learner.log_alpha)
        noise, next_noise = (jax.random.normal(each, batch.action.shape) for each in jax.random.split(key))
        next_action, next_log_prob = self._sample(learner.actor, _concat(batch.next_state, batch.goal), next_noise)
        next_q = self._values(learner.target, batch.next_state, batch.goal, next_action).min(0)
        value = next_q - alpha * next_log_prob
        target = config.reward_scale * batch.reward + config.discount * batch.discount * value

        def critic_loss(twins):
            error = self._values(twins, batch.state, batch.goal, batch.action) - target
            return 0.5 * jnp.mean((error * (1 - batch.truncation)) ** 2)

        def actor_loss(params):
            action, log_prob = self._sample(params, _concat(batch.state, batch.goal), noise)
            q = self._values(learner.critic, batch.state, batch.goal, action).min(0)
            return jnp.mean(alpha * log_prob - q), log_prob

        def alpha_loss(log_alpha):
            goal_entropy = config.entropy_per_dimension * self.sizes[1]
            return jnp.mean(jnp.exp(log_alpha) * (-log_prob - goal_entropy))

        critic_value, critic_grad = jax.value_and_grad(critic_loss)(learner.critic)
        (actor_value, log_prob), actor_grad = jax.value_and_grad(actor_loss, has_aux=True)(learner.actor)
        alpha_value, alpha_grad = jax.value_and_grad(alpha_loss)(learner.log_alpha)
        rate, alpha_rate = config.learning_rate, config.temperature_learning_rate
        actor, actor_state = self._step(rate, actor_grad, learner.actor_optimizer, learner.actor)
        critic, critic_state = self._step(rate, critic_grad, learner.critic_optimizer, learner.critic)
        log_alpha, alpha_state = self._step(alpha_rate, alpha_grad, learner.alpha_optimizer, learner.log_alpha)
        losses = {"critic_loss": critic_value, "actor_loss": actor_value, "alpha_loss": alpha_value}
        averaged = _average(config.tau, learner.target, critic)
        return SACLearner(actor, critic, averaged, log_alpha, actor_state, critic_state, alpha_state), losses

    @property
    def _actor(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (self.sizes[1], self.sizes[1]))

    def _sample(self, params: Any, observation: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        mean, scale = self._apply(self._actor, params, observation)
        std = jax.nn.softplus(scale) + 0.001
        raw = mean + std * noise
        return jnp.tanh(raw), _log_prob(mean, std, raw)


class ReferenceTD3(_Reference):
    """Reference of ``crlviz.algorithms.td3.TD3``, for commanded or hindsight goals."""

    config: TD3Config

    def init(self, key: jax.Array) -> TD3Learner:
        """Initialize parameters and optimizer states."""
        state, _, goal = self.sizes
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self._new(self._actor, actor_key, state + goal), self._new_twins(critic_key)
        return TD3Learner(
            actor=actor,
            critic=critic,
            target_actor=jax.tree.map(jnp.copy, actor),
            target=jax.tree.map(jnp.copy, critic),
            actor_optimizer=optax.adam(1e-3).init(actor),
            critic_optimizer=optax.adam(1e-3).init(critic),
            updates=jnp.zeros((), int),
            last=ActorLoss(jnp.zeros(()), jnp.zeros(())),
        )

    def update(self, learner: TD3Learner, key: jax.Array, batch: Batch) -> tuple[TD3Learner, dict[str, jax.Array]]:
        """Same as ``TD3.update`` for a batch [B, ...]."""
        config = self.config
        noise = config.target_noise * jax.random.normal(key, batch.action.shape)
        noise = jnp.clip(noise, -config.noise_bound, config.noise_bound)
        next_action = self._act(learner.target_actor, _concat(batch.next_state, batch.goal)) + noise
        next_action = jnp.clip(next_action, -1, 1)
        value = self._values(learner.target, batch.next_state, batch.goal, next_action).min(0)
        target = config.reward_scale * batch.reward + config.discount * batch.discount * value

        def critic_loss(twins):
            return 0.5 * jnp.mean((self._values(twins, batch.state, batch.goal, batch.action) - target) ** 2)

        def actor_loss(params):
            action = self._act(params, _concat(batch.state, batch.goal))
            return -self._values(learner.critic[:1], batch.state, batch.goal, action).mean()

        critic_value, critic_grad = jax.value_and_grad(critic_loss)(learner.critic)
        critic, critic_state = self._step(config.learning_rate, critic_grad, learner.critic_optimizer, learner.critic)

        def moved(learner):
            loss, gradient = jax.value_and_grad(actor_loss)(learner.actor)
            actor, state = self._step(config.learning_rate, gradient, learner.actor_optimizer, learner.actor)
            target_actor, target = _average(config.tau, (learner.target_actor, learner.target), (actor, critic))
            last = ActorLoss(loss, norm(gradient))
            return learner.replace(
                actor=actor, target_actor=target_actor, target=target, actor_optimizer=state, last=last
            )

        after = jax.lax.cond(learner.updates % config.policy_delay == 0, moved, lambda learner: learner, learner)
        after = after.replace(critic=critic, critic_optimizer=critic_state, updates=learner.updates + 1)
        return after, {"critic_loss": critic_value, "actor_loss": after.last.loss}

    @property
    def _actor(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (self.sizes[1],))

    def _act(self, params: Any, observation: jax.Array) -> jax.Array:
        return jnp.tanh(self._apply(self._actor, params, observation)[0])


class ReferenceCloning(_Reference):
    """Reference of ``crlviz.algorithms.gcbc.GCBC`` and of GCSL."""

    def init(self, key: jax.Array) -> CloningLearner:
        """Initialize parameters and optimizer state."""
        actor = self._new(self._actor, key, self.sizes[0] + self.sizes[2])
        return CloningLearner(actor, optax.adam(1e-3).init(actor))

    def update(
        self, learner: CloningLearner, key: jax.Array, batch: Batch
    ) -> tuple[CloningLearner, dict[str, jax.Array]]:
        """Same as ``GCBC.update`` for a batch [B, ...]."""
        raw = jnp.arctanh(jnp.clip(batch.action, -1 + 1e-6, 1 - 1e-6))

        def loss(params):
            mean, out = self._apply(self._actor, params, _concat(batch.state, batch.goal))
            log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(out) + 1)
            return -_log_prob(mean, jnp.exp(log_std), raw).mean()

        value, gradient = jax.value_and_grad(loss)(learner.actor)
        after = self._step(self.config.learning_rate, gradient, learner.actor_optimizer, learner.actor)
        return CloningLearner(*after), {"actor_loss": value}

    @property
    def _actor(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (self.sizes[1], self.sizes[1]))


# The reference of each algorithm, by name.
REFERENCES: dict[str, type] = {
    "crl": ReferenceCRL,
    "sac": ReferenceSAC,
    "sac+her": ReferenceSAC,
    "td3": ReferenceTD3,
    "td3+her": ReferenceTD3,
    "gcsl": ReferenceCloning,
    "gcbc": ReferenceCloning,
}
