"""How often does an agent reach its goals? Success, time at goal and steps to goal, in all and goal by goal."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from analyses import ogbench_episodes
from analyses.common import claims, outputs
from crlviz import charts, datasets, jax_config, options
from crlviz.algorithms import action_choice
from crlviz.algorithms.action_choice import ActionChoice
from crlviz.algorithms.base import Algorithm
from crlviz.checkpoints import atomic_files
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.options import OLD_POLICIES, Command, check_count
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent
    from crlviz.envs.mazes import Maze

EPISODES = 128  # as in an evaluation of the paper
HOW_TO_READ = (
    "Left: the share of new episodes that reach their goal; a small mark is a seed, a large one their mean. Right: the "
    "same at each goal cell, over all seeds of a group; the ring is the start. Cells without color were no goal."
)
_CONFIDENCE = 0.95


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"],
    *,
    episodes: int = EPISODES,
    policy: str = "mean",
    length: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Run new episodes in each agent's evaluation environment, which draws the starts and goals.

    Agents trained on a data set of OGBench without an environment run in OGBench's environment (``ogbench_episodes``).
    There, task numbers stand for goals. Agents of the same environment get the same starts and goals.

    Args:
      agents: from ``crlviz.load``.
      episodes: number of episodes for each agent.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      length: steps of an episode; default: the environment's.
      seed: of starts, goals and the policy's noise.

    Returns:
      Dataset over the factors in which the agents differ, and ``episode``: ``success``, ``time_at_goal`` (steps),
      ``steps_to_goal`` (until the first step at the goal; NaN where it is not reached), and ``start`` and ``goal``
      [episode, axis] in meters.

    Raises:
      UsageError: fewer than one episode or step, or two agents that do not differ.
    """
    check_count(episodes, "episodes")
    if length is not None:
        check_count(length, "steps")
    choice = action_choice.for_agents(policy, agents)
    parts = [_compute_one(agent, episodes, choice, length, seed) for agent in agents]
    shared = xr.Dataset(
        coords={"episode": np.arange(episodes), "axis": list("xyz")[: parts[0].sizes["axis"]]},
        attrs={"env": datasets.env_names(agents), "seed": seed, "policy": policy, charts.HELP: HOW_TO_READ},
    )
    return datasets.combine(agents, parts, shared)


def _compute_one(agent: "Agent", episodes: int, choice: ActionChoice, length: int | None, seed: int) -> xr.Dataset:
    if agent.config["env"]:
        env = agent.eval_env
        steps, key = length or env.episode_length, jax.random.key(seed)
        found = _run(env, episodes, steps, choice, agent.algorithm, agent.params, key)
        goal, place = "commanded goal", "m"
    else:
        if choice != action_choice.read("mean"):
            raise UsageError(f"{agent.source} runs in OGBench's environment, with --policy mean only")
        found = ogbench_episodes.run(agent, episodes, length, seed)
        goal, place = "number of the task", "1"
    starts, goals, at_goal = map(np.asarray, found)
    reached = at_goal.any(0)
    first = np.where(reached, at_goal.argmax(0) + 1.0, np.nan)
    return xr.Dataset(
        {
            "success": ("episode", reached, {"long_name": "reached its goal", "units": "1"}),
            "time_at_goal": ("episode", at_goal.sum(0), {"long_name": "time at goal", "units": "steps"}),
            "steps_to_goal": ("episode", first, {"long_name": "steps to the goal", "units": "steps"}),
            "start": (("episode", "axis"), starts[:, : goals.shape[1]], {"long_name": "start", "units": "m"}),
            "goal": (("episode", "axis"), goals, {"long_name": goal, "units": place}),
        }
    )


