"""The Agent: the interface through which analyses use a checkpoint of any algorithm."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from crlviz import envs, facts, jax_config
from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm, HasEmbeddings, HasQ, Meaning
from crlviz.algorithms.batches import Sizes
from crlviz.checkpoints import checked_settings
from crlviz.checkpoints.checkpoint import Checkpoint, open_checkpoint
from crlviz.checkpoints.run_directory import RunDirectory, runs_in
from crlviz.envs.base import GoalEnv
from crlviz.errors import CrlvizError, UsageError
from crlviz.escaping import printable
from crlviz.inputs import as_numbers
from crlviz.networks.config import NetworkConfig
from crlviz.networks.starts import Params
from crlviz.precision import exact

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False, repr=False)
class Agent:
    """A trained policy, and what else its algorithm has, such as a critic.

    Its functions are pure, jitted and batch-first, and take arrays or lists of numbers. They raise UsageError if an
    input does not have the environment's size or holds a number that is not finite.

    Attributes:
      config: settings of the run, as in config.json.
      params: by network, such as ``{"actor": ..., "critic": ...}``.
      env_steps: environment steps of training; on a data set, updates.
      gradient_steps: gradient updates of training; None if unknown.
      source: path of the checkpoint.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    env_steps: int
    gradient_steps: int | None
    source: Path

    @cached_property
    def env(self) -> GoalEnv:
        """The training environment; for a run on a data set, the evaluation environment.

        Raises:
          UsageError: it was trained on a data set without one.
        """
        if not self.config["env"]:
            name = self._data["name"]
            raise UsageError(f"{self.source} was trained on a data set of {name} without an environment of crlviz")
        return _environment(self.config["env"], tuple(self.config["layout"]), self._env_options)

    @cached_property
    def eval_env(self) -> GoalEnv:
        """The evaluation environment; the same object as ``env`` if they do not differ."""
        other = self.config["eval_env"]
        return _environment(other, (), self._env_options) if other and other != self.config["env"] else self.env

    @property
    def _env_options(self) -> tuple[tuple[str, Any], ...]:
        return tuple(self.config.get("env_options", {}).items())

    @property
    def _data(self) -> dict[str, Any]:
        """What config.json tells of its data set; empty if it stepped environments."""
        return self.config.get("dataset", {})

    @cached_property
    def sizes(self) -> Sizes:
        """Lengths of its states, actions and goals."""
        if self.config["env"]:
            return Sizes(self.env.state_dim, self.env.action_size, self.env.goal_dim)
        data = self._data
        return Sizes(data["state"], data["action"], len(data["goal_indices"]))

    @cached_property
    def algorithm(self) -> Algorithm:
        """The algorithm that trained it, which knows how its networks are used."""
        config, name = self.config, self.config.get("algorithm", "crl")
        section = registry.section(name)
        settings: Any = checked_settings.build(registry.of(name).Config, config.get(section, {}), f"of {section}")
        actor, critic = (
            checked_settings.build(NetworkConfig, config[network], "of a network") for network in ("actor", "critic")
        )
        gamma = config.get("gamma", 1.0)
        if type(gamma) not in (int, float):
            raise UsageError(f"gamma is {gamma!r}, not a number")
        return registry.build(name, settings, actor, critic, self.sizes, gamma=gamma)

    def having(self, ability: Any) -> Any:
        """The algorithm, for an analysis that needs an ability of it: ``HasQ`` or ``HasEmbeddings``.

        Raises:
          UsageError: it lacks the ability.
        """
        if isinstance(self.algorithm, ability):
            return self.algorithm
        raise UsageError(f"{self.source} was trained by {self.algorithm.lacking(ability)}")

    @property
    def q_meaning(self) -> Meaning:
        """What ``q`` is, for titles and axes.

        Raises:
          UsageError: the algorithm has no critic.
        """
        return self.having(HasQ).q_meaning

    @property
    def actor(self) -> Any:
        """The policy network; its parameters are ``params["actor"]``."""
        return self.algorithm.actor  # type: ignore[attr-defined]

    @property
    def critic(self) -> Any:
        """The networks phi and psi; their parameters are ``params["critic"]``.

        Raises:
          UsageError: the algorithm has none.
        """
        return self.having(HasEmbeddings).critic

    @property
    def shapes(self) -> dict[str, NetworkConfig]:
        """The shape of each network, by the names in ``params``."""
        names = self.algorithm.network_shapes
        return {name: checked_settings.build(NetworkConfig, self.config[name], "of a network") for name in names}

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts that distinguish checkpoints: algorithm, env, depth, width, ablation, batch size, seed, env_steps.

        Depth and width are the critic's, or the actor's if there is no critic. Every other setting follows under its
        name in config.json, such as ``gamma`` or ``crl.learning_rate``, as a number or text. A setting that is newer
        than the run has its default. An imported run lacks the settings that its own code does not record.
        """
        return facts.of(self)

    def __repr__(self) -> str:
        named = self.facts
        unit = "updates on a data set" if self._data else "environment steps"
        trained = f"{self.env_steps:,} {unit}, seed {named['seed']}"
        return f"Agent({named['env']}, depth {named['depth']}, width {named['width']}, {trained}, from {self.source})"

    @jax_config.with_fixed_settings
    def act(self, observation: Any, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action] for observations [..., state + goal]: deterministic, or with a key explored."""
        if key is not None and not hasattr(key, "dtype"):
            raise UsageError(f"key is {key!r}; give a random key, such as jax.random.key(0), or None")
        return _act(self.algorithm, self.params, self._input("observation", observation), key)

    @jax_config.with_fixed_settings
    def q(self, state: Any, action: Any, goal: Any) -> jax.Array:
        """Q [...] of states [..., state], actions [..., action] and goals [..., goal]; ``q_meaning`` says what it is.

        Raises:
          UsageError: the algorithm has no critic.
        """
        self.having(HasQ)
        state, action = self._inputs(state, action)
        goal = self._input("goal", goal)
        try:
            np.broadcast_shapes(state.shape[:-1], goal.shape[:-1])
        except ValueError:
            raise UsageError(
                f"states of shape {state.shape} and goals of shape {goal.shape} have different batch shapes"
            ) from None
        return _q(self.algorithm, self.params, state, action, goal)

    @jax_config.with_fixed_settings
    def embed(self, state: Any, action: Any) -> jax.Array:
        """phi [..., 64] of states [..., state] with actions [..., action].

        Raises:
          UsageError: the algorithm has no embeddings.
        """
        self.having(HasEmbeddings)
        return _phi(self.algorithm, self.params, *self._inputs(state, action))

    @jax_config.with_fixed_settings
    def embed_goal(self, goal: Any) -> jax.Array:
        """psi [..., 64] of goals [..., goal].

        Raises:
          UsageError: the algorithm has no embeddings.
        """
        self.having(HasEmbeddings)
        return _psi(self.algorithm, self.params, self._input("goal", goal))

    def _inputs(self, state: Any, action: Any) -> tuple[Any, Any]:
        """Both as arrays; their batch shapes must agree."""
        state, action = self._input("state", state), self._input("action", action)
        if state.shape[:-1] != action.shape[:-1]:
            raise UsageError(
                f"states of shape {state.shape} and actions of shape {action.shape} have different batch shapes"
            )
        return state, action

    def _input(self, name: str, value: Any) -> Any:
        """An array [..., n] of finite numbers; n is the environment's size for the input of this name."""
        own = self.sizes
        sizes = {
            "observation": (own.state + own.goal, f": {own.state} of the state and {own.goal} of the goal"),
            "state": (own.state, ""),
            "action": (own.action, ""),
            "goal": (own.goal, ""),
        }
        size, parts = sizes[name]
        array = as_numbers(name, value)
        if array.shape[-1:] != (size,):
            raise UsageError(f"{name} has shape {array.shape}; {self.facts['env']} takes [..., {size}]{parts}")
        return array


