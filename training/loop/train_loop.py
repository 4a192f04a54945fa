"""The training loop as pure functions: init, reset_envs, collect, learn. Each is compiled as a separate program.

Batches are drawn from an ``Experience``: a data set (``dataset_loop.py``), or the buffer that ``Loop`` fills by
stepping environments.

Only ``reset_envs`` contains the environment's reset, and only ``collect`` its step: with a physics engine these two
take longer to compile than everything else.
"""

import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.algorithms import action_choice
from crlviz.algorithms.base import Algorithm
from crlviz.algorithms.batches import Batch, Rows
from crlviz.envs.base import GoalEnv
from crlviz.precision import within
from training.config import TrainConfig
from training.loop import buffer as replays
from training.loop import divergence
from training.schedule import Schedule
from training.sharding import Devices


class Collector(struct.PyTreeNode):
    """The state of the environments.

    Attributes:
      states: brax states [environments, ...].
      first: initial states [environments, ...], which an environment returns to after an episode unless goals are
        redrawn.
      steps: steps taken in the current episode, [environments].
      trajectory: number of the current episode, [environments].
    """

    states: Any
    first: Any
    steps: jax.Array
    trajectory: jax.Array


class TrainState(struct.PyTreeNode):
    """The complete state of a run: it and the config determine everything that follows."""

    learner: Any
    replay: Any  # Replay; None if it was not saved, or is a collector's
    collector: Any  # Collector; None for a learner that does not act; on a data set the training steps done, []
    key: jax.Array


def shardings(devices: Devices) -> TrainState:
    """Shardings of a TrainState [slots, ...]: one of ``Devices.sharding`` for each part, a prefix of its tree."""
    replicated = devices.sharding()
    # Rows are [slots, time, environments, ...].
    replay = replays.Replay(rows=devices.sharding(2), head=replicated, size=replicated)
    return TrainState(learner=replicated, replay=replay, collector=devices.sharding(1), key=replicated)


def update_or_skip(
    algorithm: Algorithm,
    loss_bound: float,
    carry: tuple[Any, divergence.Divergence],
    index: jax.Array,
    key: jax.Array,
    batch: Batch,
) -> tuple[tuple[Any, divergence.Divergence], dict[str, jax.Array]]:
    """One update, skipped if it or an earlier update of the carry diverged (``divergence.watch``).

    Args:
      algorithm: computes gradients and applies them.
      loss_bound: absolute loss above which an update counts as diverged.
      carry: the learner, and the first divergence so far.
      index: number of this update.
      key, batch: as in ``algorithm.gradients``.

    Returns:
      The new carry, and the update's metrics.
    """
    learner, diverged = carry
    gradients, metrics = algorithm.gradients(learner, key, batch)
    # Check the parameters before the step. Adam turns finite gradients into finite parameters, so this is enough; and
    # whether to skip is then known before Adam runs, so that skipping needs no second pass over memory.
    params, grouped = algorithm.trained(learner), algorithm.trunk is not None
    diverged = divergence.watch(diverged, index, metrics, params, algorithm.losses, loss_bound, grouped=grouped)
    return (algorithm.step(learner, gradients, diverged.found), diverged), metrics


class Experience(Protocol):
    """What batches are drawn from; used inside jit."""

    def sample(self, key: jax.Array, count: int) -> Any:
        """A tree of arrays [count], which say what to draw."""

    def gather(self, drawn: Any) -> Batch:
        """The batch [..., feature] of what was sampled [...]."""


@dataclass(frozen=True)
class Replayed:
    """The experience of a buffer, as ``Loop`` fills it; the other arguments are those of ``buffer``."""

    replay: replays.Replay
    window: int
    rows: Rows
    goal_distance: float

    def sample(self, key: jax.Array, count: int) -> replays.Indices:
        return replays.sample(self.replay, key, count, self.window, self.rows)

    def gather(self, drawn: replays.Indices) -> Batch:
        return replays.gather(self.replay, drawn, self.rows, self.goal_distance)


@functools.lru_cache(maxsize=64)
def cost_of(algorithm: Algorithm, batch_size: int, rows: Rows | None = None) -> Mapping[str, int]:
    """``Algorithm.cost``, which traces a whole update: once for all runs of this process that differ in their seed."""
    return algorithm.cost(batch_size, rows)


