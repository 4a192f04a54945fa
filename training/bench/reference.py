"""Reference implementation of the CRL update and of relabeling, written as in the paper's code.

``crlviz bench`` compares crlviz's implementation with it. The network has one module per layer, unrolled. The logits
come from one array of all differences. The hindsight goals come from a [T, T] matrix over the steps of a window. Both
implementations compute the same. Only the benchmark and its tests use this module.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from crlviz.algorithms.batches import Batch
from crlviz.algorithms.crl import Learner
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import EMBEDDING, LOG_STD_MAX, LOG_STD_MIN
from training.loop.buffer import Transitions

_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ReferenceNetwork(nn.Module):
    """Residual network: maps [..., n] to one output [..., size] per head. Every layer is its own module."""

    config: NetworkConfig
    heads: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        def layer(x):
            return nn.swish(nn.LayerNorm()(nn.Dense(self.config.width, kernel_init=_INIT)(x)))

        x = layer(x)
        for _ in range(self.config.depth // 4):
            identity = x
            for _ in range(4):
                x = layer(x)
            x = x + identity
        return tuple(nn.Dense(size, kernel_init=_INIT)(x) for size in self.heads)


@dataclass(frozen=True)
class ReferenceCRL:
    """Reference version of ``crlviz.algorithms.crl.CRL``.

    Attributes:
      config: hyperparameters of the algorithm.
      network: depth and width of all networks.
      sizes: dimensions of states, actions and goals.
    """

    config: CRLConfig
    network: NetworkConfig
    sizes: tuple[int, int, int]

    def init(self, key: jax.Array) -> Learner:
        """Initialize parameters and optimizer states."""
        state, action, goal = self.sizes
        actor_key, phi_key, psi_key = jax.random.split(key, 3)
        actor = self._actor.init(actor_key, jnp.zeros((1, state + goal)))["params"]
        critic = {
            "phi": self._encoder.init(phi_key, jnp.zeros((1, state + action)))["params"],
            "psi": self._encoder.init(psi_key, jnp.zeros((1, goal)))["params"],
        }
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        optimizer_states = [self._optimizer.init(params) for params in (actor, critic, log_alpha)]
        return Learner(actor, critic, log_alpha, *optimizer_states)

    def update(self, learner: Learner, key: jax.Array, batch: Batch) -> tuple[Learner, dict[str, jax.Array]]:
        """Same as ``CRL.update`` for a batch [B, ...]: all gradients are taken at the old parameters."""
        state, action, goal = batch.state, batch.action, batch.goal
        noise = jax.random.normal(key, action.shape)
        alpha = jnp.exp(learner.log_alpha)

        def actor_loss(params):
            outputs: Any = self._actor.apply({"params": params}, jnp.concatenate([state, goal], -1))
            mean, raw_std = outputs
            log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(raw_std) + 1)
            raw_action = mean + jnp.exp(log_std) * noise
            sampled_action = jnp.tanh(raw_action)
            log_prob = jax.scipy.stats.norm.logpdf(raw_action, mean, jnp.exp(log_std))
            log_prob = (log_prob - jnp.log(1 - sampled_action**2 + 1e-6)).sum(-1)
            phi, psi = self._embed(learner.critic, state, sampled_action, goal)
            return jnp.mean(alpha * log_prob + jnp.sqrt(jnp.sum((phi - psi) ** 2, -1))), log_prob

        def critic_loss(params):
            phi, psi = self._embed(params, state, action, goal)
            logits = -jnp.sqrt(jnp.sum((phi[:, None, :] - psi[None, :, :]) ** 2, -1))
            loss = -jnp.mean(jnp.diag(logits) - jax.nn.logsumexp(logits, axis=1))
            return loss + self.config.logsumexp_penalty * jnp.mean(jax.nn.logsumexp(logits + 1e-6, axis=1) ** 2)

        def alpha_loss(log_alpha):
            target = self.config.entropy_per_dimension * self.sizes[1]
            return jnp.mean(jnp.exp(log_alpha) * jax.lax.stop_gradient(-log_prob - target))

        (actor_value, log_prob), actor_grad = jax.value_and_grad(actor_loss, has_aux=True)(learner.actor)
        alpha_value, alpha_grad = jax.value_and_grad(alpha_loss)(learner.log_alpha)
        critic_value, critic_grad = jax.value_and_grad(critic_loss)(learner.critic)
        actor, actor_state = self._step(actor_grad, learner.actor_optimizer, learner.actor)
        critic, critic_state = self._step(critic_grad, learner.critic_optimizer, learner.critic)
        log_alpha, alpha_state = self._step(alpha_grad, learner.alpha_optimizer, learner.log_alpha)
        losses = {"actor_loss": actor_value, "alpha_loss": alpha_value, "critic_loss": critic_value}
        return Learner(actor, critic, log_alpha, actor_state, critic_state, alpha_state), losses

    @property
    def _actor(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (self.sizes[1], self.sizes[1]))

    @property
    def _encoder(self) -> ReferenceNetwork:
        return ReferenceNetwork(self.network, (EMBEDDING,))

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)

    def _embed(self, params: Any, state: Any, action: Any, goal: Any) -> tuple[jax.Array, jax.Array]:
        phi: Any = self._encoder.apply({"params": params["phi"]}, jnp.concatenate([state, action], -1))
        psi: Any = self._encoder.apply({"params": params["psi"]}, goal)
        return phi[0], psi[0]

    def _step(self, gradient: Any, optimizer_state: Any, params: Any) -> tuple[Any, Any]:
        updates, optimizer_state = self._optimizer.update(gradient, optimizer_state, params)
        return optax.apply_updates(params, updates), optimizer_state


def relabel(rows: Transitions, key: jax.Array, gamma: float) -> tuple[Transitions, jax.Array]:
    """Relabel every step of a window except the last with a hindsight goal, from a [T, T] matrix of weights.

    Args:
      rows: window of one environment, [T, ...].
      key: random key.
      gamma: discount; a goal k steps later has weight gamma^k.

    Returns:
      Transitions [T - 1, ...] and goals [T - 1, goal].
    """
    length = rows.trajectory.shape[0]
    index = jnp.arange(length)
    steps_later = index[None] - index[:, None]
    same_episode = rows.trajectory[:, None] == rows.trajectory[None]
    weights = (steps_later > 0) * same_episode * gamma ** steps_later.astype(jnp.float32) + jnp.eye(length) * 1e-5
    chosen = jax.random.categorical(key, jnp.log(weights))[:-1]
    # Step j starts at the goal achieved by step j - 1, so the goal k steps later is ``achieved`` k - 1 steps later.
    return jax.tree.map(lambda leaf: leaf[:-1], rows), rows.achieved[jnp.maximum(chosen - 1, index[:-1])]


def sample(rows: Transitions, starts: jax.Array, key: jax.Array, window: int, gamma: float, batch_size: int) -> Any:
    """Sample all batches of a training step: relabel one window per environment, then shuffle all rows.

    Args:
      rows: the full ring buffer, [capacity, environments, ...].
      starts: first row of each environment's window, [environments].
      key: random key.
      window: steps in a window.
      gamma: discount.
      batch_size: rows in a batch; rows that do not fill a batch are dropped.

    Returns:
      Transitions and goals, [batches, batch_size, ...].
    """
    environments = starts.shape[0]
    times = starts[:, None] + jnp.arange(window)
    windows = jax.tree.map(lambda leaf: leaf[times, jnp.arange(environments)[:, None]], rows)
    relabel_key, order_key = jax.random.split(key)
    relabeled = jax.vmap(relabel, in_axes=(0, 0, None))(windows, jax.random.split(relabel_key, environments), gamma)
    count = environments * (window - 1)
    order = jax.random.permutation(order_key, count)[: count // batch_size * batch_size]

    def batches(leaf):
        flat = leaf.reshape(count, *leaf.shape[2:])[order]
        return flat.reshape(-1, batch_size, *leaf.shape[2:])

    return jax.tree.map(batches, relabeled)
