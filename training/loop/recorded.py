"""Batches of a data set, with the goals of OGBench: pure functions of arrays on the device.

A trajectory of L transitions has L + 1 rows. The last row has no transition and serves only as a goal. Let t be a row
that has a transition, last the last row of its trajectory, and x uniform in [0, 1). The row of a goal is

    geometric     min(t + k, last),  k >= 1 with probability (1 - gamma) gamma^(k - 1)
    uniform       round(x min(t + 1, last) + (1 - x) last)
    random        any row that has a transition
    current       t

each with its share (``Shares``). Where the goal's row is t itself, the reward is 0 and the discount 0; else -1 and 1.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.algorithms.batches import Batch, Rows, Shares


class Recorded(struct.PyTreeNode):
    """Trajectories on the device.

    Attributes:
      state: [N, state]; rows beyond the last trajectory's end are padding.
      action: [N, action]; the action of a trajectory's last row has no meaning.
      ends: [K], int32, index of the last row of each trajectory, ascending.
    """

    state: jax.Array
    action: jax.Array
    ends: jax.Array

    @property
    def transitions(self) -> jax.Array:
        """Their number []."""
        return self.ends[-1] + 1 - self.ends.shape[0]


class Drawn(struct.PyTreeNode):
    """Rows [...] of sampled transitions, of their goals and of the goals of the actor (None: the same)."""

    row: jax.Array
    goal: jax.Array
    actor_goal: jax.Array | None = None


def rows_of(data: Recorded, transition: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The rows [...] of transitions numbered [...] from 0, and the last rows [...] of their trajectories."""
    before = data.ends - jnp.arange(data.ends.shape[0])  # transitions up to the end of each trajectory
    trajectory = jnp.searchsorted(before, transition, side="right")
    return transition + trajectory, data.ends[trajectory]


def later(uniform: jax.Array, row: jax.Array, last: jax.Array, gamma: float) -> jax.Array:
    """The row [...] of a goal later in the trajectory, from uniform numbers [...] in [0, 1)."""
    if gamma == 1:
        first, rest = jnp.minimum(row + 1, last), last
        # Scale the difference: float32 does not hold the row numbers of a large data set exactly.
        return first + jnp.round((1 - uniform) * (rest - first)).astype(int)
    offset = jnp.ceil(jnp.log1p(-uniform) / math.log(gamma))
    return row + jnp.minimum(jnp.maximum(offset, 1), last - row).astype(int)


def goal_rows(data: Recorded, key: jax.Array, row: jax.Array, last: jax.Array, shares: Shares) -> jax.Array:
    """Rows [...] of goals for rows [...]; ``last`` are the last rows of their trajectories."""
    later_key, random_key, choice_key, current_key = jax.random.split(key, 4)
    goal = later(jax.random.uniform(later_key, row.shape), row, last, shares.gamma)
    if shares.random:
        other, _ = rows_of(data, jax.random.randint(random_key, row.shape, 0, data.transitions))
        inside = jax.random.uniform(choice_key, row.shape) < shares.trajectory / max(1 - shares.current, 1e-9)
        goal = jnp.where(inside, goal, other)
    if shares.current:
        goal = jnp.where(jax.random.uniform(current_key, row.shape) < shares.current, row, goal)
    return goal


def sample(data: Recorded, key: jax.Array, count: int, rows: Rows) -> Drawn:
    """Draw ``count`` transitions uniformly, with replacement, and their goals."""
    assert rows.value
    row_key, value_key, actor_key = jax.random.split(key, 3)
    row, last = rows_of(data, jax.random.randint(row_key, (count,), 0, data.transitions))
    actor = goal_rows(data, actor_key, row, last, rows.actor) if rows.actor else None
    return Drawn(row, goal_rows(data, value_key, row, last, rows.value), actor)


def gather(data: Recorded, drawn: Drawn, rows: Rows, goal_indices: tuple[int, ...]) -> Batch:
    """The batch [..., feature] of drawn rows [...]; a goal is its row's state at ``goal_indices``."""
    place = jnp.array(goal_indices)
    of_goal = data.state[drawn.goal]
    of_actor = None if drawn.actor_goal is None else data.state[drawn.actor_goal]
    differs = (drawn.goal != drawn.row).astype(data.state.dtype)
    return Batch(
        state=data.state[drawn.row],
        action=data.action[drawn.row],
        goal=of_goal[..., place],
        next_state=data.state[drawn.row + 1] if rows.transitions else None,
        reward=-differs if rows.transitions else None,
        discount=differs if rows.transitions else None,
        goal_state=of_goal if rows.pairs else None,
        actor_goal=None if of_actor is None else of_actor[..., place],
        actor_goal_state=of_actor if rows.pairs else None,
    )
