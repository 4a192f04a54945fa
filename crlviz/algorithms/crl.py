"""Contrastive RL: an InfoNCE critic, a tanh-Gaussian actor and a learned temperature (paper section 3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms.optimizer import adam, norm
from crlviz.networks import flops
from crlviz.networks.residual import Actor, Critic, Params, apply, distance, parameter_count
from crlviz.precision import EXACT

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

Gradients = tuple[Any, Any, jax.Array]  # of the actor, critic and temperature losses


@dataclass(frozen=True)
class CRLConfig:
    """Settings of the update.

    Attributes:
      learning_rate: Adam's learning rate for actor and critic.
      temperature_learning_rate: Adam's learning rate for the temperature.
      initial_temperature: alpha before the first update.
      entropy_per_dimension: target entropy per action dimension.
      logsumexp_penalty: weight of mean(logsumexp^2) in the critic's loss.
    """

    learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -0.5
    logsumexp_penalty: float = 0.1


class Learner(struct.PyTreeNode):
    """Everything that an update changes: parameters and optimizer states."""

    actor: Any
    critic: Any
    log_alpha: jax.Array
    actor_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any


@jax.custom_vjp
def pairwise_logits(phi: jax.Array, psi: jax.Array) -> jax.Array:
    """Logits -||phi_i - psi_j|| [B, B] of state-actions phi [B, d] (rows) and goals psi [B, d] (columns).

    Needs no array [B, B, d]: squared differences are summed feature by feature, and the gradient is two matrix
    products.
    """

    def add(total, feature):
        return total + (feature[0][:, None] - feature[1]) ** 2, None

    zeros = jnp.zeros((phi.shape[0], psi.shape[0]), phi.dtype)
    return -jnp.sqrt(jax.lax.scan(add, zeros, (phi.T, psi.T), unroll=16)[0])


def _logits_forward(phi: jax.Array, psi: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    logits = pairwise_logits(phi, psi)
    return logits, (phi, psi, logits)


def _logits_backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    phi, psi, logits = saved
    positive = logits < 0  # a positive distance; where points coincide the gradient is zero, as in ``distance``
    weight = jnp.where(positive, gradient / jnp.where(positive, logits, 1.0), 0.0)
    # Only differences matter, and differences of smaller numbers have smaller rounding errors.
    center = psi.mean(0)
    phi, psi = phi - center, psi - center
    # The subtraction below cancels nearly all digits, so the products need full precision.
    of_psi, of_phi = jnp.matmul(weight, psi, precision=EXACT), jnp.matmul(weight.T, phi, precision=EXACT)
    return weight.sum(1)[:, None] * phi - of_psi, weight.sum(0)[:, None] * psi - of_phi


pairwise_logits.defvjp(_logits_forward, _logits_backward)


def info_nce(logits: jax.Array, penalty: float) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Forward InfoNCE of logits [B, B] with positives on the diagonal, plus a penalty on logsumexp^2.

    Returns:
      The loss [], and metrics of the batch: accuracy, mean positive and mean negative logit.
    """
    count = logits.shape[0]
    positive = jnp.diagonal(logits)
    normalizer = jax.nn.logsumexp(logits, axis=1)
    loss = -jnp.mean(positive - normalizer)
    loss += penalty * jnp.mean((normalizer + 1e-6) ** 2)
    return loss, {
        "accuracy": jnp.mean(jnp.argmax(logits, axis=1) == jnp.arange(count)),
        "logits_positive": positive.mean(),
        "logits_negative": (logits.sum() - positive.sum()) / (count * (count - 1)),
    }


def _identity(rows: jax.Array) -> jax.Array:
    return rows


