"""What does the agent do at each depth: fall, walk, vault? And at which depth does it learn to? (paper figure 3)"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.behavior import critical_depth
from analyses.behavior.descriptors import DESCRIPTORS, describe
from analyses.common import outputs, seed_plots
from crlviz import charts, datasets, jax_config, options
from crlviz.errors import UsageError
from crlviz.options import OLD_POLICIES, Command, check_count
from crlviz.rendering import video
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
    """

    name: str
    words: str
    holds: Callable[[Mapping[str, float]], bool]
    color: str


# The first rule that holds names an episode. The last rule always holds.
RULES: tuple[Rule, ...] = (
    Rule("vaults", "is over a wall and higher than it", lambda d: d["above_wall"] >= 1, "#5b3fa0"),
    Rule(
        "falls near the goal",
        "fails after it has covered three quarters of the distance to the goal",
        lambda d: d["fell"] == 1 and d["progress"] >= 0.75,
        "#f2c14e",
    ),
    Rule(
        "throws itself",
        "fails while it moves towards the goal at 1 m/s or more",
        lambda d: d["fell"] == 1 and d["fall_speed"] >= 1,
        "#e98a3c",
    ),
    Rule("falls", "fails in any other way", lambda d: d["fell"] == 1, "#c8553d"),
    Rule(
        "stands still",
        "stays within a tenth of the distance to the goal from its start, and never reaches the goal",
        lambda d: d["displacement_over_geodesic"] < 0.1 and not d["time_at_goal"],
        "#c9ccd1",
    ),
    Rule(
        "stuck at a wall",
        "is a chain that swims, touches a wall in half of its steps, moves less than a tenth of the distance to the "
        "goal in the second half of its time, and never reaches the goal",
        lambda d: (
            d["stroke_frequency"] >= 0.2
            and d["wall_contact"] >= 0.5
            and d["late_displacement_over_geodesic"] < 0.1
            and not d["time_at_goal"]
        ),
        "#7d5a50",
    ),
    Rule(
        "loops the corridor",
        "roams more than twice the distance to the goal, and stays there less than half of the time after reaching it",
        lambda d: d["travel_over_geodesic"] > 2 and d["staying"] < 0.5,
        "#b07aa1",
    ),
    Rule(
        "walks upright",
        "reaches the goal with its torso upright (mean cosine of 0.8) and never on the ground",
        lambda d: d["time_at_goal"] > 0 and d["uprightness"] >= 0.8 and d["time_fallen"] == 0,
        "#3a8f5c",
    ),
    Rule(
        "undulates",
        "reaches the goal by waves along its body: neighboring joints go round by 0.3 of a circle or more",
        lambda d: d["time_at_goal"] > 0 and d["wave"] >= 0.3,
        "#2f8f9d",
    ),
    Rule("reaches the goal", "reaches it in any other way", lambda d: d["time_at_goal"] > 0, "#8cc9a1"),
    Rule("never reaches", "moves, stays up, and does not reach the goal", lambda d: True, "#8d939c"),
)
NAMES = [rule.name for rule in RULES]
_SCORE = "steps at the goal, and among equals the share of the way behind it"


def behavior(descriptors: Mapping[str, float]) -> str:
    """Name an episode by its descriptors; absent ones count as NaN."""
    known = dict.fromkeys(DESCRIPTORS, np.nan) | dict(descriptors)
    return next(rule.name for rule in RULES if rule.holds(known))


@jax_config.with_fixed_settings
def compute(agents: Sequence["Agent"], *, episodes: int = 64, policy: str = "mean", seed: int = 0) -> xr.Dataset:
    """Descriptors and names of many episodes of each agent, in its evaluation environment.

    Args:
      agents: with the same body, in similar environments.
      episodes: number of episodes for each agent.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      seed: of starts, goals and the policy's noise.

    Returns:
      Dataset over the factors in which the agents differ, ``episode`` and ``behavior``: the descriptors (defined in
      ``DESCRIPTORS``; attrs ``absent`` lists those that do not apply and why), ``name`` of each episode, ``share`` of
      each name, and ``score``, by which ``pick`` sorts; coordinate ``source``, the checkpoint.

    Raises:
      UsageError: no episodes, or agents to which different descriptors apply.
    """
    parts = [_compute_one(agent, episodes, policy, seed) for agent in agents]
    for agent, part in zip(agents, parts, strict=True):
        if part.attrs["absent"] != parts[0].attrs["absent"]:
            raise UsageError(
                f"{agents[0].source} and {agent.source} have different bodies or worlds; analyze them separately"
            )
    attrs = {
        "env": " and ".join(dict.fromkeys(agent.eval_env.id for agent in agents)),
        "episodes": episodes,
        "policy": policy,
        "seed": seed,
    }
    return datasets.combine(agents, parts, xr.Dataset(attrs=attrs | parts[0].attrs))


