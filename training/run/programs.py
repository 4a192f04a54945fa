"""The compiled programs of a run, and what compiles them.

On an accelerator, runs that differ only in their seed share a program: each takes one of its slots, a leading axis of
every argument and result. On a CPU one run keeps all cores busy, so a program has one slot.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.envs.base import GoalEnv
from crlviz.processes import process_pool
from crlviz.rollouts import evaluate
from training.loop.train_loop import Loop, TrainState
from training.run import hosts
from training.run import saved_state as states
from training.run.saved_state import Saved


@dataclass(frozen=True)
class Programs:
    """The compiled programs of a run, or of several that differ only in their seed and train in lockstep.

    With several processes each has these programs. The coordinator broadcasts every call of a public method below
    (``hosts.broadcast``), and the workers repeat it.

    Attributes:
      loop: the loop they are compiled from; the seed in its config is not used.
      slots: number of runs that train together.
      example: shapes of the TrainState of one slot.
      empty_buffer, init, reset_envs, collect, learn: methods of the loop, with arguments and results [slots, ...];
        ``collect`` and ``learn`` donate the state.
      evaluate_policy: maps (networks, keys) to the scores [slots] of an evaluation with the deterministic action.
    """

    loop: Any
    slots: int
    example: TrainState
    empty_buffer: Callable[[], Any]
    init: jax.stages.Compiled
    reset_envs: jax.stages.Compiled
    collect: jax.stages.Compiled
    learn: jax.stages.Compiled
    evaluate_policy: jax.stages.Compiled

    @property
    def memory(self) -> int:
        """Bytes that training and evaluation take on each device, states included."""
        return max(
            memory_of(self.collect),
            memory_of(self.learn),
            _argument_memory(self.learn) + memory_of(self.evaluate_policy),
        )

    def start(self, seeds: Sequence[int], rewinds: Sequence[int]) -> TrainState:
        """The first states [slots, ...] of runs with these seeds; a different number of rewinds gives another key."""
        hosts.broadcast("start", slots=self.slots, seeds=seeds, rewinds=rewinds)
        first = self._rewound([keys(seed)[0] for seed in seeds], rewinds)
        return self._begun(first)

    def _begun(self, first: jax.Array) -> TrainState:
        """The first states [slots, ...] from keys [slots]."""
        return self._fill(self.init(first, self.reset_envs(first)))

    def load(self, saved: Sequence[Saved], rewinds: Sequence[int]) -> TrainState:
        """Read saved states [slots, ...], with another key after a rewind; without a saved buffer, fill a new one.

        Raises:
          CrlvizError: a state cannot be read, or belongs to another config.
        """
        paths, replay = [str(each.path.absolute()) for each in saved], saved[0].replay
        hosts.broadcast("load", slots=self.slots, paths=paths, replay=replay, rewinds=rewinds)
        state = states.read(saved, self.example, self.loop.devices)
        state = state.replace(key=self._rewound(state.key, rewinds))
        return state if replay else self._fill(state)

    def _fill(self, state: TrainState) -> TrainState:
        """Add a new buffer, filled with a window of each environment by the current policy."""
        state = state.replace(replay=self.empty_buffer())
        for _ in range(self.loop.schedule.prefill_unrolls):
            state = self.collected(state)
        return state

    def collected(self, state: TrainState) -> TrainState:
        """The state after an unroll is collected; donates the state."""
        # One reset for each unroll, not for each step: a reset of a physics engine costs as much as a step.
        return self.collect(state, self.reset_envs(state.key) if self.loop.config.redraw_goals else None)

    def _rewound(self, keys: Iterable[jax.Array], rewinds: Sequence[int]) -> jax.Array:
        """Keys [slots] after the given numbers of rewinds; unchanged for 0."""
        pairs = zip(keys, rewinds, strict=True)
        folded = [jax.random.fold_in(key, count) if count else key for key, count in pairs]
        return self.loop.devices.device_put_keys(jnp.stack(folded))

    def advance(self, state: TrainState) -> tuple[TrainState, Any, Any]:
        """Do a training step; donates the state. Returns the new state, the losses and the Divergence, [slots, ...]."""
        hosts.broadcast("advance", slots=self.slots)
        return self._advanced(state)

    def _advanced(self, state: TrainState) -> tuple[TrainState, Any, Any]:
        return self.learn(self.collected(state))

    def evaluate(self, state: TrainState, seeds: Sequence[int], index: int) -> list[dict[str, float]]:
        """Scores of each slot in evaluation number ``index``, by name."""
        hosts.broadcast("evaluate", slots=self.slots, seeds=seeds, index=index)
        scores = jax.device_get(self._scores(state, evaluation_keys(self.loop, seeds, index)))
        return [{name: float(values[slot]) for name, values in scores.items()} for slot in range(self.slots)]

    def _scores(self, state: TrainState, keys: jax.Array) -> dict[str, jax.Array]:
        return self.evaluate_policy(self.loop.algorithm.networks(state.learner), keys)

    def copy(self, state: TrainState, *, replay: bool) -> TrainState:
        """Copy the states to host memory (``saved_state.snapshot``), with or without the buffer."""
        hosts.broadcast("copy", slots=self.slots, replay=replay)
        return states.snapshot(state if replay else state.replace(replay=None))

    def part(self, copied: TrainState, slot: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of one slot of a result of ``copy``, without the leading axis; and its networks."""
        own = jax.tree.map(lambda leaf: leaf[slot, ...], copied)
        return own, self.loop.algorithm.networks(own.learner)

    def share(self, slot: int, training: int) -> float:
        """A slot's share of the step's time: 1 / ``training``, the number of slots that train."""
        return 1 / training


