"""From a config to what runs it: environments, networks and algorithm, and the compiled programs of a run.

On an accelerator, runs that differ in their seed alone can share a program: they are its members, and every array it
takes and gives has a leading axis for them. A CPU is busy with one run, so there a program has one member.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from crlviz import envs
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.networks import Actor, Critic
from crlviz.rollouts import evaluate
from training.config import TrainConfig, schedule
from training.crl import CRL
from training.loop import Loop, TrainState


def build(config: TrainConfig) -> Loop:
    """The loop of a config: environment, networks and algorithm, checked and ready to compile.

    Raises:
      UsageError: unknown environment, or settings that do not fit each other.
    """
    counts = schedule(config)
    env = envs.make(config.env, layout=config.layout or None, **config.env_options)
    return Loop(config, counts, env, algorithm(config, env), config.episode_length or env.episode_length)


def algorithm(config: TrainConfig, env: GoalEnv) -> CRL:
    """The networks and the update of a config in its environment."""
    actor = Actor(config.actor, env.observation_size, env.action_size)
    critic = Critic(config.critic, env.state_dim, env.action_size, env.goal_dim)
    return CRL(config.crl, actor, critic)


@dataclass(frozen=True)
class Programs:
    """The compiled parts of a run, or of several that differ in their seed alone and go in lockstep.

    Attributes:
      loop: what they are of; the seed in its config means nothing here.
      members: how many train together.
      example: the shapes of one member's TrainState.
      init: keys [members] to the states a run begins with, [members, ...].
      refill: ``Loop.refill`` of each.
      step: ``Loop.step`` of each; the states it is given are used up.
      measure: (actors' parameters, keys) to the scores of an evaluation by the mean action, [members].
      memory: bytes that a training step takes, the states included.
    """

    loop: Loop
    members: int
    example: TrainState
    init: Callable[..., Any]
    refill: Callable[..., Any]
    step: jax.stages.Compiled
    measure: jax.stages.Compiled
    memory: int

    def start(self, seeds: Sequence[int], rewinds: Sequence[int]) -> TrainState:
        """The states that runs of these seeds begin with; other ones after each rewind."""
        keys = [_keys(seed)[0] for seed in seeds]
        pairs = zip(keys, rewinds, strict=True)
        return self.init(jnp.stack([jax.random.fold_in(key, count) if count else key for key, count in pairs]))

    def evaluate(self, state: TrainState, seeds: Sequence[int], index: int) -> list[dict[str, float]]:
        """The scores of each member in the evaluation of that number."""
        keys = jnp.stack([jax.random.fold_in(_keys(seed)[1], index) for seed in seeds])
        scores = jax.device_get(self.measure(state.learner.actor, keys))
        return [{name: float(values[lane]) for name, values in scores.items()} for lane in range(self.members)]


def compiled(config: TrainConfig, members: int = 1) -> Programs:
    """Build and compile, from shapes alone: so a run and its resumption have the very same programs.

    Raises:
      UsageError: as ``build``; or an evaluation environment of another body.
    """
    loop = build(config)
    eval_env = _evaluation_env(config, loop)

    def measure(params, key):
        def policy(observation, _):
            return loop.algorithm.actor.mean_action(params, observation)

        return evaluate(eval_env, policy, key, config.eval_episodes, loop.episode_length)

    init, example = _each(loop.init, members), jax.eval_shape(loop.init, jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    stacked = jax.eval_shape(init, keys)
    step = jax.jit(_each(loop.step, members), donate_argnums=0).lower(stacked).compile()
    return Programs(
        loop,
        members,
        example,
        jax.jit(init),
        jax.jit(_each(loop.refill, members)),
        step,
        jax.jit(_each(measure, members)).lower(stacked.learner.actor, keys).compile(),
        _memory(step),
    )


def _each(function: Callable[..., Any], members: int) -> Callable[..., Any]:
    """A function of one member as a function of all, whose arguments and results have a leading axis [members]."""
    if members > 1:
        return jax.vmap(function)

    def of_one(*arguments):  # nothing but the axis differs from the function itself
        result = function(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], result)

    return of_one


def fitting(config: TrainConfig) -> Callable[[int], Programs]:
    """A function that compiles programs for that many members, or for fewer: what trains them soonest here.

    An accelerator does all at once, or as many of them as its memory holds: half, and half again. A CPU is no faster
    with several at once, so they take turns there, and each has the numbers, to the bit, that it has alone. What was
    compiled is kept for the next turn.
    """

    @functools.cache
    def fit(members: int) -> Programs:
        if members > 1 and not at_once():
            return fit(1)
        made, room = compiled(config, members), memory()
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
