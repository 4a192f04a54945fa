"""CMD-1: a contrastive critic whose distance is a quasimetric between state-actions (paper figure 15).

After Myers et al. 2024, "Learning temporal distances: contrastive successor features can provide a metric structure for
decision making", in the form that the paper used: the MRN distance with backward InfoNCE. One encoder embeds both the
state with its action and the whole future state with an action. The action at the future state is taken from the
batch's next row, so that the learned distance depends on the future state and not on the action there. Backward InfoNCE
compares the state-actions of a batch for one goal, so the potential c(goal) of the original's forward loss would
cancel. The policy is CRL's: it sees only the goal's position, and maximizes -distance to the future state.

A commanded goal is a position, not a whole state, so it cannot be embedded. So this critic has no Q of commanded goals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from crlviz.algorithms.base import HasEmbeddings, HasQ
from crlviz.algorithms.batches import Batch, Rows
from crlviz.algorithms.crl import Contrastive
from crlviz.algorithms.crl_config import CRLConfig
from crlviz.networks.residual import Critic
from crlviz.networks.starts import Params

_LACK = "of goals: its critic compares whole states, and a goal is a position"


@dataclass(frozen=True)
class CMDConfig(CRLConfig):
    """Settings of the update: those of CRL, with the energy and the loss of the paper's figure 15.

    Raises:
      UsageError: a value is out of range.
    """

    energy: str = "mrn"
    loss: str = "backward"

    section: ClassVar[str] = "cmd"


@dataclass(frozen=True)
class Encoder(Critic):
    """One encoder of state-actions for both ends of a way."""

    @property
    def shapes(self) -> Any:
        return {"phi": super().shapes["phi"]}

    def psi(self, params: Params, goal: jax.Array) -> jax.Array:
        """Embeddings [..., 64] of future states, each with an action: [..., state + action]."""
        return self.phi(params, *jnp.split(goal, [self.state_size], axis=-1))


@dataclass(frozen=True)
class CMD(Contrastive):
    """The algorithm."""

    name: ClassVar[str] = "cmd"
    Config: ClassVar[type] = CMDConfig
    Encoders: ClassVar[type[Critic]] = Encoder
    lacks: ClassVar[Mapping[type, str]] = {HasQ: f"Q {_LACK}", HasEmbeddings: f"embeddings {_LACK}"}

    @property
    def rows(self) -> Rows:
        return Rows("future", self.gamma, pairs=True)

    def contrasted(self, batch: Batch) -> jax.Array:
        return jnp.concatenate([batch.goal_state, jnp.roll(batch.goal_action, 1, axis=0)], axis=-1)