def _compute_one(agent: "Agent", episodes: int, policy: str, seed: int) -> xr.Dataset:
    env = agent.eval_env
    described = describe(env, rollout(agent, episodes, seed=seed, policy=policy, env=env))
    names = [behavior({str(k): float(v[index]) for k, v in described.items()}) for index in range(episodes)]
    share = [np.mean([name == known for name in names]) for known in NAMES]
    score = described.time_at_goal + described.progress.fillna(0)
    return described.assign(
        name=("episode", names, {"long_name": "behavior", "units": "1"}),
        share=("behavior", share, {"long_name": "share of episodes", "units": "1"}),
        score=("episode", score.values, {"long_name": _SCORE, "units": "steps"}),
    ).assign_coords(behavior=NAMES, source=str(agent.source))


def find_critical_depth(dataset: xr.Dataset) -> critical_depth.Critical:
    """The critical depth in a Dataset from ``compute``, if its agents differ in depth and seed alone."""
    scores = {depth: [part.time_at_goal.values for part in parts] for _, depth, parts in datasets.groups(dataset)}
    if {name for _, facts, _ in datasets.each(dataset) for name in facts} - {"depth", "seed"}:
        return critical_depth.Critical(
            "Critical depth: not looked for, as checkpoints differ in more than depth and seed."
        )
    return critical_depth.find(scores)