def evaluation(loop: Any, eval_env: GoalEnv) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """The function from networks and a key to the scores of an evaluation in an environment."""
    config, devices = loop.config, loop.devices

    def evaluate_policy(params, key):
        def policy(observation, _):
            # Sharding the observations shards the episodes; everything else follows.
            with loop.precision():
                return loop.algorithm.act(params, devices.shard_rows(observation))

        return evaluate(eval_env, policy, key, config.eval_episodes, loop.episode_length)

    return evaluate_policy


def compile_all(**programs: tuple[Any, ...]) -> dict[str, jax.stages.Compiled]:
    """Compile jitted functions, each given as (function, *argument shapes)."""
    # Trace one program while others compile. XLA keeps about two cores busy with each, and each needs memory.
    pool = ThreadPoolExecutor(max(1, len(process_pool.cores()) // 2))
    try:
        compiling = {
            name: pool.submit(function.lower(*shapes).compile) for name, (function, *shapes) in programs.items()
        }
        return {name: program.result() for name, program in compiling.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C the others are not needed


def vmapped(function: Callable[..., Any], slots: int) -> Callable[..., Any]:
    """Vectorize a function of one slot: arguments and results get a leading axis [slots]."""
    if slots > 1:
        return jax.vmap(function)

    def of_one(*arguments):  # adds only the axis, so the program is that of the function itself
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return of_one


def memory() -> int | None:
    """Bytes of device memory that this process may use; None if the device does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def memory_of(program: jax.stages.Compiled) -> int:
    """Bytes that a program takes; 0 if the device does not report it."""
    stats = program.memory_analysis()
    if stats is None:
        return 0
    taken = stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes
    return taken - stats.alias_size_in_bytes


def _argument_memory(program: jax.stages.Compiled) -> int:
    """Bytes of a program's arguments; 0 if the device does not report it."""
    stats = program.memory_analysis()
    return stats.argument_size_in_bytes if stats else 0


def evaluation_keys(loop: Loop, seeds: Sequence[int], index: int) -> jax.Array:
    """Keys [slots] of evaluation number ``index`` of runs with these seeds, on the loop's devices."""
    return loop.devices.device_put_keys(jnp.stack([jax.random.fold_in(keys(seed)[1], index) for seed in seeds]))


def keys(seed: int) -> jax.Array:
    """The two keys of a seed: for the first state, and for the evaluations."""
    return jax.random.split(jax.random.key(seed))
