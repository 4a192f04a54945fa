"""The Agent: what an analysis sees of a checkpoint, whatever trained it."""

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from crlviz import envs, jax_config
from crlviz.checkpoints import run_directory
from crlviz.envs.base import GoalEnv
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.networks.residual import Actor, Critic, NetworkConfig
from crlviz.precision import exact

_Read = TypeVar("_Read")

# Settings of a run that older configs lack, beside those of networks and environments: what they trained with.
_LATER = {"precision": "float32"}
# Settings that another fact tells.
_TOLD = re.compile(
    r"algorithm|env|seed|batch_size|env_steps|(actor|critic)\.(depth|width|layer_norm|activation|residual)"
)


@dataclass(frozen=True, eq=False, repr=False)
class Agent:
    """A trained policy and critic. Every function is pure, jitted and batch-first, with arrays or lists of numbers.

    They raise UsageError where an input has another size than the environment's, or a number that is not finite.

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

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What checkpoints are told apart by: algorithm, env, depth, width, ablation, batch size, seed, env_steps.

        Then every other setting by its name in config.json, such as ``gamma`` or ``crl.learning_rate``, as a number or
        text. One that crlviz did not have yet when the run was trained has its default; of an imported run those are
        absent that its code does not tell.
        """
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
        } | self._settings

    @property
    def _settings(self) -> dict[str, Any]:
        """The settings that no other fact tells."""
        config = _LATER | self.config
        config |= {name: asdict(network.config) for name, network in (("actor", self.actor), ("critic", self.critic))}
        config["env_options"] = envs.options(config["env"]) | config.get("env_options", {})
        config["eval_env"] = "" if config["eval_env"] == config["env"] else config["eval_env"]
        config["layout"] = _named(config["layout"])
        plain = {name: value for name, value in flatten_dict(config, sep=".").items() if not _TOLD.fullmatch(name)}
        return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in plain.items()}

    def __repr__(self) -> str:
        facts = self.facts
        shape = f"depth {facts['depth']}, width {facts['width']}"
        trained = f"{self.env_steps:,} environment steps, seed {facts['seed']}"
        return f"Agent({facts['env']}, {shape}, {trained}, from {self.source})"

    @jax_config.as_usual
    def act(self, observation: Any, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action] in (-1, 1) for observations [..., state + goal]: the mean, or drawn with a key."""
        if key is not None and not hasattr(key, "dtype"):
            raise UsageError(f"key is {key!r}; give a random key, such as jax.random.key(0), or none")
        return _act(self.actor, self.params["actor"], self._input("observation", observation), key)

    @jax_config.as_usual
    def q(self, state: Any, action: Any, goal: Any) -> jax.Array:
        """Q [...] of states [..., state], actions [..., action] and goals [..., goal]: 0 at the goal, lower farther."""
        state, action = self._inputs(state, action)
        goal = self._input("goal", goal)
        try:
            np.broadcast_shapes(state.shape[:-1], goal.shape[:-1])
        except ValueError:
            raise UsageError(
                f"states of shape {state.shape} and goals of shape {goal.shape} are not of one batch"
            ) from None
        return _q(self.critic, self.params["critic"], state, action, goal)

    @jax_config.as_usual
    def embed(self, state: Any, action: Any) -> jax.Array:
        """phi [..., 64] of states [..., state] with actions [..., action]."""
        return _phi(self.critic, self.params["critic"], *self._inputs(state, action))

    @jax_config.as_usual
    def embed_goal(self, goal: Any) -> jax.Array:
        """psi [..., 64] of goals [..., goal]."""
        return _psi(self.critic, self.params["critic"], self._input("goal", goal))

    def _inputs(self, state: Any, action: Any) -> tuple[Any, Any]:
        """Both as arrays of one batch."""
        state, action = self._input("state", state), self._input("action", action)
        if state.shape[:-1] != action.shape[:-1]:
            raise UsageError(f"states of shape {state.shape} and actions of shape {action.shape} are not of one batch")
        return state, action

    def _input(self, name: str, value: Any) -> Any:
        """An array [..., n] of finite numbers, n the environment's size of what has that name."""
        env = self.env
        sizes = {
            "observation": (env.observation_size, f": {env.state_dim} of the state and {env.goal_dim} of the goal"),
            "state": (env.state_dim, ""),
            "action": (env.action_size, ""),
            "goal": (env.goal_dim, ""),
        }
        size, parts = sizes[name]
        array = as_numbers(name, value)
        if array.shape[-1:] != (size,):
            raise UsageError(f"{name} has shape {array.shape}; {env.id} takes [..., {size}]{parts}")
        return array


def as_numbers(name: str, value: Any) -> Any:
    """A value as an array of finite numbers; what jax traces is taken as it is.

    Raises:
      UsageError: it is none; ``name`` is what the message calls it.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is no array of numbers") from None
    if not np.isfinite(array).all():
        raise UsageError(f"{name} holds numbers that are not finite: {array[~np.isfinite(array)][0]}")
    # Of a jax array the array itself, which lies where it is used.
    return value if isinstance(value, jax.Array) else array


def _network(values: dict[str, Any]) -> NetworkConfig:
    """A network's shape from a file, where any value may stand for any other."""
    if unknown := sorted(values.keys() - {field.name for field in fields(NetworkConfig)}):
        raise UsageError(f"this crlviz has no setting {unknown[0]!r} of a network; upgrade crlviz")
    config = NetworkConfig(**values)
    for field in fields(config):
        if type(value := getattr(config, field.name)) is not type(field.default):
            raise UsageError(f"{field.name} is {value!r}")
    return config


