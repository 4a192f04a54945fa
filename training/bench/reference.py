"""The update and the relabelling written as the field writes them: what ``crlviz bench`` measures ours against.

One module a layer, unrolled; logits from all differences at once; hindsight goals from a matrix of every step of a
window against every other. They compute what ours compute, as the paper's code does, and nothing but the benchmark and
its tests use them.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from crlviz.algorithms.crl import CRLConfig, Learner
from crlviz.networks.residual import EMBEDDING, LOG_STD_MAX, LOG_STD_MIN, NetworkConfig
from training.loop.buffer import Transitions

_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class ReferenceNetwork(nn.Module):
    """A residual network [..., n] to its heads' outputs, every layer a module of its own."""

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
    """The update of ``crlviz.algorithms.crl.CRL``, the plain way. Sizes are of states, actions and goals."""

    config: CRLConfig
    network: NetworkConfig
    sizes: tuple[int, int, int]

    def init(self, key: jax.Array) -> Learner:
        state, action, goal = self.sizes
        actor_key, phi_key, psi_key = jax.random.split(key, 3)
        actor = self._actor.init(actor_key, jnp.zeros((1, state + goal)))["params"]
        critic = {
            "phi": self._encoder.init(phi_key, jnp.zeros((1, state + action)))["params"],
            "psi": self._encoder.init(psi_key, jnp.zeros((1, goal)))["params"],
        }
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        memory = [self._optimizer.init(params) for params in (actor, critic, log_alpha)]
        return Learner(actor, critic, log_alpha, *memory)

    def update(
        self, learner: Learner, key: jax.Array, state: jax.Array, action: jax.Array, goal: jax.Array
    ) -> tuple[Learner, dict[str, jax.Array]]:
        """As ``CRL.update``: a batch [B, ...], all steps from the same old parameters."""
        noise = jax.random.normal(key, action.shape)
        alpha = jnp.exp(learner.log_alpha)

        def actor_loss(params):
            outputs: Any = self._actor.apply({"params": params}, jnp.concatenate([state, goal], -1))
            mean, raw = outputs
            log_std = LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (jnp.tanh(raw) + 1)
            drawn = mean + jnp.exp(log_std) * noise
            tanh = jnp.tanh(drawn)
            log_prob = jax.scipy.stats.norm.logpdf(drawn, mean, jnp.exp(log_std)) - jnp.log(1 - tanh**2 + 1e-6)
            log_prob = log_prob.sum(-1)
            phi, psi = self._embed(learner.critic, state, tanh, goal)
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
        actor, actor_memory = self._step(actor_grad, learner.actor_optimizer, learner.actor)
        critic, critic_memory = self._step(critic_grad, learner.critic_optimizer, learner.critic)
        log_alpha, alpha_memory = self._step(alpha_grad, learner.alpha_optimizer, learner.log_alpha)
        losses = {"actor_loss": actor_value, "alpha_loss": alpha_value, "critic_loss": critic_value}
        return Learner(actor, critic, log_alpha, actor_memory, critic_memory, alpha_memory), losses

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

    def _step(self, gradient: Any, memory: Any, params: Any) -> tuple[Any, Any]:
        updates, memory = self._optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory


def relabel(rows: Transitions, key: jax.Array, gamma: float) -> tuple[Transitions, jax.Array]:
    """Every step of a window but the last with a goal achieved later in its episode, by a matrix [T, T] of weights.

    Args:
      rows: one environment's window, [T, ...].
      key: random key.
      gamma: discount; a goal k steps on has weight gamma^k.

    Returns:
      Transitions [T - 1, ...] and goals [T - 1, goal].
    """
    length = rows.trajectory.shape[0]
    index = jnp.arange(length)
    ahead = index[None] - index[:, None]
    same = rows.trajectory[:, None] == rows.trajectory[None]
    weights = (ahead > 0) * same * gamma ** ahead.astype(jnp.float32) + jnp.eye(length) * 1e-5
    chosen = jax.random.categorical(key, jnp.log(weights))[:-1]
    # What is achieved after step j - 1 is where step j begins, so a goal k on is what was achieved k - 1 on.
    return jax.tree.map(lambda leaf: leaf[:-1], rows), rows.achieved[jnp.maximum(chosen - 1, index[:-1])]


def sample(rows: Transitions, starts: jax.Array, key: jax.Array, window: int, gamma: float, batch_size: int) -> Any:
    """All batches of a training step: a window of each environment relabeled, then every row of them in random order.

    Args:
      rows: the whole ring, [capacity, environments, ...].
      starts: first row of each environment's window, [environments].
      key: random key.
      window: steps of a window.
      gamma: discount.
      batch_size: rows of an update; what is left over is dropped.

    Returns:
      Transitions and goals, [batches, batch_size, ...].
    """
    environments = starts.shape[0]
    times = starts[:, None] + jnp.arange(window)
    windows = jax.tree.map(lambda leaf: leaf[times, jnp.arange(environments)[:, None]], rows)
    relabel_key, order_key = jax.random.split(key)
    both = jax.vmap(relabel, in_axes=(0, 0, None))(windows, jax.random.split(relabel_key, environments), gamma)
    count = environments * (window - 1)
    order = jax.random.permutation(order_key, count)[: count // batch_size * batch_size]

    def batches(leaf):
        flat = leaf.reshape(count, *leaf.shape[2:])[order]
        return flat.reshape(-1, batch_size, *leaf.shape[2:])

    return jax.tree.map(batches, both)
