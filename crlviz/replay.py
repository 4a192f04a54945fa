"""Episodes to walk around in: one HTML file that shows the bodies moving in 3-D and opens without a network."""

import base64
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crlviz import files, mazes, switches
from crlviz.engine import mujoco
from crlviz.envs import looks
from crlviz.envs.base import GoalEnv
from crlviz.errors import UsageError
from crlviz.escaping import script_json

if TYPE_CHECKING:
    import xarray as xr

_ENDLESS = 100.0  # metres; half the side of a plane whose size is 0, which MuJoCo takes for without end


@switches.as_usual
def write(path: str | Path, env: GoalEnv, panels: "Mapping[str, xr.Dataset]", *, every: int = 1) -> None:
    """Write an interactive replay of episodes side by side, in step with each other.

    Args:
      path: the HTML file.
      env: the environment of all episodes.
      panels: caption to one episode of ``crlviz.rollout`` (dims ``time``, ``joint``, ...).
      every: keep one step in so many; the page moves smoothly between those it has.

    Raises:
      UsageError: no episode, more than one in a panel, one of another environment, ``every`` below 1, or no such
        directory.
      CrlvizError: the file cannot be written.
    """
    import jinja2

    path = Path(path)
    files.check_writable(path)
    data = script_json(page_data(env, panels, every=every))
    template = resources.files("crlviz").joinpath("replay.html").read_text(encoding="utf-8")
    page = jinja2.Template(template, autoescape=True).render(env=env.id, data=data)
    files.write(path, page.encode(errors="replace"))


def check_world(env: GoalEnv, other: str, caption: str) -> None:
    """Refuse an episode of an environment that looks otherwise than the page's; other starts and goals do not.

    Raises:
      UsageError: another body or maze.
    """
    if mazes.split_pairs(other)[0] != mazes.split_pairs(env.id)[0]:
        raise UsageError(f"{caption!r} is an episode of {other}, not of {env.id}; a page shows one of them")


def page_data(env: GoalEnv, panels: "Mapping[str, xr.Dataset]", *, every: int = 1) -> dict[str, Any]:
    """What the page draws, ready for JSON; arrays are base64 of little-endian float32.

    ``geoms`` holds name, mesh, half sizes [3] in metres, ``end`` (half the length of a capsule's cylinder) and rgba,
    the standing ones first; ``standing`` their places [count, 7] and, per panel, ``places`` [steps, the others, 7]: x,
    y, z in metres and the quaternion w, x, y, z. Arguments and errors as of ``write``.
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
    seen = [geom for geom in range(model.ngeom) if model.geom_rgba[geom, 3] > 0]
    fixed = model.body_weldid[model.geom_bodyid] == 0
    standing = [geom for geom in seen if fixed[geom]]
    moving = [geom for geom in seen if not fixed[geom]]
    first = next(iter(panels.values()))["pose"].values[:1]
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
            "azimuth": math.radians(env.view.azimuth),
            "elevation": math.radians(env.view.elevation),
            "fovy": math.radians(float(model.vis.global_.fovy)),
        },
        "seconds": env.dt,
        "every": every,
        "near": env.goal_distance,
        "geoms": [_geom(model, geom) for geom in standing + moving],
        "standing": _packed(_places(model, first, standing)[0]),
        "panels": [_panel(env, caption, episode, moving, every) for caption, episode in panels.items()],
    }


def _panel(env: GoalEnv, caption: str, episode: "xr.Dataset", moving: list[int], every: int) -> dict[str, Any]:
    poses = episode["pose"].values
    focus, turn = _camera(env, poses, episode["goal"].values)
    alive = episode["alive"].values
    return {
        "caption": caption,
        "fell": None if alive.all() else int(np.argmin(alive)),
        "turn": turn,
        "focus": _packed(focus[::every]),
        "places": _packed(_places(env.model, poses[::every], moving)),
        "distance": _packed(episode["distance"].values[::every]),
        "q": _packed(episode["q"].values[::every]),
    }


def _geom(model: mujoco.MjModel, geom: int) -> dict[str, Any]:
    x, y, z = (float(value) for value in model.geom_size[geom])
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    mesh, size, end = {
        mujoco.mjtGeom.mjGEOM_SPHERE: ("round", (x, x, x), 0.0),
        mujoco.mjtGeom.mjGEOM_CAPSULE: ("round", (x, x, x), y),
        mujoco.mjtGeom.mjGEOM_ELLIPSOID: ("round", (x, y, z), 0.0),
        mujoco.mjtGeom.mjGEOM_CYLINDER: ("cylinder", (x, x, y), 0.0),
        mujoco.mjtGeom.mjGEOM_BOX: ("box", (x, y, z), 0.0),
        mujoco.mjtGeom.mjGEOM_PLANE: ("plane", (x or _ENDLESS, y or _ENDLESS, 1.0), 0.0),
    }[kind]
    rgba = model.geom_rgba[geom].tolist()
    return {"name": model.geom(geom).name, "mesh": mesh, "size": size, "end": end, "rgba": rgba}


def _places(model: mujoco.MjModel, poses: np.ndarray, geoms: list[int]) -> np.ndarray:
    """Places [steps, geoms, 7] of geoms in poses [steps, nq]."""
    data = mujoco.MjData(model)
    places = np.empty((len(poses), len(geoms), 7))
    for pose, place in zip(poses, places, strict=True):
        data.qpos[:] = pose
        mujoco.mj_kinematics(model, data)
        for row, geom in zip(place, geoms, strict=True):
            row[:3] = data.geom_xpos[geom]
            mujoco.mju_mat2Quat(row[3:], data.geom_xmat[geom])
    return places


def _camera(env: GoalEnv, poses: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    """Points [steps, 3] that the camera looks at, and the angle in radians that its azimuth counts from.

    The height stays that of the first step: a body that falls is seen falling.
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
    ahead = (*goal, 0.0)[:2] - focus[0, :2]
    focus[:, 2] = focus[0, 2]
    return focus + view.lookat, math.atan2(ahead[1], ahead[0])


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
