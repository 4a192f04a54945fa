"""The training loop on a data set: init and learn, without an environment to step; and the scores of held-out rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from crlviz.algorithms.base import Algorithm
from crlviz.algorithms.batches import Batch, Rows
from crlviz.envs.base import GoalEnv
from crlviz.precision import exact
from training.loop import divergence, recorded
from training.loop.recorded import Drawn, Recorded
from training.loop.train_loop import Learning, TrainState, cost_of

HELD_OUT_BATCHES = 16  # batches of held-out rows in an evaluation
_DETAILS = ("accuracy",)  # of an algorithm's details, those that held-out rows have too


def held_out_columns(algorithm: type[Algorithm]) -> tuple[str, ...]:
    """The columns of metrics.csv for held-out rows; a metric that the updates do not give stays empty."""
    losses = (name for name in algorithm.losses if not name.endswith("_gradient") and name != "alpha_loss")
    told = *losses, *(name for name in _DETAILS if name in algorithm.details), "action_error"
    return tuple(f"held_out_{name}" for name in told)


@dataclass(frozen=True)
class FromData:
    """The experience of a data set."""

    data: Recorded
    rows: Rows
    goal_indices: tuple[int, ...]

    def sample(self, key: jax.Array, count: int) -> Drawn:
        return recorded.sample(self.data, key, count, self.rows)

    def gather(self, drawn: Drawn) -> Batch:
        return recorded.gather(self.data, drawn, self.rows, self.goal_indices)


@dataclass(frozen=True)
class DatasetLoop(Learning):
    """The fixed parts of a run on a data set.

    Attributes:
      rows: how batches are made.
      goal_indices: numbers of a state that are its goal.
      env: the environment of the evaluations; None: there is none.
      episode_length: of an evaluation.
    """

    rows: Rows
    goal_indices: tuple[int, ...]
    env: GoalEnv | None
    episode_length: int

    @property
    def cost(self) -> Mapping[str, int]:
        return cost_of(self.algorithm, self.config.batch_size, self.rows)

    def init(self, key: jax.Array) -> TrainState:
        """The first TrainState: new networks."""
        learner_key, key = jax.random.split(key)
        return TrainState(self.algorithm.init(learner_key), None, jnp.zeros((), int), key)

    def learn(
        self, state: TrainState, data: Recorded
    ) -> tuple[TrainState, dict[str, jax.Array], divergence.Divergence]:
        """As ``Loop.learn``, with batches of the data set."""
        state, metrics, diverged = self.learned(state, FromData(data, self.rows, self.goal_indices))
        return state.replace(collector=state.collector + 1), metrics, diverged

    def held_out(self, state: TrainState, data: Recorded, key: jax.Array) -> dict[str, jax.Array]:
        """Means [] over batches of held-out rows, by the names of ``held_out_columns``.

        ``action_error`` is the root of the mean squared difference of the deterministic action and the recorded one,
        toward the actor's goals, over rows and numbers of an action.
        """
        algorithm, source = self.algorithm, FromData(data, self.rows, self.goal_indices)

        def of_batch(key: jax.Array) -> dict[str, jax.Array]:
            sample_key, update_key = jax.random.split(key)
            batch = source.gather(source.sample(sample_key, self.config.batch_size))
            with self.precision():
                _, metrics = algorithm.gradients(state.learner, update_key, batch)
            goal = batch.goal if batch.actor_goal is None else batch.actor_goal
            with exact():
                action = algorithm.act(algorithm.networks(state.learner), jnp.concatenate([batch.state, goal], axis=-1))
            metrics = metrics | {"action_error": jnp.mean((action - batch.action) ** 2)}
            names = (name.removeprefix("held_out_") for name in held_out_columns(type(algorithm)))
            return {f"held_out_{name}": metrics[name] for name in names if name in metrics}

        means = jax.tree.map(jnp.mean, jax.lax.map(of_batch, jax.random.split(key, HELD_OUT_BATCHES)))
        return means | {"held_out_action_error": jnp.sqrt(means["held_out_action_error"])}
