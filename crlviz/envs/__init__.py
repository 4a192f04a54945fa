"""Environments by name: ``make("ant_u4_maze")``. An id is the body and, if there is one, the maze."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crlviz.envs import mazes
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.envs.base import GoalEnv

CUSTOM = "point_maze"
_MOST_DISTRACTORS = 10_000
Layout = str | Path | Sequence[str]


@dataclass(frozen=True)
class Body:
    """A body: its class, its mazes and its default options.

    Attributes:
      where: ``module:Class`` in this package; imported when the body is first built.
      open: whether it also exists without a maze.
      cell_size: side of a maze cell in meters; None: it has no mazes.
      centered: whether the origin is the middle of the maze, rather than the center of cell (0, 0).
      layouts: maze names that mean a layout of another name for this body.
      paper: options that reproduce the paper's code, including its bugs.
      paper_open: further such options for the body without a maze.
      laptop: for a body that a few CPU cores can train: settings in addition to the ``laptop`` preset of training,
        which is its default preset. None: too heavy for a laptop.
    """

    where: str
    open: bool = True
    cell_size: float | None = None
    centered: bool = False
    layouts: Mapping[str, str] = field(default_factory=dict)
    paper: Mapping[str, object] = field(default_factory=dict)
    paper_open: Mapping[str, object] = field(default_factory=dict)
    laptop: Mapping[str, object] | None = None


_NOISY = {"normalize_quaternion": False}
# Learning a gait needs more varied experience than finding a way through a maze.
_MORE_STEPS = {
    "num_envs": 256,
    "unroll": 100,
    "updates": 128,
    "batch_size": 128,
    "replay_steps": 3_000,
    "window": 1_000,
    "env_steps": 8_000_000,
}
BODIES: dict[str, Body] = {
    "point": Body("point:PointMaze", open=False, cell_size=1.0, centered=True, laptop={}),
    "swimmer": Body("swimmer:Swimmer", cell_size=1.25, centered=True, laptop=_MORE_STEPS),
    "planar_arm": Body("planar_arm:PlanarArm", laptop=_MORE_STEPS),
    "ant": Body("ant:Ant", cell_size=4.0, paper=_NOISY),
    "ant_ball": Body("ant_ball:AntBall", paper=_NOISY | {"ball_is_goal": False, "independent_offset": False}),
    "ant_push": Body("ant_push:AntPush", paper=_NOISY | {"box_at_rest": False}),
    "humanoid": Body(
        "humanoid:Humanoid",
        cell_size=2.0,
        layouts={"big_maze_eval": "big_maze_eval_humanoid"},
        paper_open={"physics_step": 0.003},
    ),
    "reacher": Body("reacher:Reacher", paper={"backend": "spring", "physics_step": 0.01}),
    "pusher_easy": Body("pusher:PusherEasy"),
    "pusher_hard": Body("pusher:PusherHard"),
    "cheetah": Body("cheetah:Cheetah"),
    "arm_reach": Body("arm:ArmReach"),
    "arm_grasp": Body("arm:ArmGrasp"),
    "arm_push_easy": Body("arm:ArmPushEasy"),
    "arm_push_hard": Body("arm:ArmPushHard"),
    "arm_binpick_easy": Body("arm:ArmBinpickEasy"),
    "arm_binpick_hard": Body("arm:ArmBinpickHard"),
}

# The ten tasks of the paper's table 1.
PAPER = frozenset(
    {
        "arm_binpick_hard",
        "arm_push_easy",
        "arm_push_hard",
        "ant_u4_maze",
        "ant_u5_maze",
        "ant_big_maze",
        "ant_hardest_maze",
        "humanoid",
        "humanoid_u_maze",
        "humanoid_big_maze",
    }
)


def ids() -> list[str]:
    """All ids that ``make`` accepts without further options."""
    return [
        id
        for name, body in BODIES.items()
        for id in [name] * body.open + [f"{name}_{layout}" for layout in mazes.LAYOUTS] * (body.cell_size is not None)
    ]


def make(id: str, *, layout: Layout | None = None, backend: str | None = None, **options: object) -> "GoalEnv":
    """Build an environment.

    Args:
      id: body and maze, for example ``humanoid``, ``ant_u4_maze``, ``point_big_maze_eval``, ``ant_u_maze_gen_1f2f3f``
        (starts and goals 1, 2 or 3 cells apart), or a body's ``..._maze`` with a custom layout.
      layout: rows of text or a text file, see ``crlviz.envs.mazes.parse``; only with ``..._maze``.
      backend: physics engine, for bodies with a choice; default: the paper's.
      options: keyword options of the body's class, for example ``physics_step`` of the humanoid; and ``distractors``,
        the number of useless features that any environment's state goes on with (``crlviz.envs.distracted``).

    Raises:
      UsageError: the id is unknown (the message names the nearest); the layout is missing, invalid or not allowed; or
        the body lacks the option or the engine.
    """
    from crlviz import jax_config  # here: it imports jax

    maze = check(id, layout)
    build: Any = env_class(id)
    if backend is not None:
        options["backend"] = backend
    known = _options(build)
    for option in options:
        if option not in known:
            raise UsageError(f"{id} has no option {option!r}; known: {', '.join(known)}")
    distractors = options.pop("distractors", 0)
    if type(distractors) is not int or not 0 <= distractors <= _MOST_DISTRACTORS:
        raise UsageError(f"{id} with distractors = {distractors!r}: take a whole number, 0 to {_MOST_DISTRACTORS:,}")
    with jax_config.fixed_settings():
        env = build(id, maze, **options) if maze else build(id, **options)
        if distractors:
            from crlviz.envs.distracted import Distracted

            return Distracted(env, distractors)
        return env


def gymnasium(id: str, **options: Any) -> Any:
    """An environment as a ``gymnasium.Env``, see ``crlviz.gymnasium_env.GymnasiumEnv``.

    Raises:
      UsageError: as ``make``; or Gymnasium is not installed.
    """
    # Imported by name because gymnasium_env depends on rendering, which imports this package.
    return import_module("crlviz.gymnasium_env").GymnasiumEnv(id, **options)


def options(id: str) -> dict[str, Any]:
    """The environment's keyword options for ``make``, with defaults. Raises as ``check`` does."""
    return _options(env_class(id))


