"""A chain of links that swims in a viscous plane without inertia; it learns a gait on a laptop. Plain jax.

**In the open** the model is resistive force theory. The center of a link of length l moves at v_t along the link and at
v_n across it, and the link rotates at w. It feels the drag forces l c_t v_t and l c_n v_n and the drag torque
c_n l^3 w / 12. There is no inertia, so the total force and torque on the body are zero. This determines how the body
translates and turns while its joints turn. Only the path of its shape matters, not the speed: a body that bends and
unbends along the same path returns to where it was (Purcell's scallop theorem). With equal drag along and across the
links (``drag_ratio`` 1) no gait moves it.

**Walls** push along their normal, without friction. A step has ``_SUBSTEPS`` substeps. After each, the rigid body is
moved out of each wall, along the wall's normal and without turning, by the depth of its deepest point. So a wall never
moves the body along the wall, nor pulls it. A substep that would still leave the body in a wall is not made. As the
body is shorter than a cell is wide, this happens only at convex corners, and the body is never stuck for good. For
contacts the body is a row of discs, so close together that no corner of a wall fits between two discs. So no link is
ever in a wall or passes through one.
"""

import math
from functools import cached_property
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.envs import looks
from crlviz.envs.base import GoalEnv, State
from crlviz.envs.mazes import Maze
from crlviz.envs.walls import CLEARANCE, RADIUS, Walls, along_chain
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import mujoco

LENGTH = 1.0  # meters of the whole body, so that all lengths are in body lengths
_SUBSTEPS = 3  # per step in a maze; in each, a disc enters a wall by far less than half a cell
_START_BEND = 0.3  # radians, uniform, of each joint
_START_JITTER = 0.1  # meters, uniform, on each axis
_GOAL_RADIUS = 2.0  # meters, of the disc from which goals in the open are drawn
_MOST_LINKS = 12


class SwimmerState(struct.PyTreeNode):
    """Mean of the links' middles [2] in meters, angle of the first link [] and of the joints [N - 1] in radians, goal
    [2] in meters."""

    middle: jax.Array
    angle: jax.Array
    joints: jax.Array
    goal: jax.Array


