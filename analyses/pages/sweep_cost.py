"""What would a sweep cost on the device that trained these runs? A guess from how long they took, and told as one."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analyses.pages.figures import Figure, Runs
from crlviz import envs

if TYPE_CHECKING:
    from crlviz.agent import Agent

SEEDS = "0-4"
# Options of the runs' own command that a sweep keeps; all others it sets itself or does not need.
_KEPT = ("--preset", "--width", "--batch-size", "--env-steps", "--eval-env", "--layout", "--set")
_NEAR = "_gen_1f2f3f"


def command(figure: Figure, runs: Runs, typed: Sequence[str]) -> str:
    """The ``crlviz sweep`` that makes a figure's runs, with the settings of these runs.

    Args:
      figure: that these runs do not support.
      runs: of one environment.
      typed: what trained one of them, ``crlviz train ENV ...``; empty where nobody knows.
    """
    import shlex

    kept = []
    for name, value in itertools.pairwise(typed):
        of_network = name == "--set" and value.startswith(("actor.", "critic."))
        if name in _KEPT and name.removeprefix("--") not in figure.sweep and not of_network:
            kept += [name, value]
    env = runs.env.id
    if figure.maze and runs.env.maze is None:
        body = env.partition("_")[0]
        env = f"{body}_u4_maze" if f"{body}_u4_maze" in envs.ids() else "point_u4_maze"
    env += _NEAR if figure.near and _NEAR not in env else ""
    values = _values(figure.sweep, runs.agents[0])
    swept = [text for name in figure.sweep for text in (f"--{name}", ",".join(map(str, values[name])))]
    out = f"runs/figure{figure.number}"
    return shlex.join(["crlviz", "sweep", env, *kept, *swept, "--seed", SEEDS, "--out", out])


def hours(figure: Figure, runs: Runs, seconds: Sequence[float]) -> float:
    """About how long the figure's sweep takes, a cell after another.

    The seconds of a run are taken to grow linearly with the parameters and with the batch, from a constant for what
    does not: collecting, and calls; and in all, with the environment steps. That is exact nowhere.

    Args:
      figure: its ``sweep`` tells the cells.
      runs: of one environment.
      seconds: of training, of each run.
    """
    from crlviz.networks.residual import parameter_count

    known = np.array([parameter_count(agent.params) * agent.config["batch_size"] for agent in runs.agents], float)
    usual = runs.agents[0]
    trained = np.array([agent.facts["env_steps"] for agent in runs.agents], float)
    slope, constant = _line(known, np.asarray(seconds, float) * usual.facts["env_steps"] / trained)
    axes = _values(figure.sweep, usual)
    full = 1 + len(axes.pop("ablate", ()))  # a network that lacks something costs as much as the whole
    first, _, last = SEEDS.partition("-")
    cells = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    one_seed = sum(slope * _size(usual, cell) + constant for cell in cells)
    return float(full * (int(last) - int(first) + 1) * one_seed / 3600)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and constant, neither below zero, of y over x [N]; through zero where x has one value."""
    from scipy.optimize import nnls

    if len(set(x)) < 2:
        return float(y.mean() / x.mean()), 0.0
    scale = x.max()
    found, _ = nnls(np.stack([x / scale, np.ones(len(x))], axis=1), y)
    return float(found[0] / scale), float(found[1])


def _values(sweep: Mapping[str, str], agent: "Agent") -> dict[str, list]:
    """The values of a sweep's options: numbers, or names to ablate; x2 is twice the agent's."""
    result: dict[str, list] = {}
    for name, text in sweep.items():
        result[name] = text.split(",")
        if name != "ablate":
            usual = agent.facts[name.replace("critic-", "").replace("-", "_")]
            result[name] = [usual * int(value[1:]) if value[0] == "x" else int(value) for value in result[name]]
    return result


def _size(agent: "Agent", cell: Mapping[str, int]) -> float:
    """Parameters of a cell's networks times its batch; what the cell does not say is as in the agent's run."""
    import dataclasses

    import jax

    from crlviz.networks.residual import parameter_count

    total = 0
    for network, depth in ((agent.actor, "actor-depth"), (agent.critic, "critic-depth")):
        config = network.config
        config = dataclasses.replace(
            config,
            depth=cell.get(depth, cell.get("depth", config.depth)),
            width=cell.get("width", config.width),
        )
        shapes = jax.eval_shape(dataclasses.replace(network, config=config).init, jax.random.key(0))
        total += parameter_count(shapes)
    return total * cell.get("batch-size", agent.config["batch_size"])
