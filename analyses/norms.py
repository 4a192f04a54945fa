"""How much does each residual block add (paper figure 17), and how wide do the outputs of policy and phi spread?"""

import dataclasses
from collections.abc import Sequence
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

from analyses.common import claims, outputs
from analyses.sweeps.scaling_panels import styles
from crlviz import charts, datasets, jax_config
from crlviz.algorithms.base import HasEmbeddings
from crlviz.errors import UsageError
from crlviz.networks import residual
from crlviz.options import check_count
from crlviz.precision import exact
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

NETWORKS = ("actor", "phi", "psi")
_MAX_STATES = 4096  # drawn from the episodes' steps
_FEW = 16  # blocks whose seeds have marks
HOW_TO_READ = (
    "First: the L2 norm of what each residual block adds to its input, the mean over states that the policy visits. A "
    "block near zero passes its input on. Below, over the same states: the share of sampled actions near their limits, "
    "the policy's entropy, the distance from phi to psi of the commanded goal, and how far phi spreads around its mean."
)
_SATURATED = 0.99
# What is measured of the networks' outputs: the variable, its long name and its units.
OUTPUTS = {
    "saturation": ("share of sampled actions beyond 0.99", "1"),
    "entropy": ("entropy of the policy", "nats"),
    "distance": ("distance from phi to psi of the commanded goal", "1"),
    "spread": ("distance of phi from its mean over states", "1"),
}


@jax_config.with_fixed_settings
def compute(agents: Sequence["Agent"], *, episodes: int = 32, seed: int = 0, start: bool = False) -> xr.Dataset:
    """Norms of the outputs of residual blocks before the skip connection, and measures of the networks' outputs.

    The inputs come from episodes of the deterministic policy in its own environment; at most 4,096 of their steps are
    drawn. The actor's input is the state and the commanded goal, phi's the state and the action, psi's the achieved
    goal.

    Args:
      agents: of any environments.
      episodes: number of episodes for each agent.
      seed: of the episodes, of the draw of steps and of the sampled actions.
      start: measure networks as they begin instead: fresh ones with the settings and the seed of each agent.

    Returns:
      Dataset over the factors in which the agents differ, ``part`` (actor, phi, psi) and ``block`` (from 1, in order):
      ``norm``, the mean over states of the L2 norm. NaN for blocks that a network does not have. And without ``part``
      and ``block``, means over the same states, with actions that the policy samples: ``saturation``, the share of
      their components beyond 0.99; ``entropy``, minus their log probability in nats; ``distance``, from phi to psi of
      the commanded goal; ``spread``, of phi from its mean.

    Raises:
      UsageError: no episodes, or an agent without these networks or without residual blocks.
    """
    for agent in agents:
        agent.having(HasEmbeddings)
        missing = [name for name in NETWORKS if name not in _parameters(agent)]
        if missing:
            raise UsageError(f"{agent.source} has no residual network called {' or '.join(missing)}")
        if not any("blocks" in params for params in _parameters(agent).values()):
            depth = max(agent.actor.config.depth, agent.critic.config.depth)
            raise UsageError(f"{agent.source} has no block of four layers: its networks have depth {depth} at most")
    parts = [_compute_one(_fresh(agent) if start else agent, episodes, seed) for agent in agents]
    most = max(part.sizes["block"] for part in parts)
    parts = [part.reindex(block=np.arange(1, most + 1)) for part in parts]
    attrs = {"env": datasets.env_names(agents), "episodes": episodes, "start": int(start), charts.HELP: HOW_TO_READ}
    return datasets.combine(agents, parts, xr.Dataset(attrs=attrs))


def _fresh(agent: "Agent") -> "Agent":
    """The agent with initial parameters, drawn with the seed of its run."""
    actor_key, critic_key = jax.random.split(jax.random.key(agent.config["seed"]))
    params = {"actor": agent.actor.init(actor_key), "critic": agent.critic.init(critic_key)}
    return dataclasses.replace(agent, params=params)