def _options(build: Any) -> dict[str, Any]:
    own = {p.name: p.default for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY}
    return own | {"distractors": 0}


def env_class(id: str) -> "type[GoalEnv]":
    """The class of an environment; its attributes give sizes without building it. Raises as ``check`` does."""
    body = BODIES[_split(id)[0]]
    module, _, name = body.where.partition(":")
    # Imported here, because brax takes over a second, and an unknown name should be reported at once. MuJoCo comes
    # first, by ``physics``, which survives a wrong MUJOCO_GL and hides what MJX prints; bodies of plain jax need none.
    import_module("crlviz.envs.base" if body.laptop is not None else "crlviz.envs.physics")
    return getattr(import_module(f"crlviz.envs.{module}"), name)


def laptop_settings(id: str) -> dict[str, Any] | None:
    """A body's settings in addition to the ``laptop`` preset of training; None if it is too heavy for a laptop.

    Raises:
      UsageError: unknown id.
    """
    settings = BODIES[_split(id)[0]].laptop
    return None if settings is None else dict(settings)


def paper_options(id: str) -> dict[str, Any]:
    """The options with which ``make`` reproduces the paper's environment of this name.

    Raises:
      UsageError: unknown id.
    """
    name, maze = _split(id)
    return {**BODIES[name].paper, **({} if maze else BODIES[name].paper_open)}


def check(id: str, layout: Layout | None = None) -> mazes.Maze | None:
    """The maze that ``make`` would build, or None; imports neither jax nor brax. Raises as ``make`` does."""
    name, maze = _split(id)
    body = BODIES[name]
    base, hops = mazes.split_pairs(maze)
    if base == "maze":
        if layout is None:
            raise UsageError(f"{id} is for a maze of your own: give its file with --layout")
        return mazes.build(mazes.parse(layout), cell_size=body.cell_size or 1.0, centered=body.centered, hops=hops)
    if layout is not None:
        custom = f"{name}_maze" if body.cell_size else CUSTOM
        raise UsageError(f"{id} has its layout in its name; a layout of your own goes with {custom}")
    if not maze:
        return None
    return mazes.get(body.layouts.get(maze, maze), cell_size=body.cell_size or 1.0, centered=body.centered)


def _split(id: str) -> tuple[str, str]:
    """Body and maze of an id. The maze is "" without one, and "maze" or "maze_gen_..." for a custom layout."""
    for name, body in BODIES.items():
        if id == name and body.open:
            return name, ""
        maze = id.removeprefix(f"{name}_")
        if maze != id and body.cell_size and mazes.split_pairs(maze)[0] in (*mazes.LAYOUTS, "maze"):
            return name, maze
    known = ids()
    near = difflib.get_close_matches(id, [*known, *(f"{n}_maze" for n, b in BODIES.items() if b.cell_size)], 3, 0.4)
    raise UsageError(f"no environment is called {id!r}; nearest: {', '.join(near) or ', '.join(known)}")


__all__ = [
    "BODIES",
    "CUSTOM",
    "PAPER",
    "Body",
    "check",
    "gymnasium",
    "ids",
    "kind",
    "laptop_settings",
    "make",
    "options",
    "paper_options",
]
