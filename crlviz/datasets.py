"""Combine several checkpoints into one Dataset, with a dimension for each setting in which they differ."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from crlviz.algorithms import registry
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import KEEPING
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.agent import Agent

# Named facts of an agent, in the order of a label, and their format there. All other settings follow, under their own
# names, before the seed.
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
# long_name and units of coordinates: facts of checkpoints, then coordinates of analyses.
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
# Names of variables and coordinates in files of an older crlviz, and what they are called now.
OLD_NAMES = {
    "behaviour": "behavior",
    "way": "geodesic",
    "reach": "displacement_over_geodesic",
    "late_reach": "late_displacement_over_geodesic",
    "roaming": "travel_over_geodesic",
}
_MOST_PARTS = 4  # settings in a label; nobody reads more


def differing(agents: Sequence["Agent"]) -> list[str]:
    """Names of the facts in which the agents differ, in the order of a label.

    The actor's depth and width are omitted if they equal the critic's. So are settings that follow from the algorithm,
    such as a discount that all agents of one algorithm share. Settings that do not change an update (``KEEPING``), and
    settings that only some of the agents have, as with imported runs, are included only if nothing else distinguishes
    two agents.
    """
    facts = [agent.facts for agent in agents]
    settings = [name for name in dict.fromkeys(name for fact in facts for name in fact) if name not in FACTS]
    order = [*(name for name in FACTS if name not in _LAST), *settings, *_LAST]

    def distinct_values(name: str) -> int:
        return len({fact[name] for fact in facts if fact.get(name) is not None})

    names = [name for name in order if name not in KEEPING and distinct_values(name) > 1]
    for shape in ("depth", "width"):
        if f"actor_{shape}" in names and all(fact[shape] == fact[f"actor_{shape}"] for fact in facts):
            names.remove(f"actor_{shape}")
    if "algorithm" in names:
        names = [name for name in names if name in FACTS or not _follows(facts, name)]

    def distinct_agents(names: Sequence[str]) -> int:
        return len({tuple(fact.get(name) for name in names) for fact in facts})

    for name in order:
        if distinct_agents(names) < len(facts) and distinct_agents([*names, name]) > distinct_agents(names):
            names.append(name)
    return sorted(names, key=order.index)


def _follows(facts: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether all agents of an algorithm have the same value of a setting."""
    return all(
        len({fact[name] for fact in facts if fact["algorithm"] == algorithm and fact.get(name) is not None}) < 2
        for algorithm in {fact["algorithm"] for fact in facts}
    )


def values(agents: Sequence["Agent"], name: str) -> list[Any]:
    """One fact of each agent, all of one type, for a coordinate; ``unknown`` for an agent that lacks it."""
    facts = [agent.facts.get(name) for agent in agents]
    if {type(value) for value in facts} <= {int, float}:
        return facts
    if len({type(value) for value in facts}) == 1:
        return facts
    return ["unknown" if value is None else str(value) for value in facts]


def check_differing(agents: Sequence["Agent"]) -> list[str]:
    """As ``differing``, but no two agents may be equal.

    Raises:
      UsageError: the same checkpoint is given twice, or two checkpoints do not differ.
    """
    names = differing(agents)
    first: dict[tuple, Agent] = {}
    for agent in agents:
        other = first.setdefault(tuple(agent.facts.get(name) for name in names), agent)
        if other is not agent:
            raise UsageError(
                f"{other.source} and {agent.source} do not differ in any setting, seed or steps; give one of them"
            )
    return names


def described(dataset: xr.Dataset) -> xr.Dataset:
    """Give each coordinate of a new Dataset its ``long_name`` and ``units`` if it lacks them; returns the Dataset.

    A coordinate that is not in ``_MEANINGS`` is a setting of the checkpoints.
    """
    for name, coordinate in dataset.coords.items():
        long_name, units = _MEANINGS.get(str(name), (f"the setting {name}", "1"))
        coordinate.attrs = {"long_name": long_name, "units": units} | coordinate.attrs
    return dataset


def with_current_names(dataset: xr.Dataset) -> xr.Dataset:
    """The Dataset with its variables and coordinates under their current names; a file may have older ones."""
    return dataset.rename({old: new for old, new in OLD_NAMES.items() if old in dataset.variables})


def combine(agents: Sequence["Agent"], each: Sequence[xr.Dataset], shared: xr.Dataset) -> xr.Dataset:
    """Combine one Dataset per agent, and the variables that all agents share, into one Dataset.

    If the agents form a full grid over the facts in which they differ, each such fact is a dimension (depth, seed,
    ...). Otherwise the dimension is ``checkpoint``, with the facts as its coordinates. All coordinates are
    ``described``. The attr ``checkpoints`` lists the paths, ``differing`` the facts; ``depth`` is set if all agents
    have the same.

    Raises:
      UsageError: the same checkpoint is given twice, or two checkpoints do not differ.
    """
    names = check_differing(agents) or ["depth"]  # a single agent is labeled by its depth
    coords = {name: ("checkpoint", values(agents, name)) for name in names}
    combined = xr.concat(each, dim="checkpoint").assign_coords(coords)
    full = len(agents) == math.prod(len(set(column)) for _, column in coords.values())
    if full and len(names) == 1:
        combined = combined.swap_dims({"checkpoint": names[0]}).sortby(names[0])
    elif full:
        combined = combined.set_index(checkpoint=names).unstack("checkpoint")
    sources = "\n".join(str(agent.source) for agent in agents)
    depths = {agent.facts["depth"] for agent in agents}
    depth = {"depth": depths.pop()} if len(depths) == 1 else {}
    attrs = {"checkpoints": sources, "differing": "\n".join(names)}
    return described(shared.merge(combined).assign_attrs(shared.attrs | attrs | depth))


