"""From a config to what runs it: environments, networks and algorithm, and the compiled programs of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

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
    """The compiled parts of a run.

    Attributes:
      loop: what they are of.
      example: the shapes of its TrainState.
      init: ``Loop.init``, jitted.
      refill: ``Loop.refill``, jitted.
      step: ``Loop.step``; the state it is given is used up.
      measure: (actor's parameters, key) to the scores of an evaluation by the mean action.
    """

    loop: Loop
    example: TrainState
    init: Callable[..., Any]
    refill: Callable[..., Any]
    step: jax.stages.Compiled
    measure: jax.stages.Compiled

    def start(self, rewinds: int = 0) -> TrainState:
        """The state a run begins with; another one after each rewind."""
        key = _keys(self.loop)[0]
        return self.init(jax.random.fold_in(key, rewinds) if rewinds else key)

    def evaluate(self, state: TrainState, index: int) -> dict[str, float]:
        """The scores of the run's evaluation of that number."""
        scores = self.measure(state.learner.actor, jax.random.fold_in(_keys(self.loop)[1], index))
        return {name: float(value) for name, value in scores.items()}


def compiled(config: TrainConfig) -> Programs:
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

    example = jax.eval_shape(loop.init, jax.random.key(0))
    return Programs(
        loop,
        example,
        jax.jit(loop.init),
        jax.jit(loop.refill),
        jax.jit(loop.step, donate_argnums=0).lower(example).compile(),
        jax.jit(measure).lower(example.learner.actor, jax.random.key(0)).compile(),
    )


def _keys(loop: Loop) -> jax.Array:
    """Of the first state, and of the evaluations."""
    return jax.random.split(jax.random.key(loop.config.seed))


def _evaluation_env(config: TrainConfig, loop: Loop) -> Any:
    if not config.eval_env or config.eval_env == config.env:
        return loop.env
    env = envs.make(config.eval_env, **config.env_options)
    if (env.state_dim, env.goal_dim, env.action_size) != (loop.env.state_dim, loop.env.goal_dim, loop.env.action_size):
        raise UsageError(
            f"{config.eval_env} has other observations or actions than {config.env}; evaluate on a like body"
        )
    return env
