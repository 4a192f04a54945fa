"""The episode that the picture and the film show: the same start and goal for every agent, chosen by a rule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from analyses.common import ground
from crlviz import datasets
from crlviz.envs.base import GoalEnv
from crlviz.rendering import cameras, film_strip, video
from crlviz.rollouts import rollout

if TYPE_CHECKING:
    from crlviz.agent import Agent

SIZE = (320, 240)  # pixels of a still
_MOST = 4  # groups shown
_AFTER = 1.5  # seconds that a film shows after the last episode has ended


def index(described: xr.Dataset) -> int:
    """The episode whose goal is farthest from its start, by the geodesic.

    Episodes of one seed have the same starts and goals for all agents in the same environment.

    Args:
      described: the descriptors of one agent's episodes.
    """
    return int(np.nan_to_num(described.geodesic.values, nan=-1.0, posinf=-1.0).argmax())


def path(env: GoalEnv, episode: xr.Dataset) -> xr.Dataset:
    """Position of the part that must reach the goal before each step of an episode, seen from above.

    Returns:
      ``path`` (time, axis) and ``goal`` (axis), in meters; the path is NaN after the body has failed.
    """
    axes = list("xy")[: env.goal_dim]
    before = episode.state.values[:, list(env.goal_indices[: len(axes)])]
    goal = episode.goal.values[: len(axes)]
    return xr.Dataset(
        {
            "path": (
                ("time", "axis"),
                np.where(episode.alive.values[:, None], before, np.nan),
                {"long_name": "path in the hardest episode", "units": "m"},
            ),
            "goal": ("axis", goal, {"long_name": "goal of the hardest episode", "units": "m"}),
        },
        coords={
            "time": episode.time,
            "axis": ("axis", axes, {"long_name": "axis of the ground", "units": "1"}),
        },
    )


def add(dataset: xr.Dataset, agents: Sequence["Agent"], episodes: Sequence[xr.Dataset], *, stills: bool) -> xr.Dataset:
    """Add the maze to a Dataset of all agents and, if asked for, frames of the hardest episode.

    Args:
      dataset: from ``datasets.combine``.
      agents: the agents.
      episodes: the hardest episode of each.
      stills: render frames of the agents that ``typical`` chooses.

    Returns:
      The Dataset with attrs ``maze``, ``cell_size`` and ``origin``, if there is a maze, and ``azimuth``, of the camera
      at the start in degrees. With stills, it also has ``still`` (shown, moment, row, column, channel), colors 0 to
      255, and ``moment_time`` (moment) in seconds. Coordinates are ``shown``, the groups of seeds, and
      ``shown_source``, the checkpoint of the agent shown.
    """
    dataset = dataset.assign_attrs(ground.attrs(agents[0].eval_env.maze))
    if not stills:
        return dataset
    chosen = typical(dataset)
    by_source = {str(agent.source): (agent, each) for agent, each in zip(agents, episodes, strict=True)}
    pairs = [by_source[source] for source in chosen.values()]
    panels = [video.Panel(label, agent.eval_env, each) for label, (agent, each) in zip(chosen, pairs, strict=True)]
    agent, each = pairs[0]
    camera = cameras.Cameraman(agent.eval_env, each.pose.values[0], each.goal.values, "follow", SIZE[0] / SIZE[1])
    dataset = dataset.assign_attrs(azimuth=float(camera.shot(each.pose.values[0], 0.0).azimuth))
    times = film_strip.moments(panels)
    frames = np.stack(film_strip.stills(panels, times, SIZE))
    dims = ("shown", "moment", "row", "column", "channel")
    dataset = dataset.assign(
        still=(dims, frames, {"long_name": "frame of the hardest episode", "units": "1"}, {"zlib": True}),
        moment_time=("moment", times, {"long_name": "time of the frame", "units": "s"}),
    )
    return dataset.assign_coords(
        shown=("shown", list(chosen), {"long_name": "agents that differ in seed alone", "units": "1"}),
        shown_source=("shown", list(chosen.values()), {"long_name": "checkpoint whose episode is shown", "units": "1"}),
    )


def typical(dataset: xr.Dataset) -> dict[str, str]:
    """The agents to show: label of a group of seeds -> the checkpoint whose mean time at goal is the group's median.

    The lower median of an even number. Of more than four groups, four spread evenly from the shallowest to the deepest.
    """
    groups = list(datasets.groups(dataset))
    chosen = np.unique(np.linspace(0, len(groups) - 1, min(len(groups), _MOST)).round().astype(int))
    result = {}
    for label, _, parts in (groups[k] for k in chosen):
        order = sorted(parts, key=lambda part: float(part.time_at_goal.mean()))
        result[label] = str(order[(len(order) - 1) // 2].source.item())
    return result


def film(agents: Sequence["Agent"], dataset: xr.Dataset, path: Path, *, size: tuple[int, int] = video.SIZE) -> str:
    """Write a video of the hardest episode: a panel for each agent that ``typical`` chooses, all in step.

    It ends shortly after the last of ``film_strip.moments``.

    Args:
      agents: the agents given to ``compute``.
      dataset: from ``compute``.
      path: output file, .mp4 or .gif.
      size: width and height of a panel in pixels.

    Returns:
      The renderer, in words.

    Raises:
      As ``crlviz.rendering.video.write``.
    """
    sources = {str(agent.source): agent for agent in agents}
    hardest = index(next(part for _, _, part in datasets.each(dataset)))
    panels = []
    for label, source in typical(dataset).items():
        agent = sources[source]
        # Data of an older crlviz have no policy, but whether it was the mean.
        policy = dataset.attrs.get("policy") or ("mean" if dataset.attrs["deterministic"] else "sample")
        runs = rollout(agent, dataset.attrs["episodes"], env=agent.eval_env, seed=dataset.attrs["seed"], policy=policy)
        # A view would keep all episodes in memory.
        panels.append(video.Panel(label, agent.eval_env, runs.isel(episode=hardest).copy(deep=True)))
    end = film_strip.moments(panels)[-1] + _AFTER
    panels = [replace(panel, episode=panel.episode.isel(time=slice(panel.step(end) + 1))) for panel in panels]
    rows = [panels[:2], panels[2:]] if len(panels) == _MOST else [panels]
    return f"drawn by {video.write(path, rows, size=size)}"
