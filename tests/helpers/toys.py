"""A toy configuration that trains in a second, run directories and agents made by hand, and a small maze."""

import csv
import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from crlviz import datasets
from crlviz.algorithms.base import Algorithm, HasQ, Meaning
from crlviz.algorithms.crl import CRL
from crlviz.checkpoints import metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.envs.point import PointMaze
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Actor, Critic
from training import config as configs
from training.loop.divergence import Divergence
from training.loop.train_loop import Loop, TrainState
from training.run.runner import Run
from training.trainer import build

# 4 environments of 20-step episodes: 3 unrolls of prefill, then 2 epochs of 2 training steps.
TOY: dict[str, Any] = {
    "actor.width": 8,
    "critic.width": 8,
    "num_envs": 4,
    "unroll": 10,
    "updates": 3,
    "batch_size": 8,
    "window": 30,
    "replay_steps": 60,
    "env_steps": 4 * 10 * 7,
    "evaluations": 2,
    "eval_episodes": 6,
    "episode_length": 20,
}

FACTS: dict[str, Any] = dict.fromkeys(datasets.FACTS, 0) | {"depth": 4, "width": 8, "seed": 0}

ROOM = ["#######", "#.....#", "#.....#", "#..r..#", "#.....#", "#g....#", "#######"]


def toy_config(**changes: Any) -> configs.TrainConfig:
    """The toy configuration in the U maze with changed settings; ``__`` in a name stands for a dot."""
    return configs.replace(
        configs.TrainConfig(env="point_u_maze"),
        TOY | {name.replace("__", "."): value for name, value in changes.items()},
    )


