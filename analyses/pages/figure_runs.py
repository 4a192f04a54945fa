"""The runs of one environment, from which the figures of the paper are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crlviz import datasets

if TYPE_CHECKING:
    from crlviz.agent import Agent

# The settings that a sweep can vary, as text.
FACTORS = {
    "depth": "depths",
    "width": "widths",
    "actor_depth": "depths of the actor",
    "critic_depth": "depths of the critic",
    "batch_size": "batch sizes",
    "residual": "networks with and without residual connections",
    "layer_norm": "networks with and without LayerNorm",
    "activation": "activations (Swish and ReLU)",
    "sphere": "networks with LayerNorm and with hyperspherical weights",
    "algorithm": "algorithms",
    "collector_depth": "roles: a collector and the learners that it feeds",
}
# Facts that may differ within a sweep over depth. A run that is still training has fewer steps than the others.
_OVER_DEPTH = ("depth", "actor_depth", "seed", "env_steps")


@dataclass(frozen=True)
class Runs:
    """The runs of one environment, with their newest checkpoints."""

    paths: Sequence[Path]
    agents: Sequence["Agent"]

    @property
    def env(self) -> Any:
        """Their environment.

        Raises:
          UsageError: they were trained on a data set without one.
        """
        return self.agents[0].env

    @property
    def name(self) -> str:
        """The id of their environment, or the name of their data set without one."""
        return self.agents[0].facts["env"]

    @property
    def maze(self) -> Any:
        """The maze of their environment, or None."""
        return self.env.maze if self.agents[0].config["env"] else None

    @cached_property
    def on_data(self) -> "tuple[Runs | None, Runs | None]":
        """The runs that stepped environments, and those on data sets; None: there are none."""
        parts: list[Runs | None] = []
        for wanted in (False, True):
            own = [
                pair for pair in zip(self.paths, self.agents, strict=True) if ("dataset" in pair[1].config) == wanted
            ]
            parts.append(Runs(*map(list, zip(*own, strict=True))) if own else None)
        return parts[0], parts[1]

    @cached_property
    def factors(self) -> dict[str, list[Any]]:
        """For each name in ``FACTORS``, its value in every run."""
        values: dict[str, list[Any]] = {name: [] for name in FACTORS}
        for agent in self.agents:
            facts, critic = agent.facts, agent.shapes.get("critic", agent.shapes["actor"])
            values["critic_depth"].append(facts["depth"])
            values["collector_depth"].append(facts.get("collector_depth", 0))
            for name in ("algorithm", "depth", "width", "actor_depth", "batch_size"):
                values[name].append(facts[name])
            for name in ("residual", "layer_norm", "activation", "sphere"):
                values[name].append(getattr(critic, name))
        return values

    @cached_property
    def by_algorithm(self) -> dict[str, "Runs"]:
        """The runs of each algorithm, in the order of the registry."""
        pairs: dict[str, list[tuple[Path, Agent]]] = {}
        for path, agent in zip(self.paths, self.agents, strict=True):
            pairs.setdefault(agent.facts["algorithm"], []).append((path, agent))
        return {
            name: Runs(*map(list, zip(*pairs[name], strict=True)))
            for name in sorted(pairs, key=datasets.algorithm_order)
        }

    @cached_property
    def over_depth(self) -> list["Agent"]:
        """The largest set of agents that differ only in depth (same for actor and critic) and seed, by depth.

        Prefers agents with the paper's full network if it has several depths: a comparison of depth must not mix in an
        ablation or another setting.
        """
        differing = [name for name in datasets.differing(self.agents) if name not in _OVER_DEPTH]
        groups: dict[tuple, list[Agent]] = {}
        for agent in self.agents:
            others = [agent.facts.get(name) for name in differing]
            actor_depth = None if agent.facts["depth"] == agent.facts["actor_depth"] else agent.facts["actor_depth"]
            groups.setdefault((*others, actor_depth, agent.facts["env_steps"]), []).append(agent)

        def rank(agents: Sequence["Agent"]) -> tuple[bool, int, int]:
            depths = len({agent.facts["depth"] for agent in agents})
            return depths > 1 and agents[0].facts["network"] == "full network", depths, len(agents)

        best = max(groups.values(), key=rank)
        return sorted(best, key=lambda agent: (agent.facts["depth"], agent.facts["seed"]))

    @property
    def one_a_depth(self) -> list["Agent"]:
        """One agent of ``over_depth`` per depth, with the lowest seed."""
        by_depth: dict[int, Agent] = {}
        for agent in self.over_depth:
            by_depth.setdefault(agent.facts["depth"], agent)
        return list(by_depth.values())