class Swimmer(GoalEnv):
    """State: x, y of the mean middle of the links, cosine and sine of the first link's angle, joint angles. Goal: x, y.

    Action: the turn of each joint in units of ``rate``; joints stop at +-``limit``. The body is 1 m long. In the open
    it starts at the origin, and goals lie anywhere within 2 m. In a maze it starts near a start cell's center with the
    goal at a goal cell's center. It starts at a random angle and nearly straight. A start in a maze that is closer than
    0.55 m to a wall is moved away from the wall to that distance, so that the body fits at any angle.

    Attributes:
      rate: largest turn of a joint in a step, radians.
      limit: largest joint angle, radians.
      links: number of links.
    """

    goal_indices = (0, 1)
    goal_distance = 0.25
    goal_distance_easy = 0.5
    episode_length = 300
    dt = 0.1
    links = 4
    state_dim = 4 + links - 1
    action_size = links - 1
    rate = 0.8
    limit = 1.5
    view = looks.View("middle", distance=4.0, azimuth=20.0, elevation=-62.0)

    def __init__(self, id: str, maze: Maze | None = None, *, links: int = 4, drag_ratio: float = 20.0):
        """
        Args:
          id: the environment's name.
          maze: the maze; None for the open plane. Its cells must be wider than the body is long.
          links: number of links, 3 to 12.
          drag_ratio: drag across a link over drag along it. A thin rod in a fluid has at most 2. Bodies with bristles
            or scales have more, and swim faster.

        Raises:
          UsageError: the number of links is not 3 to 12, or the ratio is not above 0.
        """
        if not isinstance(links, int) or not 3 <= links <= _MOST_LINKS:
            raise UsageError(f"{id} with links = {links!r}: take 3 to {_MOST_LINKS}; with fewer it cannot swim")
        if not isinstance(drag_ratio, int | float) or not 0 < drag_ratio < math.inf:
            raise UsageError(f"{id} with drag_ratio = {drag_ratio!r}: give a number above 0")
        self.id, self.maze = id, maze
        self.links, self._drag_ratio = links, float(drag_ratio)
        self.state_dim, self.action_size = 4 + links - 1, links - 1
        self._discs = jnp.asarray(discs(links), jnp.float32)
        if maze:
            pairs, weights = maze.pairs
            self._pairs, self._weights = jnp.asarray(maze.xy(pairs), jnp.float32), jnp.asarray(weights)
            self._walls = Walls(maze)

    @cached_property
    def model(self) -> "mujoco.MjModel":
        import mujoco

        from crlviz.envs import physics  # here: training a swimmer needs no physics engine

        tree = ElementTree.fromstring("<mujoco><worldbody><geom name='floor' type='plane'/></worldbody></mujoco>")
        looks.dress(tree, self.view)
        if self.maze:
            physics.add_walls(tree, self.maze, 0.25 * self.maze.cell_size)
        else:
            physics.child(tree, "geom[@name='floor']").set("size", "40 40 40")
        world = physics.child(tree, "worldbody")
        middle = physics.add(world, "body", name="middle", pos=(0, 0, RADIUS))
        physics.add(middle, "inertial", pos=(0, 0, 0), mass=1, diaginertia=(1, 1, 1))
        parent, length = physics.add(world, "body", name="link_0", pos=(0, 0, RADIUS)), LENGTH / self.links
        for body, name in ((middle, "middle"), (parent, "end")):
            for axis, direction in {"x": (1, 0, 0), "y": (0, 1, 0)}.items():
                physics.add(body, "joint", name=f"{name}_{axis}", type="slide", axis=direction)
        for k in range(self.links):
            if k:
                parent = physics.add(parent, "body", name=f"link_{k}", pos=(length, 0, 0))
            physics.add(parent, "joint", name=f"joint_{k}" if k else "angle", type="hinge", axis=(0, 0, 1))
            color = [share * (1 - 0.25 * (k == 0)) for share in looks.BODY[:3]]  # the first link is darker
            ends = {"fromto": (0, 0, 0, length, 0, 0), "size": RADIUS, "rgba": (*color, 1)}
            physics.add(parent, "geom", name=f"link_{k}", type="capsule", **ends)
        physics.add_target(tree, radius=self.goal_distance)
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))

    def pose(self, state: State) -> jax.Array:
        body = state.pipeline_state
        x, y = self._points(body.middle, body.angle, body.joints)
        return jnp.concatenate([body.middle, jnp.stack([x[0], y[0]]), body.angle[None], body.joints, body.goal])

    def outline(self, pose: np.ndarray) -> np.ndarray:
        first, angle, joints = pose[..., 2:4], pose[..., 4:5], pose[..., 5 : 4 + self.links]
        angles = np.cumsum(np.concatenate([angle, joints], axis=-1), axis=-1)
        links = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * LENGTH / self.links
        return np.concatenate([first[..., None, :], first[..., None, :] + np.cumsum(links, axis=-2)], axis=-2)

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        place_key, jitter_key, angle_key, joints_key = jax.random.split(rng, 4)
        if self.maze:
            pair = self._pairs[jax.random.choice(place_key, len(self._pairs), p=self._weights)]
            first = pair[0] + jax.random.uniform(jitter_key, (2,), minval=-_START_JITTER, maxval=_START_JITTER)
            last = pair[1]
        else:
            radius, turn = jax.random.uniform(place_key, (2,))
            first, last = jnp.zeros(2), _GOAL_RADIUS * jnp.sqrt(radius) * _direction(2 * jnp.pi * turn)
        middle = first if start is None else jnp.asarray(start, float)
        if self.maze:
            middle = middle + jnp.stack(self._walls.pushes(middle[0], middle[1], LENGTH / 2 + RADIUS)[:2])
        body = SwimmerState(
            middle=middle,
            angle=jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi),
            joints=jax.random.uniform(joints_key, (self.links - 1,), minval=-_START_BEND, maxval=_START_BEND),
            goal=last if goal is None else jnp.asarray(goal, float),
        )
        zero = jnp.zeros(())
        return State(body, self._observe(body), zero, zero, self._measure(body))

    def step(self, state: State, action: jax.Array) -> State:
        body = state.pipeline_state
        bent = jnp.clip(body.joints + self.rate * jnp.clip(action, -1, 1), -self.limit, self.limit)
        turns = bent - body.joints
        shift, turn = drift(body.joints + turns / 2, turns, self._drag_ratio)
        shift = _rotate(shift, _direction(body.angle + turn / 2))
        if self.maze:
            body = self._step_in_maze(body, shift, turn, turns)
        else:
            body = body.replace(middle=body.middle + shift, angle=body.angle + turn, joints=bent)
        # Keep the angle within one turn, because float32 is less precise for large angles.
        body = body.replace(angle=body.angle - 2 * jnp.pi * jnp.round(body.angle / (2 * jnp.pi)))
        metrics = self._measure(body)
        return state.replace(pipeline_state=body, obs=self._observe(body), reward=metrics["success"], metrics=metrics)

    def with_goal(self, state: State, goal: jax.Array) -> State:
        body = state.pipeline_state.replace(goal=goal)
        return state.replace(pipeline_state=body, obs=self._observe(body), metrics=self._measure(body))

    def _step_in_maze(self, body: SwimmerState, shift: jax.Array, turn: jax.Array, turns: jax.Array) -> SwimmerState:
        """The body after a step that in the open moves it by shift [2], turns it by turn [] and its joints by turns."""
        middle, angle, joints = body.middle, body.angle, body.joints
        for _ in range(_SUBSTEPS):
            turned = angle + turn / _SUBSTEPS, joints + turns / _SUBSTEPS
            x, y = self._points(middle + shift / _SUBSTEPS, *turned)
            pushes = self._walls.pushes(x, y, RADIUS)[:2]
            push = [jnp.maximum(axis.max(), 0) + jnp.minimum(axis.min(), 0) for axis in pushes]
            free = self._walls.pushes(x + push[0], y + push[1], RADIUS)[2].min() >= CLEARANCE
            middle = jnp.where(free, middle + shift / _SUBSTEPS + jnp.stack(push), middle)
            angle, joints = (jnp.where(free, new, old) for new, old in zip(turned, (angle, joints), strict=True))
        return body.replace(middle=middle, angle=angle, joints=joints)

    def _points(self, middle: jax.Array, angle: jax.Array, joints: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x and y [D] of the discs' centers, from the free end of the first link."""
        angles = angle + _relative_angles(joints)
        return middle[0] + self._discs @ jnp.cos(angles), middle[1] + self._discs @ jnp.sin(angles)

    def _observe(self, body: SwimmerState) -> jax.Array:
        return jnp.concatenate([body.middle, _direction(body.angle), body.joints, body.goal])

    def _measure(self, body: SwimmerState) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(body.middle - body.goal)
        return {
            "distance": distance,
            "success": (distance < self.goal_distance).astype(float),
            "success_easy": (distance < self.goal_distance_easy).astype(float),
        }


def drift(joints: jax.Array, turns: jax.Array, drag_ratio: float) -> tuple[jax.Array, jax.Array]:
    """Motion of the body in the open while its joints turn a little, such that total force and torque are zero.

    Args:
      joints: joint angles [N - 1] at the midpoint of the motion, radians.
      turns: turn of each joint [N - 1], radians.
      drag_ratio: drag across a link over drag along it.

    Returns:
      Displacement of the links' mean middle [2] in meters, along and across the first link at the midpoint, and the
      turn of that link [] in radians.
    """
    links = joints.shape[0] + 1
    to_middles = jnp.asarray(_middles(links), jnp.float32)
    along = _direction(_relative_angles(joints))  # directions of the links [N, 2]
    across = jnp.stack([-along[:, 1], along[:, 0]], -1)
    # Displacements of the links' middles [N, 2]: for a turn of the body by one radian, and for the turns of the joints.
    turned = to_middles @ across
    bent = to_middles @ (_relative_angles(turns)[:, None] * across)

    def dragged(velocity):
        return drag_ratio * velocity + (1 - drag_ratio) * (velocity * along).sum(-1, keepdims=True) * along

    # Force and torque in units of a link's tangential drag are linear in the motion: a symmetric 3 x 3 system.
    spin = drag_ratio * (LENGTH / links) ** 2 / 12
    xx = (drag_ratio + (1 - drag_ratio) * along[:, 0] ** 2).sum()
    yy = (drag_ratio + (1 - drag_ratio) * along[:, 1] ** 2).sum()
    xy = ((1 - drag_ratio) * along[:, 0] * along[:, 1]).sum()
    drag = dragged(turned)
    xt, yt = drag.sum(0)
    tt = (drag * turned).sum() + links * spin
    x, y = -dragged(bent).sum(0)
    t = -(drag * bent).sum() - spin * _relative_angles(turns).sum()
    # Eliminate the two forces, then solve for the turn.
    area = xx * yy - xy**2
    by_x, by_y = (yy * xt - xy * yt) / area, (xx * yt - xy * xt) / area
    turn = (t - by_x * x - by_y * y) / (tt - by_x * xt - by_y * yt)
    x, y = x - xt * turn, y - yt * turn
    return jnp.stack([yy * x - xy * y, xx * y - xy * x]) / area, turn


def _relative_angles(joints: jax.Array) -> jax.Array:
    """Angles of the links [N] relative to the first one, from joint angles [N - 1]."""
    sums = [jnp.zeros(())]
    for joint in joints:
        sums.append(sums[-1] + joint)
    return jnp.stack(sums)


def _direction(angle: jax.Array) -> jax.Array:
    """Unit vectors [..., 2] of angles [...]."""
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def _rotate(vector: jax.Array, by: jax.Array) -> jax.Array:
    """Rotate a vector [2] by the angle of a unit vector [2]."""
    return jnp.stack([by[0] * vector[0] - by[1] * vector[1], by[1] * vector[0] + by[0] * vector[1]])


def _middles(links: int) -> np.ndarray:
    """Matrix [N, N] from directions of the links to positions of their middles relative to their mean, in meters."""
    chain = np.tri(links, k=-1) + np.eye(links) / 2
    return (chain - chain.mean(0)) * LENGTH / links


def discs(links: int) -> np.ndarray:
    """The same matrix [D, N] for the centers of the discs."""
    return (along_chain(links, LENGTH / links) - (np.tri(links, k=-1) + np.eye(links) / 2).mean(0)) * LENGTH / links
