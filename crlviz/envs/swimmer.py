"""A chain of links that swims in a plane so viscous that nothing coasts: a gait emerges on a laptop. Plain jax.

**In the open** the links feel resistive force theory: a link of length l whose middle moves by v_t along itself and v_n
across it, and which turns at w, is held back by forces l c_t v_t and l c_n v_n and by a torque c_n l^3 / 12 w. Nothing
has inertia, so force and torque on the whole body are zero; that gives how its middle moves and how it turns while its
joints turn. Only the way that its shape goes counts, not how fast: who bends there and back the same way is where he
was (Purcell's scallop), and without drag that differs along and across (``drag_ratio`` 1) nobody gets anywhere.

**Walls** push straight out and do not rub: a step is made in ``_PARTS`` parts, and after each the body, as it lies, is
moved out of each wall by as much as the deepest of it is in, along the wall's normal and without turning. So a wall
never moves the body along itself, nor pulls it. A part after which it still is in a wall is not made; as the body is
shorter than cells are wide, that is so at corners that stand out alone, and nowhere is it held for good. The body is a
row of discs, near enough to each other that no corner of a wall fits between two: no link ever lies in a wall, nor
passes through one.
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
from crlviz.errors import UsageError

if TYPE_CHECKING:
    import mujoco

LENGTH = 1.0  # meters of the whole body, so that all lengths are in body lengths
RADIUS = 0.05  # meters, of the discs that meet walls
_APART = 1 / 12  # meters at most from a disc's center to the next one's
_CLEAR = 0.045  # meters from centers to walls that a step must leave: more than half of _APART, so no corner fits
_PARTS = 3  # of a step among walls; in each, a disc goes far less than half a wall deep
_START_BEND = 0.3  # radians, uniform, of each joint
_START_JITTER = 0.1  # meters, uniform, on each axis
_GOALS = 2.0  # meters: the radius of the disc that goals in the open are drawn from
_MOST_LINKS = 12


class SwimmerState(struct.PyTreeNode):
    """Mean of the links' middles [2] in meters, the first link's angle [] and the joints' [N - 1] in radians, and the
    goal [2] in meters."""

    middle: jax.Array
    angle: jax.Array
    joints: jax.Array
    goal: jax.Array


class Swimmer(GoalEnv):
    """State: x, y of the middle of the links, cosine and sine of the first link's angle, joints' angles. Goal: x, y.

    Action: how far each joint turns, in ``rate`` radians; joints stop at ``limit`` to both sides. The body is 1 m long.
    In the open it starts at the origin, and goals lie anywhere within 2 m; in a maze, near a start cell's center with
    the goal at a goal cell's center. It starts at any angle and nearly straight. A start in a maze that is nearer than
    0.55 m to a wall is moved away from it to there, so that the body fits however it lies.

    Attributes:
      rate: radians that a joint turns in a step at most.
      limit: radians at which joints stop.
      links: how many there are.
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
          maze: walls to swim among; None for the open plane. A cell is wider than the body is long.
          links: 3 to 12.
          drag_ratio: drag of a link across itself over that along itself. A thin rod in a fluid has at most 2; more is
            as of a body with bristles or scales, and swims faster.

        Raises:
          UsageError: another number of links, or a ratio that is not above 0.
        """
        if not isinstance(links, int) or not 3 <= links <= _MOST_LINKS:
            raise UsageError(f"{id} with links = {links!r}: take 3 to {_MOST_LINKS}; with fewer it cannot swim")
        if not isinstance(drag_ratio, int | float) or not 0 < drag_ratio < math.inf:
            raise UsageError(f"{id} with drag_ratio = {drag_ratio!r}: it is a number above 0")
        self.id, self.maze = id, maze
        self.links, self._drag_ratio = links, float(drag_ratio)
        self.state_dim, self.action_size = 4 + links - 1, links - 1
        self._discs = jnp.asarray(discs(links), jnp.float32)
        if maze:
            pairs, weights = maze.pairs
            self._pairs, self._weights = jnp.asarray(maze.xy(pairs), jnp.float32), jnp.asarray(weights)
            self._quarters = jnp.asarray(_quarters(maze))

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
            color = [share * (1 - 0.25 * (k == 0)) for share in looks.BODY[:3]]  # to tell the first one
            ends = {"fromto": (0, 0, 0, length, 0, 0), "size": RADIUS, "rgba": (*color, 1)}
            physics.add(parent, "geom", name=f"link_{k}", type="capsule", **ends)
        physics.add_target(tree, radius=self.goal_distance)
        return mujoco.MjModel.from_xml_string(ElementTree.tostring(tree, encoding="unicode"))

    def pose(self, state: State) -> jax.Array:
        body = state.pipeline_state
        x, y = self._points(body.middle, body.angle, body.joints)
        return jnp.concatenate([body.middle, jnp.stack([x[0], y[0]]), body.angle[None], body.joints, body.goal])

    def reset(self, rng: jax.Array, start: jax.Array | None = None, goal: jax.Array | None = None) -> State:
        place_key, jitter_key, angle_key, joints_key = jax.random.split(rng, 4)
        if self.maze:
            pair = self._pairs[jax.random.choice(place_key, len(self._pairs), p=self._weights)]
            first = pair[0] + jax.random.uniform(jitter_key, (2,), minval=-_START_JITTER, maxval=_START_JITTER)
            last = pair[1]
        else:
            radius, turn = jax.random.uniform(place_key, (2,))
            first, last = jnp.zeros(2), _GOALS * jnp.sqrt(radius) * _unit(2 * jnp.pi * turn)
        middle = first if start is None else jnp.asarray(start, float)
        if self.maze:
            middle = middle + jnp.stack(self._pushes(middle[0], middle[1], LENGTH / 2 + RADIUS)[:2])
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
        shift = _rotate(shift, _unit(body.angle + turn / 2))
        if self.maze:
            body = self._among_walls(body, shift, turn, turns)
        else:
            body = body.replace(middle=body.middle + shift, angle=body.angle + turn, joints=bent)
        # Kept within a turn, as float32 tells large angles worse.
        body = body.replace(angle=body.angle - 2 * jnp.pi * jnp.round(body.angle / (2 * jnp.pi)))
        metrics = self._measure(body)
        return state.replace(pipeline_state=body, obs=self._observe(body), reward=metrics["success"], metrics=metrics)

    def _among_walls(self, body: SwimmerState, shift: jax.Array, turn: jax.Array, turns: jax.Array) -> SwimmerState:
        """The body after a step that would move it by shift [2], turn it by turn [] and its joints by turns [N - 1]."""
        middle, angle, joints = body.middle, body.angle, body.joints
        for _ in range(_PARTS):
            ahead = angle + turn / _PARTS, joints + turns / _PARTS
            x, y = self._points(middle + shift / _PARTS, *ahead)
            push = [jnp.maximum(each.max(), 0) + jnp.minimum(each.min(), 0) for each in self._pushes(x, y, RADIUS)[:2]]
            free = self._pushes(x + push[0], y + push[1], RADIUS)[2].min() >= _CLEAR
            middle = jnp.where(free, middle + shift / _PARTS + jnp.stack(push), middle)
            angle, joints = (jnp.where(free, new, old) for new, old in zip(ahead, (angle, joints), strict=True))
        return body.replace(middle=middle, angle=angle, joints=joints)

    def _points(self, middle: jax.Array, angle: jax.Array, joints: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x and y [D] of the discs' centers, from the first link's free end on."""
        angles = angle + _folds(joints)
        return middle[0] + self._discs @ jnp.cos(angles), middle[1] + self._discs @ jnp.sin(angles)

    def _pushes(self, x: jax.Array, y: jax.Array, radius: float) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Along x and y, what moves discs about points out of walls, and the points' distances to walls, -1 in one.

        All [...] in meters; x and y stay apart, which is quicker on a CPU. Exact for the wall that is nearest, where
        the radius, and how deep a point is in a wall, are under half a cell.
        """
        assert self.maze is not None
        size = self.maze.cell_size

        def axis(place, origin):
            at = (place - origin) / size + 0.5  # in cells: cell i spans [i, i + 1)
            half = jnp.floor(2 * at)  # a half cell has one cell beside it
            side = 2 * (half - 2 * jnp.floor(half / 2)) - 1  # where that is
            return half.astype(int), side, size * jnp.abs(at - jnp.round(at))  # and how far

        (i, x_side, x_gap), (j, y_side, y_gap) = axis(x, self.maze.origin[0]), axis(y, self.maze.origin[1])
        beside = self._quarters[i, j]
        inside, x_wall, y_wall, corner = (beside & bit > 0 for bit in (1, 2, 4, 8))
        # From a wall it goes on through the nearest face that is free, or through both where only that leads out; then
        # it is in the cell there, and what lies beside that counts.
        across = inside & x_wall & y_wall & ~corner
        by_x = across | (inside & ~x_wall & (y_wall | (x_gap <= y_gap)))
        by_y = across | (inside & ~y_wall & ~by_x)
        x_wall, y_wall = (
            jnp.where(inside, by_y & ~by_x & corner, x_wall),
            jnp.where(inside, by_x & ~by_y & corner, y_wall),
        )
        # In a free cell: back from its faces, or from the corner where there is nothing else.
        corner = corner & ~(inside | x_wall | y_wall)
        to_corner = jnp.sqrt(x_gap**2 + y_gap**2 + 1e-12)
        back = jnp.where(corner, jnp.minimum(1 - radius / to_corner, 0), 0)

        def push(by, wall, gap):
            return jnp.where(by, gap + radius, jnp.where(wall, jnp.minimum(gap - radius, 0), back * gap))

        faces = jnp.minimum(jnp.where(x_wall, x_gap, jnp.inf), jnp.where(y_wall, y_gap, jnp.inf))
        distance = jnp.where(inside, -1.0, jnp.minimum(faces, jnp.where(corner, to_corner, jnp.inf)))
        return x_side * push(by_x, x_wall, x_gap), y_side * push(by_y, y_wall, y_gap), distance

    def _observe(self, body: SwimmerState) -> jax.Array:
        return jnp.concatenate([body.middle, _unit(body.angle), body.joints, body.goal])

    def _measure(self, body: SwimmerState) -> dict[str, jax.Array]:
        distance = jnp.linalg.norm(body.middle - body.goal)
        return {
            "distance": distance,
            "success": (distance < self.goal_distance).astype(float),
            "success_easy": (distance < self.goal_distance_easy).astype(float),
        }


def drift(joints: jax.Array, turns: jax.Array, drag_ratio: float) -> tuple[jax.Array, jax.Array]:
    """How the body moves in the open while its joints turn a little: what makes force and torque on it zero.

    Args:
      joints: their angles [N - 1] in radians half way.
      turns: by how much each turns [N - 1], in radians.
      drag_ratio: drag across a link over that along it.

    Returns:
      How the links' mean middle moves [2], in meters along and across the first link as it lies half way, and by how
      much that link turns [], in radians.
    """
    links = joints.shape[0] + 1
    to_middles = jnp.asarray(_middles(links), jnp.float32)
    along = _unit(_folds(joints))  # links' directions [N, 2]
    across = jnp.stack([-along[:, 1], along[:, 0]], -1)
    # Velocities of the links' middles, in meters a radian: of a turn of all, and of the joints' turns alone.
    turned = to_middles @ across
    bent = to_middles @ (_folds(turns)[:, None] * across)

    def dragged(velocity):
        return drag_ratio * velocity + (1 - drag_ratio) * (velocity * along).sum(-1, keepdims=True) * along

    # Force and torque, over the tangential drag of a link, of what the body does: a symmetric 3 x 3 system.
    spin = drag_ratio * (LENGTH / links) ** 2 / 12
    xx = (drag_ratio + (1 - drag_ratio) * along[:, 0] ** 2).sum()
    yy = (drag_ratio + (1 - drag_ratio) * along[:, 1] ** 2).sum()
    xy = ((1 - drag_ratio) * along[:, 0] * along[:, 1]).sum()
    held = dragged(turned)
    xt, yt = held.sum(0)
    tt = (held * turned).sum() + links * spin
    x, y = -dragged(bent).sum(0)
    t = -(held * bent).sum() - spin * _folds(turns).sum()
    # Force first, then what is left for the torque.
    area = xx * yy - xy**2
    by_x, by_y = (yy * xt - xy * yt) / area, (xx * yt - xy * xt) / area
    turn = (t - by_x * x - by_y * y) / (tt - by_x * xt - by_y * yt)
    x, y = x - xt * turn, y - yt * turn
    return jnp.stack([yy * x - xy * y, xx * y - xy * x]) / area, turn


def _folds(joints: jax.Array) -> jax.Array:
    """Angles of the links [N] against the first one, of those between them [N - 1]."""
    sums = [jnp.zeros(())]
    for joint in joints:
        sums.append(sums[-1] + joint)
    return jnp.stack(sums)


def _unit(angle: jax.Array) -> jax.Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


def _rotate(vector: jax.Array, by: jax.Array) -> jax.Array:
    """A vector [2] turned by the angle of a unit vector [2]."""
    return jnp.stack([by[0] * vector[0] - by[1] * vector[1], by[1] * vector[0] + by[0] * vector[1]])


def _middles(links: int) -> np.ndarray:
    """Places of the links' middles, seen from their mean, out of the links' directions: [N, N] meters."""
    chain = np.tri(links, k=-1) + np.eye(links) / 2
    return (chain - chain.mean(0)) * LENGTH / links


def discs(links: int) -> np.ndarray:
    """The same for the discs' centers: [D, N], one at each link's ends and evenly spread between."""
    each = math.ceil(LENGTH / links / _APART - 1e-9)
    place = np.arange(links * each + 1) / each  # in links, along the body
    reach = np.clip(place[:, None] - np.arange(links), 0, 1)  # of each link, the share that lies before
    return (reach - (np.tri(links, k=-1) + np.eye(links) / 2).mean(0)) * LENGTH / links


def _quarters(maze: Maze) -> np.ndarray:
    """For every quarter of every cell [2 rows, 2 columns]: 1 in a wall, + 2 with wall beside it along x, + 4 along y,
    + 8 across the corner."""
    walls = np.pad(maze.walls, 1, constant_values=True)
    i, j = np.indices((2 * maze.shape[0], 2 * maze.shape[1]))
    here, there = (i // 2 + 1, j // 2 + 1), (i // 2 + 2 * (i % 2), j // 2 + 2 * (j % 2))
    around = walls[here], walls[there[0], here[1]], walls[here[0], there[1]], walls[there]
    return sum(bit * wall for bit, wall in zip((1, 2, 4, 8), around, strict=True)).astype(np.int32)