def _named(layout: Sequence[str]) -> str:
    """A short name of a maze of one's own, other for each: its size and the beginning of its checksum."""
    if not layout:
        return ""
    return f"{len(layout)}x{len(layout[0])}-{hashlib.sha256('/'.join(layout).encode()).hexdigest()[:6]}"


@cache
def _environment(id: str, layout: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> GoalEnv:
    """One object an environment, so that agents share what is traced for it."""
    return envs.make(id, layout=layout or None, **dict(options))


# Jitted once for a network shape, not once an agent: the seeds of a sweep share their programs.
@partial(jax.jit, static_argnums=0)
def _act(actor: Actor, params, observation, key):
    with exact():
        return actor.act(params, observation, key)


@partial(jax.jit, static_argnums=0)
def _phi(critic: Critic, params, state, action):
    with exact():
        return critic.phi(params, state, action)


@partial(jax.jit, static_argnums=0)
def _psi(critic: Critic, params, goal):
    with exact():
        return critic.psi(params, goal)


@partial(jax.jit, static_argnums=0)
def _q(critic: Critic, params, state, action, goal):
    with exact():
        return critic.q(params, state, action, goal)


@jax_config.as_usual
def load(path: str | Path) -> Agent:
    """Load a checkpoint; of a run directory, the newest.

    Warns where it was trained under another jax or brax than this one: environments may step differently.

    Raises:
      CrlvizError: it is missing, damaged, from a newer format, or its arrays do not fit its config.
    """
    checkpoint = run_directory.find(path)
    agent, shapes = _described(checkpoint)
    sizes = array_bytes(checkpoint)
    for name, expected in shapes.items():
        agent.params[name] = run_directory.read(checkpoint, name, most_bytes=sizes[name])
        _check_shapes(agent.params[name], expected, f"{name}.safetensors", agent)
    _warn_of_versions(checkpoint.config.get("versions"))
    if checkpoint.config["format"] == 1:
        _warn_once(f"{checkpoint.run} is of an early crlviz, without a checksum of its config.json: no edit would show")
    return agent


@jax_config.as_usual
def array_bytes(checkpoint: run_directory.Checkpoint) -> dict[str, int]:
    """What the arrays of ``actor`` and ``critic`` take by the checkpoint's config; no file of theirs is larger.

    Raises:
      CrlvizError: the config does not describe an agent.
    """
    _, shapes = _described(checkpoint)
    return {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()
    }


def _described(checkpoint: run_directory.Checkpoint) -> tuple[Agent, dict[str, Any]]:
    """The agent of a config, still without parameters, and the shapes of those."""
    config = {"algorithm": checkpoint.config["algorithm"], **checkpoint.config["config"]}
    agent = Agent(config, {}, checkpoint.env_steps, checkpoint.manifest["gradient_steps"], checkpoint.path)
    try:
        networks: dict[str, Actor | Critic] = {"actor": agent.actor, "critic": agent.critic}
        facts = agent.facts  # names and numbers that stand in every table and picture
        if not facts["algorithm"].isprintable() or not all(type(facts[name]) is int for name in ("seed", "batch_size")):
            raise UsageError("its algorithm, seed or batch_size is no name or number")
        _ = agent.eval_env
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
    recorded = [(name, printable(made_with[name])) for name in ("jax", "brax") if made_with.get(name)]
    if other := [f"{name} {then} (here {version(name)})" for name, then in recorded if then != version(name)]:
        _warn_once(f"trained under {' and '.join(other)}: its environment may step differently")


@cache
def _warn_once(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def load_all(paths: Sequence[str | Path]) -> list[Agent]:
    """Load several checkpoints, in order; of a directory that holds runs, the newest of each. As ``load_each``."""
    return [agent for _, agent in load_each(paths)]


def load_each(paths: Sequence[str | Path]) -> list[tuple[Path, Agent]]:
    """Where each agent was found, and the agent.

    Args:
      paths: run directories, checkpoints, or directories that hold runs, as ``crlviz sweep`` and ``train --seeds`` make
        them. Of those a run that cannot be loaded is left out with a warning.

    Raises:
      CrlvizError: as ``load`` does; a directory none of whose runs can be loaded.
    """
    found: list[tuple[Path, Agent]] = []
    for path in map(Path, paths):
        alone = (path / "config.json").exists() or (path / "manifest.json").exists()
        inside = [] if alone else run_directory.runs_in(path)
        found += readable(inside, load) if inside else [(path, load(path))]
    return found


def readable(paths: Sequence[Path], read: Callable[[Path], _Read]) -> list[tuple[Path, _Read]]:
    """What can be read of several, with a warning for each that cannot.

    Raises:
      CrlvizError: none can; the first one's reason.
    """
    found, errors = [], []
    for path in paths:
        try:
            found.append((path, read(path)))
        except CrlvizError as error:
            errors.append(error)
    if not found and errors:
        raise errors[0]
    for reason in errors:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return found


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
