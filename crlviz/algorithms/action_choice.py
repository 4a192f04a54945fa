"""How an action is chosen: the policy's mean, a sample, or one of several samples by the critic."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crlviz.errors import UsageError

if TYPE_CHECKING:
    import jax

    from crlviz.agent import Agent
    from crlviz.algorithms.base import Algorithm

_TEXT = re.compile(r"(mean|sample)|best-of-(\d{1,4})|softmax-(\d{1,4})(?::([\d.e+-]+))?")
FORMS = "mean, sample, best-of-K, softmax-K or softmax-K:TAU, such as best-of-16 or softmax-16:0.5"


@dataclass(frozen=True)
class ActionChoice:
    """A rule for choosing actions.

    Attributes:
      text: as the user gives it.
      samples: number of actions that the critic chooses from; 0: no critic is asked.
      temperature: of softmax; 0: the action of the highest Q.
    """

    text: str
    samples: int = 0
    temperature: float = 0.0

    def act(self, algorithm: Any, params: Any, observation: "jax.Array", key: "jax.Array") -> "jax.Array":
        """Actions [..., action] for observations [..., state + goal].

        Args:
          algorithm: an ``Algorithm``; one of a class that ``check`` accepts.
          params: of its networks.
          observation: states followed by goals.
          key: random key; the mean needs none, and ignores it.
        """
        import jax
        import jax.numpy as jnp

        if not self.samples:
            return algorithm.act(params, observation, None if self.text == "mean" else key)
        choice_key, key = jax.random.split(key)
        keys = jax.random.split(key, self.samples)
        actions = jax.vmap(lambda key: algorithm.act(params, observation, key))(keys)
        state, goal = jnp.split(observation, [algorithm.sizes.state], axis=-1)
        q = jax.vmap(lambda action: algorithm.q(params, state, action, goal))(actions)
        chosen = jax.random.categorical(choice_key, q / self.temperature, axis=0) if self.temperature else q.argmax(0)
        return jnp.take_along_axis(actions, chosen[None, ..., None], axis=0)[0]

    def check(self, kind: "type[Algorithm]", where: str) -> None:
        """Check that a class of algorithms has what the rule needs. ``where`` names its owner in the message.

        Raises:
          UsageError: the rule asks a critic, and the algorithm has none.
        """
        from crlviz.algorithms.base import HasQ

        if self.samples and not issubclass(kind, HasQ):
            raise UsageError(
                f"{where}: {self.text} chooses by Q, which the algorithm {kind.name} does not have; take mean or sample"
            )


def for_agents(text: str, agents: Sequence["Agent"]) -> ActionChoice:
    """The rule of a text, for agents that can follow it.

    Raises:
      UsageError: no such rule, or an agent has no critic to choose by.
    """
    choice = read(text)
    for agent in agents:
        choice.check(type(agent.algorithm), str(agent.source))
    return choice


def read(text: str) -> ActionChoice:
    """The rule of a text: ``mean``, ``sample``, ``best-of-16``, ``softmax-16`` or ``softmax-16:0.5``.

    best-of-K takes the action of the highest Q among K samples of the policy; softmax-K draws one of K samples with
    probabilities softmax(Q / tau), tau being 1 or the number after the colon.

    Raises:
      UsageError: no such rule, fewer than two samples, or a tau that is not positive.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise UsageError(f"{text[:100]!r} is not a way to choose actions; take {FORMS}")
    _, best, softmax, tau = found.groups()
    samples = int(best or softmax or 0)
    if (best or softmax) and samples < 2:
        raise UsageError(f"{text}: a choice needs at least 2 samples")
    try:
        temperature = float(tau or 1) if softmax else 0.0
    except ValueError:
        raise UsageError(f"{text}: {tau} is not a number") from None
    if softmax and not 0 < temperature < math.inf:
        raise UsageError(f"{text}: the temperature must be positive and finite")
    return ActionChoice(text, samples, temperature)
