"""Policies of JaxGCRL's SAC and TD3, a tanh-Gaussian with a softplus scale and a deterministic one; and OGBench's."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, ResidualNetwork, shapes_of
from crlviz.networks.squashing import log_slope
from crlviz.networks.starts import Params, initial, quiet_heads

_LEAST_DEVIATION = 1e-3
POLICIES = ("tanh", "gaussian")
# Actions that are stored are pulled this far into (-1, 1), so that the one before the tanh is finite.
_CLIPPED = 1e-6


def log_prob(mean: jax.Array, log_std: jax.Array, raw: jax.Array) -> jax.Array:
    """Log probabilities [...] of actions tanh(raw) under a tanh-Gaussian.

    In the stable form of ``squashing.log_slope``, which is finite for any raw action.

    Args:
      mean, log_std: of the Gaussian before the tanh, [..., action].
      raw: actions before the tanh, [..., action].
    """
    noise = (raw - mean) * jnp.exp(-log_std)
    slope = log_slope(raw, jnp.tanh(raw), "stable")
    return (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - slope).sum(-1)


def raw_of(action: jax.Array) -> jax.Array:
    """The actions before the tanh of stored actions [..., action]; finite also for those at a stop."""
    return jnp.arctanh(jnp.clip(action, -1 + _CLIPPED, 1 - _CLIPPED))


@dataclass(frozen=True)
class SoftplusActor(Actor):
    """brax's tanh-Gaussian: the standard deviation before the tanh is softplus(output) + 0.001."""

    def distribution_of(self, mean: jax.Array, raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        return mean, jnp.log(jax.nn.softplus(raw) + _LEAST_DEVIATION)

    def sample_of(self, mean: jax.Array, log_std: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
        raw = mean + jnp.exp(log_std) * noise
        return jnp.tanh(raw), log_prob(mean, log_std, raw)


@dataclass(frozen=True)
class DeterministicActor:
    """A deterministic policy that maps observations [..., state + goal] to actions [..., action] in (-1, 1)."""

    config: NetworkConfig
    observation_size: int
    action_size: int

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (self.action_size,))

    @property
    def shapes(self) -> Any:
        """Shapes of the parameters that ``init`` returns; nothing is computed."""
        return shapes_of(self.network, self.observation_size)

    def init(self, key: jax.Array) -> Params:
        """Initial parameters."""
        return quiet_heads(self.config, initial(self.config, key, self.shapes))

    def mean_action(self, params: Params, observation: jax.Array) -> jax.Array:
        """The action [..., action]."""
        outputs: Any = self.network.apply({"params": params}, observation)
        return jnp.tanh(outputs[0])


@dataclass(frozen=True)
class GaussianActor(DeterministicActor):
    """OGBench's policy: a Gaussian of standard deviation 1 around the network's output; actions are clipped to +-1."""

    def mean_action(self, params: Params, observation: jax.Array) -> jax.Array:
        return jnp.clip(self.mean(params, observation), -1, 1)

    def mean(self, params: Params, observation: jax.Array) -> jax.Array:
        """The Gaussian's mean [..., action]."""
        outputs: Any = self.network.apply({"params": params}, observation)
        return outputs[0]

    def act(self, params: Params, observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action]: the clipped mean, or sampled with a key."""
        if key is None:
            return self.mean_action(params, observation)
        mean = self.mean(params, observation)
        return jnp.clip(mean + jax.random.normal(key, mean.shape), -1, 1)


def log_prob_of(actor: Any, params: Params, observation: jax.Array, action: jax.Array) -> jax.Array:
    """Log probabilities [...] of recorded actions [..., action] under an ``Actor`` or a ``GaussianActor``."""
    if isinstance(actor, GaussianActor):
        difference = action - actor.mean(params, observation)
        return (-0.5 * difference**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    mean, log_std = actor.distribution(params, observation)
    return log_prob(mean, log_std, raw_of(action))
