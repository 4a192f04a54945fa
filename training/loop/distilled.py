"""Distillation: a student imitates the policy and the critic of a teacher on states that both of them visit.

    actor:   mean of KL(teacher's Gaussian || student's), before the tanh; of the squared error of deterministic actions
    critic:  mean of (Q_student - Q_teacher)^2, over all pairs of rows and goals of the batch, over the variance of
             Q_teacher; without embeddings phi and psi over each row's goal and another row's

The teacher acts in half of the environments and the student in the others, as in DAgger (Ross et al. 2011). Half of the
goals are the policy's commanded goals; the others are goals that the episode achieves later. The student is an ordinary
agent of the teacher's algorithm; only its updates differ.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm, HasEmbeddings, HasQ, identity
from crlviz.algorithms.batches import Batch, Rows, Sizes
from crlviz.algorithms.optimizer import network_step, norm
from crlviz.networks.starts import Params
from training.config import TrainConfig

if TYPE_CHECKING:
    from crlviz.agent import Agent

LEARNING_RATE = 1e-3  # of Adam; there is one right answer, so it can be larger than in reinforcement learning
_TEACHER = "teacher"  # name of the teacher's parameters in ``acting``


class Pupil(struct.PyTreeNode):
    """What an update needs: parameters and Adam states of the student, by network, and the teacher's parameters."""

    params: dict[str, Params]
    optimizers: dict[str, Any]
    teacher: dict[str, Params]


