"""A kinematic arm of many joints in a plane, which brings its tip to goals among obstacles. Plain jax.

Actions set the turns of the joints directly: nothing has mass, and links may overlap. The obstacles are the walls of a
fixed room with pillars. A step has ``_SUBSTEPS`` substeps. Each substep turns the joints. If that puts the arm in a
wall, all joints turn by the least-squares minimum that moves the deepest point out along the wall's normal. A substep
that would still leave the arm in a wall is not made. For contacts the arm is a row of discs, so close together that no
corner fits between two discs. So no link is ever in a wall or passes through one.
"""

from functools import cached_property
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from crlviz.envs import looks, mazes
from crlviz.envs.base import GoalEnv, State
from crlviz.envs.walls import CLEARANCE, RADIUS, Walls, along_chain
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import mujoco

LENGTH = 2.0  # meters of the whole arm
_CELL = 0.5  # meters, side of a cell of the room
# The arm begins at "r" and stretches to the right, through the one gap between pillars that is two cells wide. Goals
# are the cells to which a thread of 1.7 m reaches around the pillars.
ROOM = (
    "###########",
    "#.........#",
    "#...ggg...#",
    "#..#g#g#..#",
    "#.ggggggg.#",
    "#.g#gr....#",
    "#.ggggggg.#",
    "#..#g#g#..#",
    "#...ggg...#",
    "#.........#",
    "###########",
)
_SUBSTEPS = 4  # in each, no point moves by half a cell
_FASTEST = 0.72  # meters a step, of the tip of the straight arm when all joints turn the same way
_DAMPING = 1e-3  # square meters per square radian: bounds the turns when the arm is pushed along itself
_LATERAL = 0.18  # meters: at most so far off the straight line does the tip begin
_MOST_LINKS = 16


class PlanarArmState(struct.PyTreeNode):
    """Angle of each joint [N] in radians, goal [2] in meters."""

    joints: jax.Array
    goal: jax.Array