def pick(dataset: xr.Dataset) -> pd.DataFrame:
    """The median and the best episode of each group of seeds, by ``score``; the lower median of an even number.

    Args:
      dataset: from ``compute``.

    Returns:
      Columns ``group``, ``depth``, ``which`` (median or best), ``source`` (the checkpoint), ``episode``, ``score`` and
      ``name``. ``rollout`` of that checkpoint with the dataset's ``episodes`` and ``seed`` reproduces the episode.
    """
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        seed_of = np.concatenate([np.full(part.sizes["episode"], k) for k, part in enumerate(parts)])
        episode = np.concatenate([part.episode.values for part in parts])
        score = np.concatenate([part.score.values for part in parts])
        order = np.argsort(score, kind="stable")
        for which, index in (("median", order[(len(order) - 1) // 2]), ("best", order[-1])):
            part = parts[seed_of[index]]
            rows.append(
                {
                    "group": label,
                    "depth": depth,
                    "which": which,
                    "source": part.source.item(),
                    "episode": int(episode[index]),
                    "score": float(score[index]),
                    "name": str(part.name.values[episode[index]]),
                }
            )
    return pd.DataFrame(rows)


def montage(agents: Sequence["Agent"], dataset: xr.Dataset, path: Path) -> str:
    """Write a video of the median and the best episode (``pick``): one row for each group of seeds, all in sync.

    Args:
      agents: the agents given to ``compute``.
      dataset: from ``compute``.
      path: output file, .mp4 or .gif.

    Returns:
      The renderer, in words.

    Raises:
      As ``crlviz.rendering.video.write``.
    """
    picked, panels = pick(dataset), {}
    for agent in agents:
        own = picked[picked.source == str(agent.source)]
        if not len(own):
            continue
        # Data of an older crlviz have no policy, but whether it was the mean.
        policy = dataset.attrs.get("policy") or ("mean" if dataset.attrs["deterministic"] else "sample")
        runs = rollout(agent, dataset.attrs["episodes"], env=agent.eval_env, seed=dataset.attrs["seed"], policy=policy)
        for row in own.itertuples():
            caption = f"{row.group}, seed {agent.facts['seed']}, {row.which}: {row.name}"
            episode = runs.isel(episode=row.episode).copy(deep=True)  # a view would keep all episodes in memory
            panels[row.Index] = video.Panel(caption, agent.eval_env, episode)
    rows = [[panels[index], panels[index + 1]] for index in range(0, len(picked), 2)]
    return f"drawn by {video.write(path, rows)}"


@charts.self_contained
def plot(dataset: xr.Dataset, *, size: int = 260) -> alt.TopLevelMixin:
    """Draw the share of each behavior, time at goal and the other descriptors, over depth.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      size: height of the bar chart in pixels.
    """
    dataset = datasets.with_current_names(dataset)
    groups = list(datasets.groups(dataset))
    shown = [name for name in DESCRIPTORS if name in dataset and float(abs(dataset[name]).max()) > 0]
    titles = {name: name.replace("_", " ") for name in shown}
    counts = charts.seed_note([len(parts) for _, _, parts in groups])
    notes = [
        find_critical_depth(dataset).sentence,
        f"{dataset.attrs['episodes']} episodes of each checkpoint. Below, means over them; {counts}.",
    ]
    return (
        alt.vconcat(_bars(groups, size), seed_plots.panels(groups, titles), spacing=30)
        .resolve_scale(color="independent")
        .properties(title=alt.TitleParams(f"What agents do in {dataset.attrs['env']}", subtitle=notes))
    )


def _bars(groups: Sequence[tuple[str, int, list[xr.Dataset]]], size: int) -> alt.Chart:
    """Stacked bars: the share of each behavior, one bar for each group of seeds."""
    words = {rule.name: rule.words for rule in RULES}
    data = pd.DataFrame(
        [
            {
                "group": label,
                "behavior": name,
                "order": order,
                "share": float(np.mean([part.share.sel(behavior=name).item() for part in parts])),
                "rule": words[name],
            }
            for label, _, parts in groups
            for order, name in enumerate(NAMES)
        ]
    )
    data = data[data.share > 0]
    axis = charts.label_axis([label for label, _, _ in groups], 90)
    present = [rule for rule in RULES if rule.name in set(data.behavior)]
    return (
        alt.Chart(data)
        .mark_bar(size=46)
        .encode(
            x=alt.X("group:N", sort=[label for label, _, _ in groups], title=None, axis=axis),
            y=alt.Y("share:Q", title="share of episodes", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "behavior:N",
                title=None,
                scale=alt.Scale(domain=[rule.name for rule in present], range=[rule.color for rule in present]),
                legend=alt.Legend(labelLimit=300),
            ),
            order="order:O",
            tooltip=["group:N", "behavior:N", "rule:N", alt.Tooltip("share:Q", format=".2f")],
        )
        .properties(width=max(160, 90 * len(groups)), height=size)
    )


@click.command(cls=Command, old_options=OLD_POLICIES)
@outputs.checkpoints
@outputs.out("behavior.html", "mp4 or gif for a video of each depth's median and best episode")
@click.option("--episodes", type=int, default=64, show_default=True, help="Episodes for each checkpoint.")
@options.policy
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of starts, goals and sampled actions.")
def command(checkpoints: Sequence[Path], out: Sequence[Path], episodes: int, policy: str, seed: int) -> None:
    """Name what agents do, describe it in numbers, and look for the depth at which it changes.

    \b
    Example: crlviz behavior runs/d4 runs/d16 --out behavior.html --out behavior.mp4
    """
    from crlviz.agent import load_all

    outputs.check(out, also=video.ENDINGS)
    check_count(episodes, "episodes")
    agents = load_all(checkpoints)
    dataset = compute(agents, episodes=episodes, policy=policy, seed=seed)
    click.echo(summary(dataset))
    videos = dict.fromkeys(video.ENDINGS, partial(montage, agents, dataset))
    outputs.write(out, dataset, lambda: plot(dataset), videos)


def summary(dataset: xr.Dataset) -> str:
    """Time at goal and the three most frequent behaviors of each checkpoint, and the critical depth, as text."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'time at goal':>12}  behaviors"]
    for label, _, part in datasets.each(dataset):
        order = np.argsort(-part.share.values, kind="stable")[:3]
        named = [f"{NAMES[k]} {part.share.values[k]:.0%}" for k in order if part.share.values[k] > 0]
        rows.append(f"{label:{width}} {part.time_at_goal.values.mean():12.1f}  {', '.join(named)}")
    return "\n".join([*rows, find_critical_depth(dataset).sentence])


__all__ = [
    "NAMES",
    "RULES",
    "behavior",
    "command",
    "compute",
    "find_critical_depth",
    "montage",
    "pick",
    "plot",
    "summary",
]
