"""How does the encoder spread states along a trajectory? Principal components of phi(s, a) (paper figure 10)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import claims, outputs, seed_plots
from crlviz import charts, datasets, jax_config, statistics
from crlviz.algorithms.base import HasEmbeddings
from crlviz.errors import UsageError
from crlviz.options import check_choice, check_count
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

NUMBERS = {
    "spread_ratio": "move of phi in a meter near the goal, over that elsewhere",
    "effective_rank": "effective rank of phi along the trajectory",
}
HOW_TO_READ = (
    "First: how far phi moves in a meter near the goal, over how far it moves elsewhere, a small mark a seed; at the "
    "line both are equal. Below: each point is phi(s, a) of a step of the trajectory, on the first two principal "
    "components of phi along it (in parentheses their shares of the variance), to one scale; the color is the distance "
    "to the goal, and the star is psi of the goal. Near the goal means within half the distance at which the "
    "trajectory starts. The move in a meter is the spread of phi over the spread of the positions in meters; above 1, "
    "the encoder separates positions near the goal more than "
    "others. Effective rank: how many dimensions phi fills along the trajectory, from 1 (a line)."
)
_NEAR = 0.5  # a state is near the goal within this share of the first state's distance


@jax_config.with_fixed_settings
def compute(agents: Sequence["Agent"], *, trajectory: str = "shared", episodes: int = 32, seed: int = 0) -> xr.Dataset:
    """Embeddings phi(s, a) along a trajectory, and psi(g) of its goal.

    The trajectory is chosen among episodes of the deterministic policy. Of the episodes that reach their goal, it is
    the one with the farthest start, up to the step that reaches the goal. If no episode reaches its goal, it is the
    episode that comes nearest. The variable ``reached`` says which case applies.

    Args:
      agents: of any environments; of one environment if they share a trajectory.
      trajectory: ``shared`` (all agents embed the states and actions of the agent that reaches most goals, so that only
        the encoders differ) or ``own`` (each agent its own).
      episodes: number of episodes to choose from.
      seed: of those episodes.

    Returns:
      Dataset over the factors in which the agents differ, ``time`` (steps) and ``component`` (1, 2): ``phi`` and
      ``psi`` projected on the first two principal components of phi [T, 64] over the trajectory, ``explained`` (the
      components' shares of the variance), ``distance`` (to the goal in meters; through the maze, if there is one),
      ``reached`` and two numbers.

      ``spread_ratio``: the spread of the states near the goal (within half the first state's distance), divided by the
      spread of the other states. Above 1, the encoder separates positions near the goal more than others. The spread of
      a set of states is the RMS distance of their phi [64] from its mean, divided by the same for their achieved goals
      in meters. The division removes the effect of path length.

      ``effective_rank``: exp of the entropy of the shares of variance of all components, from 1 (a line) to 64. As in
      Roy & Vetterli (2007), with squared singular values in place of singular values.

    Raises:
      UsageError: unknown trajectory, no episodes, different environments with a shared trajectory, or an agent without
        embeddings.
    """
    check_choice("trajectory", trajectory, ("shared", "own"))
    for agent in agents:
        agent.having(HasEmbeddings)
    for agent in agents[1:] if trajectory == "shared" else ():
        shape, first = (agent.env.state_dim, agent.env.goal_dim), agents[0].env
        if shape != (first.state_dim, first.goal_dim):
            raise UsageError(
                f"{agents[0].source} and {agent.source} have different environments and cannot share a trajectory; "
                "take --trajectory own"
            )
    runs = [rollout(agent, episodes, seed=seed) for agent in agents]
    paths = [_choose_trajectory(agent, run) for agent, run in zip(agents, runs, strict=True)]
    if trajectory == "shared":
        best = max(range(len(runs)), key=lambda k: float(runs[k].success.any("time").mean()))
        paths = [paths[best]] * len(agents)
    longest = max(path.sizes["time"] for path in paths)
    parts = [_embed(agent, path).reindex(time=np.arange(longest)) for agent, path in zip(agents, paths, strict=True)]
    attrs = {"env": datasets.env_names(agents), "trajectory": trajectory, charts.HELP: HOW_TO_READ}
    return datasets.combine(agents, parts, xr.Dataset(attrs=attrs))


def _choose_trajectory(agent: "Agent", runs: xr.Dataset) -> xr.Dataset:
    """The chosen episode of a rollout, until it fails or reaches its goal; ``place`` is the achieved goal."""
    env = agent.env
    places = runs.state.values[..., list(env.goal_indices)]
    goals = runs.goal.values
    distance = np.linalg.norm(places - goals[:, None], axis=-1)
    reached = runs.success.values.any(axis=1)
    order = [(r, d[0] if r else -d.min()) for r, d in zip(reached, distance, strict=True)]
    index = max(range(len(order)), key=lambda k: order[k])
    success = runs.success.values[index]
    kept = runs.alive.values[index] & (
        np.cumsum(success) - success == 0
    )  # steps after it has reached the goal are left out
    if env.maze is not None:
        distance[index] = env.maze.geodesic(places[index][:, :2], goals[index][:2])
    return xr.Dataset(
        {
            "state": (("time", "state_index"), runs.state.values[index][kept]),
            "action": (("time", "action_index"), runs.action.values[index][kept]),
            "place": (("time", "goal_index"), places[index][kept]),
            "distance": ("time", distance[index][kept]),
            "goal": ("goal_index", goals[index]),
            "reached": reached[index],
        },
        coords={"time": np.arange(kept.sum())},
    )


def _embed(agent: "Agent", path: xr.Dataset) -> xr.Dataset:
    """The variables of ``compute`` for one agent and trajectory."""
    phi = np.asarray(agent.embed(path.state.values, path.action.values), float)
    psi = np.asarray(agent.embed_goal(path.goal.values), float)
    axes, shares = principal(phi)
    distance = path.distance.values
    near = distance < _NEAR * distance[0]
    spreads = [_spread(phi[part]) / _spread(path.place.values[part]) for part in (near, ~near) if part.sum() > 1]
    ratio = spreads[0] / spreads[1] if len(spreads) == 2 else np.nan
    dims = ("time", "component")
    return xr.Dataset(
        {
            "phi": (dims, (phi - phi.mean(0)) @ axes[:2].T, {"long_name": "principal component of phi", "units": "1"}),
            "psi": ("component", axes[:2] @ (psi - phi.mean(0)), {"long_name": "psi of the goal, there", "units": "1"}),
            "explained": ("component", shares[:2], {"long_name": "share of the variance", "units": "1"}),
            "distance": ("time", distance, {"long_name": "distance to the goal", "units": "m"}),
            "reached": (
                (),
                float(path.reached),
                {"long_name": "whether the trajectory reached the goal", "units": "1"},
            ),
            "spread_ratio": ((), ratio, {"long_name": NUMBERS["spread_ratio"], "units": "1"}),
            "effective_rank": ((), effective_rank(shares), {"long_name": NUMBERS["effective_rank"], "units": "1"}),
        },
        coords={"time": path.time, "component": [1, 2]},
    )


def principal(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes [K, n] of points [T, n], and their shares of the variance [K].

    The largest entry of each axis is positive. There are at least two axes. If all points are equal, the shares are 0.
    """
    centered = points - points.mean(0)
    if len(centered) < 2:
        centered = np.concatenate([centered, centered])
    _, values, axes = np.linalg.svd(centered, full_matrices=False)
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    total = (values**2).sum()
    return axes * np.sign(largest), values**2 / total if total > 0 else np.zeros(len(values))


def effective_rank(shares: np.ndarray) -> float:
    """Effective rank: exp of the entropy of shares [K] that sum to 1."""
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _spread(points: np.ndarray) -> float:
    """Root mean square distance of points [N, n] from their mean; NaN if they are all equal."""
    spread = np.sqrt(((points - points.mean(0)) ** 2).sum(1).mean())
    return float(spread) if spread > 0 else np.nan


@charts.self_contained
def plot(dataset: xr.Dataset, *, size: int = 240) -> alt.TopLevelMixin:
    """Draw how far phi moves near the goal against elsewhere, and the first seed's trajectory at each depth.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      size: side of a panel in pixels.
    """
    groups = list(datasets.groups(dataset))
    several = max(len(parts) for _, _, parts in groups) > 1
    titles = charts.panel_titles([label + ", first seed" * several for label, _, _ in groups], size)
    for (_, _, parts), title in zip(groups, titles, strict=True):
        title.subtitle, title.subtitleFontSize = _caption(parts[0]), charts.font(11)
    panels = [_panel(parts[0], title, size) for (_, _, parts), title in zip(groups, titles, strict=True)]
    marks = {"path": "phi(s, a), step after step", "goal": "psi(g) of the goal"}
    rows: list[Any] = [alt.vconcat(charts.row(*panels, columns=4, spacing=24), charts.key(marks), spacing=18)]
    if any(part.spread_ratio.notnull() for _, _, parts in groups for part in parts):
        rows.insert(0, _moves(groups, 2 * size))
    if several:
        rows.append(seed_plots.panels(groups, {"effective_rank": NUMBERS["effective_rank"]}))
    source = "the same trajectory" if dataset.attrs["trajectory"] == "shared" else "a trajectory of its own for each"
    end = "" if float(dataset.reached.min()) else ", which comes near its goal and does not reach it"
    note = f"{dataset.attrs['env']}; {source}{end}; {charts.seed_note([len(parts) for _, _, parts in groups])}"
    picture = alt.vconcat(*rows, spacing=24).resolve_scale(color="independent")
    return charts.claimed(picture, claim(dataset), note, HOW_TO_READ)


def claim(dataset: xr.Dataset) -> str:
    """How much phi stretches space near the goal, in words."""
    ratios = {label: [part.spread_ratio.item() for part in parts] for label, _, parts in datasets.groups(dataset)}
    known = {label: [value for value in values if np.isfinite(value)] for label, values in ratios.items()}
    known = {label: values for label, values in known.items() if values}
    if not known:
        return "No state of these trajectories lies near the goal"
    means = {label: f"{np.mean(values):.2f}" for label, values in known.items()}
    first, last = next(iter(known)), list(known)[-1]
    other = f" ({first}: {means[first]})" if len(known) > 1 else ""
    told = (
        f"Per meter, the state embedding moves {means[last]} times as far near the goal as elsewhere at {last}{other}"
    )
    verdict = claims.undecided(statistics.compare(known[last], known[first])) if len(known) > 1 else ""
    return "; ".join(filter(None, [told, verdict, claims.unmeasured(ratios)]))


def _moves(groups: Sequence[tuple[str, int, list[xr.Dataset]]], width: int) -> alt.LayerChart | alt.FacetChart:
    """What the title says: the ratio of each group of seeds, beside a line where phi moves alike everywhere."""
    rows = []
    for label, depth, parts in groups:
        ratios = [part.spread_ratio.item() for part in parts if part.spread_ratio.notnull()]
        mean = {"value": float(np.mean(ratios)), "values": ratios} if ratios else {"value": np.nan, "values": [np.nan]}
        rows.append({"group": label, "color": charts.depth_color(depth), **mean})
    data = pd.DataFrame(rows)
    order = data.group.tolist()
    x = alt.X(
        "value:Q",
        title=[
            "move of phi in a meter, near the goal over elsewhere",
            "\u2190 more elsewhere\u2003more near it \u2192",
        ],
        scale=alt.Scale(domain=[0, 1.1 * max(1.0, float(data["values"].explode().max()))], nice=False),
        axis=alt.Axis(grid=False, tickCount=5, titlePadding=8),
    )
    axis = alt.Axis(labelLimit=400, ticks=False, domain=False)
    y = alt.Y("group:N", sort=order, title=None, axis=axis, scale=alt.Scale(domain=order))
    color = alt.Color("color:N", scale=None)
    at_one = alt.Chart(pd.DataFrame({"value": [1.0], "words": ["alike everywhere"]}))
    alike = at_one.mark_rule(color=charts.ink(0.6)).encode(x=x)
    named = at_one.mark_text(baseline="bottom", dy=-4, color=charts.ink(0.7)).encode(
        x=x, y=alt.value(0), text="words:N"
    )
    marks = charts.seed_marks(data.dropna(subset="value"), x, y=y, color=color, tooltip=["group:N", "value:Q"])
    return charts.layers(alike, named, *marks).properties(width=width, height=charts.font(26) * max(2, len(order)))


def _caption(part: xr.Dataset) -> list[str]:
    near = "" if part.spread_ratio.notnull() else "never near its goal; "
    return [f"{near}effective rank {part.effective_rank.item():.2f}"]


def _panel(part: xr.Dataset, title: alt.TitleParams, size: int) -> alt.LayerChart | alt.FacetChart:
    """One seed's trajectory on the first two principal components, with psi of the goal."""
    known = np.isfinite(part.distance.values)
    phi, psi = part.phi.values[known], part.psi.values
    data = pd.DataFrame({"first": phi[:, 0], "second": phi[:, 1], "distance": part.distance.values[known]}).round(4)
    data["step"] = np.arange(len(data))
    goal = pd.DataFrame({"first": [psi[0]], "second": [psi[1]]}).round(4)
    both = np.concatenate([phi, psi[None]])
    middle, half = (both.max(0) + both.min(0)) / 2, 0.55 * max(np.ptp(both, axis=0).max(), 1e-6)
    axes = {}
    for k, (name, kind) in enumerate((("first", alt.X), ("second", alt.Y))):
        scale = alt.Scale(domain=[float(middle[k] - half), float(middle[k] + half)], nice=False, zero=False)
        words = f"component {k + 1} ({100 * part.explained.values[k]:.0f}\u00a0%)"
        axes["xy"[k]] = kind(f"{name}:Q", title=words, axis=alt.Axis(grid=False), scale=scale)
    color = alt.Color(
        "distance:Q", title="to the goal (m)", scale=alt.Scale(scheme="viridis", reverse=True),
        legend=alt.Legend(gradientLength=120),
    )  # fmt: skip
    base = alt.Chart(data)
    star = alt.Chart(goal).mark_point(
        shape=charts.STAR, size=220, filled=True, fill=charts.GOAL, stroke="black", strokeWidth=1.2, opacity=1
    )
    return alt.layer(
        base.mark_line(color=charts.ink(0.25), strokeWidth=1).encode(**axes, order="step:Q"),
        base.mark_point(filled=True, size=28, opacity=0.9).encode(
            **axes, color=color, tooltip=["step:Q", "distance:Q"]
        ),
        star.encode(**axes),
    ).properties(
        width=size,
        height=size,
        title=title,
    )


@click.command()
@outputs.checkpoints
@outputs.out("embed.html")
@click.option(
    "--trajectory", default="shared", show_default=True, help="Trajectory to embed: shared (the best agent's) or own."
)
@click.option("--episodes", type=int, default=32, show_default=True, help="Episodes to choose a trajectory from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of those episodes.")
def command(checkpoints: Sequence[Path], out: Sequence[Path], trajectory: str, episodes: int, seed: int) -> None:
    """Draw the embeddings phi(s, a) along a successful trajectory, and psi of its goal.

    \b
    Example: crlviz embed runs/d4 runs/d16 --out embed.png
    """
    from crlviz.agent import load_all

    outputs.check(out)
    check_choice("trajectory", trajectory, ("shared", "own"))
    check_count(episodes, "episodes")
    dataset = compute(load_all(checkpoints), trajectory=trajectory, episodes=episodes, seed=seed)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset))


def summary(dataset: xr.Dataset) -> str:
    """The two numbers of each checkpoint as a text table."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'near/elsewhere':>15} {'effective rank':>15} {'first two':>10}"]
    for label, _, part in datasets.each(dataset):
        ratio = part.spread_ratio.item()
        rows.append(
            f"{label:{width}} {format(ratio, '15.2f') if np.isfinite(ratio) else 'never near':>15} "
            f"{part.effective_rank.item():15.2f} "
            f"{part.explained.values.sum():10.0%}"
        )
    return "\n".join(rows)


__all__ = ["NUMBERS", "command", "compute", "effective_rank", "plot", "principal", "summary"]
