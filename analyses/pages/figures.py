"""The figures of the paper: which runs each needs, and how it is drawn.

Each entry of ``FIGURES`` gives the question, the settings that the runs must vary, a sweep that trains such runs, and a
function that draws the figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from analyses import behavior, embed, norms, stitch
from analyses.common import runs as run_data
from analyses.heatmap import heatmap_page, q_map
from analyses.sweeps import efficiency, scaling
from crlviz import datasets
from crlviz.errors import CrlvizError, UsageError

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
        """Their environment."""
        return self.agents[0].env

    @cached_property
    def factors(self) -> dict[str, list[Any]]:
        """For each name in ``FACTORS``, its value in every run."""
        values: dict[str, list[Any]] = {name: [] for name in FACTORS}
        for agent in self.agents:
            facts, critic = agent.facts, agent.shapes.get("critic", agent.shapes["actor"])
            values["critic_depth"].append(facts["depth"])
            for name in ("depth", "width", "actor_depth", "batch_size"):
                values[name].append(facts[name])
            for name in ("residual", "layer_norm", "activation"):
                values[name].append(getattr(critic, name))
        return values

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


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of the paper.

    Attributes:
      number: number in the paper.
      question: question that it answers.
      varies: names in ``FACTORS`` that the runs must vary; several must vary independently.
      sweep: options of ``crlviz sweep`` that train such runs, by name; x2 means twice the value in the given runs.
      draw: function from runs to a chart; None: no analysis draws it yet.
      others: functions that make further files, by file ending; ".html" replaces the chart as HTML.
      maze: whether it needs a maze.
      near: whether its runs must be trained only on nearby pairs of start and goal.
      lacks: what crlviz cannot do yet; empty if it can draw the figure.
    """

    number: str
    question: str
    varies: tuple[str, ...] = ()
    sweep: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[Runs], alt.TopLevelMixin] | None = None
    others: Mapping[str, Callable[[Runs], bytes]] = field(default_factory=dict)
    maze: bool = False
    near: bool = False
    lacks: str = ""

    def missing(self, runs: Runs) -> str:
        """Describe what these runs lack for the figure; empty if it can be drawn."""
        if self.lacks:
            return self.lacks
        if self.maze and runs.env.maze is None:
            return "runs in a maze"
        if self.near and not runs.env.maze.hops:
            return "runs trained on start-goal pairs at most three cells apart"
        columns = [runs.factors[name] for name in self.varies]
        constant = [FACTORS[name] for name, column in zip(self.varies, columns, strict=True) if len(set(column)) < 2]
        if constant:
            return f"runs with several {' and '.join(constant)}"
        if len(columns) > 1 and len(set(zip(*columns, strict=True))) <= max(len(set(column)) for column in columns):
            return f"runs in which {' and '.join(FACTORS[name] for name in self.varies)} vary independently"
        return ""


def _scaling(*names: str, networks: Sequence[str] = ()) -> Callable[[Runs], alt.TopLevelMixin]:
    """Draw panels of ``analyses.sweeps.scaling`` side by side; ``networks`` restricts the runs to those networks."""

    def draw(runs: Runs) -> alt.TopLevelMixin:
        dataset = run_data.compute(runs.paths)
        if networks:
            dataset = dataset.isel(run=np.isin(dataset.network.values, networks))
        panels: dict[str, Any] = scaling.panels(dataset)
        pictures = [panels[name] for name in names if name in panels]
        if not pictures:
            raise CrlvizError(f"these runs are not enough: {scaling.PANELS[names[0]].needs}")
        return alt.hconcat(*pictures, spacing=30).resolve_scale(
            color="independent", shape="independent", strokeDash="independent"
        )

    return draw


def _over_depth(analysis: ModuleType) -> Callable[[Runs], alt.TopLevelMixin]:
    """Draw an analysis of the checkpoints that differ only in depth and seed."""
    return lambda runs: analysis.plot(analysis.compute(runs.over_depth))


def _efficiency(runs: Runs) -> alt.TopLevelMixin:
    return efficiency.plot(efficiency.compute(runs.paths))


