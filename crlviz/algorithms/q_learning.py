"""What SAC and TD3 share: twin Q networks, their moving averages, and hindsight goals (HER)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp

from crlviz.algorithms.base import Algorithm, HasQ, Meaning, check_positive, identity
from crlviz.algorithms.batches import Batch, Rows, Sizes
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.starts import Params
from crlviz.networks.twin_q import TwinQ

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

HINDSIGHT = ("final", "future")


@dataclass(frozen=True)
class QConfig:
    """Settings that SAC and TD3 share; the defaults are JaxGCRL's.

    Attributes:
      discount: gamma of the return. JaxGCRL's default is 0.9, and which one the paper used is not published.
      tau: share of the new parameters in an update of the target networks.
      reward_scale: factor of the rewards.
      her_goals: rule for the hindsight goals of ``+her``: ``final``, the last goal that the row's episode achieves
        inside the window; or ``future``, a later one with weight gamma^k, of the run's ``gamma``.
      her_share: share of the rows that get a hindsight goal with ``+her``; the rest keep their commanded one.
    """

    discount: float = 0.9
    tau: float = 0.005
    reward_scale: float = 1.0
    her_goals: str = "final"
    her_share: float = 1.0

    section: ClassVar[str]

    def __post_init__(self):
        check_positive(self.section, self, "tau", "reward_scale")
        for name in ("discount", "her_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{self.section}.{name} is {getattr(self, name)}; it must be from 0 to 1")
        if self.tau > 1:
            raise UsageError(f"{self.section}.tau is {self.tau}; it must be above 0 and at most 1")
        if self.her_goals not in HINDSIGHT:
            raise UsageError(f"{self.section}.her_goals is {self.her_goals!r}; take {' or '.join(HINDSIGHT)}")


@dataclass(frozen=True)
class QLearning(Algorithm, HasQ):
    """An actor that maximizes a twin Q, which is learned from rewards.

    Attributes:
      config: settings of the update.
      actor: the policy, of the class ``Policy``.
      critic: the twin Q.
      replicate: as in ``Algorithm``; unused, because rows do not depend on each other.
      gamma: discount of the hindsight goals of ``future``.
    """

    Policy: ClassVar[Callable[..., Any]]
    her: ClassVar[bool] = False

    config: Any
    actor: Any
    critic: TwinQ
    replicate: Callable[[jax.Array], jax.Array] = identity
    gamma: float = 0.99

    @classmethod
    def create(
        cls,
        config: QConfig,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        state, action, goal = sizes
        return cls(config, cls.Policy(actor, state + goal, action), TwinQ(critic, *sizes), replicate, gamma)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.critic.state_size, self.critic.action_size, self.critic.goal_size)

    @property
    def rows(self) -> Rows:
        if not self.her:
            return Rows("commanded", transitions=True)
        return Rows(self.config.her_goals, self.gamma, self.config.her_share, transitions=True)

    @property
    def network_shapes(self) -> dict[str, Any]:
        return {"actor": self.actor.shapes, "critic": self.critic.shapes}

    def networks(self, learner: Any) -> dict[str, Params]:
        return {"actor": learner.actor, "critic": learner.critic}

    @property
    def q_meaning(self) -> Meaning:
        return Meaning("Q(s, a, g) = discounted steps at the goal", "steps")

    def q(self, params: dict[str, Params], state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        return self.critic.q(params["critic"], state, action, goal)

    def returns(self, batch: Batch, value: jax.Array) -> jax.Array:
        """The targets [B] of Q for a batch and the value [B] of its next states; without a gradient."""
        reward = self.config.reward_scale * batch.reward
        return jax.lax.stop_gradient(reward + batch.discount * self.config.discount * value)


def observations(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """What the policy sees before and after the step, each [B, state + goal]; both with the batch's goal."""
    return (
        jnp.concatenate([batch.state, batch.goal], axis=-1),
        jnp.concatenate([batch.next_state, batch.goal], axis=-1),
    )


def moving_average(tau: float, old: Any, new: Any, skip: jax.Array | bool) -> Any:
    """(1 - tau) old + tau new, of trees of arrays; unchanged where ``skip`` is true."""
    return jax.tree.map(lambda old, new: jnp.where(skip, old, (1 - tau) * old + tau * new), old, new)
