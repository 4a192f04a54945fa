"""Does the agent stitch? Goals farther away than those of training, from every start cell (paper figure 11)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jax
import numpy as np
import xarray as xr

from analyses.common import ground, outputs, play_links
from analyses.stitch_pictures import HOW_TO_READ, METRICS, X_AXES, check_axes, curves, plot
from crlviz import charts, datasets, jax_config, options
from crlviz.algorithms import action_choice
from crlviz.algorithms.action_choice import ActionChoice
from crlviz.algorithms.base import Algorithm
from crlviz.envs.base import GoalEnv
from crlviz.envs.mazes import Maze
from crlviz.errors import UsageError
from crlviz.options import OLD_POLICIES, Command, check_count
from crlviz.rollouts import simulate

if TYPE_CHECKING:
    from crlviz.agent import Agent

MAX_CELLS = 100  # more cells give more pairs than a picture can show, and each pair costs an episode
_MAX_BATCH = 1024  # episodes in one compiled program: bounds its memory


@jax_config.with_fixed_settings
def compute(
    agents: Sequence["Agent"],
    *,
    episodes: int = 1,
    max_cells: int = MAX_CELLS,
    policy: str = "mean",
    length: int | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Run the policy from every start cell to every goal cell of a maze.

    Args:
      agents: in mazes with the same walls; they may have been trained on different pairs of start and goal.
      episodes: number of episodes for each pair. Episodes start at the center of a cell. With mean actions, the
        episodes of a point mass or a humanoid are therefore identical; those of an ant differ, because its reset adds
        noise.
      max_cells: largest number of cells. In a larger maze, its start and the cells that lie farthest apart are used.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.
      length: steps of an episode; default: the environment's.
      seed: of the bodies' initial states and the policy's noise.

    Returns:
      Dataset over the factors in which the agents differ, ``start`` and ``goal``, which number the free cells in order
      of geodesic distance from the maze's start: ``success`` (share of episodes), ``time_at_goal`` (steps), ``seen``
      (whether training draws this pair) and, the same for all agents, ``distance`` (geodesic, meters) and ``cells``
      (the same in cells). NaN where start and goal are the same cell.

    Raises:
      UsageError: an environment without a maze, mazes with different walls, fewer than two cells, or no episodes.
    """
    check_count(episodes, "episodes")
    if max_cells < 2:
        raise UsageError(f"{max_cells} cells: at least two are needed, a start and a goal")
    maze = _shared_maze(agents)
    cells, count = _choose_cells(maze, max_cells)
    shared = _distances(maze, cells)
    attrs = {"env": datasets.env_names(agents), "episodes": episodes, "free_cells": count, charts.HELP: HOW_TO_READ}
    attrs |= ground.attrs(maze)
    pairs = np.argwhere(shared.cells.values > 0)
    choice = action_choice.for_agents(policy, agents)
    parts = [_compute_one(agent, cells, pairs, episodes, choice, length, seed) for agent in agents]
    return datasets.combine(agents, parts, shared.assign_attrs(attrs))


def _shared_maze(agents: Sequence["Agent"]) -> Maze:
    """The maze of the agents.

    Raises:
      UsageError: an environment has none, or their walls differ.
    """
    maze = agents[0].env.maze
    for agent in agents:
        if agent.env.maze is None:
            raise UsageError(f"{agent.env.id} has no maze, so no cells to start from")
        if maze is None or not np.array_equal(agent.env.maze.walls, maze.walls):
            raise UsageError(f"{agents[0].source} and {agent.source} walk in different mazes; analyze them separately")
    assert maze is not None
    return maze


def _choose_cells(maze: Maze, max_cells: int) -> tuple[np.ndarray, int]:
    """The cells [N, 2] that can be reached, by distance from the maze's start, and how many there were.

    If there are more than ``max_cells``: the start and the cells farthest from it and from each other.
    """
    start, cells = maze.starts[0], np.array(maze.free)
    from_start = maze.geodesic(maze.xy(cells), maze.xy(start))
    reachable = np.isfinite(from_start)
    cells, from_start = cells[reachable], from_start[reachable]
    count = len(cells)
    if count > max_cells:
        chosen = np.append(maze.spread(cells, max_cells - 1, start), np.flatnonzero((cells == start).all(1)))
        cells, from_start = cells[chosen], from_start[chosen]
    return cells[np.argsort(from_start, kind="stable")], count


def _distances(maze: Maze, cells: np.ndarray) -> xr.Dataset:
    """The part that all agents share: distances between the cells [N, 2], in meters and in cells."""
    places, dims = maze.xy(cells), ("start", "goal")
    distance, steps = maze.geodesics(places, places), maze.steps(cells).astype(int)
    return xr.Dataset(
        {
            "distance": (dims, distance, {"long_name": "way through the maze", "units": "m"}),
            "cells": (dims, steps, {"long_name": X_AXES["cells"], "units": "1"}),
        },
        coords={
            f"{side}_{axis}": (side, places[:, k], {"long_name": f"{side} cell's {axis}", "units": "m"})
            for side in dims
            for k, axis in enumerate("xy")
        },
    ).assign_coords(start=np.arange(len(cells)), goal=np.arange(len(cells)))


