"""From several checkpoints to one Dataset: what they differ in becomes its dimensions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import KEEPING
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.agent import Agent

# Facts of an agent that tell checkpoints apart, and what a label calls them. All its other settings do so too: they
# stand before the seed in a label, by their own names.
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
_LAST = ("seed", "env_steps")
# What the coordinates of our Datasets mean, and their units; those of a checkpoint's facts and those of analyses.
_MEANINGS = {
    "env": ("environment", "1"),
    "algorithm": ("algorithm", "1"),
    "depth": ("depth of the critic's encoders", "1"),
    "actor_depth": ("depth of the actor", "1"),
    "width": ("width of the critic's encoders", "1"),
    "actor_width": ("width of the actor", "1"),
    "network": ("what the network lacks of the paper's", "1"),
    "batch_size": ("rows of an update", "1"),
    "seed": ("seed", "1"),
    "env_steps": ("environment steps", "1"),
    "run": ("number of the run", "1"),
    "source": ("path of the checkpoint", "1"),
    "episode": ("number of the episode", "1"),
    "time": ("time", "s"),
    "start": ("number of the start", "1"),
    "goal": ("number of the goal", "1"),
    "distance_kind": ("which distance", "1"),
    "behavior": ("behavior", "1"),
    "part": ("network", "1"),
    "block": ("number of the residual block, from the input on", "1"),
    "component": ("number of the principal component", "1"),
}
_MOST_WORDS = 4  # settings in a label; more would not be read


def differing(agents: Sequence["Agent"]) -> list[str]:
    """The facts in which some of the agents differ, in the order of a label.

    The actor's shape is left out where it is the critic's. What does not change an update (``KEEPING``), or is known of
    some agents only, as of an imported run, is there only where nothing else tells two agents apart.
    """
    facts = [agent.facts for agent in agents]
    settings = [name for name in dict.fromkeys(name for fact in facts for name in fact) if name not in FACTS]
    order = [*(name for name in FACTS if name not in _LAST), *settings, *_LAST]

    def different(name: str) -> int:
        return len({fact[name] for fact in facts if fact.get(name) is not None})

    found = [name for name in order if name not in KEEPING and different(name) > 1]
    for shape in ("depth", "width"):
        if f"actor_{shape}" in found and all(fact[shape] == fact[f"actor_{shape}"] for fact in facts):
            found.remove(f"actor_{shape}")

    def apart(names: Sequence[str]) -> int:
        return len({tuple(fact.get(name) for name in names) for fact in facts})

    for name in order:
        if apart(found) < len(facts) and apart([*found, name]) > apart(found):
            found.append(name)
    return sorted(found, key=order.index)


def values(agents: Sequence["Agent"], name: str) -> list[Any]:
    """A fact of each agent, all of one type, as a coordinate has it; ``unknown`` where an agent does not tell it."""
    found = [agent.facts.get(name) for agent in agents]
    if {type(value) for value in found} <= {int, float}:
        return found
    if len({type(value) for value in found}) == 1:
        return found
    return ["unknown" if value is None else str(value) for value in found]


def check_differing(agents: Sequence["Agent"]) -> list[str]:
    """``differing``, of agents no two of which are the same.

    Raises:
      UsageError: the same checkpoint twice, or two that differ in nothing.
    """
    names = differing(agents)
    first: dict[tuple, Agent] = {}
    for agent in agents:
        twin = first.setdefault(tuple(agent.facts.get(name) for name in names), agent)
        if twin is not agent:
            raise UsageError(
                f"{twin.source} and {agent.source} do not differ in any setting, seed or steps; give one of them"
            )
    return names


def described(dataset: xr.Dataset) -> xr.Dataset:
    """A Dataset just made, each of its coordinates with the ``long_name`` and ``units`` that it lacked.

    One without a meaning of its own is a setting of the checkpoints.
    """
    for name, coordinate in dataset.coords.items():
        long_name, units = _MEANINGS.get(str(name), (f"the setting {name}", "1"))
        coordinate.attrs = {"long_name": long_name, "units": units} | coordinate.attrs
    return dataset


def combine(agents: Sequence["Agent"], each: Sequence[xr.Dataset], shared: xr.Dataset) -> xr.Dataset:
    """One Dataset of one Dataset an agent, and of what all agents share.

    Where the agents form a full grid over the facts they differ in, each such fact is a dimension (depth, seed, ...);
    otherwise the dimension is ``checkpoint`` with the facts as its coordinates. All coordinates are ``described``.
    Attrs ``checkpoints`` names them all, ``differing`` the facts; ``depth`` is theirs where they do not differ in it.

    Raises:
      UsageError: the same checkpoint twice, or checkpoints that differ in nothing.
    """
    names = check_differing(agents) or ["depth"]  # of one agent, its depth
    coords = {name: ("checkpoint", values(agents, name)) for name in names}
    whole = xr.concat(each, dim="checkpoint").assign_coords(coords)
    full = len(agents) == math.prod(len(set(column)) for _, column in coords.values())
    if full and len(names) == 1:
        whole = whole.swap_dims({"checkpoint": names[0]}).sortby(names[0])
    elif full:
        whole = whole.set_index(checkpoint=names).unstack("checkpoint")
    sources = "\n".join(str(agent.source) for agent in agents)
    depths = {agent.facts["depth"] for agent in agents}
    depth = {"depth": depths.pop()} if len(depths) == 1 else {}
    told = {"checkpoints": sources, "differing": "\n".join(names)}
    return described(shared.merge(whole).assign_attrs(shared.attrs | told | depth))


def worlds(agents: Sequence["Agent"]) -> str:
    """The environments that agents were trained in, in words."""
    return " and ".join(dict.fromkeys(agent.env.id for agent in agents))


def each(dataset: xr.Dataset) -> Iterator[tuple[str, dict[str, Any], xr.Dataset]]:
    """Every checkpoint of a Dataset that ``combine`` made: its label ("depth 4, seed 0"), its facts, its part."""
    yield from _labeled(dataset, ())


def _labeled(dataset: xr.Dataset, unsaid: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], xr.Dataset]]:
    """``each``, its labels without the facts ``unsaid``."""
    # Older crlviz did not write what its checkpoints differ in, and knew these facts only.
    told = dict.fromkeys([*dataset.attrs.get("differing", "").split("\n"), *FACTS])
    dims = [dim for dim in dataset.dims if dim in told or dim == "checkpoint"]
    stacked = dataset.stack(each=dims, create_index=False) if dims else dataset.expand_dims("each")
    parts = [stacked.isel(each=index) for index in range(stacked.sizes["each"])]
    facts = [{name: part[name].item() for name in told if name in part.coords} for part in parts]
    said = labels([{name: value for name, value in fact.items() if name not in unsaid} for fact in facts])
    yield from zip(said, facts, parts, strict=True)


def groups(dataset: xr.Dataset) -> Iterator[tuple[str, int, list[xr.Dataset]]]:
    """Checkpoints that differ in their seed alone, of a Dataset that ``combine`` made: label, depth, a part a seed.

    Shallow ones first.
    """
    found: dict[str, tuple[int, list[xr.Dataset]]] = {}
    for words, facts, part in _labeled(dataset, ("seed",)):
        depth = int(facts["depth"] if "depth" in facts else dataset.attrs["depth"])
        found.setdefault(words or label({"depth": depth}), (depth, []))[1].append(part)
    for name, (depth, parts) in sorted(found.items(), key=lambda item: item[1][0]):
        yield name, depth, parts


def runs(dataset: xr.Dataset) -> dict[str, dict[int, xr.Dataset]]:
    """Every run of a Dataset that ``combine`` made: its label to the parts of its checkpoints, by environment steps.

    A single run has the name of its directory.
    """
    result: dict[str, dict[int, xr.Dataset]] = {}
    for words, facts, part in _labeled(dataset, ("env_steps",)):
        name = words or Path(dataset.attrs["checkpoints"].splitlines()[0]).absolute().parent.parent.name
        result.setdefault(name, {})[int(facts.get("env_steps", 0))] = part
    return {name: dict(sorted(parts.items())) for name, parts in result.items()}


def label(facts: Mapping[str, Any]) -> str:
    """Facts as words: "depth 4, gamma 0.9, seed 0"; what is empty, as the layout of a named maze, goes unsaid."""
    words = [
        FACTS[name].format(value) if name in FACTS else f"{name} {str(value).lower()}"
        for name, value in facts.items()
        if value != ""
    ]
    return ", ".join(words)


def labels(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """``label`` of several checkpoints, the last of very many settings counted where the others tell them apart."""

    def shortened(fact: Mapping[str, Any]) -> str:
        others = [name for name in fact if name not in FACTS]
        cut = others[max(0, _MOST_WORDS - len(fact) + len(others)) :]
        if len(cut) < 2:  # it takes no more room than its number
            return label(fact)
        return f"{label({name: value for name, value in fact.items() if name not in cut})}, {len(cut)} settings more"

    whole, short = list(map(label, facts)), list(map(shortened, facts))
    return short if len(set(short)) == len(set(whole)) else whole


def save(dataset: xr.Dataset, path: str | Path) -> None:
    """Write netCDF, whole or not at all.

    Raises:
      CrlvizError: it cannot be written.
    """
    import netCDF4

    # In memory: the library takes no path that the locale cannot spell, as one with an umlaut in the C locale.
    file = netCDF4.Dataset("memory.nc", "w", memory=1024)
    dataset.dump_to_store(xr.backends.NetCDF4DataStore(file))
    atomic_files.write(Path(path), bytes(file.close()))
