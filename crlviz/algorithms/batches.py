"""Batches: what their rows hold, and how they are made of the buffer or of a data set."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.errors import UsageError

GOALS = ("future", "final", "commanded", "recorded")


class Sizes(NamedTuple):
    """Lengths of an environment's states, actions and goals. An observation is a state followed by a goal."""

    state: int
    action: int
    goal: int


class Batch(struct.PyTreeNode):
    """Rows of the buffer, [B, ...]. What ``Rows`` does not ask for is None.

    Attributes:
      state: [B, state], before the step.
      action: [B, action].
      goal: [B, goal], by the rule of ``Rows``.
      next_state: [B, state], after the step, before any reset.
      reward: [B], for ``goal``: of a relabeled row 1 where the goal achieved after the step lies within the
        environment's ``goal_distance`` of ``goal``, else 0; of another row the environment's own.
      discount: [B], 0 where the episode ended with this step, by a failure or the time limit; else 1.
      truncation: [B], 1 where only the time limit ended it; else 0.
      goal_state, goal_action: [B, state] and [B, action] of the row that achieved ``goal``; this row itself if its own
        action achieved it. On a data set: of the row that the goal comes from.
      actor_goal: [B, goal], for the actor's loss; None: ``goal``.
      actor_goal_state: [B, state], of the row that ``actor_goal`` comes from.

    On a data set, ``reward`` and ``discount`` are 0 if the goal comes from the row's own state; else ``reward`` is -1
    and ``discount`` 1, as in OGBench.
    """

    state: jax.Array
    action: jax.Array
    goal: jax.Array
    next_state: Any = None
    reward: Any = None
    discount: Any = None
    truncation: Any = None
    goal_state: Any = None
    goal_action: Any = None
    actor_goal: Any = None
    actor_goal_state: Any = None


@dataclass(frozen=True)
class Shares:
    """Where the goals of a data set's rows come from, as in OGBench.

    Attributes:
      current: share of rows whose goal comes from their own state.
      trajectory: share whose goal comes from a later state of their trajectory.
      random: share whose goal comes from a random row.
      gamma: a later state is k >= 1 steps ahead with probability (1 - gamma) gamma^(k - 1), but never beyond the
        trajectory's last row, which gets the rest; 1: uniform over the later states.

    Raises:
      UsageError: a share is negative, they do not sum to 1, or gamma is out of range.
    """

    current: float
    trajectory: float
    random: float
    gamma: float = 1.0

    def __post_init__(self):
        shares = self.current, self.trajectory, self.random
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise UsageError(
                f"the shares of current, trajectory and random goals are {'/'.join(f'{x:g}' for x in shares)}; they "
                "must be at least 0 and sum to 1"
            )
        if not 0 < self.gamma <= 1:
            raise UsageError(f"gamma is {self.gamma}; it must be above 0 and at most 1")


@dataclass(frozen=True)
class Rows:
    """How a batch is made of the buffer, or of a data set.

    Attributes:
      goals: ``future``: a goal that the row's episode achieves k >= 1 steps later inside the window, with weight
        gamma^k; ``final``: the last one that its episode achieves inside the window; ``commanded``: the row's own;
        ``recorded``: by the shares of a data set.
      gamma: of ``future``; 1: uniform.
      relabel: share of rows whose goal is replaced by that rule; the rest keep the commanded goal.
      transitions: whether batches have next_state, reward, discount and truncation.
      pairs: whether batches have goal_state and goal_action; of a data set goal_state and actor_goal_state.
      value: of ``recorded`` goals.
      actor: of ``recorded`` goals for the actor's loss; None: those of ``value``.

    Raises:
      UsageError: a value is out of range, or values contradict each other.
    """

    goals: str
    gamma: float = 1.0
    relabel: float = 1.0
    transitions: bool = False
    pairs: bool = False
    value: Shares | None = None
    actor: Shares | None = None

    def __post_init__(self):
        if self.goals not in GOALS:
            raise UsageError(f"goals are {self.goals!r}; take {', '.join(GOALS)}")
        if not 0 < self.gamma <= 1:
            raise UsageError(f"gamma is {self.gamma}; it must be above 0 and at most 1")
        if not 0 <= self.relabel <= 1:
            raise UsageError(f"the share of relabeled rows is {self.relabel}; it must be from 0 to 1")
        if self.pairs and self.commanded:
            raise UsageError("a commanded goal has no row of its own; pairs need goals that were achieved")
        if (self.value is None) == (self.goals == "recorded"):
            raise UsageError("recorded goals, and no others, take shares")

    @property
    def relabels(self) -> bool:
        """Whether some rows get a goal that was achieved."""
        return self.goals != "commanded" and self.relabel > 0

    @property
    def commanded(self) -> bool:
        """Whether some rows keep their commanded goal."""
        return self.goals == "commanded" or self.relabel < 1


def shapes(rows: Rows, sizes: Sizes, count: int) -> Batch:
    """The shapes of a batch [count, ...] that ``rows`` asks for; nothing is computed."""

    def zeros() -> Batch:
        state, action, goal = (jnp.zeros((count, size)) for size in sizes)
        number = jnp.zeros(count) if rows.transitions else None
        own = goal if rows.actor else None
        pair: tuple[Any, ...] = (state, action) if rows.pairs else (None, None)
        ends: tuple[Any, ...] = (number, number, number)
        if rows.goals == "recorded":
            ends = (number, number, None)
            pair = (state, None, own, state if rows.actor else None) if rows.pairs else (None, None, own)
        return Batch(state, action, goal, state if rows.transitions else None, *ends, *pair)

    return jax.eval_shape(zeros)