def untrained_run(run: Path, config: configs.TrainConfig | None = None, steps: Sequence[int] = (100,)) -> Path:
    """Write a run directory without training: each checkpoint, named by ``steps``, has its own initial networks."""
    config = config or toy_config()
    loop = build(config)
    RunDirectory(run).write_config(configs.content(config))
    for count in steps:
        networks = jax.device_get(_initial(loop.algorithm, jax.random.key(count)))
        RunDirectory(run).write_checkpoint(count, count // 10, networks)
    return run


@functools.partial(jax.jit, static_argnums=0)
def _initial(algorithm: Algorithm, key: jax.Array) -> dict[str, Any]:
    """Initial parameters; compiled once for each shape of the networks."""
    return algorithm.networks(algorithm.init(key))


def planted_run(run: Path, curve: Sequence[float], seconds: float = 1.0, **changes: Any) -> Path:
    """Write the run directory of a finished run of ``toy_config`` with a given learning curve of success.

    All parameters are zero, so that nothing is compiled. Evaluations are ``seconds`` apart.
    """
    config = toy_config(**changes)
    RunDirectory(run).write_config(configs.content(config))
    RunDirectory(run).write_checkpoint(config.env_steps, config.env_steps // 10, _zeros(config.actor, config.critic))
    plant_curve(run, curve, seconds)
    return run


@functools.cache
def _zeros(actor: NetworkConfig, critic: NetworkConfig) -> dict[str, Any]:
    """Parameters of a point mass's networks, all zero."""
    networks = {"actor": Actor(actor, 6, 2), "critic": Critic(critic, 4, 2, 2)}
    shapes = {name: jax.eval_shape(network.init, jax.random.key(0)) for name, network in networks.items()}
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def plant_curve(run: Path, curve: Sequence[float], seconds: float = 1.0) -> None:
    """Overwrite a run's metrics.csv: ``curve`` is the success at each evaluation, ``seconds`` apart."""
    with open(run / "metrics.csv", "w", newline="") as file:
        table = csv.DictWriter(file, metrics_table.columns(CRL.columns()))
        table.writeheader()
        for index, value in enumerate(curve):
            table.writerow(
                {
                    "env_steps": 100 * index,
                    "gradient_steps": 10 * index,
                    "train_seconds": seconds * index,
                    "success": value,
                    "time_at_goal": 20 * value,
                }
            )


def begun(loop: Loop, key: jax.Array) -> TrainState:
    """The state of a run after prefill; combines the loop's programs."""
    state = loop.init(key, loop.reset_envs(key)).replace(replay=loop.empty_buffer())
    return jax.lax.fori_loop(0, loop.schedule.prefill_unrolls, lambda _, state: collected(loop, state), state)


def collected(loop: Loop, state: TrainState) -> TrainState:
    """The state after one unroll is collected."""
    return loop.collect(state, loop.reset_envs(state.key) if loop.config.redraw_goals else None)


def stepped(loop: Loop, state: TrainState) -> tuple[TrainState, dict[str, jax.Array], Divergence]:
    """The state after one training step, its metrics and its divergence; combines the loop's programs."""
    return loop.learn(collected(loop, state))


def change_config(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a run's config.json and its checksum with it."""
    content = RunDirectory(run).read_config()
    content.pop("sha256", None)
    change(content)
    RunDirectory(run).write_config(content)


def send(number: int) -> None:
    """Send this process a signal and wait until its run has handled it, because a toy step may end too early."""
    handled, say = threading.Event(), Run.say
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "say", lambda self, line: (say(self, line), handled.set()))
        os.kill(os.getpid(), number)
        assert handled.wait(30)


class FallingPoint(PointMaze):
    """A point that "falls" where y exceeds a line: a cheap stand-in for a body whose episode can end early."""

    line = 0.5

    def step(self, state, action):
        state = super().step(state, action)
        return state.replace(done=(state.pipeline_state.position[1] > self.line).astype(float))


@dataclass(frozen=True, eq=False)
class Handmade(HasQ):
    """An agent with a given policy and Q, which is its own algorithm, actor and critic.

    Attributes:
      policy: (observation, key or None) -> action.
      value: (state, action, goal) -> Q [B]; default: minus the straight-line distance to the goal.
    """

    env: Any
    policy: Callable[..., Any]
    value: Callable[..., Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: FACTS)
    source: Path = Path("by hand")
    params: Any = field(default_factory=lambda: {"actor": (), "critic": ()})

    algorithm = actor = critic = property(lambda self: self)
    q_meaning = Meaning("minus a distance", "m")
    eval_env = property(lambda self: self.env)
    config = property(lambda self: {"env": self.env.id})

    def act(self, *arguments):
        """``Algorithm.act(params, observation, key=None)``, or ``Agent.act`` without the parameters."""
        if isinstance(arguments[0], dict):
            arguments = arguments[1:]
        return self.policy(*arguments) if len(arguments) == 2 else self.policy(arguments[0], None)

    def having(self, ability):
        return self

    def q(self, *arguments):
        """``Algorithm.q(params, state, action, goal)``, or ``Agent.q`` without the parameters."""
        state, action, goal = arguments[-3:]
        if self.value:
            return self.value(state, action, goal)
        indices = jnp.array(self.env.goal_indices)
        return -jnp.linalg.norm(state[..., indices] - goal, axis=-1)


def planted_runs(*rows: Mapping[str, Any], evaluations: int = 11) -> xr.Dataset:
    """A Dataset as ``analyses.common.runs.compute`` returns it, of invented runs.

    Args:
      rows: one for each run: the factors in which it differs from the defaults (CRL with depth 4 and width 64), its
        ``score`` at every evaluation but the first, or its ``curve`` [evaluations], its training ``seconds`` and its
        ``parameters``.
      evaluations: number of evaluations of each run.
    """
    defaults = {"env": "here", "seed": 0, "algorithm": "crl", "depth": 4, "width": 64, "network": "full network"}
    defaults |= {
        "batch_size": 64,
        "others": "",
        "trained": 1000,
        "together": 1,
        "seconds": 10.0,
        "flops_per_update": 1e6,
    }
    filled: list[dict[str, Any]] = []
    for row in rows:
        full: dict[str, Any] = defaults | dict(row)
        full |= {name: full.get(name, full[name.removeprefix("actor_")]) for name in ("actor_depth", "actor_width")}
        full["parameters"] = row.get("parameters", full["depth"] * full["width"] ** 2)
        full["curve"] = np.array(row.get("curve", [0.0] + [row.get("score", 0.0)] * (evaluations - 1)), float)
        filled.append(full)
    share = np.linspace(0, 1, evaluations)

    def over_time(values):
        return ("run", "evaluation"), np.array(values), {"units": "1", "long_name": "planted"}

    def over_runs(values):
        return "run", list(values), {"units": "1", "long_name": "planted"}

    last = [row["curve"][-5:].mean() for row in filled]
    names = ("env", "seed", "algorithm", "depth", "width", "actor_depth", "actor_width", "network", "batch_size")
    return xr.Dataset(
        {
            "success": over_time([row["curve"] for row in filled]),
            "time_at_goal": over_time([100 * row["curve"] for row in filled]),
            "env_steps": over_time([row["trained"] * share for row in filled]),
            "gradient_steps": over_time([row["trained"] / 10 * share for row in filled]),
            "train_seconds": over_time([row["seconds"] * share for row in filled]),
            "score_success": over_runs(last),
            "score_time_at_goal": over_runs(100 * score for score in last),
            "parameters": over_runs(row["parameters"] for row in filled),
            "flops_per_update": over_runs(row["flops_per_update"] for row in filled),
        },
        coords={name: over_runs(row[name] for row in filled) for name in (*names, "others", "trained", "together")}
        | {"run": np.arange(len(filled))}
        | {"group": over_runs(str([row[name] for name in names[2:]]) for row in filled)},
        attrs={"env": ", ".join(dict.fromkeys(row["env"] for row in filled))},
    )


def assert_described(dataset: xr.Dataset) -> None:
    """Assert that every variable and coordinate has a long_name and units."""
    lacking = [name for name, each in dataset.variables.items() if not {"units", "long_name"} <= each.attrs.keys()]
    assert not lacking
    empty = [name for name, each in dataset.variables.items() if not (each.attrs["units"] and each.attrs["long_name"])]
    assert not empty
