"""The page of ``crlviz play``: one self-contained HTML file in which agents live."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from crlviz import charts, datasets, jax_config
from crlviz.algorithms.base import HasQ
from crlviz.charts import STYLES, styled
from crlviz.envs import looks
from crlviz.envs.base import GoalEnv
from crlviz.errors import CrlvizError, UsageError, one_line
from crlviz.escaping import script_json
from crlviz.rendering import replay_page

if TYPE_CHECKING:
    from crlviz.agent import Agent
    from crlviz.browser.emitter import Program
    from crlviz.browser.programs import AgentPrograms, PagePrograms

MOST_AGENTS = 4  # side by side
_PUSH = 0.5  # change of velocity by a push, in distances of the camera per second
_EPISODES, _MOST_STEPS = 4, 500  # recorded of each agent, where its body cannot run in the page
_SCRIPTS = ("play_world.js", "play_map.js", "play_panels.js")


class _Store:
    """Programs of a page. Sources and constants that several have in common are kept once."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self.blobs: list[str] = []
        self.programs: list[dict[str, int]] = []
        self._known: dict[bytes, int] = {}

    def add(self, program: "Program | None") -> int | None:
        """Keep a program; returns its index in ``programs``, or None for None."""
        if program is None:
            return None
        if "</" in program.source:  # would end the script; emitted sources never hold it
            raise UsageError(f"the program {program.name} cannot be part of a page")
        source = self._once(self.sources, program.source.encode(), program.source)
        blob = self._once(self.blobs, program.constants, base64.b64encode(program.constants).decode())
        self.programs.append({"source": source, "blob": blob})
        return len(self.programs) - 1

    def _once(self, kept: list[str], content: bytes, text: str) -> int:
        key = hashlib.sha256(content).digest() + bytes([kept is self.blobs])
        if key not in self._known:
            kept.append(text)
            self._known[key] = len(kept) - 1
        return self._known[key]


def grouped(agents: Sequence["Agent"]) -> list[list["Agent"]]:
    """The agents by run, each run's checkpoints by steps of training.

    Raises:
      UsageError: no agent, more runs than stand side by side, or two environments.
    """
    if not agents:
        raise UsageError("no agent to play with")
    runs: dict[Any, dict[int, Agent]] = {}
    for agent in agents:
        replay_page.check_world(agents[0].eval_env, agent.eval_env.id, str(agent.source))
        runs.setdefault(agent.source.resolve().parents[1], {})[agent.env_steps] = agent
    if len(runs) > MOST_AGENTS:
        raise UsageError(f"{len(runs)} agents: a page holds at most {MOST_AGENTS}; name fewer runs")
    return [[run[steps] for steps in sorted(run)] for run in runs.values()]


@jax_config.with_fixed_settings
def page(agents: Sequence["Agent"]) -> str:
    """Build a self-contained HTML page in which agents live: they run in it, toward goals that the user sets.

    A body whose program cannot be translated follows recorded episodes of each agent, and the page says so.

    Args:
      agents: of one environment; checkpoints of one run become one agent with a slider over its training.

    Raises:
      UsageError: as ``grouped``.
      CrlvizError: the networks cannot be translated.
    """
    import jinja2

    from crlviz.browser import programs

    runs, note = grouped(agents), ""
    ordered = [agent for run in runs for agent in run]
    world: dict[str, Any]
    store = _Store()
    try:
        made = programs.page_programs(ordered)
        env, emitted = made.env, made.agents
        world = _live(store, made)
    except CrlvizError as error:
        note = f"Recorded episodes: the body cannot run in a page, because {one_line(error)}."
        env = runs[0][-1].eval_env
        world = _recorded(env, [run[-1] for run in runs])
        emitted = [programs.agent_programs(agent, _first_observations(env)) for agent in ordered]
    data = page_data(env, runs, store, emitted) | world
    meanings = [agent.q_meaning.title for agent in ordered if isinstance(agent.algorithm, HasQ)]
    folder = resources.files("crlviz.browser")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return jinja2.Template(folder.joinpath("play_page.html").read_text(encoding="utf-8"), autoescape=True).render(
        env=env.id,
        note=note,
        meaning=meanings[0] if meanings else "Q",
        data=script_json(data),
        sources=store.sources,
        script=replay_page.scene_script() + script,
        font=charts.FONT,
    )


