"""Soft actor-critic, with commanded goals or with hindsight goals, as in JaxGCRL and brax.

    a ~ pi(s, g);  a' ~ pi(s', g);  H: target entropy
    y = r + discount gamma (min_k Q'_k(s', a', g) - alpha log pi(a'|s', g))
    critic:       1/2 mean over rows and both critics of [(1 - truncation) (Q_k(s, a, g) - y)]^2
    actor:        mean of alpha log pi(a|s, g) - min_k Q_k(s, a, g)
    temperature:  mean of alpha (-log pi(a|s, g) - H)
    Q' <- (1 - tau) Q' + tau Q

All gradients are taken at the parameters from before the update. Rows that the time limit ended are left out of the
critic's loss, because their next steps are unknown. After a fall the discount is 0.

Differences from JaxGCRL's code: Actor and temperature share one sample of actions; brax draws one for each. The reward
of a hindsight goal depends on the state after the step; JaxGCRL uses the state before. A hindsight goal of ``final`` is
found for each row, also in episodes that a fall or the window ends. JaxGCRL uses only episodes that reach the time
limit, from a list that a fall in the window shifts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms.base import Meaning, check_positive
from crlviz.algorithms.batches import Batch
from crlviz.algorithms.optimizer import adam, network_step, norm
from crlviz.algorithms.q_learning import QConfig, QLearning, moving_average, observations
from crlviz.networks.policies import SoftplusActor
from crlviz.networks.starts import Params


@dataclass(frozen=True)
class SACConfig(QConfig):
    """Settings of SAC's update; the defaults are JaxGCRL's.

    Attributes:
      learning_rate: Adam's learning rate for actor and critics.
      temperature_learning_rate: Adam's learning rate for the temperature.
      initial_temperature: alpha before the first update.
      entropy_per_dimension: target entropy per action dimension.
    """

    learning_rate: float = 1e-4
    temperature_learning_rate: float = 3e-4
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -0.5

    section: ClassVar[str] = "sac"

    def __post_init__(self):
        super().__post_init__()
        check_positive(self.section, self, "learning_rate", "temperature_learning_rate", "initial_temperature")


class SACLearner(struct.PyTreeNode):
    """Everything that an update changes. ``target`` is the moving average of the critic."""

    actor: Any
    critic: Any
    target: Any
    log_alpha: jax.Array
    actor_optimizer: Any
    critic_optimizer: Any
    alpha_optimizer: Any


@dataclass(frozen=True)
class SAC(QLearning):
    """Soft actor-critic on commanded goals, with the environment's reward."""

    name: ClassVar[str] = "sac"
    Config: ClassVar[type] = SACConfig
    Policy: ClassVar[Callable[..., Any]] = SoftplusActor
    losses: ClassVar[tuple[str, ...]] = (
        "critic_loss",
        "actor_loss",
        "alpha_loss",
        "critic_gradient",
        "actor_gradient",
    )
    details: ClassVar[tuple[str, ...]] = ("alpha", "entropy", "q", "reward")

    def init(self, key: jax.Array) -> SACLearner:
        """A learner with random parameters and empty optimizer states; the target begins as a copy of the critic."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.actor.init(actor_key), self.critic.init(critic_key)
        log_alpha = jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32))
        optimizer, of_alpha = map(optax.adam, (self.config.learning_rate, self.config.temperature_learning_rate))
        return SACLearner(
            actor=actor,
            critic=critic,
            target=jax.tree.map(jnp.copy, critic),
            log_alpha=log_alpha,
            actor_optimizer=optimizer.init(actor),
            critic_optimizer=optimizer.init(critic),
            alpha_optimizer=of_alpha.init(log_alpha),
        )

    def trained(self, learner: SACLearner) -> Any:
        return learner.actor, learner.critic, learner.log_alpha

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.actor.act(params["actor"], observation, key)

    @property
    def q_meaning(self) -> Meaning:
        return Meaning("Q(s, a, g) = discounted steps at the goal and alpha times entropy", "steps")

    def targets(self, learner: SACLearner, batch: Batch, noise: jax.Array) -> jax.Array:
        """y [B] of a batch, with next actions from standard normal ``noise`` [B, action]."""
        _, after = observations(batch)
        action, log_prob = self.actor.sample(learner.actor, after, noise)
        value = self.critic.q(learner.target, batch.next_state, action, batch.goal)
        return self.returns(batch, value - jnp.exp(learner.log_alpha) * log_prob)

    def critic_loss(self, params: Params, batch: Batch, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss [] of the twin Q for targets [B], and the mean of its values []."""
        values = self.critic.values(params, batch.state, batch.action, batch.goal)
        errors = (1 - batch.truncation) * (values - target)
        return 0.5 * jnp.mean(errors**2), values.mean()

    def actor_loss(
        self, params: Params, critic: Params, alpha: jax.Array, batch: Batch, noise: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The loss [] of the policy, and log probabilities [B], with actions from ``noise`` [B, action]."""
        action, log_prob = self.actor.sample(params, observations(batch)[0], noise)
        q = self.critic.q(critic, batch.state, action, batch.goal)
        return jnp.mean(alpha * log_prob - q), log_prob

    def alpha_loss(self, log_alpha: jax.Array, log_prob: jax.Array) -> jax.Array:
        """Loss [] of the temperature for log probabilities [B]; raises alpha while the entropy is below its target."""
        target = self.config.entropy_per_dimension * self.actor.action_size
        return jnp.mean(jnp.exp(log_alpha) * jax.lax.stop_gradient(-log_prob - target))

    def gradients(self, learner: SACLearner, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """Gradients of the actor's, the critic's and the temperature's losses, each by its own parameters."""
        noise, next_noise = (jax.random.normal(each, batch.action.shape) for each in jax.random.split(key))
        alpha = jnp.exp(learner.log_alpha)
        target = self.targets(learner, batch, next_noise)
        (critic_loss, q), critic_grad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critic, batch, target
        )
        (actor_loss, log_prob), actor_grad = jax.value_and_grad(self.actor_loss, has_aux=True)(
            learner.actor, learner.critic, alpha, batch, noise
        )
        alpha_loss, alpha_grad = jax.value_and_grad(self.alpha_loss)(learner.log_alpha, log_prob)
        return (actor_grad, critic_grad, alpha_grad), {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha": alpha,
            "entropy": -log_prob.mean(),
            "q": q,
            "reward": batch.reward.mean(),
            "critic_gradient": norm(critic_grad),
            "actor_gradient": norm(actor_grad),
        }

    def step(self, learner: SACLearner, gradients: Any, skip: jax.Array | bool = False) -> SACLearner:
        """One Adam step of each, then the target's average; the learner is unchanged where ``skip`` is true."""
        rate, alpha_rate = self.config.learning_rate, self.config.temperature_learning_rate
        actor_grad, critic_grad, alpha_grad = gradients
        shapes = self.actor.config, self.critic.config
        actor, actor_state = network_step(shapes[0], rate, actor_grad, learner.actor_optimizer, learner.actor, skip)
        critic, critic_state = network_step(
            shapes[1], rate, critic_grad, learner.critic_optimizer, learner.critic, skip
        )
        alpha, alpha_state = adam(alpha_rate, alpha_grad, learner.alpha_optimizer, learner.log_alpha, skip)
        target = moving_average(self.config.tau, learner.target, critic, skip)
        return SACLearner(actor, critic, target, alpha, actor_state, critic_state, alpha_state)


@dataclass(frozen=True)
class SACHER(SAC):
    """Soft actor-critic with hindsight goals, for which the reward is 1 within the environment's distance."""

    name: ClassVar[str] = "sac+her"
    her: ClassVar[bool] = True
