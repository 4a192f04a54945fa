"""From a config to what runs it: environments, networks and algorithm, and the compiled programs of a run.

Runs that differ in their seed alone can share a program: they are its members, and every array it takes and gives has
a leading axis for them.
"""

import functools
import os
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
from training import state as states
from training.config import TrainConfig, schedule
from training.crl import CRL
from training.loop import Loop, TrainState

# The variable by which jax is told the share of an accelerator's memory, and the share it takes untold. A sweep sets it
# for jobs that train at the same time; here it holds for a machine's own memory too.
_SHARE, _USUAL_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75


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
    """The compiled parts of a run, or of several that differ in their seed alone.

    Attributes:
      loop: what they are of; the seed in its config means nothing here.
      members: how many train together.
      example: the shapes of one member's TrainState.
      init: keys [members] to the states a run begins with, [members, ...].
      refill: ``Loop.refill`` of each.
      step: ``Loop.step`` of each; the states it is given are used up.
      measure: (actors' parameters, keys) to the scores of an evaluation by the mean action, [members].
      memory: bytes that training takes: the step, and on a CPU the copy that is saved beside it.
    """

    loop: Loop
    members: int
    example: TrainState
    init: Callable[..., Any]
    refill: Callable[..., Any]
    step: Callable[..., Any]
    measure: Callable[..., Any]
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

    def over_members(function: Callable[..., Any], **how: bool) -> Callable[..., Any]:
        return each_member(function, members, vectorised=_vectorised(), **how)

    init = over_members(loop.init)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), members))
    stacked = jax.eval_shape(init, keys)
    step = jax.jit(over_members(loop.step, in_place=True), donate_argnums=0).lower(stacked).compile()
    example = jax.eval_shape(loop.init, jax.random.key(0))
    return Programs(
        loop,
        members,
        example,
        jax.jit(init),
        jax.jit(over_members(loop.refill)),
        step,
        jax.jit(over_members(measure)).lower(stacked.learner.actor, keys).compile(),
        _memory(step) + (members * states.size(example, replay=True) if jax.default_backend() == "cpu" else 0),
    )


def each_member(
    function: Callable[..., Any], members: int, *, vectorised: bool, in_place: bool = False
) -> Callable[..., Any]:
    """A function of one member as a function of all, whose arguments and results have a leading axis [members].

    An accelerator does all at once (``jax.vmap``). A CPU is busy with one: it takes one after the other, so each has
    the numbers, to the bit, and the speed that it has alone.

    Args:
      function: of one member.
      members: how many.
      vectorised: all at once.
      in_place: the function takes a state and gives (state, ...); taken in turn, each new state is written over the old
        one. Without this a program would hold all states twice.
    """
    if members == 1:  # nothing but the axis differs from the function itself
        return lambda *arguments: _with_axis(function(*_member(arguments, 0)))
    if vectorised:
        return jax.vmap(function)
    if not in_place:
        return lambda *arguments: jax.lax.map(lambda own: function(*own), arguments)

    def in_turn(state):
        def one(state, lane):
            new, *told = function(_member(state, lane))
            return jax.tree.map(lambda whole, own: whole.at[lane].set(own), state, new), told

        state, told = jax.lax.scan(one, state, jnp.arange(members))
        return state, *told

    return in_turn


def fitting(config: TrainConfig) -> Callable[[int], Programs]:
    """A function that compiles programs for a number of members; for half of them, and half again, until they fit.

    What it has compiled it keeps. One member is never refused.
    """

    @functools.cache
    def fit(members: int) -> Programs:
        made, room = compiled(config, members), memory()
        if members == 1 or room is None or made.memory <= room:
            return made
        half = -(-members // 2)
        tqdm.write(
            f"{members} seeds together take {made.memory / 1e9:.2g} GB, and here are {room / 1e9:.2g} GB for them; at "
            f"most {half} train together",
            file=sys.stderr,
        )
        return fit(half)

    return fit


def memory() -> float | None:
    """Bytes that this process's programs may take: of the accelerator, else of the machine; None where nobody tells."""
    told = jax.local_devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return told["bytes_limit"]
    if not hasattr(os, "sysconf"):
        return None
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return whole * float(os.environ.get(_SHARE, _USUAL_SHARE))


def _memory(program: Any) -> int:
    told = program.memory_analysis()
    if told is None:  # some devices do not say
        return 0
    taken = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
    return taken - told.alias_size_in_bytes


def _vectorised() -> bool:
    return jax.default_backend() != "cpu"


def _member(tree: Any, lane: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[lane], tree)


def _with_axis(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


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