def page_data(
    env: GoalEnv, runs: Sequence[Sequence["Agent"]], store: _Store, emitted: Sequence["AgentPrograms"]
) -> dict[str, Any]:
    """The page's data without what ``_live`` or ``_recorded`` gives, ready for JSON; programs are indices in ``store``.

    Args:
      env: the environment.
      runs: from ``grouped``.
      store: where programs are kept.
      emitted: the programs of all their agents, in order.
    """
    each = iter(emitted)
    agents: list[dict[str, Any]] = [
        {
            "label": label,
            **_colors(run[-1]),
            "checkpoints": [{"steps": agent.env_steps, **_networks(store, next(each))} for agent in run],
        }
        for label, run in zip(_labels(runs), runs, strict=True)
    ]
    critics = any(one["q_map"] is not None for agent in agents for one in agent["checkpoints"])
    return {
        "env": env.id,
        "font": charts.FONT,
        "agents": agents,
        "stateDim": env.state_dim,
        "goalDim": env.goal_dim,
        "placeIndices": env._place_indices if env.placeable and env.goal_dim > 1 else None,
        "achieved": env.goal_indices[:2] if env.goal_dim > 1 else None,
        "push": _PUSH * env.view.distance,
        "maze": {"rows": env.maze.rows, "cell": env.maze.cell_size, "origin": env.maze.origin} if env.maze else None,
        "colors": {"scale": charts.VIRIDIS, "goal": charts.GOAL},
        "no_map": "No map of Q: "
        + ("this body cannot be put anywhere in the plane." if critics else "there is no critic."),
        "programs": store.programs,
        "blobs": store.blobs,
    }


def _live(store: _Store, made: "PagePrograms") -> dict[str, Any]:
    """The part of the data from which bodies move: the environment's programs and its starts."""
    env, starts = made.env, made.starts
    count = len(starts.obs)
    fields = [*starts.leaves, *starts[1:]]
    return {
        **_scene(env, starts.obs[:, env.state_dim :]),
        "environment": {name: store.add(getattr(made, name)) for name in ("step", "set_goal", "push")},
        "leaves": len(starts.leaves),
        "starts": [[_packed(np.asarray(field)[start]) for field in fields] for start in range(count)],
        "recorded": None,
    }


def _recorded(env: GoalEnv, agents: Sequence["Agent"]) -> dict[str, Any]:
    """The same from recorded episodes, of each agent from the same starts to the same goals."""
    from crlviz.rollouts import rollout

    _, moving = replay_page.drawn_geoms(env.model)
    recorded = []
    for agent in agents:
        length = min(env.episode_length, _MOST_STEPS)
        episodes = rollout(agent, _EPISODES, env=env, length=length, distinct=True)
        goals, drawn = episodes.goal.values, []
        for index in range(_EPISODES):
            episode = episodes.isel(episode=index)
            panel = replay_page.panel_data(env, "", episode, moving, 1)[2]
            goal = np.broadcast_to(goals[index], (length, env.goal_dim))
            obs = replay_page.encode(np.concatenate([episode.state.values, goal], axis=1))
            drawn.append({"obs": obs, **{name: panel[name] for name in ("places", "focus", "distance", "fell")}})
        recorded.append(drawn)
    return {
        **_scene(env, goals),
        "environment": {"step": None, "set_goal": None, "push": None},
        "leaves": 0,
        "starts": None,
        "recorded": recorded,
    }


def _scene(env: GoalEnv, goals: np.ndarray) -> dict[str, Any]:
    """What the scene and the map show: in the open the ground around the origin, where bodies start, and the goals.

    Both are turned alike: x down, y to the right.
    """
    places = np.pad(goals[:, :2].astype(float), ((1, 0), (0, 2 - min(goals.shape[1], 2))))
    data = replay_page.scene_data(env, env.model.qpos0, places)
    if env.view.body and env.goal_dim > 1:  # a body that runs on a line is seen from its side
        data["view"]["azimuth"] = math.radians(looks.UP_THE_MAP)
    return data


def _first_observations(env: GoalEnv) -> np.ndarray:
    from crlviz.browser import programs

    return np.asarray(programs.first_states(env, _EPISODES).obs)


def _networks(store: _Store, emitted: "AgentPrograms") -> dict[str, int | None]:
    return {name: store.add(getattr(emitted, name)) for name in ("act", "q", "q_map")}


def _packed(values: np.ndarray) -> dict[str, Any]:
    integer = not np.issubdtype(values.dtype, np.floating)
    kept = np.ascontiguousarray(values, "<i4" if integer else "<f4")
    return {"data": base64.b64encode(kept.tobytes()).decode(), "integer": integer}


def _labels(runs: Sequence[Sequence["Agent"]]) -> list[str]:
    """The settings in which the runs differ, and always depth, from the newest checkpoint of each run."""
    newest = [run[-1] for run in runs]
    differing = [name for name in datasets.differing(newest) if name != "env_steps"] if len(newest) > 1 else []
    names = ["depth"] * ("depth" not in differing) + differing
    return datasets.labels([{name: agent.facts.get(name, "unknown") for name in names} for agent in newest])


def _colors(agent: "Agent") -> Mapping[str, str]:
    """The color of the agent's depth on light and on dark."""
    depth, colors = agent.facts["depth"], {}
    for name, style in (("color", STYLES["notebook"]), ("dark", STYLES["dark"])):
        with styled(style):
            colors[name] = charts.depth_color(depth)
    return colors
