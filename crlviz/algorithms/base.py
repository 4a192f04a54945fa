"""The interface of all learning algorithms: pure functions of arrays, the rows that they need, their networks.

An algorithm is one file: a subclass of ``Algorithm`` and a frozen dataclass of its settings; ``registry.py`` names it.
It provides everything else that the trainer and the ``Agent`` use: batches, metrics, checkpoints, actions, costs.
"""

import abc
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import jax

from crlviz.algorithms.batches import Batch, Rows, Sizes, shapes
from crlviz.errors import UsageError
from crlviz.networks import flops
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import parameter_count
from crlviz.networks.starts import Params

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk


class Meaning(NamedTuple):
    """What a critic's number is, for titles and axes: its formula or its name, and its unit (``1`` if it has none)."""

    title: str
    unit: str


def identity(rows: jax.Array) -> jax.Array:
    """The default of ``Algorithm.replicate``, for one device."""
    return rows


class Algorithm(abc.ABC):
    """A learning algorithm. A subclass is a frozen, hashable dataclass: its settings, its networks, ``replicate``.

    A network is a frozen dataclass with a ``NetworkConfig`` named ``config``. Networks, learners and batches are given
    as arguments to pure functions, so that any of them can be jitted, vectorized and differentiated.

    Attributes:
      name: as users give it to ``--algorithm``.
      Config: frozen dataclass of its own settings, which raises UsageError for a value out of range. ``TrainConfig``
        holds one in a section that has the name of the algorithm's file, such as ``crl.learning_rate``.
      losses: metrics that show a divergence, the likeliest cause first: those that end in ``_gradient`` must be finite,
        all others also within the run's ``loss_bound``.
      details: further metrics. Both are columns of metrics.csv.
      fused: whether the networks can run as one GPU kernel (``FusedTrunk``). They then are an ``Actor`` named ``actor``
        and a ``Critic`` named ``critic``.
      lacks: by ability, what a message says is missing, where the ability's default ``noun`` would mislead.
      online, offline: whether it can learn from an environment that it steps itself, and from a data set.
      config: its settings.
      replicate: replicates rows [B, ...] that are sharded over devices, so that each device has the whole batch.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    losses: ClassVar[tuple[str, ...]]
    details: ClassVar[tuple[str, ...]] = ()
    fused: ClassVar[bool] = False
    lacks: ClassVar[Mapping[type, str]] = {}
    online: ClassVar[bool] = True
    offline: ClassVar[bool] = False
    config: Any
    replicate: Callable[[jax.Array], jax.Array]

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Its columns of metrics.csv: losses, details, then norms of gradients."""
        gradients = tuple(name for name in cls.losses if name.endswith("_gradient"))
        return *(name for name in cls.losses if name not in gradients), *cls.details, *gradients

    @classmethod
    def lacking(cls, ability: Any) -> str:
        """In words that it lacks an ability, ``HasQ`` or ``HasEmbeddings``."""
        return f"{cls.name}, which has no {cls.lacks.get(ability, ability.noun)}"

    @classmethod
    @abc.abstractmethod
    def create(
        cls,
        config: Any,
        actor: NetworkConfig,
        critic: NetworkConfig,
        sizes: Sizes,
        *,
        gamma: float,
        replicate: Callable[[jax.Array], jax.Array] = identity,
        trunk: "FusedTrunk | None" = None,
    ) -> Self:
        """The algorithm for an environment.

        Args:
          config: a ``Config``.
          actor, critic: shapes of its networks; an algorithm without a critic ignores that one.
          sizes: those of the environment.
          gamma: the run's discount of hindsight goals.
          replicate: as in ``Algorithm``.
          trunk: kernels for the networks; None where the algorithm is not ``fused``.

        Raises:
          UsageError: settings that contradict each other.
        """

    @property
    @abc.abstractmethod
    def sizes(self) -> Sizes:
        """The lengths that its networks take."""

    @property
    @abc.abstractmethod
    def rows(self) -> Rows:
        """How its batches are made of the buffer."""

    @property
    def recorded(self) -> Rows:
        """How its batches are made of a data set, by OGBench's shares.

        Raises:
          UsageError: it cannot learn from one.
        """
        raise UsageError(f"{self.name} does not learn from a data set")

    @property
    def trunk(self) -> "FusedTrunk | None":
        """The kernels that its networks run as; None: the plain path."""
        return None

    @abc.abstractmethod
    def init(self, key: jax.Array) -> Any:
        """A learner: a ``PyTreeNode`` of everything that an update changes.

        Names of its fields are names in the saved states on disk.
        """

    @abc.abstractmethod
    def gradients(self, learner: Any, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """What ``step`` needs of a batch [B, ...], and the update's metrics []: ``losses`` and ``details``, by name."""

    @abc.abstractmethod
    def step(self, learner: Any, gradients: Any, skip: jax.Array | bool = False) -> Any:
        """Apply the optimizers, then moving averages and projections; return the learner unchanged where ``skip``."""

    @abc.abstractmethod
    def networks(self, learner: Any) -> dict[str, Params]:
        """What a checkpoint holds: parameters by network, such as ``{"actor": ..., "critic": ...}``.

        A selection of the learner's arrays; they may have any leading axes.
        """

    def acting(self, learner: Any) -> dict[str, Params]:
        """The parameters that ``act`` gets when the buffer is filled."""
        return self.networks(learner)

    @abc.abstractmethod
    def trained(self, learner: Any) -> Any:
        """All arrays that optimizers change; their norm must stay finite."""

    @abc.abstractmethod
    def act(self, params: dict[str, Params], observation: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Actions [..., action] for observations [..., state + goal].

        Args:
          params: of ``networks``; only the actor's may be there unless the policy needs more.
          observation: states followed by goals.
          key: None: the deterministic action; a key: the action of exploration.
        """

    @property
    def network_shapes(self) -> dict[str, Any]:
        """Shapes of ``networks``; nothing is computed."""
        return jax.eval_shape(lambda: self.networks(self.init(jax.random.key(0))))

    def update(self, learner: Any, key: jax.Array, batch: Batch) -> tuple[Any, dict[str, jax.Array]]:
        """One update on a batch [B, ...]: the new learner, and the update's metrics."""
        gradients, metrics = self.gradients(learner, key, batch)
        return self.step(learner, gradients), metrics

    def cost(self, batch_size: int, rows: Rows | None = None) -> dict[str, int]:
        """The cost of a run, from shapes alone.

        Args:
          batch_size: rows in a batch.
          rows: how batches are made; None: of the buffer.

        Returns:
          ``parameters``: their number in ``networks``; ``flops_per_update``: FLOPs of the matrix products of an update
          (paper figure 4), without recomputation by ``remat``.
        """
        learner, key = jax.eval_shape(lambda: (self.init(jax.random.key(0)), jax.random.key(0)))
        batch = shapes(rows or self.rows, self.sizes, batch_size)
        return {
            "parameters": parameter_count(self.network_shapes),
            "flops_per_update": flops.count(self.plain.update, learner, key, batch),
        }

    @property
    def plain(self) -> Self:
        """The same algorithm without recomputation and kernels, so that its matrix products can be counted."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        networks = {name: _plain(part) for name, part in parts.items() if hasattr(part, "config")}
        return replace(self, **networks)  # type: ignore[type-var]


def _plain(network: Any) -> Any:
    changes: dict[str, Any] = {"config": replace(network.config, remat=False)}
    return replace(network, **changes | ({"trunk": None} if hasattr(network, "trunk") else {}))


class HasQ(abc.ABC):
    """An algorithm with a critic of actions."""

    noun: ClassVar[str] = "critic, so no Q"

    @property
    @abc.abstractmethod
    def q_meaning(self) -> Meaning:
        """What ``q`` is."""

    @abc.abstractmethod
    def q(self, params: dict[str, Params], state: jax.Array, action: jax.Array, goal: jax.Array) -> jax.Array:
        """Q [...] of states [..., state], actions [..., action] and goals [..., goal]; higher is better."""

    def steps_of(self, q: Any) -> Any:
        """The steps to the goal that an exact Q [...] stands for, up to a constant; None if it has no such meaning."""
        return None


class HasEmbeddings(abc.ABC):
    """An algorithm that embeds state-actions and goals in one space."""

    noun: ClassVar[str] = "embeddings phi and psi"

    @abc.abstractmethod
    def embed(self, params: dict[str, Params], state: jax.Array, action: jax.Array) -> jax.Array:
        """phi [..., n] of states [..., state] with actions [..., action]."""

    @abc.abstractmethod
    def embed_goal(self, params: dict[str, Params], goal: jax.Array) -> jax.Array:
        """psi [..., n] of goals [..., goal]."""


def check_positive(section: str, config: Any, *names: str) -> None:
    """Check settings of an algorithm's Config that must be positive and finite, for its ``__post_init__``.

    Args:
      section: name of its section, for the message.
      config: the Config.
      names: of its settings.

    Raises:
      UsageError: one is not.
    """
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise UsageError(f"{section}.{name} is {getattr(config, name)}; it must be positive and finite")
