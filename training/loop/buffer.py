"""The replay buffer: a ring buffer of each environment's last steps, sampled with hindsight goals.

Pure functions of a buffer state. The layout is time-major ([time, environment, feature]), so an insert is one
contiguous write and the buffer is never copied.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct


class Transitions(struct.PyTreeNode):
    """Environment steps with leading axes [...].

    Attributes:
      state: [..., state], before the step.
      action: [..., action].
      achieved: [..., goal], the goal achieved after the step, so that the last step of an episode has a future too.
      trajectory: [...], int32, the number of the environment's episode.
    """

    state: jax.Array
    action: jax.Array
    achieved: jax.Array
    trajectory: jax.Array


class Replay(struct.PyTreeNode):
    """The state of the ring buffer. Rows [0, size) are written; once it is full, the oldest is at ``head``.

    Attributes:
      rows: transitions [capacity, environments, ...].
      head: index of the next row to write.
      size: number of rows written, at most the capacity.
    """

    rows: Transitions
    head: jax.Array
    size: jax.Array

    @property
    def capacity(self) -> int:
        """Steps of each environment that the buffer holds."""
        return self.rows.trajectory.shape[0]


def create(capacity: int, example: Transitions) -> Replay:
    """An empty buffer of ``capacity`` steps of each environment; ``example`` is one step, [environments, ...]."""
    rows = jax.tree.map(lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype), example)
    return Replay(rows, jnp.zeros((), int), jnp.zeros((), int))


def insert(replay: Replay, steps: Transitions) -> Replay:
    """Write steps [T, environments, ...] over the oldest rows.

    Raises:
      ValueError: the capacity is not a multiple of T.
    """
    count = steps.trajectory.shape[0]
    if replay.capacity % count:
        raise ValueError(f"a ring buffer of {replay.capacity} steps is no multiple of the {count} steps to insert")
    rows = jax.tree.map(
        lambda ring, new: jax.lax.dynamic_update_slice_in_dim(ring, new, replay.head, axis=0), replay.rows, steps
    )
    head = (replay.head + count) % replay.capacity
    return Replay(rows, head, jnp.minimum(replay.size + count, replay.capacity))


def future_offset(uniform: jax.Array, remaining: jax.Array, gamma: float) -> jax.Array:
    """Offsets k in {1, ..., remaining} with probability proportional to gamma^k, from uniform numbers in [0, 1).

    Inverts the cumulative distribution function of the truncated geometric distribution,
    (1 - gamma^k) / (1 - gamma^remaining), so each draw takes constant time and memory. gamma = 1 is uniform.

    Args:
      uniform: [...], in [0, 1).
      remaining: [...], at least 1.
      gamma: discount in (0, 1].

    Returns:
      Offsets [...], integers.
    """
    if gamma == 1:
        offset = jnp.floor(uniform * remaining) + 1
    else:
        # expm1 and log1p keep the precision that 1 - gamma^k loses for gamma near 1.
        log_gamma = math.log(gamma)
        mass = -jnp.expm1(remaining * log_gamma)
        offset = jnp.ceil(jnp.log1p(-uniform * mass) / log_gamma)
    return jnp.clip(offset, 1, remaining).astype(int)


class Indices(struct.PyTreeNode):
    """Positions of sampled rows and their goals in the ring buffer; integers [...]."""

    time: jax.Array
    goal_time: jax.Array
    environment: jax.Array


def sample(replay: Replay, key: jax.Array, count: int, window: int, gamma: float) -> Indices:
    """Sample rows and their hindsight goals: draw a window of each environment, then ``count`` rows from the windows.

    A row's goal is the one achieved k >= 1 steps later in the same episode and window, with weight gamma^k (paper
    section 3). Only the trajectory numbers of the windows are read, so time and memory are linear in the window. Rows
    are drawn with replacement: a permutation of all of them would cost more than the updates of a small network.

    Args:
      replay: buffer with at least ``window`` steps of each environment.
      key: random key.
      count: number of rows.
      window: steps in a window.
      gamma: discount of the goal distribution.

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
    # The last step of each row's trajectory inside the window: a reverse running minimum of the trajectories' ends.
    ends = trajectory != jnp.concatenate([trajectory[1:], jnp.full((1, environments), -1)])
    last = jax.lax.cummin(jnp.where(ends, index, window), axis=0, reverse=True)

    step = jax.random.randint(step_key, (count,), 0, window)
    environment = jax.random.randint(environment_key, (count,), 0, environments)
    remaining = last[step, environment] - step + 1
    offset = future_offset(jax.random.uniform(goal_key, (count,)), remaining, gamma)
    # The goal k steps after t is the one achieved after step t + k - 1.
    return Indices(times[step, environment], times[step + offset - 1, environment], environment)


def gather(replay: Replay, indices: Indices) -> tuple[Transitions, jax.Array]:
    """The transitions [..., feature] at the indices, and their goals [..., goal]."""
    rows = jax.tree.map(lambda leaf: leaf[indices.time, indices.environment], replay.rows)
    return rows, replay.rows.achieved[indices.goal_time, indices.environment]
