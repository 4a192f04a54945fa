"""Camera motion for videos."""

import dataclasses

import numpy as np

from crlviz.envs import looks
from crlviz.envs.base import GoalEnv
from crlviz.envs.engine import mujoco
from crlviz.errors import UsageError
from crlviz.rendering.renderers import FOVY, Camera

CAMERAS = ("follow", "side", "top")
_LAG = 0.4  # seconds, time constant of the camera's exponential smoothing
_REACH = 1.8  # in view distances: how far a goal may be for body and goal to be shown together
_SIDE_ELEVATION = -10.0  # degrees
_STEEPEST = -89.0  # degrees
_ASIDE = 0.08  # in cells: points this far to each side of the body's center must be visible too


class Cameraman:
    """Camera positions for one episode, frame by frame.

    ``follow`` stays above the body in a maze, turned as its map is: x down, y to the right. In the open it stays behind
    the body, seen from the goal, and shows both when they are close. ``side`` moves along beside the body, low; a maze
    stays turned as its map is. ``top`` shows the whole world from above, x down and y to the right as in maps. For a
    body that does not move around (an arm), ``follow`` and ``side`` use the environment's own view. Where a wall would
    hide the body, they rise at once until the body is visible over the wall, and come down slowly.
    """

    def __init__(self, env: GoalEnv, pose: np.ndarray, goal: np.ndarray, camera: str, aspect: float):
        """
        Args:
          env: the environment.
          pose: joint positions [nq] at the start of the episode.
          goal: the commanded goal [goal].
          camera: one of ``CAMERAS``.
          aspect: width over height of the picture.

        Raises:
          UsageError: unknown camera.
        """
        if camera not in CAMERAS:
            raise UsageError(f"no camera is called {camera!r}; take {', '.join(CAMERAS)}")
        self._env, self._camera = env, camera
        self._model, self._data = env.model, mujoco.MjData(env.model)
        self._goal = np.array([goal[0], goal[1] if len(goal) > 1 else 0.0])
        self._wall_height = _wall_height(env)
        self._last: tuple[np.ndarray, float, float] | None = None
        self._on_map = bool(env.maze and env.view.body)
        start = self._body(pose)
        self._bearing = float(np.degrees(np.arctan2(*(self._goal - start[:2])[::-1]))) if env.view.body else 0.0
        self._top = _top_view(env, start, self._goal, aspect)

    def shot(self, pose: np.ndarray, seconds: float) -> Camera:
        """The camera for joint positions [nq], ``seconds`` after the previous shot."""
        if self._camera == "top":
            return self._top
        view, body = self._env.view, self._body(pose)
        lookat = body.copy()
        distance, elevation = view.distance, view.elevation
        beside = bool(view.body) and self._camera == "side"
        if beside:
            elevation = max(elevation, _SIDE_ELEVATION)
        azimuth = looks.UP_THE_MAP if self._on_map else self._bearing + (90 if beside else view.azimuth)
        if view.body and self._camera == "follow" and not self._on_map:
            to_goal = self._goal - lookat[:2]
            relative = np.linalg.norm(to_goal) / (_REACH * view.distance)
            # Look halfway to a goal within reach, and less of the way to one beyond it.
            share = 0.5 * np.clip(2 - relative, 0, 1)
            lookat[:2] += share * to_goal
            distance += 1.4 * share * np.linalg.norm(to_goal)
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
        """Whether no wall is between a camera and the body at [3]."""
        maze = self._env.maze
        if maze is None or not self._env.view.body:
            return True
        _, right, _ = shot.axes
        ends = body + np.array([-1, 0, 1])[:, None] * _ASIDE * maze.cell_size * right
        ends = ends[maze.is_free(ends[:, :2])] * [1, 1, 0.4]  # lowered, so that most of the body is visible
        fractions = np.linspace(0, 1, 1 + int(40 * shot.distance / maze.cell_size))[:, None, None]
        points = ends + fractions * (shot.eye - ends)
        # Cells outside the grid count as not free, but nothing there blocks the view.
        cell = maze.cell(points[..., :2])
        outside = ((cell < 0) | (cell >= maze.shape)).any(-1)
        return bool((maze.is_free(points[..., :2]) | outside | (points[..., 2] > self._wall_height)).all())

    def _body(self, pose: np.ndarray) -> np.ndarray:
        """The point [3] that the view looks at, for joint positions [nq]."""
        view = self._env.view
        if not view.body:
            return np.array(view.lookat)
        self._data.qpos[:] = pose
        mujoco.mj_kinematics(self._model, self._data)
        return self._data.body(view.body).xpos + np.array(view.lookat)


def _wall_height(env: GoalEnv) -> float:
    """Height of a maze's walls in meters; 0 without a maze."""
    if env.maze is None:
        return 0.0
    i, j = env.maze.cells("#")[0]
    wall = env.model.geom(f"wall_{i}_{j}")
    return float(wall.pos[2] + wall.size[2])


def overview(env: GoalEnv, pose: np.ndarray, goal: np.ndarray, aspect: float) -> Camera:
    """The camera for a single picture: a high view of the whole maze, or without a maze, of the body and its goal.

    Args:
      env: the environment.
      pose: joint positions [nq].
      goal: the commanded goal [goal].
      aspect: width over height of the picture.
    """
    shot = Cameraman(env, pose, goal, "top" if env.maze else "follow", aspect).shot(pose, 0.0)
    return dataclasses.replace(shot, elevation=-65.0) if env.maze else shot


def _top_view(env: GoalEnv, start: np.ndarray, goal: np.ndarray, aspect: float) -> Camera:
    """A camera straight above that shows ``ground_extent``."""
    x_min, x_max, y_min, y_max = ground_extent(env, np.stack([start[:2], goal]))
    needed = max(x_max - x_min, (y_max - y_min) / aspect) / 2
    center = np.array([(x_min + x_max) / 2, (y_min + y_max) / 2, 0.0])
    return Camera(center, 1.05 * needed / np.tan(np.radians(FOVY / 2)), looks.UP_THE_MAP, -90.0)


def ground_extent(env: GoalEnv, places: np.ndarray) -> tuple[float, float, float, float]:
    """The ground that a view from above shows, as (x_min, x_max, y_min, y_max) in meters.

    The whole maze; without one, some places [N, 2] of bodies and goals with a margin; of an arm, what its view shows.
    """
    if env.maze is not None:
        return env.maze.extent
    half = 0.5 * env.view.distance
    if not env.view.body:
        places = np.array([env.view.lookat[:2]])
    (x_min, y_min), (x_max, y_max) = places.min(axis=0) - half, places.max(axis=0) + half
    return float(x_min), float(x_max), float(y_min), float(y_max)