def _heatmap(runs: Runs) -> alt.TopLevelMixin:
    agents = runs.one_a_depth
    return q_map.plot(q_map.compute(agents, q_map.default_goals(agents[0])[:2], coverage=True))


def _heatmap_page(runs: Runs) -> bytes:
    return heatmap_page.page(q_map.on_a_page(runs.one_a_depth, coverage=True)).encode()


_DEPTHS = "4,8,16,32"
_BASELINES = "crlviz has no baselines (SAC, SAC with HER, TD3 with HER, GCSL, GCBC) yet"

FIGURES = (
    Figure(
        "1", "How does time at goal grow with depth?", ("depth",), {"depth": _DEPTHS}, draw=_scaling("curves", "depth")
    ),
    Figure(
        "3",
        "What does the agent do at each depth: fall, walk, vault?",
        ("depth",),
        {"depth": _DEPTHS},
        draw=_over_depth(behavior),
    ),
    Figure(
        "4",
        "Depth or width: which gains more per parameter?",
        ("depth", "width"),
        {"depth": "4,16", "width": "x1,x2"},
        draw=_efficiency,
    ),
    Figure(
        "5",
        "Where is the critical depth, and does it need residual connections?",
        ("depth", "residual"),
        {"depth": _DEPTHS, "ablate": "residual"},
        draw=_scaling("ablation", networks=("full network", "no residual")),
    ),
    Figure(
        "6",
        "Actor or critic: which one needs depth?",
        ("actor_depth", "critic_depth"),
        {"actor-depth": "4,16", "critic-depth": "4,16"},
        draw=_scaling("grid"),
    ),
    Figure(
        "7",
        "Do larger batches help, at each depth?",
        ("depth", "batch_size"),
        {"depth": "4,16", "batch-size": "x1,x4"},
        draw=_scaling("batch"),
    ),
    Figure("8", "Exploration or expressivity?", lacks="crlviz cannot train on the replay buffer of another run yet"),
    Figure(
        "9",
        "Does Q follow distances in the maze or straight lines?",
        ("depth",),
        {"depth": "4,16"},
        draw=_heatmap,
        others={".html": _heatmap_page},
        maze=True,
    ),
    Figure(
        "10",
        "How does the encoder spread states along a successful trajectory?",
        ("depth",),
        {"depth": "4,16"},
        draw=_over_depth(embed),
    ),
    Figure(
        "11",
        "Does it stitch: trained on nearby pairs, tested on all?",
        ("depth",),
        {"depth": "4,16"},
        draw=_over_depth(stitch),
        maze=True,
        near=True,
    ),
    Figure("12", "How do the baselines learn?", lacks=_BASELINES),
    Figure("13", "Do the baselines gain from depth?", lacks=_BASELINES),
    Figure("14, 18", "Does offline learning gain from depth?", lacks="crlviz does not train on offline data sets yet"),
    Figure("15", "Does depth help a quasimetric critic?", lacks="crlviz has no quasimetric critic yet"),
    Figure(
        "16",
        "Does depth need LayerNorm and Swish?",
        ("depth", "layer_norm", "activation"),
        {"depth": _DEPTHS, "ablate": "layer-norm,swish"},
        draw=_scaling("ablation", networks=("full network", "no LayerNorm", "relu")),
    ),
    Figure("17", "How much does each residual block add?", ("depth",), {"depth": "4,16"}, draw=_over_depth(norms)),
)


def choose(numbers: str | None) -> Sequence[Figure]:
    """Select figures by number, separated by commas; None selects all.

    Raises:
      UsageError: there is no such figure.
    """
    if numbers is None:
        return FIGURES
    known = {number.strip(): figure for figure in FIGURES for number in figure.number.split(",")}
    wanted = [number.strip() for number in numbers.split(",")]
    for number in wanted:
        if number not in known:
            raise UsageError(f"--only {number}: the figures to choose from are {', '.join(known)}")
    return list(dict.fromkeys(known[number] for number in wanted))