@dataclass(frozen=True)
class CRL:
    """The algorithm: initialization and update of a learner, as pure functions of arrays.

    Attributes:
      config: settings of the update.
      actor, critic: the networks.
      replicate: replicates rows [B, ...] that are sharded over devices, so that each device has the whole batch.
    """

    config: CRLConfig
    actor: Actor
    critic: Critic
    replicate: Callable[[jax.Array], jax.Array] = _identity

    @property
    def trunk(self) -> "FusedTrunk | None":
        """That of both networks, which share it."""
        return self.actor.trunk

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.learning_rate)

    @property
    def _alpha_optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.config.temperature_learning_rate)

    def init(self, key: jax.Array) -> Learner:
        """A learner with random parameters and empty optimizer states."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.actor.init(actor_key), self.critic.init(critic_key)
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        return Learner(
            actor=actor,
            critic=critic,
            log_alpha=log_alpha,
            actor_optimizer=self._optimizer.init(actor),
            critic_optimizer=self._optimizer.init(critic),
            alpha_optimizer=self._alpha_optimizer.init(log_alpha),
        )

    def cost(self, batch_size: int) -> dict[str, int]:
        """The cost of a run, from shapes alone.

        Returns:
          ``parameters``: their number in actor and critic; ``flops_per_update``: FLOPs of the matrix products of an
          update (paper figure 4), without recomputation by ``remat``.
        """
        learner = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        # The fused path computes the same products, inside kernels, where they cannot be counted.
        actor = replace(self.actor, config=replace(self.actor.config, remat=False), trunk=None)
        critic = replace(self.critic, config=replace(self.critic.config, remat=False), trunk=None)
        plain = CRL(self.config, actor, critic)
        sizes = self.critic.state_size, self.critic.action_size, self.critic.goal_size
        batch = [jax.ShapeDtypeStruct((batch_size, size), jnp.float32) for size in sizes]
        key = jax.eval_shape(lambda: jax.random.key(0))
        return {
            "parameters": parameter_count((learner.actor, learner.critic)),
            "flops_per_update": flops.count(plain.update, learner, key, *batch),
        }

    def critic_loss(
        self, params: Params, state: jax.Array, action: jax.Array, goal: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        """InfoNCE loss of a batch [B, ...] of state-actions and their hindsight goals.

        Returns:
          The loss [], psi(goal) [B, 64], and the metrics of ``info_nce``.
        """
        phi, psi = self.critic.phi(params, state, action), self.critic.psi(params, goal)
        loss, detail = self.contrast(phi, psi)
        return loss, (psi, detail)

    def contrast(self, phi: jax.Array, psi: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """``info_nce`` of a batch of embeddings [B, 64]."""
        # Each device computes its rows of the logits: its own state-actions against the goals of the whole batch.
        logits = pairwise_logits(phi, self.replicate(psi))
        return info_nce(logits, self.config.logsumexp_penalty)

    def actor_loss(
        self,
        params: Params,
        critic: Params,
        alpha: jax.Array,
        state: jax.Array,
        goal: jax.Array,
        psi: jax.Array,
        noise: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """Mean of alpha log pi(a|s, g) - Q(s, a, g) over a batch [B, ...], with actions from ``noise`` [B, action].

        ``psi`` is psi(goal) [B, 64], which the critic's loss computes from the same parameters.

        Returns:
          The loss [], and the log probabilities [B].
        """
        action, log_prob = self.actor.sample(params, jnp.concatenate([state, goal], axis=-1), noise)
        q = -distance(self.critic.phi(critic, state, action), psi)
        return jnp.mean(alpha * log_prob - q), log_prob

    def alpha_loss(self, log_alpha: jax.Array, log_prob: jax.Array) -> jax.Array:
        """Loss [] of the temperature for log probabilities [B]; raises alpha while the entropy is below its target."""
        target = self.config.entropy_per_dimension * self.actor.action_size
        return jnp.mean(jnp.exp(log_alpha) * jax.lax.stop_gradient(-log_prob - target))

    def gradients(
        self, learner: Learner, key: jax.Array, state: jax.Array, action: jax.Array, goal: jax.Array
    ) -> tuple[Gradients, dict[str, jax.Array]]:
        """Gradients of the three losses on a batch [B, ...], each by its own parameters; and the update's metrics."""
        noise = jax.random.normal(key, action.shape)
        alpha = jnp.exp(learner.log_alpha)
        losses = self._joint_losses if self.trunk else self._losses
        (critic_loss, actor_loss), (critic_grad, actor_grad), log_prob, detail = losses(
            learner, alpha, state, action, goal, noise
        )
        grouped = self.trunk is not None
        alpha_loss, alpha_grad = jax.value_and_grad(self.alpha_loss)(learner.log_alpha, log_prob)
        return (actor_grad, critic_grad, alpha_grad), {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha": alpha,
            "entropy": -log_prob.mean(),
            "critic_gradient": norm(critic_grad, grouped=grouped),
            "actor_gradient": norm(actor_grad, grouped=grouped),
            **detail,
        }

    def _losses(self, learner: Learner, alpha: jax.Array, *batch: jax.Array) -> Any:
        """The losses of critic and actor, their gradients, the log probabilities [B] and the metrics of ``info_nce``.

        ``batch``: states, actions, goals and noise [B, ...].
        """
        state, action, goal, noise = batch
        (critic_loss, (psi, detail)), critic_grad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critic, state, action, goal
        )
        (actor_loss, log_prob), actor_grad = jax.value_and_grad(self.actor_loss, has_aux=True)(
            learner.actor, learner.critic, alpha, state, goal, psi, noise
        )
        return (critic_loss, actor_loss), (critic_grad, actor_grad), log_prob, detail

    def _joint_losses(self, learner: Learner, alpha: jax.Array, *batch: jax.Array) -> Any:
        """The same as ``_losses``, with networks that do not wait for each other in one launch of a kernel."""
        state, action, goal, noise = batch

        def total(critic: Params, actor: Params) -> Any:
            (phi,), (psi,), outputs = apply(
                self.trunk,
                [
                    (self.critic.network, critic["phi"], jnp.concatenate([state, action], axis=-1)),
                    (self.critic.network, critic["psi"], goal),
                    (self.actor.network, actor, jnp.concatenate([state, goal], axis=-1)),
                ],
            )
            critic_loss, detail = self.contrast(phi, psi)
            own_action, log_prob = self.actor.sample_of(*self.actor.distribution_of(*outputs), noise)
            # The actor's loss has no gradient by the critic.
            fixed, psi = jax.lax.stop_gradient((critic, psi))
            q = -distance(self.critic.phi(fixed, state, own_action), psi)
            actor_loss = jnp.mean(alpha * log_prob - q)
            return critic_loss + actor_loss, ((critic_loss, actor_loss), log_prob, detail)

        (_, (losses, log_prob, detail)), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
            learner.critic, learner.actor
        )
        return losses, gradients, log_prob, detail

    def step(self, learner: Learner, gradients: Gradients, skip: jax.Array | bool = False) -> Learner:
        """Apply one Adam step; return the learner unchanged where ``skip`` is true."""
        rates = self.config.learning_rate, self.config.temperature_learning_rate
        actor_grad, critic_grad, alpha_grad = gradients
        actor = adam(rates[0], actor_grad, learner.actor_optimizer, learner.actor, skip)
        critic = adam(rates[0], critic_grad, learner.critic_optimizer, learner.critic, skip)
        alpha = adam(rates[1], alpha_grad, learner.alpha_optimizer, learner.log_alpha, skip)
        return Learner(actor[0], critic[0], alpha[0], actor[1], critic[1], alpha[1])

    def update(
        self, learner: Learner, key: jax.Array, state: jax.Array, action: jax.Array, goal: jax.Array
    ) -> tuple[Learner, dict[str, jax.Array]]:
        """One update of actor, critic and temperature on a batch [B, ...], all from the same old parameters."""
        gradients, metrics = self.gradients(learner, key, state, action, goal)
        return self.step(learner, gradients), metrics
