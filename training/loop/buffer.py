"""The replay buffer: a ring buffer of each environment's last steps, sampled with the goals that ``Rows`` asks for.

Pure functions of a buffer state. The layout is time-major ([time, environment, feature]), so an insert is one
contiguous write and the buffer is never copied.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.algorithms.batches import Batch, Rows, Sizes


class Transitions(struct.PyTreeNode):
    """Environment steps with leading axes [...]. A buffer holds what ``Rows`` asks for; the rest is None.

    Attributes:
      state: [..., state], before the step.
      action: [..., action].
      achieved: [..., goal], the goal achieved after the step, so that the last step of an episode has a future too.
      trajectory: [...], int32, the number of the environment's episode.
      commanded: [..., goal], the goal that the policy was given.
      next_state: [..., state], after the step.
      reward: [...], the environment's, for the commanded goal.
      discount: [...], 0 where the episode ended with this step, by a failure or the time limit; else 1.
      truncation: [...], 1 where only the time limit ended it; else 0.
    """

    state: jax.Array
    action: jax.Array
    achieved: jax.Array
    trajectory: jax.Array
    commanded: Any = None
    next_state: Any = None
    reward: Any = None
    discount: Any = None
    truncation: Any = None

    def kept(self, rows: Rows) -> "Transitions":
        """The part of complete transitions that batches of ``rows`` are made of."""
        absent = () if rows.commanded else ("commanded",)
        if not rows.transitions:
            absent = (*absent, "next_state", "reward", "discount", "truncation")
        elif not rows.commanded:
            absent = (*absent, "reward")
        return self.replace(**dict.fromkeys(absent))


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


def example(rows: Rows, sizes: Sizes, count: int) -> Transitions:
    """One step of ``count`` environments, all zeros: what a buffer for batches of ``rows`` holds of it."""
    state, action, goal = (jnp.zeros((count, size)) for size in sizes)
    number = jnp.zeros(count)
    return Transitions(state, action, goal, number.astype(int), goal, state, number, number, number).kept(rows)


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
        raise ValueError(f"a ring buffer of {replay.capacity} steps is not a multiple of the {count} steps to insert")
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
    """Positions of sampled rows and of those that achieve their goals, in the ring buffer; integers [...].

    Attributes:
      time: of the row.
      goal_time: of the row that achieves its goal; None if all goals are the commanded ones.
      environment: of both.
      relabeled: [...], whether the goal is that of ``goal_time``; None if all are.
    """

    time: jax.Array
    goal_time: Any
    environment: jax.Array
    relabeled: Any = None


def sample(replay: Replay, key: jax.Array, count: int, window: int, rows: Rows) -> Indices:
    """Sample rows and their goals: draw a window of each environment, then ``count`` rows from the windows.

    A goal is one that the row's episode achieves inside the window, by the rule of ``rows``: for ``future`` k >= 1
    steps after the row's state, with weight gamma^k (paper section 3). Only the trajectory numbers of the windows are
    read, so time and memory are linear in the window. Rows are drawn with replacement: a permutation of all of them
    would cost more than the updates of a small network.

    Args:
      replay: buffer with at least ``window`` steps of each environment.
      key: random key.
      count: number of rows.
      window: steps in a window.
      rows: which goals they get.

    Returns:
      Indices [count] for ``gather``.
    """
    environments = replay.rows.trajectory.shape[1]
    start_key, step_key, environment_key, goal_key = jax.random.split(key, 4)
    oldest = replay.head - replay.size
    starts = oldest + jax.random.randint(start_key, (environments,), 0, replay.size - window + 1)
    index = jnp.arange(window)[:, None]
    times = (starts + index) % replay.capacity  # [window, environments]
    step = jax.random.randint(step_key, (count,), 0, window)
    environment = jax.random.randint(environment_key, (count,), 0, environments)
    if not rows.relabels:
        return Indices(times[step, environment], None, environment)
    trajectory = replay.rows.trajectory[times, jnp.arange(environments)]
    # The last step of each row's trajectory inside the window: a reverse running minimum of the trajectories' ends.
    ends = trajectory != jnp.concatenate([trajectory[1:], jnp.full((1, environments), -1)])
    last = jax.lax.cummin(jnp.where(ends, index, window), axis=0, reverse=True)
    goal_step = last[step, environment]
    if rows.goals == "future":
        offset = future_offset(jax.random.uniform(goal_key, (count,)), goal_step - step + 1, rows.gamma)
        # The goal k steps after t is the one achieved after step t + k - 1.
        goal_step = step + offset - 1
    # Another key only where it is used, so that the draws above do not depend on it.
    share_key = jax.random.fold_in(goal_key, 1)
    relabeled = jax.random.uniform(share_key, (count,)) < rows.relabel if rows.commanded else None
    return Indices(times[step, environment], times[goal_step, environment], environment, relabeled)


def gather(replay: Replay, indices: Indices, rows: Rows, goal_distance: float) -> Batch:
    """The batch [..., feature] at the indices.

    Args:
      replay: the buffer.
      indices: of ``sample``.
      rows: what the batch holds.
      goal_distance: as in ``GoalEnv``, for the rewards of relabeled rows.
    """
    row = jax.tree.map(lambda leaf: leaf[indices.time, indices.environment], replay.rows)
    goal, reward, pair = row.commanded, row.reward, {}
    if rows.relabels:
        place = indices.goal_time, indices.environment
        found = replay.rows.achieved[place]
        chosen = indices.relabeled
        goal = found if chosen is None else jnp.where(chosen[..., None], found, goal)
        if rows.transitions:
            reached = (jnp.linalg.norm(row.achieved - found, axis=-1) < goal_distance).astype(float)
            reward = reached if chosen is None else jnp.where(chosen, reached, reward)
        if rows.pairs:
            pair = {"goal_state": replay.rows.state[place], "goal_action": replay.rows.action[place]}
    return Batch(row.state, row.action, goal, row.next_state, reward, row.discount, row.truncation, **pair)
