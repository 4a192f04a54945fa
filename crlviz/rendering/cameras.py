"""Where a video's camera stands from frame to frame."""

import dataclasses

import numpy as np

from crlviz.envs.base import GoalEnv
from crlviz.envs.engine import mujoco
from crlviz.errors import UsageError
from crlviz.rendering.renderers import FOVY, Camera

CAMERAS = ("follow", "side", "top")
_LAG = 0.4  # seconds in which the camera makes up most of its way
_REACH = 1.8  # times the view's distance: how far a goal may be for both to be shown
_SIDE_ELEVATION = -10.0
_STEEPEST = -89.0
_ASIDE = 0.08  # of a cell: how far to each side of the body's middle it is seen past walls, too


class Cameraman:
    """Films one episode, a frame after the other.

    ``follow`` stays behind the body on its side away from the goal and shows both where they are near each other;
    ``side`` goes along beside it; ``top`` sees the whole world from above, x down and y to the right as maps have it.
    A body that stays at its place (an arm) is filmed from the environment's own view by both of the first. Where a wall
    would hide a body, they rise until they see it over the wall, at once, and come down slowly.
    """

    def __init__(self, env: GoalEnv, pose: np.ndarray, goal: np.ndarray, camera: str, aspect: float):
        """
        Args:
          env: the environment.
          pose: joint positions [nq] that the episode starts from.
          goal: the commanded goal [goal].
          camera: one of ``CAMERAS``.
          aspect: width over height of the picture.

        Raises:
          UsageError: an unknown camera.
        """
        if camera not in CAMERAS:
            raise UsageError(f"no camera is called {camera!r}; take {', '.join(CAMERAS)}")
        self._env, self._camera = env, camera
        self._model, self._data = env.model, mujoco.MjData(env.model)
        self._goal = np.array([goal[0], goal[1] if len(goal) > 1 else 0.0])
        self._wall_height = _wall_height(env)
        self._last: tuple[np.ndarray, float, float] | None = None
        start = self._body(pose)
        self._bearing = float(np.degrees(np.arctan2(*(self._goal - start[:2])[::-1]))) if env.view.body else 0.0
        self._top = _from_above(env, start, self._goal, aspect)

    def shot(self, pose: np.ndarray, seconds: float) -> Camera:
        """The camera for joint positions [nq], ``seconds`` after the shot before."""
        if self._camera == "top":
            return self._top
        view, body = self._env.view, self._body(pose)
        lookat = body.copy()
        distance, elevation = view.distance, view.elevation
        if view.body and self._camera == "side":
            azimuth, elevation = self._bearing + 90, max(elevation, _SIDE_ELEVATION)
        else:
            azimuth = self._bearing + view.azimuth
        if view.body and self._camera == "follow":
            way = self._goal - lookat[:2]
            far = np.linalg.norm(way) / (_REACH * view.distance)
            # Half way to a goal that is near, less and less of the way to one that is beyond reach.
            share = 0.5 * np.clip(2 - far, 0, 1)
            lookat[:2] += share * way
            distance += 1.4 * share * np.linalg.norm(way)
        if self._last is not None:
            keep = np.exp(-seconds / _LAG)
            lookat = keep * self._last[0] + (1 - keep) * lookat
            distance = keep * self._last[1] + (1 - keep) * distance
            elevation = keep * self._last[2] + (1 - keep) * elevation
        shots = (Camera(lookat, distance, azimuth, lower) for lower in np.arange(elevation, _STEEPEST, -1.0))
        shot = next((shot for shot in shots if self._sees(shot, body)), Camera(lookat, distance, azimuth, _STEEPEST))
        self._last = lookat, distance, shot.elevation
        return shot

    def _sees(self, shot: Camera, body: np.ndarray) -> bool:
        """Whether no wall stands between a camera and the body [3]."""
        maze = self._env.maze
        if maze is None or not self._env.view.body:
            return True
        _, right, _ = shot.axes
        ends = body + np.array([-1, 0, 1])[:, None] * _ASIDE * maze.cell_size * right
        ends = ends[maze.is_free(ends[:, :2])] * [1, 1, 0.4]  # most of the body, not its top alone
        way = np.linspace(0, 1, 1 + int(20 * shot.distance / maze.cell_size))[:, None, None]
        points = ends + way * (shot.eye - ends)
        # Beyond the grid nothing is free, nor is anything in the way.
        cell = maze.cell(points[..., :2])
        outside = ((cell < 0) | (cell >= maze.shape)).any(-1)
        return bool((maze.is_free(points[..., :2]) | outside | (points[..., 2] > self._wall_height)).all())

    def _body(self, pose: np.ndarray) -> np.ndarray:
        """What the view looks at [3], for joint positions."""
        view = self._env.view
        if not view.body:
            return np.array(view.lookat)
        self._data.qpos[:] = pose
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.body(view.body).xpos + np.array(view.lookat)


def _wall_height(env: GoalEnv) -> float:
    """Meters from the floor to the top of a maze's walls; 0 without."""
    if env.maze is None:
        return 0.0
    i, j = env.maze.cells("#")[0]
    wall = env.model.geom(f"wall_{i}_{j}")
    return float(wall.pos[2] + wall.size[2])


def overview(env: GoalEnv, pose: np.ndarray, goal: np.ndarray, aspect: float) -> Camera:
    """The camera for a single picture: of a whole maze from a height, else of the body and its goal."""
    shot = Cameraman(env, pose, goal, "top" if env.maze else "follow", aspect).shot(pose, 0.0)
    return dataclasses.replace(shot, elevation=-65.0) if env.maze else shot


def _from_above(env: GoalEnv, start: np.ndarray, goal: np.ndarray, aspect: float) -> Camera:
    if env.maze is not None:
        x_min, x_max, y_min, y_max = env.maze.extent
    elif env.view.body:
        room = 0.5 * env.view.distance
        (x_min, y_min), (x_max, y_max) = np.minimum(start[:2], goal) - room, np.maximum(start[:2], goal) + room
    else:
        x, y, half = *env.view.lookat[:2], 0.5 * env.view.distance
        x_min, x_max, y_min, y_max = x - half, x + half, y - half, y + half
    needed = max(x_max - x_min, (y_max - y_min) / aspect) / 2
    center = np.array([(x_min + x_max) / 2, (y_min + y_max) / 2, 0.0])
    return Camera(center, 1.05 * needed / np.tan(np.radians(FOVY / 2)), 180.0, -90.0)
