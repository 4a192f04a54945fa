"""What does the agent do at each depth: fall, walk, vault? And at which depth does it learn to? (paper figure 3)"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr

from analyses.behavior import critical_depth, hardest_episode
from analyses.behavior.descriptors import DESCRIPTORS, describe
from analyses.common import outputs
from crlviz import datasets, jax_config
from crlviz.errors import UsageError
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent


class Rule(NamedTuple):
    """A named behavior.

    Attributes:
      name: the behavior.
      words: its rule in words.
      holds: the rule: a function of an episode's descriptors. A descriptor that does not apply to the body is NaN, so
        comparisons with it are false.
      color: of its bars.
      formerly: its name in Datasets of older versions.
      reached: whether it holds only for episodes that reached their goal.
    """

    name: str
    words: str
    holds: Callable[[Mapping[str, float]], bool]
    color: str
    formerly: str
    reached: bool = False


# The first rule that holds names an episode. The last rule always holds.
RULES: tuple[Rule, ...] = (
    Rule("went over a wall", "is over a wall and higher than it", lambda d: d["above_wall"] >= 1, "#5b3fa0", "vaults"),
    Rule(
        "fell near the goal",
        "fails after it has covered three quarters of the distance to the goal",
        lambda d: d["fell"] == 1 and d["progress"] >= 0.75,
        "#f2c14e",
        "falls near the goal",
    ),
    Rule(
        "fell forward at speed",
        "fails while it moves toward the goal at 1 m/s or more",
        lambda d: d["fell"] == 1 and d["fall_speed"] >= 1,
        "#e98a3c",
        "throws itself",
    ),
    Rule("fell", "fails in any other way", lambda d: d["fell"] == 1, "#c8553d", "falls"),
    Rule(
        "stayed near the start",
        "stays within a tenth of the distance to the goal from its start, and never reaches the goal",
        lambda d: d["displacement_over_geodesic"] < 0.1 and not d["time_at_goal"],
        "#c9ccd1",
        "stands still",
    ),
    Rule(
        "got stuck at a wall",
        "is a chain that swims, touches a wall in half of its steps, moves less than a tenth of the distance to the "
        "goal in the second half of its time, and never reaches the goal",
        lambda d: (
            d["stroke_frequency"] >= 0.2
            and d["wall_contact"] >= 0.5
            and d["late_displacement_over_geodesic"] < 0.1
            and not d["time_at_goal"]
        ),
        "#7d5a50",
        "stuck at a wall",
    ),
    Rule(
        "roamed",
        "roams more than twice the distance to the goal, and stays there less than half of the time after reaching it",
        lambda d: d["travel_over_geodesic"] > 2 and d["staying"] < 0.5,
        "#b07aa1",
        "loops the corridor",
    ),
    Rule(
        "walked to the goal",
        "reaches the goal with its torso upright (mean cosine of 0.8) and never on the ground",
        lambda d: d["time_at_goal"] > 0 and d["uprightness"] >= 0.8 and d["time_fallen"] == 0,
        "#3a8f5c",
        "walks upright",
        True,
    ),
    Rule(
        "undulated to the goal",
        "reaches the goal by waves along its body: neighboring joints go round by 0.3 of a circle or more",
        lambda d: d["time_at_goal"] > 0 and d["wave"] >= 0.3,
        "#2f8f9d",
        "undulates",
        True,
    ),
    Rule(
        "reached the goal",
        "reaches it in any other way",
        lambda d: d["time_at_goal"] > 0,
        "#8cc9a1",
        "reaches the goal",
        True,
    ),
    Rule(
        "did not reach the goal",
        "moves, stays up, and does not reach the goal",
        lambda d: True,
        "#8d939c",
        "never reaches",
    ),
)
NAMES = [rule.name for rule in RULES]
# The order of bars: the episodes that reached their goal add up.
ORDER = sorted(RULES, key=lambda rule: not rule.reached)
_CURRENT = {rule.formerly: rule.name for rule in RULES}


def with_current_names(dataset: xr.Dataset) -> xr.Dataset:
    """The Dataset from ``compute`` with its behaviors under their current names; a file may have older ones."""

    names = [name for name in ("behavior", "name") if name in dataset]
    values = {name: [_CURRENT.get(str(each), str(each)) for each in dataset[name].values.flat] for name in names}
    return dataset.assign(
        {name: dataset[name].copy(data=np.reshape(values[name], dataset[name].shape)) for name in names}
    )


def behavior(descriptors: Mapping[str, float]) -> str:
    """Name an episode by its descriptors; absent ones count as NaN."""
    known = dict.fromkeys(DESCRIPTORS, np.nan) | dict(descriptors)
    return next(rule.name for rule in RULES if rule.holds(known))


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"], *, episodes: int = 64, policy: str = "mean", seed: int = 0, stills: bool = True
) -> xr.Dataset:
    """Descriptors and names of many episodes of each agent, in its evaluation environment.

    Args:
      agents: with the same body, in similar environments.
      episodes: number of episodes for each agent.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      seed: of starts, goals and the policy's noise.
      stills: render frames of the hardest episode.

    Returns:
      Dataset over the factors in which the agents differ, ``episode`` and ``behavior``: the descriptors (defined in
      ``DESCRIPTORS``; attrs ``absent`` lists those that do not apply and why), ``name`` of each episode and ``share``
      of each name; coordinate ``source``, the checkpoint; and the additions of ``hardest_episode``.

    Raises:
      UsageError: no episodes, or agents to which different descriptors apply.
    """
    parts: list[xr.Dataset] = []
    shown: list[xr.Dataset] = []
    for agent in agents:
        env = agent.eval_env
        runs = rollout(agent, episodes, seed=seed, policy=policy, env=env)
        part = _named(describe(env, runs)).assign_coords(source=str(agent.source))
        parts.append(part)
        if part.attrs["absent"] != parts[0].attrs["absent"]:
            raise UsageError(
                f"{agents[0].source} and {agent.source} have different bodies or worlds; analyze them separately"
            )
        # A view would keep all episodes in memory.
        shown.append(runs.isel(episode=hardest_episode.index(parts[0])).copy(deep=True))
    attrs = {
        "env": " and ".join(dict.fromkeys(agent.eval_env.id for agent in agents)),
        "episodes": episodes,
        "policy": policy,
        "seed": seed,
    }
    parts = [
        part.merge(hardest_episode.path(agent.eval_env, each))
        for agent, part, each in zip(agents, parts, shown, strict=True)
    ]
    dataset = datasets.combine(agents, parts, xr.Dataset(attrs=attrs | parts[0].attrs))
    return hardest_episode.add(dataset, agents, shown, stills=stills)


def _named(described: xr.Dataset) -> xr.Dataset:
    """The descriptors of one agent's episodes, with the name of each and the share of each name."""
    episodes = range(described.sizes["episode"])
    names = [behavior({str(k): float(v[index]) for k, v in described.items()}) for index in episodes]
    share = [np.mean([name == known for name in names]) for known in NAMES]
    return described.assign(
        name=("episode", names, {"long_name": "behavior", "units": "1"}),
        share=("behavior", share, {"long_name": "share of episodes", "units": "1"}),
    ).assign_coords(behavior=NAMES)


