"""Learned distance against the steps that episodes needed, and against the shortest path in a maze."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from analyses.calibrate import pairs
from analyses.common import outputs
from crlviz import charts, datasets, jax_config, statistics
from crlviz.algorithms.base import HasQ
from crlviz.options import check_count
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

EPISODES = 64
QUANTILES = (0.25, 0.5, 0.75)
FEWEST_PAIRS = 16  # in a bin, below which it has no median
_PAIRS = 4096  # of achieved goals, over all bins
_GOALS, _PLACES, _METER_BINS = 32, 128, 10  # of the comparison with shortest paths
# Numbers of a checkpoint: what they are and their units.
NUMBERS = {
    "rank_achieved": ("rank correlation with the steps to achieved goals", "1"),
    "rank_commanded": ("rank correlation with the steps to the commanded goal", "1"),
    "rank_geodesic": ("rank correlation with the shortest path in the maze", "1"),
    "near": ("learned steps for a step, near half", "1"),
    "far": ("learned steps for a step, far half", "1"),
    "bias_near": ("learned minus needed steps, near half", "steps"),
    "bias_far": ("learned minus needed steps, far half", "steps"),
}
HOW_TO_READ = (
    "Each agent runs episodes of its own policy. A pair is a moment of an episode and a goal that the episode comes to "
    "later; its steps are those until it first is within the success distance. Lines: the median of the learned "
    "distance over pairs of about as many steps, thick for a group, thin for a seed; the band holds the middle half. "
    "The learned distance is -Q. It is converted to steps where theory gives it a unit. For contrastive RL, Q is the "
    "log of the goal's likelihood discounted by gamma, so one step is -log(gamma). For critics that count steps at the "
    "goal, Q = gamma^steps / (1 - gamma). Theory leaves a constant open, so the steps are shifted by their median "
    "error. On the dashed line learned steps equal needed steps. A thick line is drawn where most seeds have pairs. "
)


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"], *, episodes: int = EPISODES, policy: str = "sample", seed: int = 0
) -> xr.Dataset:
    """Measure learned distances, -Q(s, a, g), on episodes of each agent in its training environment.

    Achieved goals are drawn evenly over bins of steps. Commanded goals come from episodes that reach them, at each
    moment before. For both, the steps are counted until the episode is first within the success distance.

    Args:
      agents: with a critic.
      episodes: number of episodes for each agent.
      policy: how actions are chosen, as in ``action_choice.read``; a critic learns the time that samples take.
      seed: of the episodes and of the draw of pairs.

    Returns:
      Dataset over the factors in which the agents differ and ``goals`` (achieved, commanded), ``bin`` (of steps):
      ``needed_steps`` (median), ``pairs`` (their number) and, over ``quantile`` too, ``learned_distance`` and
      ``learned_steps`` (NaN if Q has no such meaning, see ``HasQ.steps_of``), shifted by ``shift``. In mazes, over
      ``meters`` (bins of shortest paths) and ``quantile``: ``geodesic_distance`` and ``geodesic_steps``, the same along
      the maze. The Dataset also has ``NUMBERS``: rank correlations, learned steps for one step, and the bias. The last
      two are given ``near`` and ``far``, in the nearer and the farther half of the bins' range. Bins of fewer than 16
      pairs are NaN.

    Raises:
      UsageError: no episodes, or an agent without a critic.
    """
    check_count(episodes, "episodes")
    for agent in agents:
        agent.having(HasQ)
    lengths = {agent.env.episode_length for agent in agents}
    edges = step_edges(max(lengths))
    longest = max((_longest_path(agent) for agent in agents), default=0.0)
    meters = np.linspace(0, longest, _METER_BINS + 1) if longest else np.zeros(0)
    parts = [_compute_one(agent, episodes, policy, seed, edges, meters) for agent in agents]
    attrs = {"env": datasets.env_names(agents), "episodes": episodes, "policy": policy}
    coords: dict[str, Any] = {
        "bin": ("bin", edges[:-1], {"long_name": "fewest steps of the bin", "units": "steps"}),
        "goals": ("goals", ["achieved", "commanded"], {"long_name": "which goals", "units": "1"}),
        "quantile": ("quantile", list(QUANTILES), {"long_name": "share of the pairs below", "units": "1"}),
    }
    if longest:
        middle = (meters[1:] + meters[:-1]) / 2
        coords["meters"] = ("meters", middle, {"long_name": "shortest path in the maze", "units": "m"})
    distances = ", ".join(dict.fromkeys(agent.q_meaning.title for agent in agents))
    shared = xr.Dataset(coords=coords, attrs=attrs | {"q": distances, charts.HELP: f"{HOW_TO_READ}{distances}."})
    return datasets.combine(agents, parts, shared)


def step_edges(length: int) -> np.ndarray:
    """First steps of bins, and the end of the last: 1, 2, 3, 4, 6, 8, 12, 16, ... up to an episode of ``length``."""
    powers = itertools.chain([1, 2], *((3 * 2**k, 4 * 2**k) for k in range(length.bit_length())))
    edges = [edge for edge in powers if edge <= length]
    return np.array([*edges, length + 1])


def _longest_path(agent: "Agent") -> float:
    """The longest shortest path between two free cells of the agent's maze, in meters; 0 without a maze."""
    maze = agent.env.maze
    if maze is None:
        return 0.0
    cells = maze.xy(maze.free)
    return float(np.max(maze.geodesics(cells, cells)))


