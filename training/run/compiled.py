"""From a config to what runs it: environments, networks and algorithm, and the compiled programs of a run.

On an accelerator, runs that differ in their seed alone can share a program: they are its members, and every array it
takes and gives has a leading axis for them. A CPU is busy with one run, so there a program has one member.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from crlviz import envs
from crlviz.algorithms.crl import CRL
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.networks.residual import Actor, Critic
from crlviz.processes import process_pool
from crlviz.rollouts import evaluate
from training.config import TrainConfig, schedule
from training.loop.train_loop import Loop, TrainState, shardings
from training.run import hosts
from training.run import saved_state as states
from training.run.saved_state import Saved
from training.sharding import ONE, Devices


def build(config: TrainConfig, devices: Devices = ONE) -> Loop:
    """The loop of a config: environment, networks and algorithm, checked and ready to compile.

    Raises:
      UsageError: unknown environment, settings that do not fit each other, or that the devices cannot share.
    """
    counts = schedule(config)
    devices.check(config.num_envs, config.batch_size)
    env = envs.make(config.env, layout=config.layout or None, **config.env_options)
    length = config.episode_length or env.episode_length
    return Loop(config, counts, env, algorithm(config, env, devices), length, devices)


def algorithm(config: TrainConfig, env: GoalEnv, devices: Devices = ONE) -> CRL:
    """The networks and the update of a config in its environment."""
    actor = Actor(config.actor, env.observation_size, env.action_size)
    critic = Critic(config.critic, env.state_dim, env.action_size, env.goal_dim)
    return CRL(config.crl, actor, critic, devices.replicate)


@dataclass(frozen=True)
class Programs:
    """The compiled parts of a run, or of several that differ in their seed alone and go in lockstep.

    Where several processes train a run, each has these; what the first calls of the functions below, the others hear
    of (``hosts.broadcast``) and call too.

    Attributes:
      loop: what they are of; the seed in its config means nothing here.
      members: how many train together.
      example: the shapes of one member's TrainState.
      empty_buffer, init, reset_envs, collect, learn: those of the loop, with arguments and results [members, ...];
        ``collect`` and ``learn`` donate the states they are given.
      evaluate_policy: (actors' parameters, keys) to the scores of an evaluation by the mean action, [members].
    """

    loop: Loop
    members: int
    example: TrainState
    empty_buffer: Callable[[], Any]
    init: jax.stages.Compiled
    reset_envs: jax.stages.Compiled
    collect: jax.stages.Compiled
    learn: jax.stages.Compiled
    evaluate_policy: jax.stages.Compiled

    @property
    def memory(self) -> int:
        """Bytes that training and evaluating take, the states included; of several devices, on each."""
        return max(_memory(self.collect), _memory(self.learn), _held(self.learn) + _memory(self.evaluate_policy))

    def start(self, seeds: Sequence[int], rewinds: Sequence[int]) -> TrainState:
        """The states that runs of these seeds begin with; other ones after each rewind."""
        hosts.broadcast("start", members=self.members, seeds=seeds, rewinds=rewinds)
        keys = self._rewound([_keys(seed)[0] for seed in seeds], rewinds)
        return self._fill(self.init(keys, self.reset_envs(keys)))

    def load(self, saved: Sequence[Saved], rewinds: Sequence[int]) -> TrainState:
        """The saved states to go on from, with another key after a rewind; with a new replay where they have none.

        Raises:
          CrlvizError: a state cannot be read, or is of another config.
        """
        paths, replay = [str(each.path.absolute()) for each in saved], saved[0].replay
        hosts.broadcast("load", members=self.members, paths=paths, replay=replay, rewinds=rewinds)
        state = states.read(saved, self.example, self.loop.devices)
        state = state.replace(key=self._rewound(state.key, rewinds))
        return state if replay else self._fill(state)

    def _fill(self, state: TrainState) -> TrainState:
        """With a new replay, filled with a window of each environment by the present policy."""
        state = state.replace(replay=self.empty_buffer())
        for _ in range(self.loop.schedule.prefill_unrolls):
            state = self._collected(state)
        return state

    def _collected(self, state: TrainState) -> TrainState:
        # One reset an unroll rather than one a step: a reset of a physics engine costs as much as a step.
        return self.collect(state, self.reset_envs(state.key) if self.loop.config.redraw_goals else None)

    def _rewound(self, keys: Iterable[jax.Array], rewinds: Sequence[int]) -> jax.Array:
        """The keys [members] of runs that were rewound so often."""
        pairs = zip(keys, rewinds, strict=True)
        drawn = [jax.random.fold_in(key, count) if count else key for key, count in pairs]
        return self.loop.devices.device_put_keys(jnp.stack(drawn))

    def advance(self, state: TrainState) -> tuple[TrainState, Any, Any]:
        """A training step: the states after it, and of each member the losses and the trouble; what it is given is
        used up."""
        hosts.broadcast("advance", members=self.members)
        return self.learn(self._collected(state))

    def evaluate(self, state: TrainState, seeds: Sequence[int], index: int) -> list[dict[str, float]]:
        """The scores of each member in the evaluation of that number."""
        hosts.broadcast("evaluate", members=self.members, seeds=seeds, index=index)
        keys = jnp.stack([jax.random.fold_in(_keys(seed)[1], index) for seed in seeds])
        scores = jax.device_get(self.evaluate_policy(state.learner.actor, self.loop.devices.device_put_keys(keys)))
        return [{name: float(values[slot]) for name, values in scores.items()} for slot in range(self.members)]

    def copy(self, state: TrainState, *, replay: bool) -> TrainState:
        """The states in host memory (``state.snapshot``), with or without their replay."""
        hosts.broadcast("copy", members=self.members, replay=replay)
        return states.snapshot(state if replay else state.replace(replay=None))


def compiled(config: TrainConfig, members: int = 1, devices: Devices = ONE) -> Programs:
    """Build and compile, from shapes alone: so a run and its resumption have the very same programs.

    Raises:
      UsageError: as ``build``; or an evaluation environment of another body.
    """
    loop = build(config, devices)
    eval_env = _evaluation_env(config, loop)
    hosts.broadcast("compile", members=members, config=dataclasses.asdict(config))

    def evaluate_policy(params, key):
        def policy(observation, _):
            # Which shares out the episodes: all else in them follows.
            with loop.precision():
                return loop.algorithm.actor.mean_action(params, devices.shard_rows(observation))

        return evaluate(eval_env, policy, key, config.eval_episodes, loop.episode_length)

    whole, lies = devices.sharding(), shardings(devices)
    reset_envs = jax.jit(_each(loop.reset_envs, members), in_shardings=(whole,), out_shardings=lies.collector)
    init = jax.jit(
        _each(loop.init, members),
        in_shardings=(whole, lies.collector),
        out_shardings=lies.replace(replay=None),
    )
    ring = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)), loop.empty_buffer()),
        out_shardings=lies.replay,
    )
    collect = jax.jit(
        _each(loop.collect, members), donate_argnums=0, in_shardings=(lies, lies.collector), out_shardings=lies
    )
    learn = jax.jit(
        _each(loop.learn, members), donate_argnums=0, in_shardings=(lies,), out_shardings=(lies, whole, whole)
    )
    score = jax.jit(_each(evaluate_policy, members), in_shardings=(whole, whole), out_shardings=whole)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    fresh = jax.eval_shape(reset_envs, keys)
    stacked = jax.eval_shape(init, keys, fresh).replace(replay=jax.eval_shape(ring))
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    fresh = fresh if config.redraw_goals else None
    made = _compiled(
        collect=(collect, stacked, fresh),
        evaluate_policy=(score, stacked.learner.actor, keys),
        learn=(learn, stacked),
        reset_envs=(reset_envs, keys),
        init=(init, keys, fresh),
    )
    return Programs(loop, members, example, ring, **made)


def _compiled(**programs: tuple[Any, ...]) -> dict[str, jax.stages.Compiled]:
    """Jitted functions, each compiled for the shapes that stand behind it."""
    # One is traced while others are compiled. XLA keeps about two cores busy with one, and needs memory for each.
    pool = ThreadPoolExecutor(max(1, len(process_pool.cores()) // 2))
    try:
        compiling = {
            name: pool.submit(function.lower(*shapes).compile) for name, (function, *shapes) in programs.items()
        }
        return {name: program.result() for name, program in compiling.items()}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody wants the others


def _each(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """A function of one member as a function of all, whose arguments and results have a leading axis [members]."""
    if members > 1:
        return jax.vmap(function)

    def of_one(*arguments):  # nothing but the axis differs from the function itself
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return of_one


def compile_for(config: TrainConfig, devices: Devices = ONE) -> Callable[[int], Programs]:
    """A function that compiles programs for that many members, or for fewer: what trains them soonest here.

    An accelerator does all at once, or as many of them as its memory holds: half, and half again. A CPU is no faster
    with several at once, so they take turns there, and each has the numbers, to the bit, that it has alone. What was
    compiled is kept for the next turn.
    """

    @functools.cache
    def fit(members: int) -> Programs:
        if members > 1 and not at_once():
            return fit(1)
        made, room = compiled(config, members, devices), memory()
        if members == 1 or room is None or made.memory <= room:
            return made
        half = -(-members // 2)
        tqdm.write(
            f"{members} seeds at once take {made.memory / 1e9:.2g} GB, of which the device has {room / 1e9:.2g}; they "
            f"train by {half}",
            file=sys.stderr,
        )
        return fit(half)

    return fit


def at_once() -> bool:
    """Whether this device trains several runs sooner at once than one after the other."""
    return jax.default_backend() != "cpu"


def memory() -> int | None:
    """Bytes of the device's memory that this process may take; None where the device does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def _memory(program: Any) -> int:
    told = program.memory_analysis()
    if told is None:  # some devices do not say
        return 0
    taken = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    return taken - told.alias_size_in_bytes


def _held(program: Any) -> int:
    told = program.memory_analysis()
    return told.argument_size_in_bytes if told else 0


def _keys(seed: int) -> jax.Array:
    """Of the first state, and of the evaluations."""
    return jax.random.split(jax.random.key(seed))


def _evaluation_env(config: TrainConfig, loop: Loop) -> Any:
    if not config.eval_env or config.eval_env == config.env:
        return loop.env
    env = envs.make(config.eval_env, **config.env_options)
    if (env.state_dim, env.goal_dim, env.action_size) != (loop.env.state_dim, loop.env.goal_dim, loop.env.action_size):
        raise UsageError(
            f"{config.eval_env} has other observations or actions than {config.env}; evaluate on a like body"
        )
    return env
