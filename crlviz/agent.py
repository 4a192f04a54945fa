"""The Agent: what an analysis sees of a checkpoint, whatever trained it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from importlib.metadata import version
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
      gradient_steps: updates it was trained for; None where nobody knows.
      source: the checkpoint it came from.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    env_steps: int
    gradient_steps: int | None
    source: Path

    @cached_property
    def env(self) -> GoalEnv:
        """The environment it was trained in."""
        return _environment(self.config["env"], tuple(self.config["layout"]), self._env_options)

    @cached_property
    def eval_env(self) -> GoalEnv:
        """The environment it was evaluated in; the same object as ``env`` where they do not differ."""
        other = self.config["eval_env"]
        return _environment(other, (), self._env_options) if other and other != self.config["env"] else self.env

    @property
    def _env_options(self) -> tuple[tuple[str, Any], ...]:
        return tuple(self.config.get("env_options", {}).items())

    @cached_property
    def actor(self) -> Actor:
        return Actor(_network(self.config["actor"]), self.env.observation_size, self.env.action_size)

    @cached_property
    def critic(self) -> Critic:
        env = self.env
        return Critic(_network(self.config["critic"]), env.state_dim, env.action_size, env.goal_dim)

    @property
    def facts(self) -> dict[str, Any]:
        """What checkpoints are told apart by: algorithm, env, depth, width, ablation, batch size, seed, env_steps."""
        config = self.config
        networks = self.critic.config.ablation, self.actor.config.ablation
        return {
            "algorithm": config.get("algorithm", "crl"),
            "env": config["env"],
            "depth": self.critic.config.depth,
            "width": self.critic.config.width,
            "actor_depth": self.actor.config.depth,
            "actor_width": self.actor.config.width,
            "network": networks[0] if networks[0] == networks[1] else "critic {}, actor {}".format(*networks),
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


def _network(values: dict[str, Any]) -> NetworkConfig:
    """A network's shape from a file, where any value may stand for any other."""
    config = NetworkConfig(**values)
    for field in fields(config):
        if type(value := getattr(config, field.name)) is not type(field.default):
            raise UsageError(f"{field.name} is {value!r}")
    return config


@cache
def _environment(id: str, layout: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> GoalEnv:
    """One object an environment, so that agents share what is traced for it."""
    return envs.make(id, layout=layout or None, **dict(options))


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

    Warns where it was trained under another jax or brax than this one: environments may step differently.

    Raises:
      CrlvizError: it is missing, damaged, from a newer format, or its arrays do not fit its config.
    """
    checkpoint = checkpoints.find(path)
    agent, shapes = _described(checkpoint)
    sizes = array_bytes(checkpoint)
    for name, expected in shapes.items():
        agent.params[name] = checkpoints.read(checkpoint, name, most_bytes=sizes[name])
        _check_shapes(agent.params[name], expected, f"{name}.safetensors", agent)
    _warn_of_versions(checkpoint.config.get("versions"))
    return agent


def array_bytes(checkpoint: checkpoints.Checkpoint) -> dict[str, int]:
    """What the arrays of ``actor`` and ``critic`` take by the checkpoint's config; no file of theirs is larger.

    Raises:
      CrlvizError: the config does not describe an agent.
    """
    _, shapes = _described(checkpoint)
    return {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()
    }


def _described(checkpoint: checkpoints.Checkpoint) -> tuple[Agent, dict[str, Any]]:
    """The agent of a config, still without parameters, and the shapes of those."""
    config = {"algorithm": checkpoint.config["algorithm"], **checkpoint.config["config"]}
    agent = Agent(config, {}, checkpoint.env_steps, checkpoint.manifest["gradient_steps"], checkpoint.path)
    try:
        networks: dict[str, Actor | Critic] = {"actor": agent.actor, "critic": agent.critic}
        _ = agent.eval_env, agent.facts
        return agent, {name: _shapes(network) for name, network in networks.items()}
    except (UsageError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).partition("\n")[0][:300]
        raise CrlvizError(f"{checkpoint.run / 'config.json'} does not describe an agent: {reason}") from None


@cache
def _shapes(network: Actor | Critic) -> Any:
    """A network's parameters as shapes; kept, since tracing it takes longer than reading a checkpoint."""
    return network.shapes


def _warn_of_versions(made_with: Any) -> None:
    made_with = made_with if isinstance(made_with, dict) else {}
    recorded = [(name, str(made_with[name])) for name in ("jax", "brax") if made_with.get(name)]
    if other := [f"{name} {then} (here {version(name)})" for name, then in recorded if then != version(name)]:
        _warn_once(f"trained under {' and '.join(other)}: its environment may step differently")


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def load_all(paths: Sequence[str | Path]) -> list[Agent]:
    """Load several checkpoints, in order."""
    return [load(path) for path in paths]


def _check_shapes(params: Any, expected: Any, name: str, agent: Agent) -> None:
    # Keyed by path: numpy and jax trees of one layout may nest different mapping types.
    found, wanted = (
        {jax.tree_util.keystr(path): _kind(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, expected)
    )
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise CrlvizError(
                f"{agent.source / name} does not fit its config.json: {path} is {found.get(path, 'missing')}, "
                f"the config says {wanted.get(path, 'absent')}"
            )


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"
