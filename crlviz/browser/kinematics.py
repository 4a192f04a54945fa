"""Where the geoms of a MuJoCo model are, as a jax function of its joint positions."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs.engine import mujoco

Pose = tuple[Any, Any]  # position [3] in meters, and unit quaternion [4] (w, x, y, z)


def body_poses(model: mujoco.MjModel, q: jax.Array) -> list[Pose]:
    """Position and quaternion of each body for joint positions q [nq], as ``mj_kinematics`` computes them."""
    poses: list[Pose] = [(np.zeros(3, np.float32), np.array([1, 0, 0, 0], np.float32))]
    for body in range(1, model.nbody):
        place, turn = poses[model.body_parentid[body]]
        place = place + rotated(turn, _single(model.body_pos[body]))
        turn = multiplied(turn, _single(model.body_quat[body]))
        first = model.body_jntadr[body]
        for joint in range(first, first + model.body_jntnum[body]):
            place, turn = _moved(model, joint, q, place, turn)
        poses.append((place, turn / jnp.linalg.norm(turn)))
    return poses


def _moved(model: mujoco.MjModel, joint: int, q: jax.Array, place: Any, turn: Any) -> Pose:
    """The pose of a body after a joint of it has moved."""
    kind, first = mujoco.mjtJoint(int(model.jnt_type[joint])), int(model.jnt_qposadr[joint])
    if kind == mujoco.mjtJoint.mjJNT_FREE:
        turn = q[first + 3 : first + 7]
        return q[first : first + 3], turn / jnp.linalg.norm(turn)
    axis, origin = _single(model.jnt_axis[joint]), _single(model.jnt_pos[joint])
    if kind == mujoco.mjtJoint.mjJNT_BALL:
        own = q[first : first + 4] / jnp.linalg.norm(q[first : first + 4])
    else:
        by = q[first] - np.float32(model.qpos0[first])
        if kind == mujoco.mjtJoint.mjJNT_SLIDE:
            return place + rotated(turn, axis) * by, turn
        own = jnp.concatenate([jnp.cos(by / 2)[None], jnp.sin(by / 2) * axis])
    anchor = place + rotated(turn, origin)
    turn = multiplied(turn, own)
    return anchor - rotated(turn, origin), turn


def geom_poses(model: mujoco.MjModel, q: jax.Array, geoms: Sequence[int]) -> jax.Array:
    """Positions in meters and quaternions [geoms, 7] of geoms for joint positions q [nq]."""
    bodies, rows = body_poses(model, q), []
    for geom in geoms:
        place, turn = bodies[model.geom_bodyid[geom]]
        position = place + rotated(turn, _single(model.geom_pos[geom]))
        rows.append(jnp.concatenate([position, multiplied(turn, _single(model.geom_quat[geom]))]))
    return jnp.stack(rows) if rows else jnp.zeros((0, 7))


def multiplied(a: Any, b: Any) -> jax.Array:
    """The product [4] of two quaternions [4]: the turn b, then the turn a."""
    return jnp.stack(
        [
            a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
            a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
            a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
            a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
        ]
    )


def rotated(turn: Any, vector: Any) -> jax.Array:
    """A vector [3] turned by a unit quaternion [4]."""
    twice = 2 * jnp.cross(turn[1:], vector)
    return vector + turn[0] * twice + jnp.cross(turn[1:], twice)


def _single(numbers: np.ndarray) -> np.ndarray:
    return np.asarray(numbers, np.float32)