@cache
def _environment(id: str, layout: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> GoalEnv:
    """Build an environment once, so that agents share its traced programs."""
    return envs.make(id, layout=layout or None, **dict(options))


# Jitted once per algorithm and network shape, not once per agent, so that all seeds of a sweep share compiled programs.
@partial(jax.jit, static_argnums=0)
def _act(algorithm: Algorithm, params: dict[str, Params], observation: jax.Array, key: jax.Array | None) -> jax.Array:
    with exact():
        return algorithm.act(params, observation, key)


@partial(jax.jit, static_argnums=0)
def _phi(algorithm: Any, params: dict[str, Params], state: jax.Array, action: jax.Array) -> jax.Array:
    with exact():
        return algorithm.embed(params, state, action)


@partial(jax.jit, static_argnums=0)
def _psi(algorithm: Any, params: dict[str, Params], goal: jax.Array) -> jax.Array:
    with exact():
        return algorithm.embed_goal(params, goal)


@partial(jax.jit, static_argnums=0)
def _q(algorithm: Any, params: dict[str, Params], state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
    with exact():
        return algorithm.q(params, state, action, goal)


@jax_config.with_fixed_settings
def load(path: str | Path) -> Agent:
    """Load a checkpoint, or the newest checkpoint of a run directory.

    Warns if it was trained with another version of jax or brax, because environments may step differently.

    Raises:
      CrlvizError: the checkpoint is missing, damaged, of a newer format, or its arrays do not fit its config.
    """
    checkpoint = open_checkpoint(path)
    agent, shapes = _agent_and_shapes(checkpoint)
    sizes = array_bytes(checkpoint)
    for name, expected in shapes.items():
        agent.params[name] = checkpoint.read(name, max_bytes=sizes[name])
        _check_shapes(agent.params[name], expected, f"{name}.safetensors", agent)
    _warn_of_versions(checkpoint.config.get("versions"))
    if checkpoint.config["format"] == 1:
        warn_once(
            f"{checkpoint.run.path} is of an early crlviz, without a checksum of its config.json: changes to it are "
            "not detected"
        )
    return agent


@jax_config.with_fixed_settings
def array_bytes(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of each network's arrays by the checkpoint's config; their files may not hold more.

    Raises:
      CrlvizError: the config does not describe an agent.
    """
    _, shapes = _agent_and_shapes(checkpoint)
    return {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()
    }


def _agent_and_shapes(checkpoint: Checkpoint) -> tuple[Agent, dict[str, Any]]:
    """The agent that a checkpoint's config describes, without parameters, and the shapes of its parameters."""
    config = {"algorithm": checkpoint.config["algorithm"], **checkpoint.config["config"]}
    agent = Agent(config, {}, checkpoint.env_steps, checkpoint.manifest["gradient_steps"], checkpoint.path)
    try:
        shapes = agent.algorithm.network_shapes
        named = agent.facts  # these appear in every table and chart
        if not named["algorithm"].isprintable() or not all(type(named[name]) is int for name in ("seed", "batch_size")):
            raise UsageError("its algorithm is not a printable name, or its seed or batch_size is not an integer")
        if agent.config["env"]:
            _ = agent.eval_env
        return agent, shapes
    except (UsageError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error).partition("\n")[0][:300]
        raise CrlvizError(f"{checkpoint.run.config_file} does not describe an agent: {reason}") from None


def _warn_of_versions(versions: Any) -> None:
    versions = versions if isinstance(versions, dict) else {}
    recorded = [(name, printable(versions[name])) for name in ("jax", "brax") if versions.get(name)]
    if other := [f"{name} {old} (here {version(name)})" for name, old in recorded if old != version(name)]:
        warn_once(f"trained under {' and '.join(other)}: its environment may step differently")


@cache
def warn_once(text: str) -> None:
    """Warn of this once in a process; ``warn_once.cache_clear()`` forgets what was said."""
    warnings.warn(text, stacklevel=4)


def load_all(paths: Sequence[str | Path]) -> list[Agent]:
    """Load several checkpoints, in order. Arguments and errors are those of ``load_each``."""
    return [agent for _, agent in load_each(paths)]


def load_each(paths: Sequence[str | Path]) -> list[tuple[Path, Agent]]:
    """Load several checkpoints, in order, each with its path.

    Args:
      paths: checkpoints, run directories (their newest checkpoint), or directories that hold runs, as made by
        ``crlviz sweep`` and ``train --seed 0-4``. A run in such a directory that cannot be loaded is skipped with a
        warning.

    Raises:
      CrlvizError: as ``load``, or no run of a directory can be loaded.
    """
    agents: list[tuple[Path, Agent]] = []
    for path in map(Path, paths):
        single = RunDirectory(path).exists() or (path / "manifest.json").exists()
        runs = [] if single else runs_in(path)
        agents += readable(runs, load) if runs else [(path, load(path))]
    return agents


def readable(paths: Sequence[Path], read: Callable[[Path], _T]) -> list[tuple[Path, _T]]:
    """Read each path; skip those that cannot be read, with a warning.

    Raises:
      CrlvizError: no path can be read; the error of the first.
    """
    results, errors = [], []
    for path in paths:
        try:
            results.append((path, read(path)))
        except CrlvizError as error:
            errors.append(error)
    if not results and errors:
        raise errors[0]
    for reason in errors:
        warnings.warn(f"left out: {reason}", stacklevel=2)
    return results


def _check_shapes(params: Any, expected: Any, name: str, agent: Agent) -> None:
    # Compare by path: numpy and jax trees of the same layout may use different mapping types.
    actual, wanted = (
        {jax.tree_util.keystr(path): _dtype_and_shape(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (params, expected)
    )
    for path in sorted(actual.keys() | wanted.keys()):
        if actual.get(path) != wanted.get(path):
            raise CrlvizError(
                f"{agent.source / name} does not fit its config.json: {path} is {actual.get(path, 'missing')}, "
                f"the config says {wanted.get(path, 'absent')}"
            )


def _dtype_and_shape(leaf: Any) -> str:
    return f"{leaf.dtype} {list(leaf.shape)}"
