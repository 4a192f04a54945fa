"""The loop as pure functions: collect, insert, sample, update. One jitted program is one training step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from crlviz.envs.base import GoalEnv
from training import guard
from training import replay as replays
from training.config import PRECISIONS, Schedule, TrainConfig
from training.crl import CRL, Learner
from training.devices import ONE, Devices


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


def places(devices: Devices) -> TrainState:
    """How states [members, ...] lie on devices: for each part of a TrainState, ``Devices.lie``."""
    whole = devices.lie()
    ring = replays.Replay(rows=devices.lie(2), head=whole, size=whole)  # rows are [members, time, environments, ...]
    return TrainState(learner=whole, replay=ring, collector=devices.lie(1), key=whole)


def guarded_update(
    algorithm: CRL, loss_bound: float, carry: tuple[Learner, guard.Trouble], index: jax.Array, *batch: jax.Array
) -> tuple[tuple[Learner, guard.Trouble], dict[str, jax.Array]]:
    """``algorithm.update`` on a batch, undone if this or an earlier update of the carry was bad (``guard.watch``)."""
    learner, trouble = carry
    gradients, metrics = algorithm.gradients(learner, *batch)
    # Of the parameters before the step: Adam turns finite gradients into finite parameters, and whether to stay is then
    # known before it runs, so that staying is part of its pass over memory.
    params = learner.actor, learner.critic, learner.log_alpha
    trouble = guard.watch(trouble, index, metrics, params, loss_bound)
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

    def init(self, key: jax.Array) -> TrainState:
        """A fresh run: new networks, new episodes, replay filled with a window of each environment."""
        learner_key, env_key, key = jax.random.split(key, 3)
        learner = self.algorithm.init(learner_key)
        states = self._reset(env_key)
        count = self.config.num_envs
        collector = Collector(states, states, jnp.zeros(count, int), jnp.zeros(count, int))
        return self.refill(TrainState(learner, None, collector, key))

    def refill(self, state: TrainState) -> TrainState:
        """The same run with a new replay, filled with a window of each environment by the present policy."""
        count = self.config.num_envs
        example = replays.Transitions(
            state=jnp.zeros((count, self.env.state_dim)),
            action=jnp.zeros((count, self.env.action_size)),
            achieved=jnp.zeros((count, self.env.goal_dim)),
            trajectory=jnp.zeros(count, int),
        )
        ring = replays.create(self.schedule.replay_capacity, example)
        return jax.lax.fori_loop(
            0, self.schedule.prefill_unrolls, lambda _, s: self._collect(s), state.replace(replay=ring)
        )

    def step(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], guard.Trouble]:
        """One training step: the state after it, the mean of each loss, and whether an update went wrong.

        From a bad update on the learner stays what it was before it.
        """
        with jax.default_matmul_precision(PRECISIONS[self.config.precision]):
            return self._learn(self._collect(state))

    def _reset(self, key: jax.Array) -> Any:
        return self.devices.apart(jax.vmap(self.env.reset))(jax.random.split(key, self.config.num_envs))

    def _collect(self, state: TrainState) -> TrainState:
        """Step every environment ``unroll`` times by the sampled policy and store what happened."""
        key, reset_key, noise_key = jax.random.split(state.key, 3)
        # One reset an unroll rather than one a step: a reset of a physics engine costs as much as a step.
        renewed = self._reset(reset_key) if self.config.redraw_goals else state.collector.first
        env, actor, params = self.env, self.algorithm.actor, state.learner.actor
        goal_indices = jnp.array(env.goal_indices)

        def step(collector: Collector, key):
            before = collector.states
            noise = jax.random.normal(key, (self.config.num_envs, env.action_size))
            action, _ = actor.sample(params, before.obs, noise)
            after = self.devices.apart(jax.vmap(env.step))(before, action)
            row = replays.Transitions(
                state=before.obs[:, : env.state_dim],
                action=action,
                achieved=after.obs[:, goal_indices],
                trajectory=collector.trajectory,
            )
            steps = collector.steps + 1
            over = (after.done > 0) | (steps >= self.episode_length)
            following = jax.tree.map(
                lambda new, old: jnp.where(over.reshape(over.shape + (1,) * (old.ndim - 1)), new, old), renewed, after
            )
            return Collector(following, collector.first, jnp.where(over, 0, steps), collector.trajectory + over), row

        collector, rows = jax.lax.scan(step, state.collector, jax.random.split(noise_key, self.config.unroll))
        return state.replace(collector=collector, replay=replays.insert(state.replay, rows), key=key)

    def _learn(self, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], guard.Trouble]:
        """Sample once, then update on batch after batch of the sample."""
        config = self.config
        key, sample_key, update_key = jax.random.split(state.key, 3)
        count = config.updates * config.batch_size
        picks = replays.sample(state.replay, sample_key, count, config.window, config.gamma)
        batches = jax.tree.map(lambda leaf: leaf.reshape(config.updates, config.batch_size), picks)

        def update(carry, batch):
            index, picks, key = batch
            # Shared out, or each device would compute the whole update. Of a ring that is shared out along its
            # environments each device gives the rows it has: the ring itself never moves.
            rows, goals = self.devices.split(replays.gather(state.replay, picks))
            return guarded_update(self.algorithm, config.loss_bound, carry, index, key, rows.state, rows.action, goals)

        each = (jnp.arange(config.updates), batches, jax.random.split(update_key, config.updates))
        (learner, trouble), metrics = jax.lax.scan(update, (state.learner, guard.none()), each)
        return state.replace(learner=learner, key=key), jax.tree.map(jnp.mean, metrics), trouble
