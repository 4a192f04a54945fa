"""How much does each residual block add? (paper figure 17)"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import altair as alt
import click
import jax
import numpy as np
import pandas as pd
import xarray as xr

from analyses.common import outputs
from analyses.sweeps.scaling import styles
from crlviz import charts, datasets, jax_config
from crlviz.errors import UsageError
from crlviz.networks import residual
from crlviz.options import check_count
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

NETWORKS = ("actor", "phi", "psi")
_STATES = 4096


@jax_config.as_usual
def compute(agents: Sequence["Agent"], *, episodes: int = 32, seed: int = 0) -> xr.Dataset:
    """Norms of the blocks' outputs, before the identity is added.

    Args:
      agents: any.
      episodes: of the policy's mean in its own environment, for real states; 4,096 of their steps are drawn if there
        are more. The actor sees state and commanded goal, phi the state and the action taken, psi the goal achieved.
      seed: of those episodes and of the draw.

    Returns:
      Dataset over what the agents differ in, ``part`` (actor, phi, psi) and ``block`` (from 1, in order): ``norm``,
      the mean over states of the L2 norm. NaN behind a shallower network's last block, all of them where it has
      none.

    Raises:
      UsageError: no episode, or an agent that has no such networks, or no block in any.
    """
    for agent in agents:
        missing = [name for name in NETWORKS if name not in _parameters(agent)]
        if missing:
            raise UsageError(f"{agent.source} has no residual network called {' or '.join(missing)}")
        if not any("blocks" in params for params in _parameters(agent).values()):
            depth = max(agent.actor.config.depth, agent.critic.config.depth)
            raise UsageError(f"{agent.source} has no block of four layers: its networks have depth {depth} at most")
    each = [_one(agent, episodes, seed) for agent in agents]
    most = max(part.sizes["block"] for part in each)
    each = [part.reindex(block=np.arange(1, most + 1)) for part in each]
    return datasets.combine(agents, each, xr.Dataset(attrs={"env": datasets.worlds(agents), "episodes": episodes}))


def _parameters(agent: "Agent") -> dict[str, Any]:
    return {"actor": agent.params["actor"]} | {
        name: agent.params["critic"][name] for name in NETWORKS[1:] if name in agent.params["critic"]
    }


def _one(agent: "Agent", episodes: int, seed: int) -> xr.Dataset:
    runs = rollout(agent, episodes, seed=seed)
    alive = runs.alive.values
    goals = np.broadcast_to(runs.goal.values[:, None], runs.achieved.shape)[alive]
    state, action, achieved = (runs[name].values[alive] for name in ("state", "action", "achieved"))
    drawn = np.random.default_rng(seed).permutation(len(state))[:_STATES]
    inputs = {"actor": [state, goals], "phi": [state, action], "psi": [achieved]}
    shapes = {"actor": agent.actor.config, "phi": agent.critic.config, "psi": agent.critic.config}
    norms = [
        np.asarray(_norms(shapes[name], params, np.concatenate(inputs[name], axis=1)[drawn]))
        for name, params in _parameters(agent).items()
    ]
    whole = np.full((len(NETWORKS), max(map(len, norms))), np.nan)
    for row, values in zip(whole, norms, strict=True):
        row[: len(values)] = values
    return xr.Dataset(
        {"norm": (("part", "block"), whole, {"long_name": "L2 norm of what a block adds", "units": "1"})},
        coords={"part": list(NETWORKS), "block": np.arange(1, whole.shape[1] + 1)},
    )


@partial(jax.jit, static_argnums=0)
def _norms(config: residual.NetworkConfig, params: Any, inputs: jax.Array) -> jax.Array:
    """Mean over inputs [B, n] of each block's norm: [blocks]."""
    return residual.contributions(config, params, inputs).mean(axis=1)


def table(dataset: xr.Dataset) -> pd.DataFrame:
    """A row a group, part and block: ``values``, the norm of each seed, and ``value``, their mean."""
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


@charts.whole
def plot(dataset: xr.Dataset, *, size: int = 260) -> alt.TopLevelMixin:
    """A panel a part: norm over blocks, a line a group of seeds.

    Args:
      dataset: from ``compute``, or read back from netCDF.
      size: pixels of a panel's width.
    """
    rows = table(dataset)
    style, order = styles(rows[["group", "depth"]].to_xarray()), list(dict.fromkeys(rows.group))
    legend = alt.Legend(title=None, symbolOpacity=1, symbolSize=300)
    color = alt.Color("group:N", sort=order, scale=style["color"], legend=legend)
    dash = alt.StrokeDash("group:N", sort=order, scale=style["dash"], legend=legend)
    shape = alt.Shape("group:N", sort=order, scale=style["shape"], legend=legend)
    last = int(rows.block.max())
    kind: Any = "log" if last > 16 else "linear"
    # Vega would write a tick at block 1.5 as another 2.
    ticks = alt.Undefined if last > 16 else list(range(1, last + 1))
    axis = alt.Axis(grid=False, format="d", values=ticks)
    x = alt.X("block:Q", title="block", axis=axis, scale=alt.Scale(type=kind, nice=False, padding=12))
    y = alt.Y("value:Q", title="L2 norm of what it adds", scale=alt.Scale(zero=True))
    panels = []
    for name in NETWORKS:
        here = rows[rows.part == name]
        line = alt.Chart(here.drop(columns="values")).mark_line().encode(x=x, y=y, color=color, strokeDash=dash)
        marks = charts.seed_marks(here, y, x=x, color=color, shape=shape, tooltip=["group", "block", "value"])
        panels.append(charts.layers(line, *marks).properties(width=size, height=220, title=name))
    counts = rows["values"].map(len).tolist()
    note = f"Mean over states of {dataset.attrs['episodes']} episodes; {charts.seed_note(counts)}."
    return (
        alt.hconcat(*panels, spacing=24)
        .resolve_scale(y="shared")
        .properties(title=alt.TitleParams(f"What each residual block adds, {dataset.attrs['env']}", subtitle=note))
    )


@click.command()
@outputs.checkpoints
@outputs.out("norms.html")
@click.option("--episodes", type=int, default=32, show_default=True, help="Episodes that give the states.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of those episodes.")
def command(checkpoints, out, episodes, seed) -> None:
    """Measure the L2 norm of what each residual block adds to its input, on states the policy visits.

    \b
    Example: crlviz norms runs/d4 runs/d16 --out norms.png
    """
    from crlviz.agent import load_all

    outputs.check(out)
    check_count(episodes, "episodes")
    dataset = compute(load_all(checkpoints), episodes=episodes, seed=seed)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset))


def summary(dataset: xr.Dataset) -> str:
    """Each network's first, largest and last block as a table of text."""
    wide = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{wide}} {'part':8} {'first':>8} {'largest':>18} {'last':>8}"]
    for label, _, part in datasets.each(dataset):
        for name in NETWORKS:
            norms = part.norm.sel(part=name).values
            norms = norms[np.isfinite(norms)]
            if not norms.size:
                continue
            top = int(norms.argmax())
            largest = f"{norms[top]:.2f} (block {top + 1})"
            rows.append(f"{label:{wide}} {name:8} {norms[0]:8.2f} {largest:>18} {norms[-1]:8.2f}")
    return "\n".join(rows)


__all__ = ["NETWORKS", "command", "compute", "plot", "summary", "table"]
