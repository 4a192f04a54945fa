"""A collector and learners of other depths that train from its buffer alone (paper figure 8), in lockstep.

The collector is an ordinary run: it acts, fills the buffer and trains. Before the collector's updates, each learner
does the same number of updates on the same buffer with the same key, so all get bit-identical rows, goals and noise.
Each learner has its own key for the initial networks; otherwise a learner of the collector's depth would be a copy of
the collector.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from training.config import TrainConfig
from training.loop.divergence import DivergenceError
from training.loop.train_loop import Loop, TrainState, shardings
from training.run import building, compiled
from training.run import saved_state as states
from training.run.fused_choice import Choice
from training.run.programs import Programs, compile_all, evaluation_keys, keys, vmapped
from training.run.runner import Run
from training.run.saved_state import Saved
from training.run.seed_run import SeedRun
from training.sharding import ONE, Devices


@dataclass(frozen=True)
class LearnerPrograms:
    """The compiled programs of a learner. Arguments and results have a leading axis [1].

    Attributes:
      loop: the loop they are compiled from.
      example: shapes of its TrainState, which has neither buffer nor collector, without the leading axis.
      init: maps keys to learners.
      learn_from: ``Loop.learn_from``; donates the learner.
      evaluate_policy: as in ``Programs``.
    """

    loop: Loop
    example: TrainState
    init: jax.stages.Compiled
    learn_from: jax.stages.Compiled
    evaluate_policy: jax.stages.Compiled


@dataclass
class FedPrograms:
    """The programs of learners and their collector, used as ``Programs`` are; the collector's slot is the last.

    A state is a list: the learners, then the TrainState of the collector.

    Attributes:
      learners: programs of the learners.
      collector: programs of the collector.
      shares: of the last training step's time, by slot.
    """

    learners: Sequence[LearnerPrograms]
    collector: Programs
    shares: list[float] = field(default_factory=list)

    @property
    def slots(self) -> int:
        """The number of learners and the collector."""
        return len(self.learners) + 1

    @property
    def loops(self) -> list[Loop]:
        """Their loops, the collector's last."""
        return [*(each.loop for each in self.learners), self.collector.loop]

    def start(self, seeds: Sequence[int], rewinds: Sequence[int]) -> list[Any]:
        """The first states of runs with the collector's seed."""
        key = keys(seeds[-1])[0]
        devices = self.collector.loop.devices
        firsts = [
            each.init(devices.device_put_keys(jax.random.fold_in(key, each.loop.config.critic.depth)[None]))
            for each in self.learners
        ]
        return [*firsts, self.collector.start(seeds[-1:], rewinds[-1:])]

    def load(self, saved: Sequence[Saved], rewinds: Sequence[int]) -> list[Any]:
        """Read saved states, one for each slot.

        Raises:
          CrlvizError: a state cannot be read, or belongs to another config.
        """
        read = [
            states.read([own], each.example, each.loop.devices).learner
            for own, each in zip(saved[:-1], self.learners, strict=True)
        ]
        return [*read, self.collector.load(saved[-1:], rewinds[-1:])]

    def advance(self, state: list[Any]) -> tuple[list[Any], dict[str, np.ndarray], Any]:
        """Do a training step of all; returns the new states, the losses and the Divergence, [slots, ...]."""
        start = time.perf_counter()
        collected = self.collector.collected(state[-1])
        jax.block_until_ready(collected.replay.head)
        results, seconds, collecting = [], [], time.perf_counter() - start
        for each, learner in zip(self.learners, state[:-1], strict=True):
            start = time.perf_counter()
            results.append(jax.block_until_ready(each.learn_from(learner, collected.replay, collected.key)))
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        results.append(jax.block_until_ready(self.collector.learn(collected)))
        seconds.append(time.perf_counter() - start + collecting)
        self.shares = [own / sum(seconds) for own in seconds]
        news, losses, diverged = zip(*results, strict=True)
        joined = [jax.tree.map(lambda *leaves: np.concatenate(leaves), *each) for each in (losses, diverged)]
        return list(news), joined[0], joined[1]

    def share(self, slot: int, training: int) -> float:
        """The share of the last training step's time that a slot took; a learner only does updates."""
        return self.shares[slot]

    def evaluate(self, state: list[Any], seeds: Sequence[int], index: int) -> list[dict[str, float]]:
        """As ``Programs.evaluate``: all get the same starts and goals."""
        scores = []
        for each, learner in zip(self.learners, state[:-1], strict=True):
            keys = evaluation_keys(each.loop, seeds[-1:], index)
            found = jax.device_get(each.evaluate_policy(each.loop.algorithm.networks(learner), keys))
            scores.append({name: float(values[0]) for name, values in found.items()})
        return [*scores, *self.collector.evaluate(state[-1], seeds[-1:], index)]

    def copy(self, state: list[Any], *, replay: bool) -> list[TrainState]:
        """Copy the states to host memory; only the collector's has a buffer, if asked for."""
        collector = self.collector.copy(state[-1], replay=replay)
        learners = [states.snapshot(TrainState(learner, None, None, state[-1].key)) for learner in state[:-1]]
        return [*learners, collector]

    def part(self, copied: list[TrainState], slot: int) -> tuple[TrainState, dict[str, Any]]:
        """The state of one slot of a result of ``copy``, without the leading axis; and its networks."""
        own = jax.tree.map(lambda leaf: leaf[0, ...], copied[slot])
        return own, self.loops[slot].algorithm.networks(own.learner)