class PlanarArm(GoalEnv):
    """State: x, y of the tip, cosine and sine of the first joint's angle, the other joints' angles. Goal: x, y.

    Action: the turn of each joint in units of ``rate``; joints but the first stop at +-``limit``. The arm is 2 m long.
    It begins nearly straight; goals are centers of goal cells.

    Attributes:
      rate: largest turn of a joint in a step, radians.
      limit: largest angle of a joint but the first, radians.
      links: number of links, each with a joint at its beginning.
    """

    goal_indices = (0, 1)
    goal_distance = 0.15
    goal_distance_easy = 0.3
    episode_length = 150
    dt = 0.1
    links = 8
    state_dim = 3 + links
    action_size = links
    rate = 2 * _FASTEST / LENGTH / (links + 1)
    limit = 1.8
    placeable = False
    view = looks.View(lookat=(0.0, 0.0, 0.0), distance=6.0, azimuth=180.0, elevation=-65.0)
    maze: mazes.Maze

    def __init__(self, id: str, *, links: int = 8):
        """
        Args:
          id: the environment's name.
          links: number of links, 2 to 16.

        Raises:
          UsageError: the number of links is not 2 to 16.
        """
        if not isinstance(links, int) or not 2 <= links <= _MOST_LINKS:
            raise UsageError(f"{id} with links = {links!r}: take 2 to {_MOST_LINKS}")
        self.id, self.links = id, links
        self.state_dim, self.action_size = 3 + links, links
        self.rate = 2 * _FASTEST / LENGTH / (links + 1)
        self.maze = mazes.build(ROOM, cell_size=_CELL, centered=True)
        self._walls = Walls(self.maze)
        self._goals = jnp.asarray(self.maze.xy(self.maze.goals), jnp.float32)
        # From the directions of the links to the discs' centers, relative to the base.
        self._discs = jnp.asarray(along_chain(links, LENGTH / links) * LENGTH / links, jnp.float32)

    @cached_property
    def model(self) -> "mujoco.MjModel":
        import mujoco

        from crlviz.envs import physics  # here: training an arm needs no physics engine

        tree = ElementTree.fromstring("<mujoco><worldbody><geom name='floor' type='plane'/></worldbody></mujoco>")
        looks.dress(tree, self.view)
        physics.add_walls(tree, self.maze, 0.25 * _CELL)
        parent, length = physics.child(tree, "worldbody"), LENGTH / self.links
        for k in range(self.links):
            parent = physics.add(parent, "body", name=f"segment_{k}", pos=(length, 0, 0) if k else (0, 0, RADIUS))
            physics.add(parent, "joint", name=f"joint_{k}", type="hinge", axis=(0, 0, 1))
            physics.add(
                parent, "geom", name=f"segment_{k}", type="capsule", fromto=(0, 0, 0, length, 0, 0), size=RADIUS,
                rgba=looks.BODY,
            )  # fmt: skip
        physics.add_target(tree, radius=self.goal_distance)
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))

    def pose(self, state: State) -> jax.Array:
        body = state.pipeline_state
        return jnp.concatenate([body.joints, body.goal])

    def outline(self, pose: np.ndarray) -> np.ndarray:
        angles = np.cumsum(pose[..., : self.links], axis=-1)
        links = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * LENGTH / self.links
        return np.concatenate([np.zeros_like(links[..., :1, :]), np.cumsum(links, axis=-2)], axis=-2)

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        if start is not None:
            raise UsageError(f"the start of {self.id} cannot be chosen")
        joints_key, goal_key = jax.random.split(rng)
        # If all joints bend by b to the same side, the tip is about b LENGTH (N + 1) / 2 off the line.
        bend = 2 * _LATERAL / LENGTH / (self.links + 1)
        body = PlanarArmState(
            joints=jax.random.uniform(joints_key, (self.links,), minval=-bend, maxval=bend).at[0].add(jnp.pi / 2),
            goal=jax.random.choice(goal_key, self._goals) if goal is None else jnp.asarray(goal, float),
        )
        zero = jnp.zeros(())
        return State(body, self._observe(body), zero, zero, self._measure(body))

    def step(self, state: State, action: jax.Array) -> State:
        body = state.pipeline_state
        joints, turns = body.joints, self.rate / _SUBSTEPS * jnp.clip(action, -1, 1)
        for _ in range(_SUBSTEPS):
            joints = self._turn(joints, turns)
        # Keep the first angle within one turn, because float32 is less precise for large angles.
        joints = joints.at[0].add(-2 * jnp.pi * jnp.round(joints[0] / (2 * jnp.pi)))
        body = body.replace(joints=joints)
        metrics = self._measure(body)
        return state.replace(pipeline_state=body, obs=self._observe(body), reward=metrics["success"], metrics=metrics)

    def with_goal(self, state: State, goal: jax.Array) -> State:
        body = state.pipeline_state.replace(goal=goal)
        return state.replace(pipeline_state=body, obs=self._observe(body), metrics=self._measure(body))

    def _turn(self, joints: jax.Array, turns: jax.Array) -> jax.Array:
        """The joints [N] after a substep in which they would turn by turns [N] without walls."""
        turned = self._held(joints + turns)
        cosine, sine = _directions(turned)
        x, y, _ = self._walls.pushes(self._discs @ cosine, self._discs @ sine, RADIUS)
        deepest = jnp.argmax(x**2 + y**2)
        push = jnp.stack([x[deepest], y[deepest]])
        # The motion of that disc per turn of each joint: the vector from the joint to the disc, turned left.
        reach = self._discs[deepest]
        motion = jnp.stack([-reach * sine, reach * cosine])[:, ::-1].cumsum(axis=1)[:, ::-1]
        depth = jnp.linalg.norm(push)
        along = push / jnp.maximum(depth, 1e-9) @ motion
        given_way = self._held(turned + depth / (along @ along + _DAMPING) * along)
        cosine, sine = _directions(given_way)
        free = self._walls.pushes(self._discs @ cosine, self._discs @ sine, RADIUS)[2].min() >= CLEARANCE
        return jnp.where(free, given_way, joints)

    def _held(self, joints: jax.Array) -> jax.Array:
        return jnp.concatenate([joints[:1], jnp.clip(joints[1:], -self.limit, self.limit)])

    def _tip(self, joints: jax.Array) -> jax.Array:
        """x, y [2] of the tip in meters."""
        return jnp.stack([direction.sum() for direction in _directions(joints)]) * LENGTH / self.links

    def _observe(self, body: PlanarArmState) -> jax.Array:
        first, others = body.joints[0], body.joints[1:]
        return jnp.concatenate([self._tip(body.joints), jnp.stack([jnp.cos(first), jnp.sin(first)]), others, body.goal])

    def _measure(self, body: PlanarArmState) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(self._tip(body.joints) - body.goal)
        return {
            "distance": distance,
            "success": (distance < self.goal_distance).astype(float),
            "success_easy": (distance < self.goal_distance_easy).astype(float),
        }


def _directions(joints: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [N] of the links' angles, from joint angles [N]."""
    angles = jnp.cumsum(joints)
    return jnp.cos(angles), jnp.sin(angles)
