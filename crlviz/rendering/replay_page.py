"""Interactive 3-D replay of episodes: one self-contained HTML file."""

import base64
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crlviz import jax_config
from crlviz.checkpoints import atomic_files
from crlviz.envs import looks, mazes
from crlviz.envs.base import GoalEnv
from crlviz.envs.engine import mujoco
from crlviz.errors import UsageError
from crlviz.escaping import script_json
from crlviz.rendering import cameras

if TYPE_CHECKING:
    import xarray as xr

_INFINITE = 100.0  # meters; half the side drawn for a plane of size 0, which MuJoCo treats as infinite


@jax_config.with_fixed_settings
def write(
    path: str | Path, env: GoalEnv, panels: "Mapping[str, xr.Dataset]", *, every: int = 1, columns: int | None = None
) -> None:
    """Write an interactive replay of episodes side by side, in step with each other.

    Args:
      path: the HTML file.
      env: the environment of all episodes.
      panels: caption to one episode of ``crlviz.rollout`` (dims ``time``, ``joint``, ...).
      every: keep every n-th step; the page interpolates between the steps it has.
      columns: panels in a row of a wide window; default: all, at most four.

    Raises:
      UsageError: no episode, more than one in a panel, an episode of another environment, ``every`` below 1, or no
        such directory.
      CrlvizError: the file cannot be written.
    """
    import jinja2

    path = Path(path)
    atomic_files.check_writable(path)
    data = script_json(page_data(env, panels, every=every))
    template = resources.files("crlviz.rendering").joinpath("replay_page.html").read_text(encoding="utf-8")
    page = jinja2.Template(template, autoescape=True).render(
        env=env.id, data=data, scene=scene_script(), columns=columns or min(len(panels), 4)
    )
    atomic_files.write(path, page.encode(errors="replace"))


def scene_script() -> str:
    """JavaScript of the 3-D scene, which the replay and the page of ``crlviz play`` share."""
    return resources.files("crlviz.rendering").joinpath("scene.js").read_text(encoding="utf-8")


def check_world(env: GoalEnv, other: str, caption: str) -> None:
    """Check that an episode's environment has the same body and maze as the page's. Starts and goals may differ.

    Args:
      env: the page's environment.
      other: id of the episode's environment.
      caption: the episode's caption, for the message.

    Raises:
      UsageError: the body or maze differs.
    """
    if mazes.split_pairs(other)[0] != mazes.split_pairs(env.id)[0]:
        raise UsageError(f"{caption!r} is an episode of {other}, not of {env.id}; a page shows one of them")


def page_data(env: GoalEnv, panels: "Mapping[str, xr.Dataset]", *, every: int = 1) -> dict[str, Any]:
    """The page's data, ready for JSON; arrays are base64 of little-endian float32.

    ``geoms`` holds name, mesh, half sizes [3] in meters, ``end`` (half the length of a capsule's cylinder) and rgba;
    fixed geoms come first. ``standing`` holds the poses of the fixed geoms [fixed, 7], each panel's ``places`` those of
    the moving ones [steps, moving, 7]: x, y, z in meters and the quaternion w, x, y, z. ``ground`` is what a map shows,
    in meters: its extent (x_min, x_max, y_min, y_max), the corners of the walls' cells, and the side of a cell.
    Arguments and errors as for ``write``.
    """
    if every < 1:
        raise UsageError(f"every = {every}: keep one step in 1 or more")
    if not panels:
        raise UsageError("no episode to replay")
    model = env.model
    for caption, episode in panels.items():
        check_world(env, episode.attrs.get("env", env.id), caption)
        if episode["pose"].dims != ("time", "joint") or episode.sizes["joint"] != model.nq:
            raise UsageError(f"{caption!r} is not one episode of {env.id}; choose one, as in rollout.isel(episode=0)")
    first = next(iter(panels.values()))["pose"].values[0]
    _, moving = drawn_geoms(model)
    drawn = [panel_data(env, caption, episode, moving, every) for caption, episode in panels.items()]
    places = np.concatenate([np.concatenate([focus[:, :2], [goal]]) for focus, goal, _ in drawn])
    return {**scene_data(env, first, places), "every": every, "panels": [panel for _, _, panel in drawn]}


def drawn_geoms(model: mujoco.MjModel) -> tuple[list[int], list[int]]:
    """Indices of a model's visible geoms in the order of the pages: those that never move, and those that do."""
    visible = [geom for geom in range(model.ngeom) if model.geom_rgba[geom, 3] > 0]
    is_fixed = model.body_weldid[model.geom_bodyid] == 0
    return [geom for geom in visible if is_fixed[geom]], [geom for geom in visible if not is_fixed[geom]]


