"""Estimate how long a sweep would take on the device that trained the given runs."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.pages.figures import Figure, Runs
from crlviz import envs
from crlviz.algorithms import registry

if TYPE_CHECKING:
    from crlviz.agent import Agent

SEEDS = "0-4"
# Options of the training command that the sweep copies. It sets all others itself or does not need them.
_KEPT_OPTIONS = ("--preset", "--algorithm", "--width", "--batch-size", "--env-steps", "--eval-env", "--layout", "--set")
_NEAR_PAIRS_SUFFIX = "_gen_1f2f3f"


def command(figure: Figure, runs: Runs, typed: Sequence[str]) -> str:
    """Command line of ``crlviz sweep`` or ``train`` that trains the runs a figure needs, with the given runs' settings.

    Args:
      figure: a figure that these runs do not support.
      runs: runs in one environment.
      typed: command line that trained one of them, ``crlviz train ENV ...``; empty if unknown.
    """
    import shlex

    kept = []
    algorithms = figure.sweep.get("algorithm", runs.agents[0].facts["algorithm"]).split(",")
    foreign = set(map(registry.section, registry.NAMES)) - set(map(registry.section, algorithms))
    for name, value in itertools.pairwise(typed):
        dropped = name == "--set" and value.partition(".")[0] in ("actor", "critic", *foreign)
        if name in _KEPT_OPTIONS and name.removeprefix("--") not in figure.sweep and not dropped:
            kept += [name, value]
    env, out = runs.name, ["--seed", SEEDS, "--out", f"runs/{figure.name}"]
    if figure.offline:
        own = [env] if runs.agents[0].config["env"] else []
        return shlex.join(["crlviz", "sweep", *own, "--dataset", "FILE", *_swept(figure, runs), *out])
    if figure.maze and runs.maze is None:
        body = env.partition("_")[0]
        env = f"{body}_u4_maze" if f"{body}_u4_maze" in envs.ids() else "point_u4_maze"
    env += _NEAR_PAIRS_SUFFIX if figure.near and _NEAR_PAIRS_SUFFIX not in env else ""
    if "learners" in figure.sweep:
        return " && ".join(_collector(figure, env, kept, depth) for depth in figure.sweep["depth"].split(","))
    return shlex.join(["crlviz", "sweep", env, *kept, *_swept(figure, runs), *out])


def _swept(figure: Figure, runs: Runs) -> list[str]:
    """The options of the sweep that vary."""
    values = _values(figure.sweep, runs.agents[0])
    return [text for name in figure.sweep for text in (f"--{name}", ",".join(map(str, values[name])))]


def _collector(figure: Figure, env: str, kept: Sequence[str], depth: str) -> str:
    """Command line of ``crlviz train`` for a collector of this depth and the learners of a figure's sweep."""
    import shlex

    out = f"runs/{figure.name}/depth{depth}-seed{{seed}}"
    more = ["--depth", depth, "--learners", figure.sweep["learners"], "--seed", SEEDS, "--out", out]
    return shlex.join(["crlviz", "train", env, *kept, *more])


def hours(figure: Figure, runs: Runs, seconds: Sequence[float]) -> float:
    """Estimate the hours of a figure's sweep, with one cell after another.

    Model: for each algorithm, the seconds of a run are proportional to its environment steps, and linear in parameters
      times batch size. The constant term covers collecting and calls. An algorithm that no run has is assumed to be as
      fast as the first run's algorithm, at equal parameters. This is only a rough estimate.

    Args:
      figure: a figure; its ``sweep`` gives the cells.
      runs: runs in one environment.
      seconds: training time of each run.
    """
    from crlviz.networks.residual import parameter_count

    sizes = np.array([parameter_count(agent.params) * agent.config["batch_size"] for agent in runs.agents], float)
    baseline = runs.agents[0]
    trained_steps = np.array([agent.facts["env_steps"] for agent in runs.agents], float)
    scaled = np.asarray(seconds, float) * baseline.facts["env_steps"] / trained_steps
    names = np.array([agent.facts["algorithm"] for agent in runs.agents])
    lines = {name: _fit_line(sizes[names == name], scaled[names == name]) for name in set(names.tolist())}
    axes = _values(figure.sweep, baseline)
    fed = axes.pop("learners", [])  # each collector also costs what its learners do
    networks = 1 + len(axes.pop("ablate", ()))  # an ablated network costs as much as the full one
    first, _, last = SEEDS.partition("-")
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    cells += [cell | {"depth": depth} for cell in cells for depth in fed]
    one_seed = 0.0
    for cell in cells:
        slope, constant = lines.get(cell.get("algorithm"), lines[baseline.facts["algorithm"]])
        one_seed += slope * _size(baseline, cell) + constant
    return float(networks * (int(last) - int(first) + 1) * one_seed / 3600)


def _fit_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Fit y [N] = slope * x [N] + constant with slope, constant >= 0; the constant is 0 if all x are equal."""
    from scipy.optimize import nnls

    if len(set(x)) < 2:
        return float(y.mean() / x.mean()), 0.0
    scale = x.max()
    coefficients, _ = nnls(np.stack([x / scale, np.ones(len(x))], axis=1), y)
    return float(coefficients[0] / scale), float(coefficients[1])


def _values(sweep: Mapping[str, str], agent: "Agent") -> dict[str, list]:
    """Parse the values of a sweep: integers, or names. x2 means twice the value of the agent."""
    result: dict[str, list] = {}
    for name, text in sweep.items():
        result[name] = text.split(",")
        if name not in ("ablate", "algorithm"):
            base = agent.facts["depth" if name == "learners" else name.replace("critic-", "").replace("-", "_")]
            result[name] = [base * int(value[1:]) if value[0] == "x" else int(value) for value in result[name]]
    return result


def _size(agent: "Agent", cell: Mapping[str, Any]) -> float:
    """Parameters times batch size of a cell; settings that the cell lacks are taken from the agent."""
    import dataclasses

    from crlviz.networks.residual import parameter_count

    def changed(network: str) -> Any:
        shape = agent.shapes.get(network, agent.shapes["actor"])
        depth = cell.get(f"{network}-depth", cell.get("depth", shape.depth))
        return dataclasses.replace(shape, depth=depth, width=cell.get("width", shape.width))

    own = agent.algorithm
    name = cell.get("algorithm", own.name)
    settings = own.config if name == own.name else registry.of(name).Config()
    algorithm = registry.build(name, settings, changed("actor"), changed("critic"), own.sizes, gamma=1.0)
    return parameter_count(algorithm.network_shapes) * cell.get("batch-size", agent.config["batch_size"])
