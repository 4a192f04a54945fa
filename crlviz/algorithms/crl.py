"""Contrastive RL: an InfoNCE critic, a tanh-Gaussian actor and a learned temperature (paper section 3).

On a data set, a loss of ``actor_losses.py`` can keep the actor near the data's actions. OGBench's CRL is
``actor_loss=ddpgbc policy=gaussian critics=2 loss=binary energy=dot softmax_temperature=8``, with embeddings of 512.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms import crl_offline
from crlviz.algorithms.base import Algorithm, HasEmbeddings, HasQ, Meaning, identity
from crlviz.algorithms.batches import Batch, Rows, Shares, Sizes
from crlviz.algorithms.contrastive_losses import RATIO_LOSSES, contrastive_loss
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.algorithms.energies import ENERGIES, Energy
from crlviz.algorithms.optimizer import adam, network_step, norm
from crlviz.networks.config import NetworkConfig
from crlviz.networks.policies import GaussianActor
from crlviz.networks.residual import Actor, Critic, apply
from crlviz.networks.starts import Params

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

Gradients = tuple[Any, ...]  # of the losses of actor, critic and temperature; of AWR's value; None: no such loss


class Learner(struct.PyTreeNode):
    """Everything that an update changes: parameters and optimizer states. Only AWR has a value."""

    actor: Any
    critic: Any
    log_alpha: jax.Array
    actor_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any
    value: Any = None
    value_optimizer: Any = None


@dataclass(frozen=True)
class Contrastive(Algorithm):
    """What contrastive learners share: initialization and update of a learner, as pure functions of arrays.

    Attributes:
      config: settings of the update.
      actor, critic: the networks.
      replicate: as in ``Algorithm``.
      gamma: discount of the hindsight goals.
    """

    losses: ClassVar[tuple[str, ...]] = (
        "critic_loss",
        "actor_loss",
        "alpha_loss",
        "critic_gradient",
        "actor_gradient",
    )
    details: ClassVar[tuple[str, ...]] = ("alpha", "entropy", "accuracy", "logits_positive", "logits_negative")

    Encoders: ClassVar[type[Critic]] = Critic

    config: CRLConfig
    actor: Any
    critic: Critic
    replicate: Callable[[jax.Array], jax.Array] = identity
    gamma: float = 0.99

    @classmethod
    def create(
        cls,
        config: CRLConfig,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        state, action, goal = sizes
        policy: Any = GaussianActor(actor, state + goal, action)
        if config.policy == "tanh":
            policy = Actor(actor, state + goal, action, trunk, config.log_prob)
        encoders = cls.Encoders(critic, state, action, goal, trunk, config.critics)
        return cls(config, policy, encoders, replicate, gamma)

    @property
    def energy(self) -> Energy:
        """That of the config."""
        return ENERGIES[self.config.energy]

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.critic.state_size, self.critic.action_size, self.critic.goal_size)

    @property
    def rows(self) -> Rows:
        return Rows("future", self.gamma)

    @property
    def trunk(self) -> "FusedTrunk | None":
        """That of both networks, which share it."""
        return self.critic.trunk

    @property
    def value_critic(self) -> Critic:
        """The encoders of AWR's value: those of the critic, without the action."""
        return replace(self.critic, action_size=0)

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
        if self.config.learn_softmax_temperature:
            critic = {**critic, "log_scale": -jnp.log(jnp.asarray(self.config.softmax_temperature, jnp.float32))}
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        value = None
        if self.config.actor_loss == "awr":
            value = self.value_critic.init(jax.random.fold_in(critic_key, 1))
        return Learner(
            actor=actor,
            critic=critic,
            log_alpha=log_alpha,
            actor_optimizer=self._optimizer.init(actor),
            critic_optimizer=self._optimizer.init(critic),
            alpha_optimizer=self._alpha_optimizer.init(log_alpha),
            value=value,
            value_optimizer=None if value is None else self._optimizer.init(value),
        )

    def networks(self, learner: Learner) -> dict[str, Params]:
        return {"actor": learner.actor, "critic": learner.critic}

    @property
    def network_shapes(self) -> dict[str, Any]:
        scale = {"log_scale": jax.ShapeDtypeStruct((), jnp.float32)} if self.config.learn_softmax_temperature else {}
        return {"actor": self.actor.shapes, "critic": {**self.critic.shapes, **scale}}

    def trained(self, learner: Learner) -> Any:
        trained = learner.actor, learner.critic, learner.log_alpha
        return trained if learner.value is None else (*trained, learner.value)

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.actor.act(params["actor"], observation, key)

    def critic_loss(
        self, params: Params, state: jax.Array, action: jax.Array, goal: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        """The contrastive loss of a batch [B, ...] of state-actions and their hindsight goals.

        Returns:
          The loss [], psi(goal) [B, 64], and the metrics of ``contrastive_loss``.
        """
        phi, psi = self.critic.phi(params, state, action), self.critic.psi(params, goal)
        loss, detail = self.contrast(params, phi, psi)
        return loss, (psi, detail)

    def contrast(self, params: Params, phi: jax.Array, psi: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """``contrastive_loss`` of a batch of embeddings [B, 64]; of two critics [2, B, 64] the mean."""
        if self.config.critics == 2:
            both = jax.vmap(partial(self._contrast, params))(phi, psi)
            return jax.tree.map(lambda each: each.mean(0), both)
        return self._contrast(params, phi, psi)

    def _contrast(self, params: Params, phi: jax.Array, psi: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        # Each device computes its rows of the logits: its own state-actions against the goals of the whole batch.
        logits = self.energy.of_pairs(phi, self.replicate(psi))
        if self.config.learn_softmax_temperature:
            logits *= jnp.exp(params["log_scale"])
        elif self.config.softmax_temperature != 1:
            logits /= self.config.softmax_temperature
        return contrastive_loss(self.config.loss, logits, self.config.logsumexp_penalty)

    def score(self, phi: jax.Array, psi: jax.Array) -> jax.Array:
        """Q [...] of embeddings [..., 64]; of two critics [2, ..., 64] the smaller one."""
        values = self.energy.of_rows(phi, psi)
        return values.min(0) if self.config.critics == 2 else values

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
        q = self.score(self.critic.phi(critic, state, action), psi)
        return jnp.mean(alpha * log_prob - q), log_prob

    def alpha_loss(self, log_alpha: jax.Array, log_prob: jax.Array) -> jax.Array:
        """Loss [] of the temperature for log probabilities [B]; raises alpha while the entropy is below its target."""
        target = self.config.entropy_per_dimension * self.actor.action_size
        return jnp.mean(jnp.exp(log_alpha) * jax.lax.stop_gradient(-log_prob - target))

    def gradients(self, learner: Learner, key: jax.Array, batch: Batch) -> tuple[Gradients, dict[str, jax.Array]]:
        """Gradients of the three losses on a batch [B, ...], each by its own parameters; and the update's metrics."""
        if self.config.actor_loss != "sac":
            return crl_offline.gradients(self, learner, batch)
        noise = jax.random.normal(key, batch.action.shape)
        alpha = jnp.exp(learner.log_alpha)
        losses = self._joint_losses if self.trunk else self._losses
        (critic_loss, actor_loss), (critic_grad, actor_grad), log_prob, detail = losses(learner, alpha, batch, noise)
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

    def contrasted(self, batch: Batch) -> jax.Array:
        """What psi embeds of a batch."""
        return batch.goal

    def _losses(self, learner: Learner, alpha: jax.Array, batch: Batch, noise: jax.Array) -> Any:
        """The losses of critic and actor, their gradients, the log probabilities [B] and metrics of the logits."""
        (critic_loss, (psi, detail)), critic_grad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critic, batch.state, batch.action, self.contrasted(batch)
        )
        goal, psi = self.of_actor(learner, batch, psi)
        (actor_loss, log_prob), actor_grad = jax.value_and_grad(self.actor_loss, has_aux=True)(
            learner.actor, learner.critic, alpha, batch.state, goal, psi, noise
        )
        return (critic_loss, actor_loss), (critic_grad, actor_grad), log_prob, detail

    def of_actor(self, learner: Learner, batch: Batch, psi: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The goals [B, goal] of the actor's loss and their psi; ``psi`` belongs to the goals of the critic's loss."""
        if batch.actor_goal is None:
            return batch.goal, psi
        return batch.actor_goal, self.critic.psi(learner.critic, batch.actor_goal)

    def _joint_losses(self, learner: Learner, alpha: jax.Array, batch: Batch, noise: jax.Array) -> Any:
        """The same as ``_losses``, with networks that do not wait for each other in one launch of a kernel."""
        state, action, goal = batch.state, batch.action, batch.goal

        def total(critic: Params, actor: Params) -> Any:
            (phi,), (psi,), outputs = apply(
                self.trunk,
                [
                    (self.critic.network, critic["phi"], jnp.concatenate([state, action], axis=-1)),
                    (self.critic.network, critic["psi"], goal),
                    (self.actor.network, actor, jnp.concatenate([state, goal], axis=-1)),
                ],
            )
            critic_loss, detail = self.contrast(critic, phi, psi)
            own_action, log_prob = self.actor.sample_of(*self.actor.distribution_of(*outputs), noise)
            # The actor's loss has no gradient by the critic.
            fixed, psi = jax.lax.stop_gradient((critic, psi))
            q = self.energy.of_rows(self.critic.phi(fixed, state, own_action), psi)
            actor_loss = jnp.mean(alpha * log_prob - q)
            return critic_loss + actor_loss, ((critic_loss, actor_loss), log_prob, detail)

        (_, (losses, log_prob, detail)), gradients = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(
            learner.critic, learner.actor
        )
        return losses, gradients, log_prob, detail

    def step(self, learner: Learner, gradients: Gradients, skip: jax.Array | bool = False) -> Learner:
        """Apply one Adam step, then projections; return the learner unchanged where ``skip`` is true."""
        rates = self.config.learning_rate, self.config.temperature_learning_rate
        actor_grad, critic_grad, alpha_grad, *others = gradients
        value_grad = others[0] if others else None
        shapes = self.actor.config, self.critic.config
        actor = network_step(shapes[0], rates[0], actor_grad, learner.actor_optimizer, learner.actor, skip)
        critic = network_step(shapes[1], rates[0], critic_grad, learner.critic_optimizer, learner.critic, skip)
        alpha = learner.log_alpha, learner.alpha_optimizer
        if alpha_grad is not None:
            alpha = adam(rates[1], alpha_grad, alpha[1], alpha[0], skip)
        value = learner.value, learner.value_optimizer
        if value_grad is not None:
            value = network_step(shapes[1], rates[0], value_grad, value[1], value[0], skip)
        return Learner(actor[0], critic[0], alpha[0], actor[1], critic[1], alpha[1], *value)


@dataclass(frozen=True)
class CRL(Contrastive, HasQ, HasEmbeddings):
    """The paper's algorithm: phi embeds state-actions, psi goals."""

    name: ClassVar[str] = "crl"
    Config: ClassVar[type] = CRLConfig
    fused: ClassVar[bool] = True
    offline: ClassVar[bool] = True

    @property
    def recorded(self) -> Rows:
        return Rows("recorded", value=Shares(0, 1, 0, self.gamma), actor=Shares(0, 1, 0))

    @property
    def q_meaning(self) -> Meaning:
        return Meaning(f"Q(s, a, g) = {self.energy.formula}", "1")

    def steps_of(self, q: Any) -> Any:
        """The best logits are log p(g | s, a) / p(g), and p falls by gamma with each step before g."""
        config = self.config
        if config.loss not in RATIO_LOSSES or config.learn_softmax_temperature or self.gamma == 1:
            return None
        return q / (config.softmax_temperature * math.log(self.gamma))

    def q(self, params: dict[str, Params], state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        critic = params["critic"]
        return self.score(self.critic.phi(critic, state, action), self.critic.psi(critic, goal))

    def embed(self, params: dict[str, Params], state: jax.Array, action: jax.Array) -> jax.Array:
        return self._first(self.critic.phi(params["critic"], state, action))

    def embed_goal(self, params: dict[str, Params], goal: jax.Array) -> jax.Array:
        return self._first(self.critic.psi(params["critic"], goal))

    def _first(self, embedding: jax.Array) -> jax.Array:
        return embedding[0] if self.config.critics == 2 else embedding