def env_names(agents: Sequence["Agent"]) -> str:
    """The names of the agents' training environments, or of their data sets without one, joined by "and"."""
    names = (agent.env.id if agent.config["env"] else agent.facts["env"] for agent in agents)
    return " and ".join(dict.fromkeys(names))


def each(dataset: xr.Dataset) -> Iterator[tuple[str, dict[str, Any], xr.Dataset]]:
    """Iterate over the checkpoints of a Dataset from ``combine``: label ("depth 4, seed 0"), facts, and its part."""
    yield from _labeled(dataset, ())


def _labeled(dataset: xr.Dataset, omit: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], xr.Dataset]]:
    """As ``each``, with labels that omit these facts."""
    # Datasets of an older crlviz lack the attr `differing`; they know only the named facts.
    names = dict.fromkeys([*dataset.attrs.get("differing", "").split("\n"), *FACTS])
    dims = [dim for dim in dataset.dims if dim in names or dim == "checkpoint"]
    stacked = dataset.stack(each=dims, create_index=False) if dims else dataset.expand_dims("each")
    parts = [stacked.isel(each=index) for index in range(stacked.sizes["each"])]
    facts = [{name: part[name].item() for name in names if name in part.coords} for part in parts]
    texts = labels([{name: value for name, value in fact.items() if name not in omit} for fact in facts])
    yield from zip(texts, facts, parts, strict=True)


def groups(dataset: xr.Dataset) -> Iterator[tuple[str, int, list[xr.Dataset]]]:
    """Group the checkpoints of a Dataset from ``combine`` by all facts but the seed: label, depth, one part per seed.

    Groups are in order of algorithm, then of depth, shallow first.
    """
    result: dict[str, tuple[int, list[xr.Dataset]]] = {}
    for words, facts, part in _labeled(dataset, ("seed",)):
        depth = int(facts["depth"] if "depth" in facts else dataset.attrs["depth"])
        result.setdefault(words or label({"depth": depth}), (depth, []))[1].append(part)

    def place(item: tuple[str, tuple[int, list[xr.Dataset]]]) -> tuple[int, int]:
        depth, parts = item[1]
        return algorithm_order(str(parts[0].coords.get("algorithm", xr.DataArray("")).item())), depth

    for name, (depth, parts) in sorted(result.items(), key=place):
        yield name, depth, parts


def algorithm_order(name: str) -> int:
    """The position of an algorithm in lists and charts: registry order, then algorithms of newer versions."""
    return registry.NAMES.index(name) if name in registry.NAMES else len(registry.NAMES)


def runs(dataset: xr.Dataset) -> dict[str, dict[int, xr.Dataset]]:
    """The runs of a Dataset from ``combine``: label to parts by environment steps, in order.

    A single run is labeled with the name of its directory.
    """
    result: dict[str, dict[int, xr.Dataset]] = {}
    for words, facts, part in _labeled(dataset, ("env_steps",)):
        name = words or Path(dataset.attrs["checkpoints"].splitlines()[0]).absolute().parent.parent.name
        result.setdefault(name, {})[int(facts.get("env_steps", 0))] = part
    return {name: dict(sorted(parts.items())) for name, parts in result.items()}


def label(facts: Mapping[str, Any]) -> str:
    """Format facts: "depth 4, gamma 0.9, seed 0". Empty values, such as the layout of a named maze, are omitted."""
    words = [
        FACTS[name].format(value) if name in FACTS else f"{name} {str(value).lower()}"
        for name, value in facts.items()
        if value != ""
    ]
    return ", ".join(words)


def labels(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """``label`` of each checkpoint; long labels end in "N more settings" if they still distinguish the checkpoints."""

    def shortened(fact: Mapping[str, Any]) -> str:
        others = [name for name in fact if name not in FACTS]
        cut = others[max(0, _MOST_PARTS - len(fact) + len(others)) :]
        if len(cut) < 2:  # one setting is no longer than its count
            return label(fact)
        return f"{label({name: value for name, value in fact.items() if name not in cut})}, {len(cut)} more settings"

    full, short = list(map(label, facts)), list(map(shortened, facts))
    return short if len(set(short)) == len(set(full)) else full


def save(dataset: xr.Dataset, path: str | Path) -> None:
    """Write a netCDF file atomically.

    Raises:
      CrlvizError: the file cannot be written.
    """
    import netCDF4

    # Encode in memory: the library rejects paths that the locale cannot encode, such as non-ASCII ones in the C locale.
    file = netCDF4.Dataset("memory.nc", "w", memory=1024)
    dataset.dump_to_store(xr.backends.NetCDF4DataStore(file))
    atomic_files.write(Path(path), bytes(file.close()))