@partial(jax.jit, static_argnums=range(5))
def _run(
    env: GoalEnv, episodes: int, length: int, choice: ActionChoice, algorithm: Algorithm, params: Any, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Starts and goals [episodes, goal] in meters, and which steps are at the goal [length, episodes].

    Traced once for all agents with the same environment and network shape.
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

    def record(before, action, after, alive):
        return (after.metrics["success"] > 0) & alive

    starts = states.obs[:, jnp.array(env.goal_indices)]
    at_goal = simulate(env, partial(choice.act, algorithm, params), states, policy_key, length, record)
    return starts, states.obs[:, env.state_dim :], at_goal


def interval(reached: int, episodes: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of episodes (Clopper and Pearson): it covers at least what it says.

    It covers one agent and its random episodes, not other training seeds.
    """
    from scipy.stats import binomtest

    low, high = binomtest(reached, episodes).proportion_ci(_CONFIDENCE, method="exact")
    return float(low), float(high)


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """A row for each checkpoint and all of its goals, then a row for each of its goals.

    Args:
      dataset: from ``compute``, or read back from netCDF.

    Returns:
      Columns ``checkpoint``, ``goal`` ("all", or its place in meters), ``x``, ``y``, ``episodes``, ``success`` (share),
      ``low`` and ``high`` (its 95 % ``interval``), ``time_at_goal`` and ``steps_to_goal`` (means in steps; the latter
      over the episodes that reach the goal). Goals that are drawn from a continuous range have no rows of their own.
    """
    rows = []
    for label, _, part in datasets.each(dataset):
        rows.append({"checkpoint": label, "goal": "all", "x": np.nan, "y": np.nan} | _scores(part))
        places, index = np.unique(part.goal.values.round(2), axis=0, return_inverse=True)
        if len(places) > part.sizes["episode"] / 2:
            continue
        for number, place in enumerate(places):
            name = ",".join(f"{value:g}" for value in place)
            here = part.isel(episode=np.flatnonzero(index.ravel() == number))
            rows.append({"checkpoint": label, "goal": name, "x": place[0], "y": [*place, np.nan][1]} | _scores(here))
    return pd.DataFrame(rows)


def _scores(part: xr.Dataset) -> dict[str, float]:
    """The scores of some episodes of one agent."""
    episodes, reached = part.sizes["episode"], int(part.success.sum())
    low, high = interval(reached, episodes)
    steps = float(part.steps_to_goal.mean()) if reached else np.nan
    share, time = reached / episodes, float(part.time_at_goal.mean())
    names = ("episodes", "success", "low", "high", "time_at_goal", "steps_to_goal")
    return dict(zip(names, (episodes, share, low, high, time, steps), strict=True))


def summary(dataset: xr.Dataset) -> str:
    """The scores of each checkpoint, and of each group of seeds, as a text table."""
    scores = table(dataset)
    scores = scores[scores.goal == "all"]
    width = outputs.label_width(dataset)
    lines = [f"{'checkpoint':{width}}{'success':>9}{'95 % interval':>16}{'time at goal':>14}{'steps to goal':>15}"]
    for row in scores.itertuples():
        span = f"{row.low:.2f} to {row.high:.2f}"
        steps = "-" if np.isnan(row.steps_to_goal) else f"{row.steps_to_goal:.0f}"
        lines.append(f"{row.checkpoint:{width}}{row.success:9.2f}{span:>16}{row.time_at_goal:14.1f}{steps:>15}")
    lines.append(
        f"the interval is about {scores.episodes.iloc[0]} episodes of one agent; how much seeds differ, the rows show"
    )
    groups = list(datasets.groups(dataset))
    if max(len(parts) for _, _, parts in groups) > 1:
        lines += ["", f"{'mean over seeds':{width}}{'success':>9}{'time at goal':>14}  seeds"]
        for label, _, parts in groups:
            success, time = (np.array([float(part[name].mean()) for part in parts]) for name in _MEANS)
            seeds = " ".join(f"{value:.2f}" for value in success)
            lines.append(f"{label:{width}}{success.mean():9.2f}{time.mean():14.1f}  {seeds}")
    return "\n".join(lines)


_STARTS = 4  # cells marked on a map at most
_MEANS = ("success", "time_at_goal")


def title(dataset: xr.Dataset) -> str:
    """What the scores say, in words.

    "Depth 16 reaches 61 % of its goals, against 48 % (depth 4)", or that the seeds cannot tell them apart
    (``claims.about``). Of several algorithms at several depths: which of them gain from depth.
    """
    if gains := claims.gains(_by_algorithm(dataset), largest=1.0):
        return claims.of_gains(gains)
    scores = {label: [float(part.success.mean()) for part in parts] for label, _, parts in _groups(dataset)}
    return claims.of_metric(scores, "success")


def _by_algorithm(dataset: xr.Dataset) -> dict[str, dict[int, list[float]]]:
    """Algorithm -> depth -> success of each seed; empty if the groups do not differ in just these two."""
    scores: dict[str, dict[int, list[float]]] = {}
    groups = _groups(dataset)
    for _, depth, parts in groups:
        algorithm = str(parts[0].coords.get("algorithm", xr.DataArray("")).item())
        scores.setdefault(algorithm, {})[depth] = [float(part.success.mean()) for part in parts]
    return scores if len(scores) > 1 and sum(map(len, scores.values())) == len(groups) else {}


def _groups(dataset: xr.Dataset) -> list[tuple[str, int, list[xr.Dataset]]]:
    return list(datasets.groups(dataset))


@charts.self_contained
def plot(dataset: xr.Dataset, *, maze: "Maze | None" = None, size: int = 220) -> alt.TopLevelMixin:
    """Draw the success of each group of seeds, and beside it, with a maze, success at each goal.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      maze: the maze that the agents walk in; None: no map.
      size: pixels of a map's longer side.
    """
    groups = _groups(dataset)
    order, depths = [label for label, _, _ in groups], [depth for _, depth, _ in groups]
    shares = [[float(part.success.mean()) for part in parts] for _, _, parts in groups]
    marked = pd.DataFrame({"group": order, "values": shares, "value": [float(np.mean(values)) for values in shares]})
    y = alt.Y("value:Q", title="goals reached (share)", scale=alt.Scale(domain=[0, 1]))
    room = max(60, min(120, 640 / len(order)))
    x = alt.X("group:N", sort=order, title=None, axis=charts.label_axis(order, room))
    colors = alt.Scale(domain=order, range=[charts.depth_color(depth) for depth in depths])
    marks = charts.seed_marks(
        marked, y, x=x, color=alt.Color("group:N", scale=colors, legend=None), tooltip=["group", "value"]
    )
    strip = alt.layer(*marks).properties(
        width=room * len(order), height=size, title=charts.panel_title("all goals", size)
    )
    figure: Any = strip
    if maze is not None and (table(dataset).goal != "all").any():
        titles = charts.panel_titles(order, size)
        maps = [_map(parts, name, maze, size) for (_, _, parts), name in zip(groups, titles, strict=True)]
        beside = charts.row(*maps, columns=3, spacing=24)
        if any(len(_starts(parts, maze)) for _, _, parts in groups):
            beside = alt.vconcat(beside, charts.key({"start": "start"}), spacing=12)
        figure = charts.row(strip, beside, spacing=24)
    seeds = charts.seed_note([len(parts) for _, _, parts in groups])
    note = f"{dataset.attrs['env']}; {dataset.sizes['episode']} episodes an agent; {seeds}"
    return charts.claimed(figure, title(dataset), note, HOW_TO_READ)


def _map(
    parts: Sequence[xr.Dataset], title: alt.TitleParams, maze: "Maze", size: int
) -> alt.LayerChart | alt.FacetChart:
    """A maze with its goal cells colored by success, the mean over one group of seeds."""
    ground = charts.in_meters(maze, charts.inside(maze), size)
    goals = np.concatenate([part.goal.values[:, :2] for part in parts])
    success = np.concatenate([part.success.values for part in parts])
    cells, index = np.unique(maze.cell(goals), axis=0, return_inverse=True)
    centers = maze.xy(cells)
    data = charts.tiles(centers[:, 0], centers[:, 1], maze.cell_size)
    counts = np.bincount(index.ravel())
    data["success"] = (np.bincount(index.ravel(), success) / counts).round(3)
    data["episodes"] = counts
    color = alt.Color(
        "success:Q",
        scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(title="goals reached", gradientLength=120, format=".0%"),
    )
    tiles = (
        alt.Chart(data)
        .mark_rect(strokeWidth=1)
        .encode(x=ground["x"], x2="y2:Q", y=ground["y"], y2="x2:Q", tooltip=["success", "episodes"])
        # Strokes have the tiles' colors, so that no background shows between tiles.
        .encode(color=color, stroke=alt.Stroke("success:Q", scale=color["scale"], legend=None))
    )
    starts = _starts(parts, maze)
    return alt.layer(
        charts.walls(maze, ground), tiles, *([charts.marker(starts, ground, "start")] if len(starts) else [])
    ).properties(width=ground["width"], height=ground["height"], view=ground["view"], title=title)


def _starts(parts: Sequence[xr.Dataset], maze: "Maze") -> np.ndarray:
    """Centers [N, 2] of the cells in which episodes started; none if they are too many to mark."""
    starts = np.unique(np.concatenate([maze.xy(maze.cell(part.start.values[:, :2])) for part in parts]), axis=0)
    return starts[: len(starts) if len(starts) <= _STARTS else 0]


@click.command(cls=Command, old_options=OLD_POLICIES)
@outputs.checkpoints
@outputs.out("eval.html", "csv for the scores, goal by goal")
@click.option("--episodes", type=int, default=EPISODES, show_default=True, help="Episodes of each checkpoint.")
@options.policy
@click.option("--length", type=int, help="Steps of an episode; default: the environment's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of starts, goals and sampled actions.")
def command(
    checkpoints: Sequence[Path], out: Sequence[Path], episodes: int, policy: str, length: int | None, seed: int
) -> None:
    """Score agents on new episodes: success, time at goal and steps to goal, in all and goal by goal.

    \b
    Example: crlviz eval runs/d4 runs/d16 --episodes 500 --out eval.html --out eval.csv
    """
    from crlviz.agent import load_all

    outputs.check(out, (".csv",))
    check_count(episodes, "episodes")
    agents = load_all(checkpoints)
    dataset = compute(agents, episodes=episodes, policy=policy, length=length, seed=seed)
    click.echo(summary(dataset))
    mazes = [agent.eval_env.maze if agent.config["env"] else None for agent in agents]
    maze = mazes[0]
    same = all(each is not None and each.same_ground(maze) for each in mazes)
    others: Mapping[str, Any] = {".csv": lambda path: _write_csv(dataset, path)}
    outputs.write(out, dataset, lambda: plot(dataset, maze=maze if same else None), others)


def _write_csv(dataset: xr.Dataset, path: Path) -> None:
    atomic_files.write(path, table(dataset).to_csv(index=False).encode())


__all__ = ["EPISODES", "command", "compute", "interval", "plot", "summary", "table", "title"]
