"""Goal-conditioned implicit Q-learning from a data set (GCIQL), as in OGBench.

    V:      mean of |expectile - [u < 0]| u^2,  u = min_k Q'_k(s, a, g) - V(s, g)
    Q:      mean over rows of sum_k (Q_k(s, a, g) - (r + gamma m V(s', g)))^2
    Q' <- (1 - tau) Q' + tau Q
    actor:  ``actor_losses``; of DDPG+BC with min_k Q_k, of AWR with A = min_k Q'_k(s, a, g) - V(s, g)

If the goal comes from the row's own state, r and m are 0; else r is -1 and m is 1. So Q is minus the discounted number
of steps to the goal. Targets evaluate only actions from the data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms import actor_losses
from crlviz.algorithms.base import Algorithm, HasQ, Meaning, check_positive, identity
from crlviz.algorithms.batches import Batch, Rows, Shares, Sizes
from crlviz.algorithms.optimizer import network_step, norm
from crlviz.algorithms.q_learning import moving_average, observations
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.policies import GaussianActor, log_prob_of
from crlviz.networks.residual import ResidualNetwork, shapes_of
from crlviz.networks.starts import Params, initial
from crlviz.networks.twin_q import TwinQ
from crlviz.options import check_choice

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk


@dataclass(frozen=True)
class GCIQLConfig:
    """Settings of the update; the defaults are OGBench's.

    Attributes:
      learning_rate: Adam's learning rate for all networks.
      expectile: of V; 0.5 is the mean over the data's actions, toward 1 their best.
      tau: share of the new parameters in an update of the target Q.
      actor_loss: a key of ``actor_losses.LOSSES``.
      bc_weight: as in ``crl.CRLConfig``.

    Raises:
      UsageError: a value is out of range.
    """

    learning_rate: float = 3e-4
    expectile: float = 0.9
    tau: float = 0.005
    actor_loss: str = "ddpgbc"
    bc_weight: float = 0.3

    section: ClassVar[str] = "gciql"

    def __post_init__(self):
        check_positive(self.section, self, "learning_rate", "bc_weight", "tau")
        check_choice(f"{self.section}.actor_loss", self.actor_loss, actor_losses.LOSSES)
        if not 0 < self.expectile < 1:
            raise UsageError(f"{self.section}.expectile is {self.expectile}; it must be above 0 and below 1")
        if self.tau > 1:
            raise UsageError(f"{self.section}.tau is {self.tau}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Value:
    """V of a state and a goal."""

    config: NetworkConfig
    inputs: int

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (1,))

    def init(self, key: jax.Array) -> Params:
        """Initial parameters."""
        return initial(self.config, key, shapes_of(self.network, self.inputs))

    def of(self, params: Params, observation: jax.Array) -> jax.Array:
        """V [...] of states followed by goals [..., state + goal]."""
        outputs: Any = self.network.apply({"params": params}, observation)
        return outputs[0][..., 0]


class GCIQLLearner(struct.PyTreeNode):
    """Everything that an update changes; ``target`` is the moving average of the critic."""

    actor: Any
    critic: Any
    value: Any
    target: Any
    actor_optimizer: Any
    critic_optimizer: Any
    value_optimizer: Any


@dataclass(frozen=True)
class GCIQL(Algorithm, HasQ):
    """The algorithm.

    Attributes:
      config: settings of the update.
      actor: the policy.
      critic: the twin Q.
      value: V.
      replicate: as in ``Algorithm``; unused, because rows do not depend on each other.
      gamma: discount of the return, and of the critic's goals.
    """

    name: ClassVar[str] = "gciql"
    Config: ClassVar[type] = GCIQLConfig
    losses: ClassVar[tuple[str, ...]] = ("critic_loss", "value_loss", "actor_loss", "critic_gradient", "actor_gradient")
    details: ClassVar[tuple[str, ...]] = ("q", "v")
    online: ClassVar[bool] = False
    offline: ClassVar[bool] = True

    config: GCIQLConfig
    actor: GaussianActor
    critic: TwinQ
    value: Value
    replicate: Callable[[jax.Array], jax.Array] = identity
    gamma: float = 0.99

    @classmethod
    def create(
        cls,
        config: GCIQLConfig,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        state, action, goal = sizes
        policy, value = GaussianActor(actor, state + goal, action), Value(critic, state + goal)
        return cls(config, policy, TwinQ(critic, *sizes), value, replicate, gamma)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.critic.state_size, self.critic.action_size, self.critic.goal_size)

    @property
    def rows(self) -> Rows:
        return self.recorded

    @property
    def recorded(self) -> Rows:
        shares = Shares(0.2, 0.5, 0.3, self.gamma)
        return Rows("recorded", transitions=True, value=shares, actor=Shares(0, 1, 0))

    def init(self, key: jax.Array) -> GCIQLLearner:
        """A learner with random parameters and empty optimizer states; the target begins as a copy."""
        keys = jax.random.split(key, 3)
        actor, critic, value = self.actor.init(keys[0]), self.critic.init(keys[1]), self.value.init(keys[2])
        optimizer = optax.adam(self.config.learning_rate)
        return GCIQLLearner(
            actor=actor,
            critic=critic,
            value=value,
            target=jax.tree.map(jnp.copy, critic),
            actor_optimizer=optimizer.init(actor),
            critic_optimizer=optimizer.init(critic),
            value_optimizer=optimizer.init(value),
        )

    def networks(self, learner: GCIQLLearner) -> dict[str, Params]:
        return {"actor": learner.actor, "critic": learner.critic}

    @property
    def network_shapes(self) -> dict[str, Any]:
        return {"actor": self.actor.shapes, "critic": self.critic.shapes}

    def trained(self, learner: GCIQLLearner) -> Any:
        return learner.actor, learner.critic, learner.value

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.actor.act(params["actor"], observation, key)

    @property
    def q_meaning(self) -> Meaning:
        return Meaning("Q(s, a, g) = minus the discounted steps to the goal", "steps")

    def q(self, params: dict[str, Params], state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        return self.critic.q(params["critic"], state, action, goal)

    def value_loss(self, params: Params, target: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The expectile loss [] of V, and its mean []."""
        q = self.critic.q(target, batch.state, batch.action, batch.goal)
        v = self.value.of(params, observations(batch)[0])
        weight = jnp.where(q < v, 1 - self.config.expectile, self.config.expectile)
        return jnp.mean(weight * (q - v) ** 2), v.mean()

    def critic_loss(self, params: Params, value: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The loss [] of both Q, and their mean []."""
        following = self.value.of(value, observations(batch)[1])
        target = batch.reward + self.gamma * batch.discount * following
        values = self.critic.values(params, batch.state, batch.action, batch.goal)
        return jnp.sum((values - target) ** 2, axis=0).mean(), values.mean()

    def actor_loss(self, params: Params, learner: GCIQLLearner, batch: Batch) -> jax.Array:
        """The loss [] of the policy."""
        goal = batch.actor_goal
        observation = jnp.concatenate([batch.state, goal], axis=-1)
        log_prob = log_prob_of(self.actor, params, observation, batch.action)
        if self.config.actor_loss == "awr":
            q = self.critic.q(learner.target, batch.state, batch.action, goal)
            return actor_losses.awr(q - self.value.of(learner.value, observation), log_prob, self.config.bc_weight)
        q = self.critic.q(learner.critic, batch.state, self.actor.mean_action(params, observation), goal)
        return actor_losses.ddpg_bc(q, log_prob, self.config.bc_weight)

    def gradients(self, learner: GCIQLLearner, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """Gradients of the three losses, each by its own parameters; deterministic."""
        (value_loss, v), value_grad = jax.value_and_grad(self.value_loss, has_aux=True)(
            learner.value, learner.target, batch
        )
        (critic_loss, q), critic_grad = jax.value_and_grad(self.critic_loss, has_aux=True)(
            learner.critic, learner.value, batch
        )
        actor_loss, actor_grad = jax.value_and_grad(self.actor_loss)(learner.actor, learner, batch)
        return (actor_grad, critic_grad, value_grad), {
            "critic_loss": critic_loss,
            "value_loss": value_loss,
            "actor_loss": actor_loss,
            "q": q,
            "v": v,
            "critic_gradient": norm((critic_grad, value_grad)),
            "actor_gradient": norm(actor_grad),
        }

    def step(self, learner: GCIQLLearner, gradients: Any, skip: jax.Array | bool = False) -> GCIQLLearner:
        """An Adam step of all networks, then the moving average; unchanged where ``skip`` is true."""
        rate, (actor_grad, critic_grad, value_grad) = self.config.learning_rate, gradients
        actor = network_step(self.actor.config, rate, actor_grad, learner.actor_optimizer, learner.actor, skip)
        critic = network_step(self.critic.config, rate, critic_grad, learner.critic_optimizer, learner.critic, skip)
        value = network_step(self.critic.config, rate, value_grad, learner.value_optimizer, learner.value, skip)
        target = moving_average(self.config.tau, learner.target, critic[0], skip)
        return GCIQLLearner(actor[0], critic[0], value[0], target, actor[1], critic[1], value[1])
