"""Two independent Q networks; their smaller value bounds the overestimation of a maximum."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import ResidualNetwork, shapes_of
from crlviz.networks.starts import Params, initial

TWINS = 2


@dataclass(frozen=True)
class TwinQ:
    """Q_1 and Q_2 of a state, goal and action; parameters have a leading axis [2]."""

    config: NetworkConfig
    state_size: int
    action_size: int
    goal_size: int

    @property
    def network(self) -> ResidualNetwork:
        return ResidualNetwork(self.config, (1,))

    @property
    def shapes(self) -> Any:
        """Shapes of the parameters that ``init`` returns; nothing is computed."""
        one = shapes_of(self.network, self.state_size + self.goal_size + self.action_size)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((TWINS, *leaf.shape), leaf.dtype), one)

    def init(self, key: jax.Array) -> Params:
        """Initial parameters."""
        return initial(self.config, key, self.shapes)

    def values(self, params: Params, state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        """Both values [2, ...] of states [..., state], actions [..., action] and goals [..., goal]."""
        x = jnp.concatenate([state, goal, action], axis=-1)
        return jax.vmap(lambda params: self.one(params, x))(params)

    def one(self, params: Params, x: jax.Array) -> jax.Array:
        """The value [...] of one of the two networks, for inputs [..., state + goal + action]."""
        outputs: Any = self.network.apply({"params": params}, x)
        return outputs[0][..., 0]

    def q(self, params: Params, state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        """The smaller value [...]."""
        return self.values(params, state, action, goal).min(0)
