"""Twin delayed deterministic policy gradients (TD3), with commanded goals or with hindsight goals, as in JaxGCRL.

    a' = clip(pi'(s', g) + clip(noise, within noise_bound), within 1),  noise ~ target_noise N(0, 1)
    y = r + discount gamma min_k Q'_k(s', a', g)
    critic:  1/2 mean over rows and both critics of (Q_k(s, a, g) - y)^2
    actor:   -mean of Q_1(s, pi(s, g), g)
    Q' <- (1 - tau) Q' + tau Q;  pi' <- (1 - tau) pi' + tau pi

The actor and both averages move in every ``policy_delay``-th update only. A time limit counts as an end like a fall, as
in JaxGCRL: the discount is 0 at both, and no row is masked.

Differences from JaxGCRL's code: pi' is the moving average above, as in the TD3 paper. JaxGCRL averages the actor's old
and new parameters instead, so that pi' follows the actor without delay. Exploring actions are clipped to [-1, 1] before
they are stored; every environment clips them too. Hindsight goals differ in the same way as in SAC (``sac.py``).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms.base import check_positive
from crlviz.algorithms.batches import Batch, Rows, shapes
from crlviz.algorithms.optimizer import network_step, norm
from crlviz.algorithms.q_learning import QConfig, QLearning, moving_average, observations
from crlviz.errors import UsageError
from crlviz.networks import flops
from crlviz.networks.policies import DeterministicActor
from crlviz.networks.starts import Params

_LEAST_RETURN = 1e-9  # a learned Q may be negative, which no number of steps gives


@dataclass(frozen=True)
class TD3Config(QConfig):
    """Settings of TD3's update; the defaults are JaxGCRL's.

    Attributes:
      learning_rate: Adam's learning rate for actor and critics.
      policy_delay: updates of the critics for one of the actor and of the target networks.
      target_noise: standard deviation of the noise on the actions in a target.
      explore_noise: standard deviation of the noise on the actions that explore.
      noise_bound: largest absolute noise, of both.
    """

    learning_rate: float = 3e-4
    policy_delay: int = 2
    target_noise: float = 0.2
    explore_noise: float = 0.4
    noise_bound: float = 0.5

    section: ClassVar[str] = "td3"

    def __post_init__(self):
        super().__post_init__()
        check_positive(self.section, self, "learning_rate", "target_noise", "explore_noise", "noise_bound")
        if self.policy_delay < 1:
            raise UsageError(f"{self.section}.policy_delay is {self.policy_delay}; it must be at least 1")


class ActorLoss(struct.PyTreeNode):
    """The loss [] of the actor, and the norm [] of its gradient."""

    loss: jax.Array
    gradient: jax.Array


class TD3Learner(struct.PyTreeNode):
    """Everything that an update changes.

    Attributes:
      actor, critic: parameters.
      target_actor, target: their moving averages.
      actor_optimizer, critic_optimizer: Adam's states.
      updates: number of updates so far.
      last: of the actor's last step, which the updates between two steps report.
    """

    actor: Any
    critic: Any
    target_actor: Any
    target: Any
    actor_optimizer: Any
    critic_optimizer: Any
    updates: jax.Array
    last: ActorLoss


@dataclass(frozen=True)
class TD3(QLearning):
    """TD3 on commanded goals, with the environment's reward."""

    name: ClassVar[str] = "td3"
    Config: ClassVar[type] = TD3Config
    Policy: ClassVar[Callable[..., Any]] = DeterministicActor
    losses: ClassVar[tuple[str, ...]] = ("critic_loss", "actor_loss", "critic_gradient", "actor_gradient")
    details: ClassVar[tuple[str, ...]] = ("q", "reward")

    def init(self, key: jax.Array) -> TD3Learner:
        """A learner with random parameters and empty optimizer states; targets begin as copies."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.actor.init(actor_key), self.critic.init(critic_key)
        optimizer = optax.adam(self.config.learning_rate)
        return TD3Learner(
            actor=actor,
            critic=critic,
            target_actor=jax.tree.map(jnp.copy, actor),
            target=jax.tree.map(jnp.copy, critic),
            actor_optimizer=optimizer.init(actor),
            critic_optimizer=optimizer.init(critic),
            updates=jnp.zeros((), int),
            last=ActorLoss(jnp.zeros(()), jnp.zeros(())),
        )

    def cost(self, batch_size: int, rows: Rows | None = None) -> dict[str, int]:
        """As for any algorithm; the cost of an update is the average, so the actor's step counts 1 / policy_delay."""
        cost, plain = super().cost(batch_size, rows), self.plain
        learner = jax.eval_shape(lambda: plain.init(jax.random.key(0)))
        batch = shapes(rows or self.rows, self.sizes, batch_size)
        step = flops.count(jax.grad(plain.actor_loss), learner.actor, learner.critic, batch)
        without = round(step * (1 - 1 / self.config.policy_delay))
        return cost | {"flops_per_update": cost["flops_per_update"] - without}

    def trained(self, learner: TD3Learner) -> Any:
        return learner.actor, learner.critic

    def steps_of(self, q: Any) -> Any:
        """A policy that arrives after n steps and stays has Q = scale * (discount^n + discount^(n + 1) + ...)."""
        discount, scale = self.config.discount, self.config.reward_scale
        if not 0 < discount < 1:
            return None
        return jnp.log(jnp.maximum(q * (1 - discount) / scale, _LEAST_RETURN)) / math.log(discount)

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        action = self.actor.mean_action(params["actor"], observation)
        if key is None:
            return action
        return self.noisy(action, self.config.explore_noise, jax.random.normal(key, action.shape))

    def noisy(self, action: jax.Array, deviation: float, noise: jax.Array) -> jax.Array:
        """Actions [..., action] plus bounded noise, clipped to [-1, 1], from standard normal noise [..., action]."""
        bound = self.config.noise_bound
        return jnp.clip(action + jnp.clip(deviation * noise, -bound, bound), -1, 1)

    def targets(self, learner: TD3Learner, batch: Batch, noise: jax.Array) -> jax.Array:
        """y [B] of a batch, with standard normal ``noise`` [B, action] on the next actions."""
        action = self.actor.mean_action(learner.target_actor, observations(batch)[1])
        action = self.noisy(action, self.config.target_noise, noise)
        return self.returns(batch, self.critic.q(learner.target, batch.next_state, action, batch.goal))

    def critic_loss(self, params: Params, batch: Batch, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss [] of the twin Q for targets [B], and the mean of its values []."""
        values = self.critic.values(params, batch.state, batch.action, batch.goal)
        return 0.5 * jnp.mean((values - target) ** 2), values.mean()

    def actor_loss(self, params: Params, critic: Params, batch: Batch) -> jax.Array:
        """The loss [] of the policy: minus the mean of the first critic's value."""
        before, _ = observations(batch)
        action = self.actor.mean_action(params, before)
        first = jax.tree.map(lambda leaf: leaf[0], critic)
        return -self.critic.one(first, jnp.concatenate([before, action], axis=-1)).mean()

    def gradients(self, learner: TD3Learner, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """Gradients of the actor's loss, where this update moves it, and of the critic's; and ``last`` of a learner."""
        target = self.targets(learner, batch, jax.random.normal(key, batch.action.shape))
        (critic_loss, q), critic_grad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critic, batch, target
        )

        def of_actor() -> tuple[Any, ActorLoss]:
            loss, gradient = jax.value_and_grad(self.actor_loss)(learner.actor, learner.critic, batch)
            return gradient, ActorLoss(loss, norm(gradient))

        def of_none() -> tuple[Any, ActorLoss]:
            return jax.tree.map(jnp.zeros_like, learner.actor), learner.last

        actor_grad, last = jax.lax.cond(self._moves(learner), of_actor, of_none)
        return (actor_grad, critic_grad, last), {
            "critic_loss": critic_loss,
            "actor_loss": last.loss,
            "q": q,
            "reward": batch.reward.mean(),
            "critic_gradient": norm(critic_grad),
            "actor_gradient": last.gradient,
        }

    def _moves(self, learner: TD3Learner) -> jax.Array:
        """Whether the next update of a learner moves its actor; the first one does, so that ``last`` is known."""
        return learner.updates % self.config.policy_delay == 0

    def step(self, learner: TD3Learner, gradients: Any, skip: jax.Array | bool = False) -> TD3Learner:
        """An Adam step of the critic, and of the actor when it is its turn; unchanged where ``skip`` is true."""
        rate, tau = self.config.learning_rate, self.config.tau
        actor_grad, critic_grad, last = gradients
        rests = jnp.logical_or(skip, ~self._moves(learner))
        of_actor, of_critic = self.actor.config, self.critic.config
        actor, actor_state = network_step(of_actor, rate, actor_grad, learner.actor_optimizer, learner.actor, rests)
        critic, critic_state = network_step(
            of_critic, rate, critic_grad, learner.critic_optimizer, learner.critic, skip
        )
        return TD3Learner(
            actor=actor,
            critic=critic,
            target_actor=moving_average(tau, learner.target_actor, actor, rests),
            target=moving_average(tau, learner.target, critic, rests),
            actor_optimizer=actor_state,
            critic_optimizer=critic_state,
            updates=jnp.where(skip, learner.updates, learner.updates + 1),
            last=jax.tree.map(lambda old, new: jnp.where(skip, old, new), learner.last, last),
        )


@dataclass(frozen=True)
class TD3HER(TD3):
    """TD3 with hindsight goals, for which the reward is 1 within the environment's distance."""

    name: ClassVar[str] = "td3+her"
    her: ClassVar[bool] = True
