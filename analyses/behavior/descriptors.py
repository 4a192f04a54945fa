"""What happened in an episode? Numbers with written definitions, computed alike for every body they apply to."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from analyses.behavior import strokes
from crlviz.envs.base import GoalEnv
from crlviz.envs.mazes import Maze
from crlviz.envs.swimmer import LENGTH

if TYPE_CHECKING:
    import mujoco

_GROUND = 0.05  # meters: a body is in the air if its lowest point is higher
_TOUCH = 0.01  # meters: a smaller gap is contact
_TILTED = 0.5  # uprightness below which a body counts as fallen: tilted by more than 60 degrees
_FALL_SECONDS = 0.5  # seconds before a failure over which ``fall_speed`` is measured
_INSIDE = 0.1  # share of a cell: a torso is over a wall if it is this far inside the wall's faces
_LATE = 0.5  # share of a body's time after which its moves count for ``late_displacement_over_geodesic``
_DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])


class Descriptor(NamedTuple):
    """Definition of a number that describes an episode.

    Attributes:
      title: its plain name.
      meaning: the definition in words.
      units: its unit.
      needs: what body and environment must have: a ``torso``, a ``chain`` of links, a ``maze``.
    """

    title: str
    meaning: str
    units: str
    needs: tuple[str, ...] = ()


# Positions are those of the part that must reach the goal; for walking bodies, their x and y alone.
DESCRIPTORS: dict[str, Descriptor] = {
    "time_at_goal": Descriptor("time at goal", "steps within the success distance", "steps"),
    "steps_to_goal": Descriptor(
        "steps to goal", "steps until the first within the success distance; NaN where there is none", "steps"
    ),
    "staying": Descriptor(
        "fraction of time at goal after reaching it",
        "share within the success distance of the steps from the first such one on",
        "1",
    ),
    "geodesic": Descriptor(
        "geodesic distance", "distance to the goal at the start, through the maze if there is one", "m"
    ),
    "progress": Descriptor(
        "fraction of the way covered",
        "share of the geodesic that lay behind it where it came nearest; 1 is the goal",
        "1",
    ),
    "path_over_geodesic": Descriptor(
        "path length over geodesic distance",
        "length of its path until it reached the goal, or all of it, over geodesic",
        "1",
    ),
    "displacement_over_geodesic": Descriptor(
        "farthest from start over geodesic distance", "how far from its start it came, over geodesic", "1"
    ),
    "travel_over_geodesic": Descriptor(
        "distance traveled over geodesic distance",
        "length of the moves that led farther than the goal's diameter, over the geodesic",
        "1",
    ),
    "speed": Descriptor("speed", "length of its path over the time it was alive", "m/s"),
    "fell": Descriptor(
        "fraction of episodes with a fall", "1 where the body failed before the episode's last step", "1"
    ),
    "fall_speed": Descriptor(
        "speed toward the goal before a fall", "speed toward the goal in the last half second before it failed", "m/s"
    ),
    "time_fallen": Descriptor(
        "time fallen", "steps after it failed, or tilted by more than 60 degrees", "steps", ("torso",)
    ),
    "torso_height": Descriptor("height of the torso", "height of the torso, mean while alive", "m", ("torso",)),
    "uprightness": Descriptor(
        "uprightness (cosine of the tilt)", "cosine of the torso's tilt, mean while alive", "1", ("torso",)
    ),
    "air_time": Descriptor(
        "fraction of time in the air", "share of steps with its lowest point over 5 cm above the floor", "1", ("torso",)
    ),
    "wall_contact": Descriptor(
        "fraction of time at a wall", "share of steps with some part within 1 cm of a wall", "1", ("maze",)
    ),
    "above_wall": Descriptor(
        "time above a wall", "steps with the torso over a wall, and higher than it", "steps", ("torso", "maze")
    ),
    # Over the steps until a chain first reaches the goal. A stroke is a swing of a joint there and back by 0.5 radians.
    "stroke_frequency": Descriptor("strokes per second", "strokes a second, mean over its joints", "1/s", ("chain",)),
    "stroke_length": Descriptor(
        "gain per stroke", "how much nearer to the goal a stroke brought it", "body lengths", ("chain",)
    ),
    "wave": Descriptor(
        "wave along the body (0 to 1)",
        "how far neighboring joints go round: 1 a wave along it, 0 there and back",
        "1",
        ("chain",),
    ),
    "late_displacement_over_geodesic": Descriptor(
        "displacement in the second half over geodesic distance",
        "how far it came in the second half of its time, over geodesic",
        "1",
        ("chain",),
    ),
}


def describe(env: GoalEnv, runs: xr.Dataset) -> xr.Dataset:
    """Compute the descriptors of episodes.

    Args:
      env: the environment of the episodes.
      runs: episodes from ``crlviz.rollout``.

    Returns:
      Dataset over ``episode`` with the ``DESCRIPTORS`` that apply to this body and environment; attrs ``absent`` names
      the others and what is missing for them. A torso is a body of that name in the environment's model; the links of a
      chain are the bodies ``link_0``, ``link_1`` and so on.
    """
    skeleton = _Skeleton.of(env.model)
    available = {
        "torso": skeleton is not None and skeleton.root == "torso",
        "chain": skeleton is not None and skeleton.root == "link_0",
        "maze": env.maze is not None,
    }
    lacks = {name: [need for need in DESCRIPTORS[name].needs if not available[need]] for name in DESCRIPTORS}
    rows = [_describe_episode(env, skeleton, runs.isel(episode=index)) for index in range(runs.sizes["episode"])]
    variables = {}
    for name, (_, meaning, units, _) in DESCRIPTORS.items():
        if not lacks[name]:
            values = np.array([row[name] for row in rows], float)
            variables[name] = ("episode", values, {"long_name": meaning, "units": units})
    absent = [f"{name}: no {' and no '.join(needs)}" for name, needs in lacks.items() if needs]
    return xr.Dataset(variables, coords={"episode": np.arange(len(rows))}, attrs={"absent": "; ".join(absent)})


def _describe_episode(env: GoalEnv, skeleton: "_Skeleton | None", episode: xr.Dataset) -> dict[str, float]:
    """All descriptors that apply to one episode, by name."""
    alive, success = episode.alive.values, episode.success.values
    steps, length = int(alive.sum()), len(alive)
    indices = list(env.goal_indices)
    places = np.concatenate([episode.state.values[:1, indices], episode.achieved.values[:steps]]).astype(float)
    goal = episode.goal.values.astype(float)
    if skeleton or env.maze:
        places, goal = places[:, :2], goal[:2]
    to_goal = env.maze.geodesic(places, goal) if env.maze else np.linalg.norm(places - goal, axis=1)
    start_distance = to_goal[0] or np.nan
    moves = np.linalg.norm(np.diff(places, axis=0), axis=1)
    reached = int(success.argmax()) if success.any() else None
    fall_start = max(0, steps - round(_FALL_SECONDS / env.dt))
    fall_speed = (to_goal[fall_start] - to_goal[steps]) / ((steps - fall_start) * env.dt) if steps < length else 0.0
    row = {
        "time_at_goal": success.sum(),
        "steps_to_goal": np.nan if reached is None else reached + 1,
        "staying": 0.0 if reached is None else success[reached:].mean(),
        "geodesic": to_goal[0],
        "progress": 1 - to_goal.min() / start_distance,
        "path_over_geodesic": moves[: None if reached is None else reached + 1].sum() / start_distance,
        "displacement_over_geodesic": np.linalg.norm(places - places[0], axis=1).max() / start_distance,
        "travel_over_geodesic": _travel(places, 2 * env.goal_distance) / start_distance,
        "speed": moves.mean() / env.dt,
        "fell": float(steps < length),
        "fall_speed": fall_speed if np.isfinite(fall_speed) else 0.0,  # over a wall, the distance is infinite
    }
    # Centers of the body's parts, seen from above as discs, [steps, parts, 2]. Other bodies are a point.
    discs, radii, bottoms = places[1:, None], np.zeros(1), np.zeros((steps, 1))
    if skeleton:
        torso, upright, centers = skeleton.place(episode.pose.values[:steps])
        discs, radii, bottoms = centers[..., :2], skeleton.radii, centers[..., 2] - skeleton.radii
    if skeleton and skeleton.root == "link_0":
        until = steps if reached is None else reached + 1
        angles = episode.pose.values[:until, strokes.joints(env.model)].astype(float)
        count, late = strokes.count(angles), places[round(_LATE * steps) :]
        row |= {
            "stroke_frequency": count / (until * env.dt),
            "stroke_length": (to_goal[0] - to_goal[until]) / count / LENGTH if count else np.nan,
            "wave": strokes.wave(angles),
            "late_displacement_over_geodesic": np.linalg.norm(late - late[0], axis=1).max() / start_distance,
        }
    elif skeleton:
        row |= {
            "time_fallen": length - steps + (upright < _TILTED).sum(),
            "torso_height": torso[:, 2].mean(),
            "uprightness": upright.mean(),
            "air_time": (bottoms.min(axis=1) > _GROUND).mean(),
        }
    if env.maze:
        height = _wall_height(env.model, env.maze)
        touching = _walls_around(env.maze, discs, (radii + _TOUCH)[:, None, None]).any(-1) & (bottoms < height)
        row["wall_contact"] = touching.any(-1).mean()
        if skeleton and skeleton.root == "torso":
            over = _walls_around(env.maze, torso[:, :2], _INSIDE * env.maze.cell_size).all(-1)
            row["above_wall"] = (over & (torso[:, 2] > height)).sum()
    return {name: float(value) for name, value in row.items()}


def _travel(places: np.ndarray, stride: float) -> float:
    """Length in meters of the path [N, n], leaving out each point less than a stride from the last one kept."""
    total, anchor = 0.0, places[0]
    for place in places[1:]:
        step = float(np.linalg.norm(place - anchor))
        if step > stride:
            total, anchor = total + step, place
    return total


def _walls_around(maze: Maze, points: np.ndarray, distance: Any) -> np.ndarray:
    """Whether a wall lies at a distance in meters from points [..., 2], in +x, -x, +y and -y: [..., 4]."""
    return ~maze.is_free(points[..., None, :] + distance * _DIRECTIONS)


def _wall_height(model: "mujoco.MjModel", maze: Maze) -> float:
    """Height of the walls in meters."""
    i, j = maze.cells("#")[0]
    wall = model.geom(f"wall_{i}_{j}")
    return float(wall.pos[2] + wall.size[2])


class _Skeleton:
    """Positions of the parts of a walker or a chain, by the model's forward kinematics.

    Attributes:
      root: name of the root body: ``torso``, or ``link_0`` for a chain.
      radii: [parts], in meters, of the spheres; ``place`` returns their centers. A capsule is covered by spheres at its
        two ends, any other shape by its bounding sphere.
    """

    def __init__(self, model: "mujoco.MjModel", root: str, torso: int):
        import mujoco

        self.root = root
        self._model, self._torso, self._data = model, torso, mujoco.MjData(model)
        self._geoms = np.flatnonzero(model.body_rootid[model.geom_bodyid] == model.body_rootid[torso])
        capsule = model.geom_type[self._geoms] == mujoco.mjtGeom.mjGEOM_CAPSULE
        self._half = np.where(capsule, model.geom_size[self._geoms, 1], 0)
        radii = np.where(capsule, model.geom_size[self._geoms, 0], model.geom_rbound[self._geoms])
        self.radii = np.concatenate([radii, radii])

    @classmethod
    def of(cls, model: "mujoco.MjModel") -> "_Skeleton | None":
        """The skeleton of a model; None if it has neither a torso nor a chain."""
        import mujoco

        for root in ("torso", "link_0"):
            body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, root)
            if body >= 0:
                return cls(model, root, body)
        return None

    def place(self, poses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For poses [N, nq]: root position [N, 3] in meters, its uprightness [N], sphere centers [N, parts, 3]."""
        import mujoco

        data, geoms = self._data, self._geoms
        torso, upright = np.zeros((len(poses), 3)), np.zeros(len(poses))
        centers = np.zeros((len(poses), 2 * len(geoms), 3))
        for k, pose in enumerate(poses):
            data.qpos[:] = pose
            mujoco.mj_kinematics(self._model, data)
            torso[k], upright[k] = data.xpos[self._torso], data.xmat[self._torso][8]
            axes = data.geom_xmat[geoms][:, [2, 5, 8]] * self._half[:, None]
            centers[k] = np.concatenate([data.geom_xpos[geoms] + axes, data.geom_xpos[geoms] - axes])
        return torso, upright, centers


__all__ = ["DESCRIPTORS", "Descriptor", "describe"]