def programs(
    learners: Sequence[TrainConfig], collector: TrainConfig, choices: Sequence[Choice], devices: Devices = ONE
) -> FedPrograms:
    """Compile the programs of learners and their collector.

    Args:
      learners, collector: their configs; the learners differ from the collector in their networks only.
      choices: of ``fused_choice`` for each of them, the collector's last.
      devices: those to train on.

    Raises:
      UsageError: an error of ``building.build``, the evaluation environment has another body, or there are several
        processes.
    """
    if jax.process_count() > 1:
        raise UsageError("a collector and its learners train in one process; leave --distributed out")
    own = compiled.compiled(collector, 1, devices, choices[-1].trunk)
    fed = [
        _learner_programs(config, own.example, devices, choice)
        for config, choice in zip(learners, choices, strict=False)
    ]
    return FedPrograms(fed, own)


def _learner_programs(config: TrainConfig, collector: TrainState, devices: Devices, choice: Choice) -> LearnerPrograms:
    """Compile for a learner of a collector with states of this shape."""
    loop = building.build(config, devices, choice.trunk)
    replicated, sharded = devices.sharding(), shardings(devices)
    init = jax.jit(vmapped(loop.algorithm.init, 1), in_shardings=(replicated,), out_shardings=replicated)
    learn = jax.jit(
        vmapped(loop.learn_from, 1),
        donate_argnums=0,
        in_shardings=(replicated, sharded.replay, replicated),
        out_shardings=replicated,
    )
    score = compiled.scoring(loop, building.evaluation_env(loop))
    replay, keys = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), (collector.replay, collector.key)
    )
    learner = jax.eval_shape(init, keys)
    made = compile_all(
        learn_from=(learn, learner, replay, keys),
        evaluate_policy=(score, loop.algorithm.networks(learner), keys),
        init=(init, keys),
    )
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), learner)
    return LearnerPrograms(loop, TrainState(own, None, None, collector.key), **made)


class FedRun(Run):
    """Learners and their collector, the last of the runs.

    A learner that fails stops, and the others go on. They all need the collector: if it fails, they stop.
    """

    def _next_group(self, waiting: Sequence[SeedRun]) -> Sequence[SeedRun]:
        return list(waiting)

    def _drop(self, seed_run: SeedRun, error: CrlvizError) -> None:
        if isinstance(error, DivergenceError):
            last = next(reversed(seed_run.directory.checkpoints()), "none yet")
            error = CrlvizError(f"{error}; it stops; last good checkpoint: {last}")
        if seed_run is not self._slots[-1]:
            super()._drop(seed_run, error)
            return
        for each in self.training:
            each.error = CrlvizError(f"it stopped because its collector did, {seed_run.path}")
        seed_run.error = error
        self.say(f"{seed_run.path}: {printable(error)}; its learners stop too")
