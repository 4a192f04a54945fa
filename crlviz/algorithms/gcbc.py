"""Goal-conditioned behavioral cloning (GCBC): imitate the actions of the buffer, toward what they achieved.

    actor:  -mean of log pi(a|s, g),  g: a goal that the row's episode achieves k >= 1 steps later, with weight gamma^k

It uses no critic and no reward. The policy is contrastive RL's tanh-Gaussian. A stored action is first clipped to 1e-6
inside [-1, 1]; its value before the tanh is then its atanh.

The paper names GCBC but does not specify it. Here it uses the training loop and the goals of contrastive RL: the policy
collects data and imitates its own actions, including actions from many updates ago. On a data set it is OGBench's GCBC:
goals are uniform over the rest of the trajectory, and ``policy=gaussian``, the default there, has a fixed deviation of
1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms.base import Algorithm, check_positive, identity
from crlviz.algorithms.batches import Batch, Rows, Shares, Sizes
from crlviz.algorithms.optimizer import network_step, norm
from crlviz.networks.config import NetworkConfig
from crlviz.networks.policies import POLICIES, GaussianActor, log_prob, log_prob_of, raw_of
from crlviz.networks.residual import Actor
from crlviz.networks.starts import Params
from crlviz.options import check_choice

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk


@dataclass(frozen=True)
class GCBCConfig:
    """Settings of the update.

    Attributes:
      learning_rate: Adam's learning rate; OGBench's.
      policy: ``tanh``: a tanh-Gaussian; or ``gaussian``: OGBench's.
    """

    learning_rate: float = 3e-4
    policy: str = "tanh"

    section: ClassVar[str] = "gcbc"

    def __post_init__(self):
        check_positive(self.section, self, "learning_rate")
        check_choice(f"{self.section}.policy", self.policy, POLICIES)


class CloningLearner(struct.PyTreeNode):
    """Everything that an update changes."""

    actor: Any
    actor_optimizer: Any


@dataclass(frozen=True)
class GCBC(Algorithm):
    """Behavioral cloning toward hindsight goals.

    Attributes:
      config: settings of the update.
      actor: the policy.
      goal_size: length of a goal.
      replicate: as in ``Algorithm``; unused, because rows do not depend on each other.
      gamma: discount of the hindsight goals.
    """

    name: ClassVar[str] = "gcbc"
    Config: ClassVar[type] = GCBCConfig
    losses: ClassVar[tuple[str, ...]] = ("actor_loss", "actor_gradient")
    details: ClassVar[tuple[str, ...]] = ("entropy",)
    offline: ClassVar[bool] = True

    config: Any
    actor: Any
    goal_size: int
    replicate: Callable[[jax.Array], jax.Array] = identity
    gamma: float = 0.99

    @classmethod
    def create(
        cls,
        config: Any,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        policy: Any = Actor if config.policy == "tanh" else GaussianActor
        return cls(config, policy(actor, sizes.state + sizes.goal, sizes.action), sizes.goal, replicate, gamma)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.actor.observation_size - self.goal_size, self.actor.action_size, self.goal_size)

    @property
    def rows(self) -> Rows:
        return Rows("future", self.gamma)

    @property
    def recorded(self) -> Rows:
        return Rows("recorded", value=Shares(0, 1, 0))

    def init(self, key: jax.Array) -> CloningLearner:
        """A learner with random parameters and an empty optimizer state."""
        actor = self.actor.init(key)
        return CloningLearner(actor, optax.adam(self.config.learning_rate).init(actor))

    @property
    def network_shapes(self) -> dict[str, Any]:
        return {"actor": self.actor.shapes}

    def networks(self, learner: CloningLearner) -> dict[str, Params]:
        return {"actor": learner.actor}

    def trained(self, learner: CloningLearner) -> Any:
        return learner.actor

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.actor.act(params["actor"], observation, key)

    def actor_loss(self, params: Params, batch: Batch, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The loss [] of a batch, and the policy's entropy [], estimated from ``noise`` [B, action]."""
        observation = jnp.concatenate([batch.state, batch.goal], axis=-1)
        if self.config.policy == "gaussian":
            entropy = 0.5 * self.actor.action_size * (1 + math.log(2 * math.pi))
            return -log_prob_of(self.actor, params, observation, batch.action).mean(), jnp.asarray(entropy)
        mean, log_std = self.actor.distribution(params, observation)
        sampled = log_prob(mean, log_std, mean + jnp.exp(log_std) * noise)
        return -log_prob(mean, log_std, raw_of(batch.action)).mean(), -sampled.mean()

    def gradients(self, learner: CloningLearner, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """The gradient of the actor's loss."""
        noise = jax.random.normal(key, batch.action.shape)
        (loss, entropy), gradient = jax.value_and_grad(self.actor_loss, has_aux=True)(learner.actor, batch, noise)
        return gradient, {"actor_loss": loss, "entropy": entropy, "actor_gradient": norm(gradient)}

    def step(self, learner: CloningLearner, gradients: Any, skip: jax.Array | bool = False) -> CloningLearner:
        """One Adam step; the learner is unchanged where ``skip`` is true."""
        shape, rate = self.actor.config, self.config.learning_rate
        return CloningLearner(*network_step(shape, rate, gradients, learner.actor_optimizer, learner.actor, skip))