def _parameters(agent: "Agent") -> dict[str, Any]:
    """Parameters of those of ``NETWORKS`` that the agent has, by name."""
    return {"actor": agent.params["actor"]} | {
        name: agent.params["critic"][name] for name in NETWORKS[1:] if name in agent.params["critic"]
    }


def _compute_one(agent: "Agent", episodes: int, seed: int) -> xr.Dataset:
    runs = rollout(agent, episodes, seed=seed)
    alive = runs.alive.values
    goals = np.broadcast_to(runs.goal.values[:, None], runs.achieved.shape)[alive]
    state, action, achieved = (runs[name].values[alive] for name in ("state", "action", "achieved"))
    drawn = np.random.default_rng(seed).permutation(len(state))[:_MAX_STATES]
    inputs = {"actor": [state, goals], "phi": [state, action], "psi": [achieved]}
    configs = {"actor": agent.actor.config, "phi": agent.critic.config, "psi": agent.critic.config}
    norms = [
        np.asarray(_norms(configs[name], params, np.concatenate(inputs[name], axis=1)[drawn]))
        for name, params in _parameters(agent).items()
    ]
    padded = np.full((len(NETWORKS), max(map(len, norms))), np.nan)
    for row, values in zip(padded, norms, strict=True):
        row[: len(values)] = values
    noise = jax.random.normal(jax.random.key(seed), action[drawn].shape)
    measured = _outputs(agent.actor, agent.critic, agent.params, state[drawn], goals[drawn], noise)
    variables = {
        name: ((), float(value), {"long_name": long_name, "units": units})
        for value, (name, (long_name, units)) in zip(measured, OUTPUTS.items(), strict=True)
    }
    return xr.Dataset(
        variables | {"norm": (("part", "block"), padded, {"long_name": "L2 norm of what a block adds", "units": "1"})},
        coords={"part": list(NETWORKS), "block": np.arange(1, padded.shape[1] + 1)},
    )


@partial(jax.jit, static_argnums=0)
def _norms(config: residual.NetworkConfig, params: Any, inputs: jax.Array) -> jax.Array:
    """Norm of each block's output [blocks], mean over inputs [B, n]."""
    return residual.contributions(config, params, inputs).mean(axis=1)


