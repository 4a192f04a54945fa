"""The compiled programs of a run on a data set: to begin, to learn and to score; nothing steps an environment."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from training.loop.dataset_loop import DatasetLoop
from training.loop.recorded import Recorded
from training.loop.train_loop import TrainState
from training.run import programs, recorded_data
from training.run.recorded_data import Source

_HELD_OUT_SEED = 0  # so that all evaluations of all seeds score the same rows


@dataclass(frozen=True)
class DatasetPrograms(programs.Programs):
    """The programs of a run on a data set, or of several that differ only in their seed.

    Data that fit are on the device once, for all slots. Else a block of trajectories is drawn from the file anew for
    each training step; which ones follows from the step alone, so that a resumed run draws the same.

    Attributes:
      held_out: maps (states, held-out data, key) to scores [slots].
      data: what is trained on, where it fits; else None.
      held: held-out data.
      block: the block of a training step; None where all fit.
    """

    held_out: jax.stages.Compiled
    data: Recorded | None
    held: Recorded
    block: Callable[[int], Recorded] | None

    @property
    def memory(self) -> int:
        return programs.memory_of(self.learn)

    def _fill(self, state: TrainState) -> TrainState:
        return state

    def _begun(self, keys: jax.Array) -> TrainState:
        return self.init(keys)

    def _advanced(self, state: TrainState) -> tuple[TrainState, Any, Any]:
        data = self.data
        if data is None:
            assert self.block
            data = _put(self.block(int(jax.device_get(state.collector).reshape(-1)[0])))
        return self.learn(state, data)

    def _scores(self, state: TrainState, keys: jax.Array) -> dict[str, jax.Array]:
        scores = self.held_out(state, self.held, jax.random.key(_HELD_OUT_SEED))
        return scores if self.loop.env is None else scores | super()._scores(state, keys)


def compiled(loop: DatasetLoop, env: GoalEnv | None, slots: int) -> DatasetPrograms:
    """Read the data set of a loop and compile its programs; ``env`` is that of the evaluations.

    Raises:
      CrlvizError: the file cannot be read, or has changed.
      UsageError: several devices or processes, or an error of ``recorded_data.source``.
    """
    if loop.devices.count > 1:
        raise UsageError("a run on a data set trains on one device; leave --devices and --distributed out")
    config = loop.config.dataset
    source = _source(config)
    block = recorded_data.block_of(source.trained, config, programs.memory())
    held, data, drawn = _put(source.held()), None, None
    if block:
        drawn = functools.partial(_block, source, *block)
    else:
        data = _put(source.trained.read(np.arange(len(source.trained.chosen))))
    of_data = jax.eval_shape(lambda: _put(drawn(0)) if drawn else data)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), slots))
    init = jax.jit(_over_slots(loop.init, slots))
    stacked = jax.eval_shape(init, keys)
    functions: dict[str, tuple[Any, ...]] = {
        "init": (init, keys),
        "learn": (jax.jit(_over_slots(loop.learn, slots), donate_argnums=0), stacked, of_data),
        "held_out": (
            jax.jit(_over_slots(loop.held_out, slots)),
            stacked,
            jax.eval_shape(lambda: held),
            jax.eval_shape(lambda: jax.random.key(0)),
        ),
    }
    if env:
        score = jax.jit(_over_slots(programs.evaluation(loop, env), slots, 2))
        functions["evaluate_policy"] = (score, loop.algorithm.networks(stacked.learner), keys)
    made: dict[str, Any] = dict.fromkeys(("evaluate_policy", "empty_buffer", "reset_envs", "collect"))
    made |= programs.compile_all(**functions)
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    return DatasetPrograms(loop, slots, example, data=data, held=held, block=drawn, **made)


@functools.lru_cache(maxsize=1)
def _source(config: Any) -> Source:
    """The data set, read once for all numbers of slots."""
    return recorded_data.source(config)


def _block(source: Source, trajectories: int, rows: int, step: int) -> Recorded:
    return source.block(step, trajectories, rows)


def _put(data: Recorded) -> Recorded:
    return jax.tree.map(jnp.asarray, data)


def _over_slots(function: Callable[..., Any], slots: int, arguments: int = 1) -> Callable[..., Any]:
    """Vectorize the first arguments of a function over slots, a leading axis [slots]; the others are shared."""

    def of_all(*given):
        own, shared = given[:arguments], given[arguments:]
        if slots > 1:
            return jax.vmap(lambda *own: function(*own, *shared))(*own)
        result = function(*jax.tree.map(lambda leaf: leaf[0], own), *shared)
        return jax.tree.map(lambda leaf: leaf[None], result)

    return of_all
