"""The update of contrastive RL with an actor that stays near the actions of a data set (``actor_losses``)."""

from typing import Any

import jax
import jax.numpy as jnp

from crlviz.algorithms import actor_losses
from crlviz.algorithms.batches import Batch
from crlviz.algorithms.optimizer import norm
from crlviz.networks.policies import log_prob_of
from crlviz.networks.starts import Params


def gradients(algorithm: Any, learner: Any, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
    """``Algorithm.gradients`` of a ``Contrastive`` with such a loss; deterministic, so without a key.

    Returns:
      Gradients of actor, critic, temperature (None, because there is none) and AWR's value (None for other losses); and
      the metrics. ``critic_loss`` includes the loss of AWR's value.
    """
    (critic_loss, (psi, detail)), critic_grad = jax.value_and_grad(algorithm.critic_loss, has_aux=True)(
        learner.critic, batch.state, batch.action, algorithm.contrasted(batch)
    )
    goal, psi = algorithm.of_actor(learner, batch, psi)
    value_loss, value_grad, advantage = jnp.zeros(()), None, None
    if learner.value is not None:
        value_loss, value_grad = jax.value_and_grad(_value_loss)(learner.value, algorithm, batch)
        q = algorithm.score(algorithm.critic.phi(learner.critic, batch.state, batch.action), psi)
        of_value = algorithm.value_critic
        phi, of_goal = of_value.phi(learner.value, batch.state, _none(batch)), of_value.psi(learner.value, goal)
        advantage = q - algorithm.score(phi, of_goal)
    observation, weight = jnp.concatenate([batch.state, goal], axis=-1), algorithm.config.bc_weight

    def of_actor(actor: Params) -> jax.Array:
        log_prob = log_prob_of(algorithm.actor, actor, observation, batch.action)
        if advantage is not None:
            return actor_losses.awr(advantage, log_prob, weight)
        own = algorithm.actor.mean_action(actor, observation)
        return actor_losses.ddpg_bc(
            algorithm.score(algorithm.critic.phi(learner.critic, batch.state, own), psi), log_prob, weight
        )

    actor_loss, actor_grad = jax.value_and_grad(of_actor)(learner.actor)
    return (actor_grad, critic_grad, None, value_grad), {
        "critic_loss": critic_loss + value_loss,
        "actor_loss": actor_loss,
        "critic_gradient": norm((critic_grad, value_grad)),
        "actor_gradient": norm(actor_grad),
        **detail,
    }


def _value_loss(value: Params, algorithm: Any, batch: Batch) -> jax.Array:
    phi = algorithm.value_critic.phi(value, batch.state, _none(batch))
    return algorithm.contrast(value, phi, algorithm.value_critic.psi(value, algorithm.contrasted(batch)))[0]


def _none(batch: Batch) -> jax.Array:
    """Actions [B, 0]."""
    return batch.action[:, :0]