@dataclass(frozen=True, eq=False)
class Distilled(Algorithm):
    """The updates of a student.

    Attributes:
      student: the algorithm with the student's networks.
      teacher: the agent that it imitates.
      gamma: discount of the goals that are achieved later.
      replicate: as in ``Algorithm``.
    """

    losses: ClassVar[tuple[str, ...]] = ("critic_loss", "actor_loss", "critic_gradient", "actor_gradient")
    details: ClassVar[tuple[str, ...]] = ("action_error",)

    student: Any
    teacher: "Agent"
    gamma: float
    replicate: Callable[[jax.Array], jax.Array] = identity

    @classmethod
    def create(cls, *_: Any, **__: Any) -> Any:
        raise NotImplementedError("a student needs a teacher: see ``of``")

    @property
    def sizes(self) -> Sizes:
        return self.student.sizes

    @property
    def rows(self) -> Rows:
        return Rows("future", self.gamma, relabel=0.5)

    @property
    def plain(self) -> "Distilled":
        return replace(self, student=self.student.plain)

    def init(self, key: jax.Array) -> Pupil:
        params = self.student.networks(self.student.init(key))
        optimizers = {name: optax.adam(LEARNING_RATE).init(part) for name, part in params.items()}
        return Pupil(params, optimizers, jax.tree.map(jnp.asarray, self.teacher.params))

    def networks(self, learner: Pupil) -> dict[str, Params]:
        return learner.params

    def acting(self, learner: Pupil) -> dict[str, Params]:
        return {**learner.params, _TEACHER: learner.teacher}

    def trained(self, learner: Pupil) -> Any:
        return learner.params

    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The student's actions; with the parameters of ``acting`` the teacher's in the first half of the rows."""
        if _TEACHER not in params:
            return self.student.act(params, observation, key)
        first, second = jnp.split(observation, [len(observation) // 2])
        assert key is not None  # the teacher acts only to fill the buffer, with a key
        keys = jax.random.split(key)
        shown = self.teacher.algorithm.act(dict(params[_TEACHER]), first, keys[0])
        return jnp.concatenate([shown, self.student.act(params, second, keys[1])])

    def actor_loss(self, params: Params, teacher: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """The loss [] of a batch, and the mean distance [] of the deterministic actions."""
        observation = jnp.concatenate([batch.state, batch.goal], axis=-1)
        own, other = self.student.actor, self.teacher.actor
        actions = own.mean_action(params, observation), other.mean_action(teacher, observation)
        error = jnp.linalg.norm(actions[0] - actions[1], axis=-1).mean()
        if not hasattr(own, "distribution"):
            return jnp.mean((actions[0] - actions[1]) ** 2), error
        (mean, log_std), (target, log_spread) = (
            own.distribution(params, observation),
            other.distribution(teacher, observation),
        )
        return divergence(target, log_spread, mean, log_std).mean(), error

    def critic_loss(self, params: dict[str, Params], teacher: dict[str, Params], batch: Batch) -> jax.Array:
        """The loss [] of a batch; 0 without a critic."""
        if not isinstance(self.student, HasQ):
            return jnp.zeros(())
        values, targets = (
            values_of(algorithm, own, batch, self.replicate)
            for algorithm, own in ((self.student, params), (self.teacher.algorithm, teacher))
        )
        return jnp.mean((values - targets) ** 2) / (jnp.var(targets) + 1e-6)

    def gradients(self, learner: Pupil, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        def total(params: dict[str, Params]) -> Any:
            actor, error = self.actor_loss(params["actor"], learner.teacher["actor"], batch)
            critic = self.critic_loss(params, learner.teacher, batch)
            return actor + critic, {"critic_loss": critic, "actor_loss": actor, "action_error": error}

        gradient, metrics = jax.grad(total, has_aux=True)(learner.params)
        norms = {f"{name}_gradient": norm(part) for name, part in gradient.items()}
        return gradient, metrics | {"critic_gradient": jnp.zeros(())} | norms

    def step(self, learner: Pupil, gradients: Any, skip: jax.Array | bool = False) -> Pupil:
        stepped = {
            name: network_step(
                getattr(self.student, name).config,
                LEARNING_RATE,
                gradients[name],
                learner.optimizers[name],
                learner.params[name],
                skip,
            )
            for name in learner.params
        }
        params, optimizers = ({name: pair[i] for name, pair in stepped.items()} for i in (0, 1))
        return Pupil(params, optimizers, learner.teacher)


def divergence(mean: jax.Array, log_std: jax.Array, other: jax.Array, other_log_std: jax.Array) -> jax.Array:
    """KL divergence [...] of independent Gaussians [..., n] from others: KL(first || other)."""
    ratio = jnp.exp(2 * (log_std - other_log_std)) + ((mean - other) / jnp.exp(other_log_std)) ** 2
    return jnp.sum(0.5 * (ratio - 1) - log_std + other_log_std, axis=-1)


def values_of(
    algorithm: Any, params: dict[str, Params], batch: Batch, replicate: Callable[[jax.Array], jax.Array] = identity
) -> jax.Array:
    """Q of a batch's rows for their own and other rows' goals: for all pairs [B, B], without embeddings [2, B]."""
    if isinstance(algorithm, HasEmbeddings) and hasattr(algorithm, "energy"):
        phi = algorithm.embed(params, batch.state, batch.action)
        return algorithm.energy.of_pairs(phi, replicate(algorithm.embed_goal(params, batch.goal)))
    goals = batch.goal, jnp.roll(batch.goal, 1, axis=0)
    return jnp.stack([algorithm.q(params, batch.state, batch.action, goal) for goal in goals])


def of(student: Algorithm, config: TrainConfig) -> Distilled:
    """The updates of a student. Its config names the teacher.

    Raises:
      CrlvizError: the teacher cannot be read.
      UsageError: the teacher's algorithm, or its sizes of states, actions and goals, differ from the student's.
    """
    from crlviz.agent import load
    from crlviz.errors import UsageError

    teacher = load(config.teacher.path)
    if teacher.algorithm.name != config.algorithm or teacher.algorithm.sizes != student.sizes:
        raise UsageError(f"{config.teacher.path} is not a teacher of {config.algorithm} in {config.env}")
    return Distilled(student, teacher, config.gamma, student.replicate)


def kind(config: TrainConfig) -> type[Algorithm]:
    """The class that defines the losses of a run with this config."""
    return Distilled if config.teacher.path else registry.of(config.algorithm)
