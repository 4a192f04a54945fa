"""Quasimetric RL from a data set (QRL), as in OGBench: distances between states as large as single steps allow.

    d(x, y) = w mean + (1 - w) max over groups of the length of the union of [x_k, max(x_k, y_k)],  w = sigmoid(weight)
    z = phi(s),  L_far = mean of 100 softplus(5 - d(z, phi(random state)) / 100),  L_near = mean of (d(z, z') - 1)+^2
    critic:    L_far + sg(lambda) L_near + lambda (0.05 - sg(L_near)),  lambda = exp(log_lambda)
    dynamics:  mean of (d(z', T(z, a)) + d(T(z, a), z')) / 2,  T(z, a) = z + residual(z, a)
    actor:     DDPG+BC (``actor_losses``) with Q = -d(T(z, a), phi(goal's state))

The distance is of whole states. The policy sees the goal, which may be a position; so there is no Q of positions. The
random states are the critic's goals, ``dataset.value_goals``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms import actor_losses
from crlviz.algorithms.base import Algorithm, HasEmbeddings, HasQ, check_positive, identity
from crlviz.algorithms.batches import Batch, Rows, Shares, Sizes
from crlviz.algorithms.optimizer import adam, network_step, norm
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.policies import GaussianActor, log_prob_of
from crlviz.networks.residual import ResidualNetwork, shapes_of
from crlviz.networks.starts import Params, initial

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk

_GROUP = 8  # numbers of an embedding that make an interval union
_FAR, _SLOPE, _STEP, _SLACK = 5.0, 100.0, 1.0, 0.05
_LACK = "of goals: its distance is between whole states, and a goal may be a position"


@dataclass(frozen=True)
class QRLConfig:
    """Settings of the update; the defaults are OGBench's.

    Attributes:
      learning_rate: Adam's learning rate for all networks and lambda.
      bc_weight: as in ``crl.CRLConfig``.
      initial_lambda: lambda before the first update.
      latent: numbers of a state's embedding, in groups of 8; OGBench's are 512, for which a CPU takes long.

    Raises:
      UsageError: a value is out of range.
    """

    learning_rate: float = 3e-4
    bc_weight: float = 0.003
    initial_lambda: float = 1.0
    latent: int = 64

    def __post_init__(self):
        check_positive("qrl", self, "learning_rate", "bc_weight", "initial_lambda")
        if self.latent < _GROUP or self.latent % _GROUP:
            raise UsageError(f"qrl.latent is {self.latent}; it must be a positive multiple of {_GROUP}")


@dataclass(frozen=True)
class Quasimetric:
    """phi of states, T of embeddings with actions, and the weight of the distance."""

    config: NetworkConfig
    state_size: int
    action_size: int
    latent: int

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (self.latent,))

    @property
    def shapes(self) -> Any:
        """Shapes of the parameters that ``init`` returns; nothing is computed."""
        sizes = {"phi": self.state_size, "dynamics": self.latent + self.action_size}
        networks = {name: shapes_of(self.network, size) for name, size in sizes.items()}
        return networks | {"weight": jax.ShapeDtypeStruct((), jnp.float32)}

    def init(self, key: jax.Array) -> Params:
        """Initial parameters; mean and max weigh the same."""
        networks = {name: shape for name, shape in self.shapes.items() if name != "weight"}
        return {**initial(self.config, key, networks), "weight": jnp.zeros(())}

    def phi(self, params: Params, state: jax.Array) -> jax.Array:
        """Embeddings [..., latent] of states [..., state]."""
        outputs: Any = self.network.apply({"params": params["phi"]}, state)
        return outputs[0]

    def after(self, params: Params, embedding: jax.Array, action: jax.Array) -> jax.Array:
        """Predicted embeddings [..., latent] after actions [..., action]."""
        x = jnp.concatenate([embedding, action], axis=-1)
        outputs: Any = self.network.apply({"params": params["dynamics"]}, x)
        return embedding + outputs[0]

    def distance(self, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        """d [...] of embeddings [..., latent]."""
        lengths, weight = union_lengths(x, y), jax.nn.sigmoid(params["weight"])
        return weight * lengths.mean(-1) + (1 - weight) * lengths.max(-1)


def union_lengths(x: jax.Array, y: jax.Array) -> jax.Array:
    """Lengths [..., groups] of the unions of the intervals [x_k, max(x_k, y_k)] of each group, of [..., d] numbers.

    Without the sort of ``energies``, which takes a CPU ten times as long: all pairs of a group are compared.
    """
    x, y = (z.reshape(*z.shape[:-1], -1, _GROUP) for z in jnp.broadcast_arrays(x, y))
    right, place = jnp.maximum(x, y), jnp.arange(_GROUP)
    mine, other = x[..., :, None], x[..., None, :]
    earlier = (other < mine) | ((other == mine) & (place < place[:, None]))
    # Of each interval count what lies beyond all intervals that begin before it.
    reached = jnp.where(earlier, right[..., None, :], -jnp.inf).max(-1)
    return jax.nn.relu(right - jnp.maximum(x, reached)).sum(-1)


class QRLLearner(struct.PyTreeNode):
    """Everything that an update changes."""

    actor: Any
    critic: Any
    log_lambda: jax.Array
    actor_optimizer: Any
    critic_optimizer: Any
    lambda_optimizer: Any


@dataclass(frozen=True)
class QRL(Algorithm):
    """The algorithm.

    Attributes:
      config: settings of the update.
      actor: the policy.
      critic: the quasimetric.
      goal_size: length of a goal.
      replicate: as in ``Algorithm``; unused, because rows do not depend on each other.
    """

    name: ClassVar[str] = "qrl"
    Config: ClassVar[type] = QRLConfig
    losses: ClassVar[tuple[str, ...]] = (
        "critic_loss",
        "dynamics_loss",
        "actor_loss",
        "critic_gradient",
        "actor_gradient",
    )
    details: ClassVar[tuple[str, ...]] = ("lambda", "far_distance", "step_distance")
    lacks: ClassVar[Mapping[type, str]] = {HasQ: f"Q {_LACK}", HasEmbeddings: f"embeddings {_LACK}"}
    online: ClassVar[bool] = False
    offline: ClassVar[bool] = True

    config: QRLConfig
    actor: GaussianActor
    critic: Quasimetric
    goal_size: int
    replicate: Callable[[jax.Array], jax.Array] = identity

    @classmethod
    def create(
        cls,
        config: QRLConfig,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        state, action, goal = sizes
        quasimetric = Quasimetric(critic, state, action, config.latent)
        return cls(config, GaussianActor(actor, state + goal, action), quasimetric, goal, replicate)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.critic.state_size, self.critic.action_size, self.goal_size)

    @property
    def rows(self) -> Rows:
        return self.recorded

    @property
    def recorded(self) -> Rows:
        return Rows("recorded", transitions=True, pairs=True, value=Shares(0, 0, 1), actor=Shares(0, 1, 0))

    def init(self, key: jax.Array) -> QRLLearner:
        """A learner with random parameters and empty optimizer states."""
        actor_key, critic_key = jax.random.split(key)
        actor, critic = self.actor.init(actor_key), self.critic.init(critic_key)
        log_lambda = jnp.log(jnp.asarray(self.config.initial_lambda, jnp.float32))
        optimizer = optax.adam(self.config.learning_rate)
        return QRLLearner(
            actor, critic, log_lambda, optimizer.init(actor), optimizer.init(critic), optimizer.init(log_lambda)
        )

    def networks(self, learner: QRLLearner) -> dict[str, Params]:
        return {"actor": learner.actor, "critic": learner.critic}

    @property
    def network_shapes(self) -> dict[str, Any]:
        return {"actor": self.actor.shapes, "critic": self.critic.shapes}

    def trained(self, learner: QRLLearner) -> Any:
        return learner.actor, learner.critic, learner.log_lambda

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return self.actor.act(params["actor"], observation, key)

    def critic_loss(
        self, params: Params, log_lambda: jax.Array, batch: Batch
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss [] of distance, dynamics and lambda in sum, and its parts []."""
        state, following, other = (
            self.critic.phi(params, each) for each in (batch.state, batch.next_state, batch.goal_state)
        )
        far, near = self.critic.distance(params, state, other), self.critic.distance(params, state, following)
        apart = _SLOPE * jax.nn.softplus(_FAR - far / _SLOPE).mean()
        excess = jnp.mean(jax.nn.relu(near - _STEP) ** 2)
        weight = jnp.exp(log_lambda)
        fixed = jax.lax.stop_gradient
        critic = apart + fixed(weight) * excess + weight * (_SLACK - fixed(excess))
        predicted = self.critic.after(params, state, batch.action)
        ways = self.critic.distance(params, following, predicted), self.critic.distance(params, predicted, following)
        dynamics = (ways[0] + ways[1]).mean() / 2
        return critic + dynamics, {
            "critic_loss": critic,
            "dynamics_loss": dynamics,
            "lambda": weight,
            "far_distance": far.mean(),
            "step_distance": near.mean(),
        }

    def actor_loss(self, params: Params, critic: Params, batch: Batch) -> jax.Array:
        """The loss [] of the policy."""
        observation = jnp.concatenate([batch.state, batch.actor_goal], axis=-1)
        action = self.actor.mean_action(params, observation)
        state, goal = self.critic.phi(critic, batch.state), self.critic.phi(critic, batch.actor_goal_state)
        q = -self.critic.distance(critic, self.critic.after(critic, state, action), goal)
        log_prob = log_prob_of(self.actor, params, observation, batch.action)
        return actor_losses.ddpg_bc(q, log_prob, self.config.bc_weight)

    def gradients(self, learner: QRLLearner, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """Gradients of the actor, of the critic and of lambda; deterministic."""
        (_, metrics), (critic_grad, lambda_grad) = jax.value_and_grad(self.critic_loss, (0, 1), has_aux=True)(
            learner.critic, learner.log_lambda, batch
        )
        actor_loss, actor_grad = jax.value_and_grad(self.actor_loss)(learner.actor, learner.critic, batch)
        return (actor_grad, critic_grad, lambda_grad), metrics | {
            "actor_loss": actor_loss,
            "critic_gradient": norm(critic_grad),
            "actor_gradient": norm(actor_grad),
        }

    def step(self, learner: QRLLearner, gradients: Any, skip: jax.Array | bool = False) -> QRLLearner:
        """An Adam step of all; unchanged where ``skip`` is true."""
        rate, (actor_grad, critic_grad, lambda_grad) = self.config.learning_rate, gradients
        actor = network_step(self.actor.config, rate, actor_grad, learner.actor_optimizer, learner.actor, skip)
        critic = network_step(self.critic.config, rate, critic_grad, learner.critic_optimizer, learner.critic, skip)
        weight = adam(rate, lambda_grad, learner.lambda_optimizer, learner.log_lambda, skip)
        return QRLLearner(actor[0], critic[0], weight[0], actor[1], critic[1], weight[1])