@partial(jax.jit, static_argnums=(0, 1))
def _outputs(
    actor: residual.Actor, critic: residual.Critic, params: Any, state: jax.Array, goal: jax.Array, noise: jax.Array
) -> list[jax.Array]:
    """``OUTPUTS`` in order, for states [B, n], goals [B, g] and standard normal noise [B, action]."""
    with exact():
        action, log_prob = actor.sample(params["actor"], jnp.concatenate([state, goal], axis=-1), noise)
        phi, psi = critic.phi(params["critic"], state, action), critic.psi(params["critic"], goal)
    saturated = (jnp.abs(action) > _SATURATED).mean()
    spread = jnp.linalg.norm(phi - phi.mean(0), axis=-1).mean()
    return [saturated, -log_prob.mean(), residual.distance(phi, psi).mean(), spread]


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row for each group, part and block: ``values``, the norm of each seed, and ``value``, their mean."""
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        for name in NETWORKS:
            for block in dataset.block.values:
                norms = [part.norm.sel(part=name, block=block).item() for part in parts]
                if not np.isfinite(norms).all():
                    continue
                rows.append(
                    {
                        "group": label,
                        "depth": depth,
                        "part": name,
                        "block": int(block),
                        "values": norms,
                        "value": float(np.mean(norms)),
                    }
                )
    return pd.DataFrame(rows)


def output_table(dataset: xr.Dataset) -> pd.DataFrame:
    """One row for each group and variable of ``OUTPUTS``: ``values`` of the seeds, and ``value``, their mean.

    Empty for a Dataset that an older crlviz wrote, which lacks these variables.
    """
    rows = []
    for label, depth, parts in datasets.groups(dataset):
        for name in OUTPUTS if "spread" in dataset else ():
            values = [part[name].item() for part in parts]
            rows.append({"group": label, "depth": depth, "output": name, "values": values, "value": np.mean(values)})
    return pd.DataFrame(rows)


@charts.self_contained
def plot(dataset: xr.Dataset, *, size: int = 260) -> alt.TopLevelMixin:
    """Draw a panel for each network, the norm over blocks, and below one for each measure of the outputs, over depth.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      size: width of a panel in pixels.
    """
    rows, outs = table(dataset), output_table(dataset)
    style, order = styles(rows[["group", "depth"]].to_xarray()), list(dict.fromkeys(rows.group))
    legend = charts.legend()
    channels = {
        "color": alt.Color("group:N", sort=order, scale=style["color"], legend=legend),
        "shape": alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend),
    }
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    panels = [_norms_drawn(rows, name, channels, dash, size) for name in NETWORKS if (rows.part == name).any()]
    drawn = [charts.row(*panels, spacing=24).resolve_scale(y="shared")]
    if len(outs):
        named = charts.panel_titles([_output_title(name) for name in OUTPUTS], 0.7 * size)
        unnamed = {name: channel.copy() for name, channel in channels.items()}
        for channel in unnamed.values():
            channel["legend"] = None  # the row above has it
        below = [
            _output_drawn(outs[outs.output == name], unnamed, title, 0.7 * size)
            for name, title in zip(OUTPUTS, named, strict=True)
        ]
        drawn.append(charts.row(*below, spacing=24))
    chart = alt.vconcat(*drawn, spacing=30).resolve_scale(
        color="independent", shape="independent", strokeDash="independent"
    )
    moment = "before training" if dataset.attrs.get("start") else "trained"
    counts = charts.seed_note(rows["values"].map(len).tolist())
    note = f"{dataset.attrs['env']}, {moment}; {dataset.attrs['episodes']} episodes; {counts}"
    return charts.claimed(chart, claim(dataset), note, HOW_TO_READ)


def claim(dataset: xr.Dataset) -> str:
    """How much the last block of the deepest networks adds, against the first, in words."""
    rows = table(dataset)
    deepest = rows[rows.depth == rows.depth.max()]
    group = deepest.group.iloc[0]
    own, shares = deepest[deepest.group == group], {}
    for name, part in own.groupby("part", sort=False):
        first, last = part.value.iloc[0], part.value.iloc[-1]
        if len(part) > 1 and first > 0:
            shares[str(name)] = last / first
    before = "before training " if dataset.attrs.get("start") else ""
    if own.block.max() == 1:
        return claims.capital(f"{before}{group} has one block in each network")
    if not shares:  # blocks that begin at zero
        return claims.capital(f"{before}the first block of {group} adds nothing")
    listed = ", ".join(f"{share:.2f} ({name})" for name, share in shares.items())
    return claims.capital(f"{before}the last block of {group} adds {listed} times what the first adds")


def _norms_drawn(
    rows: pd.DataFrame, name: str, channels: dict[str, Any], dash: alt.StrokeDash, size: int
) -> alt.LayerChart | alt.FacetChart:
    """Norms over the blocks of one network: a line for each group, with the marks of its seeds where they have room."""
    last = int(rows.block.max())
    many = last > _FEW
    # Otherwise Vega may place a tick at block 1.5 and label it 2.
    values = [2**k for k in range(last.bit_length())] if many else list(range(1, last + 1))
    axis = alt.Axis(grid=False, format="d", values=values, labelOverlap="greedy")
    scale = alt.Scale(type="log" if many else "linear", nice=False, padding=12)
    x = alt.X("block:Q", title="block" + " (logarithmic)" * many, axis=axis, scale=scale)
    y = alt.Y("value:Q", title="L2 norm of what it adds", scale=alt.Scale(zero=True))
    part = rows[rows.part == name]
    line = alt.Chart(part.drop(columns="values")).mark_line().encode(x=x, y=y, color=channels["color"], strokeDash=dash)
    if many:
        seeds = part.drop(columns="value").explode("values").rename(columns={"values": "value"})
        seeds["seed"] = seeds.groupby(["group", "block"]).cumcount()
        thin = alt.Chart(seeds).mark_line(strokeWidth=0.8, opacity=0.5)
        marks = [thin.encode(x=x, y=y, color=channels["color"], strokeDash=dash, detail="seed:N")]
        single = part.groupby("group").filter(lambda group: len(group) == 1)  # one block does not make a line
        marks += charts.seed_marks(single, y, x=x, **channels)
    else:
        marks = charts.seed_marks(part, y, x=x, tooltip=["group", "block", "value"], **channels)
    return charts.layers(line, *marks).properties(width=size, height=220, title=charts.panel_title(name, size))


def _output_title(name: str) -> str:
    long_name, units = OUTPUTS[name]
    return long_name + f" ({units})" * (units != "1")


def _output_drawn(
    part: pd.DataFrame, channels: dict[str, Any], title: alt.TitleParams, width: float
) -> alt.LayerChart | alt.FacetChart:
    """One measure of the outputs over depth."""
    depths = sorted(set(part.depth))
    axis = alt.Axis(grid=False, format="d", values=depths, labelOverlap="greedy")
    x = alt.X("depth:Q", title="depth", axis=axis, scale=alt.Scale(type="log", base=2, nice=False, padding=16))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True, nice=4), axis=alt.Axis(tickCount=4))
    marks = charts.seed_marks(part, y, x=x, tooltip=["group", "value"], **channels)
    return charts.layers(*marks).properties(width=width, height=130, title=title)


@click.command()
@outputs.checkpoints
@outputs.out("norms.html")
@click.option("--episodes", type=int, default=32, show_default=True, help="Episodes that give the states.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of those episodes.")
@click.option("--start", is_flag=True, help="Measure fresh networks with the settings of each checkpoint instead.")
def command(checkpoints: Sequence[Path], out: Sequence[Path], episodes: int, seed: int, start: bool) -> None:
    """Measure the L2 norm of what each residual block adds to its input, on states the policy visits.

    Also measured: the share of sampled actions beyond 0.99, the policy's entropy, the distance from phi to psi, and the
    spread of phi. With --start they show how a network begins: deep ones begin saturated unless actor.start and
    critic.start say otherwise.

    \b
    Example: crlviz norms runs/d4 runs/d16 --out norms.png
             crlviz norms runs/d4 runs/d16 --start --out start.png
    """
    from crlviz.agent import load_all

    outputs.check(out)
    check_count(episodes, "episodes")
    dataset = compute(load_all(checkpoints), episodes=episodes, seed=seed, start=start)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset))


def summary(dataset: xr.Dataset) -> str:
    """Text tables: norms of each network's first, largest and last block; and the measures of the outputs."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'part':8} {'first':>8} {'largest':>18} {'last':>8}"]
    for label, _, part in datasets.each(dataset):
        for name in NETWORKS:
            norms = part.norm.sel(part=name).values
            norms = norms[np.isfinite(norms)]
            if not norms.size:
                continue
            top = int(norms.argmax())
            largest = f"{norms[top]:.2f} (block {top + 1})"
            rows.append(f"{label:{width}} {name:8} {norms[0]:8.2f} {largest:>18} {norms[-1]:8.2f}")
    rows += ["", f"{'checkpoint':{width}} " + " ".join(f"{name:>10}" for name in OUTPUTS)]
    for label, _, part in datasets.each(dataset):
        rows.append(f"{label:{width}} " + " ".join(f"{part[name].item():10.2f}" for name in OUTPUTS))
    return "\n".join(rows)


__all__ = ["NETWORKS", "OUTPUTS", "command", "compute", "plot", "summary", "table"]
