"""The loop as pure functions: reset_envs, collect, insert, sample, update. Each method is a program of its own.

Of an environment's functions its reset is in ``reset_envs`` alone and its step in ``collect`` alone: those of a physics
engine take longer to compile than all else.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.algorithms.crl import CRL, Learner
from crlviz.envs.base import GoalEnv
from crlviz.precision import within
from training.config import Schedule, TrainConfig
from training.loop import buffer as replays
from training.loop import divergence
from training.sharding import ONE, Devices


class Collector(struct.PyTreeNode):
    """The environments being stepped.

    Attributes:
      states: their brax states, [environments, ...].
      first: the states that a finished episode goes back to, unless goals are redrawn.
      steps: steps taken in the running episode, [environments].
      trajectory: number of the running episode, [environments].
    """

    states: Any
    first: Any
    steps: jax.Array
    trajectory: jax.Array


class TrainState(struct.PyTreeNode):
    """All that a run is at one moment; what follows is a function of this and the config."""

    learner: Learner
    replay: Any  # a Replay; None where it was not saved
    collector: Collector
    key: jax.Array


def shardings(devices: Devices) -> TrainState:
    """How states [members, ...] lie on devices: for each part of a TrainState, ``Devices.lie``."""
    whole = devices.sharding()
    ring = replays.Replay(
        rows=devices.sharding(2), head=whole, size=whole
    )  # rows are [members, time, environments, ...]
    return TrainState(learner=whole, replay=ring, collector=devices.sharding(1), key=whole)


def update_or_skip(
    algorithm: CRL, loss_bound: float, carry: tuple[Learner, divergence.Divergence], index: jax.Array, *batch: jax.Array
) -> tuple[tuple[Learner, divergence.Divergence], dict[str, jax.Array]]:
    """``algorithm.update`` on a batch, undone if this or an earlier update of the carry was bad (``guard.watch``)."""
    learner, trouble = carry
    gradients, metrics = algorithm.gradients(learner, *batch)
    # Of the parameters before the step: Adam turns finite gradients into finite parameters, and whether to skip is then
    # known before it runs, so that staying is part of its pass over memory.
    params = learner.actor, learner.critic, learner.log_alpha
    trouble = divergence.watch(trouble, index, metrics, params, loss_bound)
    return (algorithm.step(learner, gradients, trouble.found), trouble), metrics


@dataclass(frozen=True)
class Loop:
    """The parts of a run that do not change, and the functions that move a TrainState on."""

    config: TrainConfig
    schedule: Schedule
    env: GoalEnv
    algorithm: CRL
    episode_length: int
    devices: Devices = ONE

    def init(self, key: jax.Array, states: Any) -> TrainState:
        """A new run without its buffer: new networks, and the states of ``reset_envs`` for the same key."""
        learner_key, _, key = jax.random.split(key, 3)
        count = self.config.num_envs
        first = jax.tree.map(jnp.copy, states)  # of its own, since the other is given away to be written over
        collector = Collector(states, first, jnp.zeros(count, int), jnp.zeros(count, int))
        return TrainState(self.algorithm.init(learner_key), None, collector, key)

    def empty_buffer(self) -> replays.Replay:
        """An empty replay. A run first fills it with a window of each environment: ``Schedule.prefill_unrolls``."""
        count = self.config.num_envs
        example = replays.Transitions(
            state=jnp.zeros((count, self.env.state_dim)),
            action=jnp.zeros((count, self.env.action_size)),
            achieved=jnp.zeros((count, self.env.goal_dim)),
            trajectory=jnp.zeros(count, int),
        )
        return replays.create(self.schedule.replay_capacity, example)

    def reset_envs(self, key: jax.Array) -> Any:
        """States of new episodes, a state for each environment, from the part of a state's key that is theirs."""
        _, key, _ = jax.random.split(key, 3)
        return self.devices.per_device(jax.vmap(self.env.reset))(jax.random.split(key, self.config.num_envs))

    def collect(self, state: TrainState, fresh: Any) -> TrainState:
        """Step every environment ``unroll`` times by the sampled policy and store what happened.

        An episode that is over goes on from the environment's state in ``fresh``, or, where that is None, from its
        first one.
        """
        key, _, noise_key = jax.random.split(state.key, 3)
        if fresh is None:
            fresh = state.collector.first
        env, actor, params = self.env, self.algorithm.actor, state.learner.actor
        goal_indices = jnp.array(env.goal_indices)

        def step(collector: Collector, key):
            before = collector.states
            noise = jax.random.normal(key, (self.config.num_envs, env.action_size))
            with self.precision():
                action, _ = actor.sample(params, before.obs, noise)
            after = self.devices.per_device(jax.vmap(env.step))(before, action)
            row = replays.Transitions(
                state=before.obs[:, : env.state_dim],
                action=action,
                achieved=after.obs[:, goal_indices],
                trajectory=collector.trajectory,
            )
            steps = collector.steps + 1
            over = (after.done > 0) | (steps >= self.episode_length)
            following = jax.tree.map(
                lambda new, old: jnp.where(over.reshape(over.shape + (1,) * (old.ndim - 1)), new, old), fresh, after
            )
            return Collector(following, collector.first, jnp.where(over, 0, steps), collector.trajectory + over), row

        collector, rows = jax.lax.scan(step, state.collector, jax.random.split(noise_key, self.config.unroll))
        return state.replace(collector=collector, replay=replays.insert(state.replay, rows), key=key)

    def learn(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], divergence.Divergence]:
        """Sample once, then update on batch after batch of the sample: the state after it, the mean of each loss, and
        whether an update went wrong.

        From a bad update on the learner stays what it was before it.
        """
        with self.precision():
            return self._learn(state)

    def precision(self) -> AbstractContextManager[Any]:
        """Within it, the networks' matrix products have the precision of the config, but for those always exact."""
        return within(self.config.precision)

    def _learn(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], divergence.Divergence]:
        config = self.config
        key, sample_key, update_key = jax.random.split(state.key, 3)
        count = config.updates * config.batch_size
        indices = replays.sample(state.replay, sample_key, count, config.window, config.gamma)
        batches = jax.tree.map(lambda leaf: leaf.reshape(config.updates, config.batch_size), indices)

        def update(carry, batch):
            index, indices, key = batch
            # Shared out, or each device would compute the whole update. Of a ring that is shared out along its
            # environments each device gives the rows it has: the ring itself never moves.
            rows, goals = self.devices.shard_rows(replays.gather(state.replay, indices))
            return update_or_skip(self.algorithm, config.loss_bound, carry, index, key, rows.state, rows.action, goals)

        each = (jnp.arange(config.updates), batches, jax.random.split(update_key, config.updates))
        (learner, trouble), metrics = jax.lax.scan(update, (state.learner, divergence.none()), each)
        return state.replace(learner=learner, key=key), jax.tree.map(jnp.mean, metrics), trouble