def _compute_one(
    agent: "Agent",
    cells: np.ndarray,
    pairs: np.ndarray,
    episodes: int,
    choice: ActionChoice,
    length: int | None,
    seed: int,
) -> xr.Dataset:
    """Outcomes of one agent; ``pairs`` [P, 2] are indices of start and goal in ``cells`` [N, 2]."""
    env = agent.env
    assert env.maze is not None
    length = length or env.episode_length
    tasks = np.repeat(pairs, episodes, axis=0)
    chunks = -(-len(tasks) // _MAX_BATCH)
    size = -(-len(tasks) // chunks)  # equal chunks share one compiled program; the last is padded with the first tasks
    places = env.maze.xy(cells)[np.resize(tasks, (chunks, size, 2))]
    keys = jax.random.split(jax.random.key(seed), chunks)
    steps = [
        _time_at_goal(env, length, choice, agent.algorithm, agent.params, key, chunk)
        for key, chunk in zip(keys, places, strict=True)
    ]
    time_at_goal = np.concatenate(steps)[: len(tasks)].reshape(len(pairs), episodes)

    def matrix(values: np.ndarray) -> np.ndarray:
        result = np.full((len(cells), len(cells)), np.nan)
        result[tuple(pairs.T)] = values.mean(axis=1)
        return result

    drawn = {(tuple(start), tuple(goal)) for start, goal in env.maze.pairs[0].tolist()}
    named_cells = [tuple(cell) for cell in cells.tolist()]
    seen = [[(start, goal) in drawn for goal in named_cells] for start in named_cells]
    dims = ("start", "goal")
    return xr.Dataset(
        {
            "success": (dims, matrix(time_at_goal > 0), {"long_name": "share of episodes that reach", "units": "1"}),
            "time_at_goal": (dims, matrix(time_at_goal), {"long_name": "time at goal", "units": "steps"}),
            "seen": (dims, np.array(seen), {"long_name": "drawn in training", "units": "1"}),
        }
    )


@partial(jax.jit, static_argnums=range(4))
def _time_at_goal(
    env: GoalEnv, length: int, choice: ActionChoice, algorithm: Algorithm, params: Any, key: jax.Array, tasks: Any
) -> jax.Array:
    """Time at goal in steps [B] of episodes with tasks [B, 2, 2]: start and goal in meters.

    Traced once for all agents with the same network shape.
    """
    reset_key, policy_key = jax.random.split(key)
    states = jax.vmap(env.reset)(jax.random.split(reset_key, len(tasks)), tasks[:, 0], tasks[:, 1])

    def record(before, action, after, alive):
        return (after.metrics["success"] > 0) & alive

    return simulate(env, partial(choice.act, algorithm, params), states, policy_key, length, record).sum(0)


_OLD_OPTIONS = OLD_POLICIES | {"--cells": "--max-cells", "--show": "--metric", "--over": "--x-axis"}


@click.command(cls=Command, old_options=_OLD_OPTIONS)
@outputs.checkpoints
@outputs.out("stitch.html")
@click.option("--episodes", type=int, default=1, show_default=True, help="Episodes for each pair.")
@click.option(
    "--max-cells",
    type=int,
    default=MAX_CELLS,
    show_default=True,
    help="Largest number of cells; in a larger maze, those that lie farthest apart.",
)
@options.policy
@click.option("--metric", default="success", show_default=True, help="What to draw: success or time_at_goal.")
@click.option("--x-axis", default="cells", show_default=True, help="Axis of the curves: cells or meters.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of initial states and sampled actions.")
@play_links.option
def command(
    checkpoints: Sequence[Path],
    out: Sequence[Path],
    episodes: int,
    max_cells: int,
    policy: str,
    metric: str,
    x_axis: str,
    seed: int,
    play: Path | None,
) -> None:
    """Run from every start cell to every goal cell of a maze, also for pairs that training never draws.

    \b
    Example: crlviz stitch runs/d4 runs/d16 --out stitch.html --out stitch.nc
    """
    from crlviz.agent import load_all

    outputs.check(out)
    page = play_links.address(play, out)
    check_axes(metric, x_axis)
    check_count(episodes, "episodes")
    agents = load_all(checkpoints)
    dataset = compute(agents, episodes=episodes, max_cells=max_cells, policy=policy, seed=seed)
    click.echo(summary(dataset))
    outputs.write(out, dataset, lambda: plot(dataset, metric=metric, x_axis=x_axis, play=page))


def summary(dataset: xr.Dataset) -> str:
    """Success over seen and unseen pairs as a text table."""
    width = outputs.label_width(dataset)
    rows = [f"{'checkpoint':{width}} {'seen':>14} {'unseen':>14}"]
    for label, _, part in datasets.each(dataset):
        seen, task = part.seen.values.astype(bool), np.isfinite(part.success.values)
        shares = [part.success.values[task & chosen] for chosen in (seen, ~seen)]
        cells = [f"{share.mean():.2f} of {len(share):5,}" if len(share) else "none" for share in shares]
        rows.append(f"{label:{width}} {cells[0]:>14} {cells[1]:>14}")
    return "\n".join(rows)


__all__ = ["METRICS", "X_AXES", "command", "compute", "curves", "plot", "summary"]
