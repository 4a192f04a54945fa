"""From several checkpoints to one Dataset: what they differ in becomes its dimensions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from crlviz import files
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.agent import Agent

# Facts of an agent that tell checkpoints apart, and what a label calls them.
FACTS = {
    "env": "{}",
    "algorithm": "{}",
    "depth": "depth {}",
    "actor_depth": "actor depth {}",
    "width": "width {}",
    "actor_width": "actor width {}",
    "network": "{}",
    "batch_size": "batch {}",
    "seed": "seed {}",
    "env_steps": "{:,} steps",
}


def differing(agents: Sequence["Agent"]) -> list[str]:
    """The facts in which some of the agents differ; the actor's shape only where it is not the critic's."""
    facts = [agent.facts for agent in agents]
    names = [name for name in FACTS if len({f.get(name) for f in facts}) > 1]
    for shape in ("depth", "width"):
        if f"actor_{shape}" in names and all(f[shape] == f[f"actor_{shape}"] for f in facts):
            names.remove(f"actor_{shape}")
    return names


def combine(agents: Sequence["Agent"], each: Sequence[xr.Dataset], shared: xr.Dataset) -> xr.Dataset:
    """One Dataset of one Dataset an agent, and of what all agents share.

    Where the agents form a full grid over the facts they differ in, each such fact is a dimension (depth, seed, ...);
    otherwise the dimension is ``checkpoint`` with the facts as its coordinates. Attrs ``checkpoints`` names them all;
    ``depth`` is theirs where they do not differ in it.

    Raises:
      UsageError: the same checkpoint twice, or checkpoints that differ in nothing.
    """
    names = differing(agents)
    values = [tuple(agent.facts[name] for name in names) for agent in agents]
    if len(set(values)) < len(agents):
        same = next(i for i, value in enumerate(values) if value in values[:i])
        other = agents[values.index(values[same])]
        raise UsageError(
            f"{other.source} and {agents[same].source} do not differ in depth, width, seed or steps; give one"
        )
    if not names:  # one agent
        names, values = ["depth"], [(agents[0].facts["depth"],)]
    whole = xr.concat(each, dim="checkpoint")
    axes = [sorted({value[k] for value in values}) for k in range(len(names))]
    full = len(values) == math.prod(len(axis) for axis in axes)
    coords = {name: ("checkpoint", [value[k] for value in values]) for k, name in enumerate(names)}
    whole = whole.assign_coords(coords)
    if full and len(names) == 1:
        whole = whole.swap_dims(checkpoint=names[0]).sortby(names[0])
    elif full:
        whole = whole.set_index(checkpoint=names).unstack("checkpoint")
    sources = "\n".join(str(agent.source) for agent in agents)
    depths = {agent.facts["depth"] for agent in agents}
    depth = {"depth": depths.pop()} if len(depths) == 1 else {}
    return shared.merge(whole).assign_attrs(shared.attrs, checkpoints=sources, **depth)


def each(dataset: xr.Dataset) -> Iterator[tuple[str, dict[str, Any], xr.Dataset]]:
    """Every checkpoint of a Dataset that ``combine`` made: its label ("depth 4, seed 0"), its facts, its part."""
    dims = [dim for dim in dataset.dims if dim in FACTS or dim == "checkpoint"]
    stacked = dataset.stack(each=dims, create_index=False) if dims else dataset.expand_dims("each")
    for index in range(stacked.sizes["each"]):
        part = stacked.isel(each=index)
        facts = {name: part[name].item() for name in FACTS if name in part.coords}
        yield label(facts), facts, part


def groups(dataset: xr.Dataset) -> Iterator[tuple[str, int, list[xr.Dataset]]]:
    """Checkpoints that differ in their seed alone, of a Dataset that ``combine`` made: label, depth, a part a seed.

    Shallow ones first.
    """
    found: dict[str, tuple[int, list[xr.Dataset]]] = {}
    for _, facts, part in each(dataset):
        depth = int(facts.get("depth", dataset.attrs.get("depth", 4)))
        shared = {name: value for name, value in facts.items() if name != "seed"} or {"depth": depth}
        found.setdefault(label(shared), (depth, []))[1].append(part)
    for name, (depth, parts) in sorted(found.items(), key=lambda item: item[1][0]):
        yield name, depth, parts


def runs(dataset: xr.Dataset) -> dict[str, dict[int, xr.Dataset]]:
    """Every run of a Dataset that ``combine`` made: its label to the parts of its checkpoints, by environment steps.

    A single run has the name of its directory.
    """
    result: dict[str, dict[int, xr.Dataset]] = {}
    for _, facts, part in each(dataset):
        steps = int(facts.pop("env_steps", 0))
        name = label(facts) or Path(dataset.attrs["checkpoints"].splitlines()[0]).absolute().parent.parent.name
        result.setdefault(name, {})[steps] = part
    return {name: dict(sorted(parts.items())) for name, parts in result.items()}


def label(facts: Mapping[str, Any]) -> str:
    """Facts as words: "depth 4, seed 0"."""
    return ", ".join(FACTS[name].format(value) for name, value in facts.items())


def save(dataset: xr.Dataset, path: str | Path) -> None:
    """Write netCDF, whole or not at all.

    Raises:
      CrlvizError: it cannot be written.
    """
    with files.unfinished(Path(path)) as made:
        dataset.to_netcdf(made, engine="netcdf4")