def longest(dataset: xr.Dataset) -> float:
    """Steps of an episode; infinite in a file of an older crlviz that has no paths."""
    return float(dataset.sizes.get("time", np.inf))


def find_critical_depth(dataset: xr.Dataset) -> critical_depth.Critical:
    """The critical depth in a Dataset from ``compute``, if its agents differ in depth and seed alone."""
    scores = {depth: [part.time_at_goal.values for part in parts] for _, depth, parts in datasets.groups(dataset)}
    if {name for _, facts, _ in datasets.each(dataset) for name in facts} - {"depth", "seed"}:
        return critical_depth.Critical(
            "Critical depth: not looked for, as checkpoints differ in more than depth and seed."
        )
    return critical_depth.find(scores, longest(dataset))


def summary(dataset: xr.Dataset) -> str:
    """Time at goal and the three most frequent behaviors of each checkpoint, and the critical depth, as text."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'time at goal':>12}  behaviors"]
    for label, _, part in datasets.each(dataset):
        order = np.argsort(-part.share.values, kind="stable")[:3]
        named = [f"{NAMES[k]} {part.share.values[k]:.0%}" for k in order if part.share.values[k] > 0]
        rows.append(f"{label:{width}} {part.time_at_goal.values.mean():12.1f}  {', '.join(named)}")
    return "\n".join([*rows, find_critical_depth(dataset).sentence])


__all__ = ["NAMES", "ORDER", "RULES", "behavior", "compute", "find_critical_depth", "summary", "with_current_names"]
