"""The figures of the paper: which runs each needs, and how it is drawn.

Each entry of ``FIGURES`` gives the question, the settings that the runs must vary, a sweep that trains such runs, and a
function that draws the figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import altair as alt
import numpy as np
import xarray as xr

from analyses import behavior, embed, norms, stitch
from analyses.common import runs as run_data
from analyses.common.runs import vary
from analyses.heatmap import heatmap_page, q_map
from analyses.pages.figure_runs import FACTORS, Runs
from analyses.sweeps import algorithm_panels, efficiency, fed_learners, levels, scaling
from crlviz.algorithms.base import HasEmbeddings, HasQ
from crlviz.errors import CrlvizError, UsageError


@dataclass(frozen=True, eq=False)
class Figure:
    """One figure of the paper.

    Attributes:
      number: number in the paper.
      question: question that it answers.
      varies: names in ``FACTORS`` that the runs must vary; several must vary independently.
      sweep: options of ``crlviz sweep`` that train such runs, by name; x2 means twice the value in the given runs. With
        ``learners`` they are options of ``crlviz train``.
      draw: function from runs to a chart; None: no analysis draws it yet.
      others: functions that make further files, by file ending; ".html" replaces the chart as HTML.
      maze: whether it needs a maze.
      near: whether its runs must be trained only on nearby pairs of start and goal.
      algorithm: the algorithm that it is about; empty: any, or those that it compares.
      ability: ``HasQ`` or ``HasEmbeddings``: what an algorithm must have for it.
      offline: whether it is about runs on data sets.
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
    algorithm: str = ""
    ability: Any = None
    offline: bool = False
    lacks: str = ""

    @property
    def title(self) -> str:
        """Figure 12, or table 2."""
        return self.number.capitalize() if self.number.startswith("table") else f"Figure {self.number}"

    @property
    def name(self) -> str:
        """``title`` as the beginning of a file's name."""
        return self.title.lower().replace(", ", "-").replace(" ", "")

    def chosen(self, runs: Runs) -> Runs:
        """The runs to draw: all if the figure compares algorithms or is about data sets, else those of one algorithm.

        That is the first algorithm that has what the figure needs, or else the first that the figure applies to. If
        it applies to none, all runs.
        """
        stepped, on_data = runs.on_data
        runs = (on_data if self.offline else stepped) or runs
        if "algorithm" in self.varies or self.offline:
            return runs
        own = {name: of for name, of in runs.by_algorithm.items() if not self._unfit(name, of)}
        return next((of for of in own.values() if not self.missing(of)), next(iter(own.values()), runs))

    def _unfit(self, name: str, runs: Runs) -> str:
        """Why the figure does not apply to the runs of an algorithm; empty if it does."""
        if self.algorithm and name != self.algorithm:
            return f"runs of {self.algorithm}"
        if self.ability and not isinstance(runs.agents[0].algorithm, self.ability):
            return f"runs of an algorithm with {self.ability.noun}"
        return ""

    def missing(self, runs: Runs) -> str:
        """Describe what these runs, which are ``chosen``, lack for the figure; empty if it can be drawn."""
        if self.lacks:
            return self.lacks
        if unfit := self._unfit(runs.agents[0].facts["algorithm"], runs):
            return unfit
        if self.offline and not runs.on_data[1]:
            return "runs on data sets (crlviz train --dataset)"
        if self.maze and runs.maze is None:
            return "runs in a maze"
        if self.near and not runs.maze.hops:
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
        dataset = run_data.collect(runs.paths)
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


def _offline(runs: Runs) -> alt.TopLevelMixin:
    """Draw final scores over depth, a panel for each algorithm and data set: of evaluations, or on held-out rows."""
    dataset = run_data.collect(runs.paths)
    metric = next(name for name in ("success", "held_out_action_error") if dataset[f"score_{name}"].notnull().all())
    files = dataset["dataset"].values if "dataset" in dataset else np.full(dataset.sizes["run"], runs.name)
    pictures = []
    for file in dict.fromkeys(files.tolist()):
        part = dataset.isel(run=files == file)
        picture: Any = algorithm_panels.over_depth(vary(part, "algorithm", "depth"), metric)
        if len(set(files.tolist())) > 1:
            picture.title.subtitle = [file]
        pictures.append(picture)
    return alt.vconcat(*pictures, spacing=30)


def _over_depth(analysis: ModuleType) -> Callable[[Runs], alt.TopLevelMixin]:
    """Draw an analysis of the checkpoints that differ only in depth and seed."""
    return lambda runs: analysis.plot(analysis.compute(runs.over_depth))