@dataclass(frozen=True)
class Learning:
    """The fixed parts of a run that need no environment, and how it learns from an ``Experience``."""

    config: TrainConfig
    schedule: Schedule
    algorithm: Algorithm
    devices: Devices

    @property
    def cost(self) -> Mapping[str, int]:
        """``Algorithm.cost`` of the run."""
        return cost_of(self.algorithm, self.config.batch_size)

    def precision(self) -> AbstractContextManager[Any]:
        """Context in which the networks' matrix products have the config's precision, except those always exact."""
        return within(self.config.precision)

    def learned(
        self, state: TrainState, experience: Experience
    ) -> tuple[TrainState, dict[str, jax.Array], divergence.Divergence]:
        """``Loop.learn`` from this experience."""
        config = self.config
        key, sample_key, update_key = jax.random.split(state.key, 3)
        drawn = experience.sample(sample_key, config.updates * config.batch_size)
        batches = jax.tree.map(lambda leaf: leaf.reshape(config.updates, config.batch_size), drawn)

        def update(carry, batch):
            index, drawn, key = batch
            # Without sharding, each device would compute the whole update. The buffer is sharded by environment:
            # each device contributes its own rows, and the buffer itself never moves.
            batch = self.devices.shard_rows(experience.gather(drawn))
            return update_or_skip(self.algorithm, config.loss_bound, carry, index, key, batch)

        with self.precision():
            inputs = (jnp.arange(config.updates), batches, jax.random.split(update_key, config.updates))
            (learner, diverged), metrics = jax.lax.scan(update, (state.learner, divergence.none()), inputs)
            return state.replace(learner=learner, key=key), jax.tree.map(jnp.mean, metrics), diverged


@dataclass(frozen=True)
class Loop(Learning):
    """The fixed parts of a run, and the pure functions that advance a TrainState."""

    env: GoalEnv
    episode_length: int

    def init(self, key: jax.Array, states: Any) -> TrainState:
        """The first TrainState, without a buffer: new networks, and the environment states of ``reset_envs(key)``."""
        learner_key, _, key = jax.random.split(key, 3)
        count = self.config.num_envs
        first = jax.tree.map(jnp.copy, states)  # a copy, because training donates ``states``
        collector = Collector(states, first, jnp.zeros(count, int), jnp.zeros(count, int))
        return TrainState(self.algorithm.init(learner_key), None, collector, key)

    def empty_buffer(self) -> replays.Replay:
        """An empty buffer. A run first fills one window of it, in ``Schedule.prefill_unrolls`` unrolls."""
        example = replays.example(self.algorithm.rows, self.algorithm.sizes, self.config.num_envs)
        return replays.create(self.schedule.replay_capacity, example)

    def reset_envs(self, key: jax.Array) -> Any:
        """Initial states of new episodes, [environments, ...], from the key of a TrainState."""
        _, key, _ = jax.random.split(key, 3)
        return self.devices.per_device(jax.vmap(self.env.reset))(jax.random.split(key, self.config.num_envs))

    def collect(self, state: TrainState, fresh: Any) -> TrainState:
        """Step every environment ``unroll`` times and insert the steps into the buffer; ``explore`` chooses actions.

        Args:
          state: the state before.
          fresh: states [environments, ...] in which new episodes start; None: each environment's first state.
        """
        key, _, noise_key = jax.random.split(state.key, 3)
        if fresh is None:
            fresh = state.collector.first
        env, algorithm, params = self.env, self.algorithm, self.algorithm.acting(state.learner)
        goal_indices, choice = jnp.array(env.goal_indices), action_choice.read(self.config.explore)

        def step(collector: Collector, key):
            before = collector.states
            with self.precision():
                action = choice.act(algorithm, params, before.obs, key)
            with jax.named_scope("physics"):  # by this name training.bench.launches tells its kernels apart
                after = self.devices.per_device(jax.vmap(env.step))(before, action)
            steps = collector.steps + 1
            failed = after.done > 0
            done = failed | (steps >= self.episode_length)
            row = replays.Transitions(
                state=before.obs[:, : env.state_dim],
                action=action,
                achieved=after.obs[:, goal_indices],
                trajectory=collector.trajectory,
                commanded=before.obs[:, env.state_dim :],
                next_state=after.obs[:, : env.state_dim],
                reward=after.reward,
                discount=1.0 - done,
                truncation=(done & ~failed).astype(float),
            ).kept(algorithm.rows)
            states = jax.tree.map(
                lambda new, old: jnp.where(done.reshape(done.shape + (1,) * (old.ndim - 1)), new, old), fresh, after
            )
            return Collector(states, collector.first, jnp.where(done, 0, steps), collector.trajectory + done), row

        collector, rows = jax.lax.scan(step, state.collector, jax.random.split(noise_key, self.config.unroll))
        return state.replace(collector=collector, replay=replays.insert(state.replay, rows), key=key)

    def learn(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], divergence.Divergence]:
        """Sample once, then do ``updates`` updates on batches of the sample.

        Returns:
          The state after the updates, the mean of each metric, and the first divergence. From a diverged update on,
          all updates are skipped.
        """
        experience = Replayed(state.replay, self.config.window, self.algorithm.rows, self.env.goal_distance)
        return self.learned(state, experience)

    def learn_from(
        self, learner: Any, replay: replays.Replay, key: jax.Array
    ) -> tuple[Any, dict[str, jax.Array], divergence.Divergence]:
        """The updates of ``learn`` for a learner that does not act, on the buffer of a collector.

        With the key of the collector's state, the rows, goals and noise are the same as in the collector's updates.

        Returns:
          The learner after the updates; mean metrics and first divergence as in ``learn``.
        """
        state, metrics, diverged = self.learn(TrainState(learner, replay, None, key))
        return state.learner, metrics, diverged
