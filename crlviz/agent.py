"""The Agent: what an analysis sees of a checkpoint, whatever trained it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import jax

from crlviz import checkpoints, envs
from crlviz.envs.base import GoalEnv
from crlviz.errors import CrlvizError, UsageError
from crlviz.networks import Actor, Critic, NetworkConfig


@dataclass(frozen=True, eq=False)
class Agent:
    """A trained policy and critic. Every function is pure, jitted and batch-first, with numpy or jax arrays.

    Attributes:
      config: the run's settings, as in config.json.
      params: ``{"actor": ..., "critic": ...}``.
      env_steps: environment steps it was trained for.
      gradient_steps: updates it was trained for.
      source: the checkpoint it came from.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    env_steps: int
    gradient_steps: int
    source: Path

    @cached_property
    def env(self) -> GoalEnv:
        """The environment it was trained in."""
        return _environment(self.config["env"], tuple(self.config["layout"]))

    @cached_property
    def eval_env(self) -> GoalEnv:
        """The environment it was evaluated in; the same object as ``env`` where they do not differ."""
        other = self.config["eval_env"]
        return _environment(other, ()) if other and other != self.config["env"] else self.env

    @cached_property
    def actor(self) -> Actor:
        return Actor(NetworkConfig(**self.config["actor"]), self.env.observation_size, self.env.action_size)

    @cached_property
    def critic(self) -> Critic:
        env = self.env
        return Critic(NetworkConfig(**self.config["critic"]), env.state_dim, env.action_size, env.goal_dim)

    @property
    def facts(self) -> dict[str, Any]:
        """What checkpoints are told apart by: algorithm, env, depth, width, batch size, seed, env_steps."""
        config = self.config
        return {
            "algorithm": config.get("algorithm", "crl"),
            "env": config["env"],
            "depth": self.critic.config.depth,
            "width": self.critic.config.width,
            "actor_depth": self.actor.config.depth,
            "actor_width": self.actor.config.width,
            "batch_size": config["batch_size"],
            "seed": config["seed"],
            "env_steps": self.env_steps,
        }

    def act(self, observation: Any, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action] in (-1, 1) for observations [..., state + goal]: the mean, or drawn with a key."""
        return _act(self.actor, self.params["actor"], observation, key)

    def q(self, state: Any, action: Any, goal: Any) -> jax.Array:
        """Q [...] of states [..., state], actions [..., action] and goals [..., goal]: 0 at the goal, lower farther."""
        return _q(self.critic, self.params["critic"], state, action, goal)

    def embed(self, state: Any, action: Any) -> jax.Array:
        """phi [..., 64] of states [..., state] with actions [..., action]."""
        return _phi(self.critic, self.params["critic"], state, action)

    def embed_goal(self, goal: Any) -> jax.Array:
        """psi [..., 64] of goals [..., goal]."""
        return _psi(self.critic, self.params["critic"], goal)


@cache
def _environment(id: str, layout: tuple[str, ...]) -> GoalEnv:
    """One object an environment, so that agents share what is traced for it."""
    return envs.make(id, layout=layout or None)


# Jitted once for a network shape, not once an agent: the seeds of a sweep share their programs.
@partial(jax.jit, static_argnums=0)
def _act(actor: Actor, params, observation, key):
    return actor.act(params, observation, key)


@partial(jax.jit, static_argnums=0)
def _phi(critic: Critic, params, state, action):
    return critic.phi(params, state, action)


@partial(jax.jit, static_argnums=0)
def _psi(critic: Critic, params, goal):
    return critic.psi(params, goal)


@partial(jax.jit, static_argnums=0)
def _q(critic: Critic, params, state, action, goal):
    return critic.q(params, state, action, goal)


def load(path: str | Path) -> Agent:
    """Load a checkpoint; of a run directory, the newest.

    Raises:
      CrlvizError: it is missing, damaged, from a newer format, or its arrays do not fit its config.
    """
    checkpoint = checkpoints.find(path)
    config = {"algorithm": checkpoint.config["algorithm"], **checkpoint.config["config"]}
    params = {name: checkpoints.read(checkpoint, name) for name in ("actor", "critic")}
    agent = Agent(config, params, checkpoint.env_steps, checkpoint.manifest["gradient_steps"], checkpoint.path)
    try:
        networks: dict[str, Actor | Critic] = {"actor": agent.actor, "critic": agent.critic}
        _ = agent.eval_env, agent.facts
    except (UsageError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise CrlvizError(f"{checkpoint.run / 'config.json'} does not describe an agent: {reason}") from None
    for name, network in networks.items():
        _check_shapes(params[name], _shapes(network), f"{name}.safetensors", agent)
    return agent


def load_all(paths: Sequence[str | Path]) -> list[Agent]:
    """Load several checkpoints, in order."""
    return [load(path) for path in paths]


@cache
def _shapes(network: Actor | Critic) -> Any:
    """A network's parameters as shapes; kept, since tracing it takes longer than reading a checkpoint."""
    return jax.eval_shape(network.init, jax.random.key(0))


def _check_shapes(params: Any, expected: Any, name: str, agent: Agent) -> None:
    # Keyed by path: numpy and jax trees of one layout may nest different mapping types.
    found = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    wanted = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(expected)}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise CrlvizError(
                f"{agent.source / name} does not fit its config.json: {path} is {found.get(path, 'missing')}, "
                f"the config says {wanted.get(path, 'absent')}"
            )