def _compared(runs: Runs) -> xr.Dataset:
    """The runs as a Dataset, in the order of their algorithms."""
    return run_data.collect(runs.paths)


def _hours(runs: Runs) -> alt.TopLevelMixin:
    return algorithm_panels.hours(_compared(runs))


def _passing(runs: Runs) -> alt.TopLevelMixin:
    return algorithm_panels.passing(_compared(runs), "time_at_goal")


def _levels(runs: Runs) -> alt.TopLevelMixin:
    return levels.plot(_compared(runs), runs.env.episode_length)


def _efficiency(runs: Runs) -> alt.TopLevelMixin:
    return efficiency.plot(efficiency.compute(runs.paths))


def _fed(runs: Runs) -> alt.TopLevelMixin:
    return fed_learners.plot(run_data.collect(runs.paths))


def _heatmap(runs: Runs) -> alt.TopLevelMixin:
    agents = runs.one_a_depth
    return q_map.plot(q_map.compute(agents, q_map.default_goals(agents[0])[:2], coverage=True), tips=False)


def _heatmap_page(runs: Runs) -> bytes:
    return heatmap_page.page(q_map.on_a_page(runs.one_a_depth, coverage=True)).encode()


_DEPTHS = "4,8,16,32"
_ALGORITHMS = scaling.ALGORITHMS

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
    Figure(
        "8",
        "Exploration or expressivity?",
        ("collector_depth", "depth"),
        {"depth": "4,16", "learners": "4,16"},
        draw=_fed,
    ),
    Figure(
        "9",
        "Does Q follow distances in the maze or straight lines?",
        ("depth",),
        {"depth": "4,16"},
        draw=_heatmap,
        others={".html": _heatmap_page},
        maze=True,
        ability=HasQ,
    ),
    Figure(
        "10",
        "How does the encoder spread states along a successful trajectory?",
        ("depth",),
        {"depth": "4,16"},
        draw=_over_depth(embed),
        ability=HasEmbeddings,
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
    Figure(
        "12",
        "How do other algorithms learn?",
        ("algorithm",),
        {"algorithm": _ALGORITHMS},
        draw=_scaling("algorithm_curves"),
    ),
    Figure(
        "13",
        "Do other algorithms gain from depth?",
        ("algorithm", "depth"),
        {"algorithm": _ALGORITHMS, "depth": "4,16"},
        draw=_scaling("algorithms"),
    ),
    Figure(
        "14, 18",
        "Does offline learning gain from depth?",
        ("depth",),
        {"algorithm": "crl,gcbc,qrl,gciql", "depth": _DEPTHS},
        draw=_offline,
        offline=True,
    ),
    Figure(
        "15",
        "Does depth help a quasimetric critic?",
        ("depth",),
        {"algorithm": "cmd", "depth": _DEPTHS},
        draw=_scaling("curves"),
        algorithm="cmd",
    ),
    Figure(
        "16",
        "Does depth need LayerNorm and Swish?",
        ("depth", "layer_norm", "activation"),
        {"depth": _DEPTHS, "ablate": "layer-norm,swish"},
        draw=_scaling("ablation", networks=("full network", "no LayerNorm", "relu")),
    ),
    Figure(
        "17",
        "How much does each residual block add?",
        ("depth",),
        {"depth": "4,16"},
        draw=_over_depth(norms),
        ability=HasEmbeddings,
    ),
    Figure(
        "table 2",
        "LayerNorm or hyperspherical weights?",
        ("depth", "sphere"),
        {"depth": "4,16", "ablate": "hyperspherical"},
        draw=_levels,
    ),
    Figure(
        "table 5",
        "How long does each algorithm train?",
        ("algorithm",),
        {"algorithm": _ALGORITHMS},
        draw=_hours,
    ),
    Figure(
        "table 6",
        "When does contrastive RL pass the other algorithms?",
        ("algorithm",),
        {"algorithm": _ALGORITHMS},
        draw=_passing,
    ),
)


def choose(numbers: str | None) -> Sequence[Figure]:
    """Select figures by number, separated by commas; None selects all.

    Raises:
      UsageError: there is no such figure.
    """
    if numbers is None:
        return FIGURES
    known = {number.replace(" ", ""): figure for figure in FIGURES for number in figure.number.split(",")}
    wanted = [number.replace(" ", "") for number in numbers.split(",")]
    for number in wanted:
        if number not in known:
            raise UsageError(f"--only {number}: the figures to choose from are {', '.join(known)}")
    return list(dict.fromkeys(known[number] for number in wanted))
