"""Replay: a ring of the last steps of each environment, and hindsight goals drawn from what followed each step.

Pure functions on a state. Rows of one time step lie together ([time, environment, feature]), so an insert is one
contiguous write and the buffer is never copied.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct


class Transitions(struct.PyTreeNode):
    """Steps with leading axes [...].

    Attributes:
      state: [..., state], what the agent saw.
      action: [..., action], what it did.
      achieved: [..., goal], the goal achieved after the step, so that the last step of an episode has a future too.
      trajectory: [...], int32; steps of one episode of one environment carry the same number.
    """

    state: jax.Array
    action: jax.Array
    achieved: jax.Array
    trajectory: jax.Array


class Replay(struct.PyTreeNode):
    """The ring. Rows [0, size) are written; the oldest is at ``head`` once the ring is full.

    Attributes:
      rows: transitions [capacity, environments, ...].
      head: next row to write.
      size: rows written so far, at most the capacity.
    """

    rows: Transitions
    head: jax.Array
    size: jax.Array

    @property
    def capacity(self) -> int:
        return self.rows.trajectory.shape[0]


def create(capacity: int, example: Transitions) -> Replay:
    """An empty ring for ``capacity`` steps of each environment; ``example`` is one step, [environments, ...]."""
    rows = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
    return Replay(rows, jnp.zeros((), int), jnp.zeros((), int))


def insert(replay: Replay, steps: Transitions) -> Replay:
    """Write steps [T, environments, ...] over the oldest rows. The capacity must be a multiple of T."""
    count = steps.trajectory.shape[0]
    if replay.capacity % count:
        raise ValueError(f"a ring of {replay.capacity} steps does not take {count} at a time without a seam")
    rows = jax.tree.map(
        lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new, replay.head, axis=0), replay.rows, steps
    )
    head = (replay.head + count) % replay.capacity
    return Replay(rows, head, jnp.minimum(replay.size + count, replay.capacity))


def future_offset(uniform: jax.Array, remaining: jax.Array, gamma: float) -> jax.Array:
    """Offsets k in {1, ..., remaining} with probability proportional to gamma^k, from uniform numbers in [0, 1).

    Inverse of the truncated geometric distribution's cumulative function (1 - gamma^k) / (1 - gamma^remaining):
    constant time and memory for each draw. gamma = 1 draws evenly.
    """
    if gamma == 1:
        offset = jnp.floor(uniform * remaining) + 1
    else:
        # expm1 and log1p keep the digits that 1 - gamma^k loses for gamma near 1.
        log_gamma = math.log(gamma)
        mass = -jnp.expm1(remaining * log_gamma)
        offset = jnp.ceil(jnp.log1p(-uniform * mass) / log_gamma)
    return jnp.clip(offset, 1, remaining).astype(int)


class Indices(struct.PyTreeNode):
    """Where sampled rows and their goals lie in the ring; all [...] integers."""

    time: jax.Array
    goal_time: jax.Array
    environment: jax.Array


def sample(replay: Replay, key: jax.Array, count: int, window: int, gamma: float) -> Indices:
    """Choose rows and hindsight goals: one window of each environment, ``count`` draws from their rows.

    A row's goal is what was achieved k >= 1 steps later in the same episode and window, with weight gamma^k (paper
    section 3). Only the trajectory numbers of the windows are read, so time and memory are linear in the window. Rows
    are drawn with replacement: a permutation of all of them would cost more than the updates of a small network.

    Args:
      replay: holds at least ``window`` steps of each environment.
      key: random key.
      count: rows wanted.
      window: steps of a window.
      gamma: discount of the law above.

    Returns:
      Indices [count] for ``gather``.
    """
    environments = replay.rows.trajectory.shape[1]
    start_key, step_key, environment_key, goal_key = jax.random.split(key, 4)
    oldest = replay.head - replay.size
    starts = oldest + jax.random.randint(start_key, (environments,), 0, replay.size - window + 1)
    index = jnp.arange(window)[:, None]
    times = (starts + index) % replay.capacity  # [window, environments]
    trajectory = replay.rows.trajectory[times, jnp.arange(environments)]
    # The last step of each row's trajectory inside the window: a running minimum of the ends that lie ahead.
    ends = trajectory != jnp.concatenate([trajectory[1:], jnp.full((1, environments), -1)])
    last = jax.lax.cummin(jnp.where(ends, index, window), axis=0, reverse=True)

    step = jax.random.randint(step_key, (count,), 0, window)
    environment = jax.random.randint(environment_key, (count,), 0, environments)
    remaining = last[step, environment] - step + 1
    offset = future_offset(jax.random.uniform(goal_key, (count,)), remaining, gamma)
    # What was achieved after step t + k - 1 is the goal k steps on.
    return Indices(times[step, environment], times[step + offset - 1, environment], environment)


def gather(replay: Replay, indices: Indices) -> tuple[Transitions, jax.Array]:
    """The picked transitions [..., feature] and their goals [..., goal]."""
    rows = jax.tree.map(lambda leaf: leaf[indices.time, indices.environment], replay.rows)
    return rows, replay.rows.achieved[indices.goal_time, indices.environment]