def _compute_one(
    agent: "Agent", episodes: int, policy: str, seed: int, edges: np.ndarray, meters: np.ndarray
) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    runs = rollout(agent, episodes, seed=seed, policy=policy)
    both = {
        "achieved": pairs.achieved(runs, agent.env, edges, _PAIRS // (len(edges) - 1), rng),
        "commanded": pairs.commanded(runs),
    }
    q = {
        "achieved": _q(agent, runs, both["achieved"]),
        "commanded": runs.q.values[both["commanded"].episode, both["commanded"].time],
    }
    learned = {name: _steps(agent, values) for name, values in q.items()}
    errors = both["achieved"].steps - learned["achieved"]
    shift = float(np.nanmedian(errors)) if np.isfinite(errors).any() else 0.0
    binned = [
        _binned(np.digitize(both[name].steps, edges) - 1, len(edges) - 1, steps, -q[name], learned[name] + shift)
        for name, steps in ((name, each.steps.astype(float)) for name, each in both.items())
    ]
    needed, distance, steps = (np.stack([part[number] for part in binned]) for number in range(3))
    count = np.stack([part[3] for part in binned])
    each = ("goals", "bin")
    variables: dict[str, Any] = {
        "needed_steps": (each, needed[..., 1], "median of the steps needed", "steps"),
        "pairs": (each, count, "number of pairs", "1"),
        "learned_distance": ((*each, "quantile"), distance, "learned distance, minus Q", "1"),
        "learned_steps": ((*each, "quantile"), steps, "learned distance in steps, shifted", "steps"),
        "shift": ((), shift, "steps added to the learned ones", "steps"),
    }
    numbers = {f"rank_{name}": spearman(-q[name], both[name].steps) for name in both}
    numbers |= _gains(needed[0, :, 1], steps[0, :, 1], distance[0, :, 1])
    numbers["rank_geodesic"] = np.nan
    if len(meters):
        path, path_q = _along_the_maze(agent, runs, rng)
        *_, far, far_steps, _ = _binned(
            np.digitize(path, meters) - 1, _METER_BINS, path, -path_q, _steps(agent, path_q) + shift
        )
        variables["geodesic_distance"] = (("meters", "quantile"), far, "learned distance, minus Q", "1")
        variables["geodesic_steps"] = (("meters", "quantile"), far_steps, "learned distance in steps, shifted", "steps")
        numbers["rank_geodesic"] = spearman(-path_q, path)
    variables |= {name: ((), numbers[name], long_name, units) for name, (long_name, units) in NUMBERS.items()}
    return xr.Dataset(
        {
            name: (dims, values, {"long_name": long_name, "units": units})
            for name, (dims, values, long_name, units) in variables.items()
        }
    )


def _q(agent: "Agent", runs: xr.Dataset, chosen: pairs.Pairs) -> np.ndarray:
    """Q [N] of the moments' states and actions for the pairs' goals."""
    state, action = (runs[name].values[chosen.episode, chosen.time] for name in ("state", "action"))
    # One shape for all agents, so that one program serves them.
    rows = np.arange(_PAIRS) % max(1, len(state))
    if not len(state):
        return np.zeros(0)
    return np.asarray(agent.q(state[rows], action[rows], chosen.goal[rows]))[: len(state)]


def _steps(agent: "Agent", q: np.ndarray) -> np.ndarray:
    """The steps [N] that Q [N] stands for, up to a constant; NaN where it has no such meaning."""
    steps = agent.having(HasQ).steps_of(q)
    return np.full(len(q), np.nan) if steps is None else np.asarray(steps)


def _along_the_maze(agent: "Agent", runs: xr.Dataset, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shortest paths in meters and Q, both [N], between moments of episodes and goals that some episode achieved."""
    alive, env = runs.alive.values, agent.env
    states, actions, goals = (runs[name].values[alive] for name in ("state", "action", "achieved"))
    moments, chosen = (rng.integers(len(states), size=size) for size in (_PLACES, _GOALS))
    where = list(env.goal_indices[:2])
    path = env.maze.geodesics(states[moments][:, where], goals[chosen][:, :2]).ravel()  # type: ignore[union-attr]
    state, action = (np.tile(values[moments], (_GOALS, 1)) for values in (states, actions))
    q = np.asarray(agent.q(state, action, np.repeat(goals[chosen], _PLACES, axis=0)))
    known = np.isfinite(path)
    return path[known], q[known]


def _binned(bins: np.ndarray, count: int, *values: np.ndarray) -> list[np.ndarray]:
    """Quantiles [count, 3] of each of the values [N] in each bin, and the number of values [count] in it."""
    result = [np.full((count, len(QUANTILES)), np.nan) for _ in values]
    number = np.bincount(bins, minlength=count)[:count]
    for index in np.flatnonzero(number >= FEWEST_PAIRS):
        for quantiles, value in zip(result, values, strict=True):
            quantiles[index] = np.quantile(value[bins == index], QUANTILES)
    return [*result, number]


def _gains(needed: np.ndarray, steps: np.ndarray, distance: np.ndarray) -> dict[str, float]:
    """Slopes and biases of the bins' medians [bins], in the nearer and the farther half of the steps that occur.

    Without learned steps, the slopes are slopes of the distance, divided by the near one.
    """
    known = np.isfinite(needed)
    in_steps = bool(np.isfinite(steps[known]).any())
    learned = steps if in_steps else distance
    half = np.nanmax(needed) / 2 if known.any() else np.nan
    result = {}
    for name, chosen in (("near", known & (needed <= half)), ("far", known & (needed >= half))):
        enough = chosen.sum() > 1 and np.isfinite(learned[chosen]).all()
        result[name] = float(np.polyfit(needed[chosen], learned[chosen], 1)[0]) if enough else np.nan
        result[f"bias_{name}"] = float((learned - needed)[chosen].mean()) if in_steps and chosen.any() else np.nan
    if not in_steps:
        near = result["near"]
        result |= {name: result[name] / near if near else np.nan for name in ("far", "near")}
    return result


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of a [N] and b [N]; NaN if one is constant or there are too few."""
    if len(a) < FEWEST_PAIRS:
        return float("nan")
    ranks = [pd.Series(values).rank().to_numpy() for values in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(*ranks)[0, 1])


def in_steps(dataset: xr.Dataset) -> bool:
    """Whether all critics of a Dataset have distances in steps."""
    return bool((dataset.learned_steps.notnull() == dataset.learned_distance.notnull()).all())


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row for each checkpoint: its label and ``NUMBERS``."""
    return pd.DataFrame(
        [
            {"checkpoint": label} | {name: part[name].item() for name in NUMBERS}
            for label, _, part in datasets.each(dataset)
        ]
    )


def summary(dataset: xr.Dataset) -> str:
    """``table`` as text, then the verdict on the deepest group against the shallowest."""
    width = outputs.label_width(dataset)
    names = [name for name in NUMBERS if dataset[name].notnull().any()]
    lines = [f"{'checkpoint':{width}}" + "".join(f"{name:>16}" for name in names)]
    for row in table(dataset).to_dict("records"):
        numbers = "".join("               -" if np.isnan(row[name]) else f"{row[name]:16.2f}" for name in names)
        lines.append(f"{row['checkpoint']:{width}}{numbers}")
    return "\n".join([*lines, *_verdict(dataset)])


def _verdict(dataset: xr.Dataset) -> Iterator[str]:
    groups = list(datasets.groups(dataset))
    if len(groups) < 2:
        return
    (first, _, shallow), *_, (last, _, deep) = groups
    a, b = ([part.rank_achieved.item() for part in parts] for parts in (deep, shallow))
    result = statistics.compare(a, b, largest=2.0)
    words = result.words(f"{last} orders goals better", f"{first} orders goals better")
    yield f"Rank correlation with steps, {last} against {first}: {words}."