def scene_data(env: GoalEnv, pose: np.ndarray, places: np.ndarray) -> dict[str, Any]:
    """What ``scene.js`` draws of an environment, besides what moves, ready for JSON; ``page_data`` says what it holds.

    Args:
      env: the environment.
      pose: any joint positions [nq] of its model.
      places: positions [N, 2] in meters of bodies and goals, which a map of the open ground shows.
    """
    model = env.model
    fixed, moving = drawn_geoms(model)
    half = env.maze.cell_size / 2 if env.maze else 0.0
    corners = env.maze.xy(np.argwhere(env.maze.walls)) - half if env.maze else np.zeros((0, 2))
    return {
        "look": {
            "sky": looks.SKY,
            "floor": looks.FLOOR,
            "light": (looks.AMBIENT, looks.HEADLIGHT, looks.SUN),
            "sun": looks.SUN_DIRECTION,
            "square": env.view.square,
        },
        "view": {
            "follows": bool(env.view.body),
            "distance": env.view.distance,
            "azimuth": math.radians(looks.UP_THE_MAP if env.maze else env.view.azimuth),
            "elevation": math.radians(env.view.elevation),
            "fovy": math.radians(float(model.vis.global_.fovy)),
        },
        "seconds": env.dt,
        "near": env.goal_distance,
        "geoms": [_geom(model, geom) for geom in fixed + moving],
        "standing": encode(_geom_poses(model, pose[None], fixed)[0]),
        "ground": {
            "extent": cameras.ground_extent(env, places),
            "walls": corners.round(4).tolist(),
            "cell": 2 * half,
        },
    }


def panel_data(
    env: GoalEnv, caption: str, episode: "xr.Dataset", moving: Sequence[int], every: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What the camera looks at [steps, 3], the goal [2] on the ground, both in meters, and the panel's data."""
    poses, goal = episode["pose"].values, episode["goal"].values.astype(float)
    focus, turn = _camera(env, poses, goal)
    alive = episode["alive"].values
    target = np.array([goal[0], goal[1] if len(goal) > 1 else 0.0])
    data = {
        "caption": caption,
        "fell": None if alive.all() else int(np.argmin(alive)),
        "turn": turn,
        "goal": target.round(4).tolist(),
        "focus": encode(focus[::every]),
        "places": encode(_geom_poses(env.model, poses[::every], moving)),
        "distance": encode(episode["distance"].values[::every]),
        "q": encode(episode["q"].values[::every]) if "q" in episode else None,
    }
    return focus, target, data


def _geom(model: mujoco.MjModel, geom: int) -> dict[str, Any]:
    x, y, z = (float(value) for value in model.geom_size[geom])
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    mesh, size, end = {
        mujoco.mjtGeom.mjGEOM_SPHERE: ("round", (x, x, x), 0.0),
        mujoco.mjtGeom.mjGEOM_CAPSULE: ("round", (x, x, x), y),
        mujoco.mjtGeom.mjGEOM_ELLIPSOID: ("round", (x, y, z), 0.0),
        mujoco.mjtGeom.mjGEOM_CYLINDER: ("cylinder", (x, x, y), 0.0),
        mujoco.mjtGeom.mjGEOM_BOX: ("box", (x, y, z), 0.0),
        mujoco.mjtGeom.mjGEOM_PLANE: ("plane", (x or _INFINITE, y or _INFINITE, 1.0), 0.0),
    }[kind]
    rgba = model.geom_rgba[geom].tolist()
    return {"name": model.geom(geom).name, "mesh": mesh, "size": size, "end": end, "rgba": rgba}


def _geom_poses(model: mujoco.MjModel, poses: np.ndarray, geoms: Sequence[int]) -> np.ndarray:
    """Position and quaternion [steps, geoms, 7] of geoms for joint positions [steps, nq]."""
    data = mujoco.MjData(model)
    geom_poses = np.empty((len(poses), len(geoms), 7))
    for pose, rows in zip(poses, geom_poses, strict=True):
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        for row, geom in zip(rows, geoms, strict=True):
            row[:3] = data.geom_xpos[geom]
            mujoco.mju_mat2Quat(row[3:], data.geom_xmat[geom])
    return geom_poses


def _camera(env: GoalEnv, poses: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    """Points [steps, 3] that the camera looks at, and the angle in radians that its azimuth is relative to.

    In a maze that is x, so that all panels are turned as a map is. The height stays that of the first step, so that a
    fall is visible.
    """
    view = env.view
    if not view.body:
        return np.tile(view.lookat, (len(poses), 1)), 0.0
    data = mujoco.MjData(env.model)
    focus = np.empty((len(poses), 3))
    for pose, point in zip(poses, focus, strict=True):
        data.qpos[:] = pose
        mujoco.mj_kinematics(env.model, data)
        point[:] = data.body(view.body).xpos
    to_goal = (*goal, 0.0)[:2] - focus[0, :2]
    focus[:, 2] = focus[0, 2]
    return focus + view.lookat, 0.0 if env.maze else math.atan2(to_goal[1], to_goal[0])


def encode(values: np.ndarray) -> str:
    """Base64 of an array as little-endian float32."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
