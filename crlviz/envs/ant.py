"""brax's ant: walks to a point on the open floor or in a maze."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp

from crlviz.envs import physics
from crlviz.envs.engine import mujoco
from crlviz.envs.looks import View
from crlviz.envs.mazes import Maze
from crlviz.envs.physics import PhysicsEnv

_WALL_HEIGHT = 2.0
_HEALTHY = (0.2, 1.0)  # range of the torso's height in meters
_NOISE = 0.1  # of an initial state: uniform on positions, normal on velocities
# Solver settings of the paper's code for the ant on MJX.
_MJX = {
    "opt.solver": mujoco.mjtSolver.mjSOL_NEWTON,
    "opt.disableflags": mujoco.mjtDisableBit.mjDSBL_EULERDAMP,
    "opt.iterations": 4,
    "opt.ls_iterations": 8,
}


class Ant(PhysicsEnv):
    """State: torso xyz, its quaternion (w first), 8 joint angles, and the 14 velocities. Goal: torso x, y.

    Starts near the origin with the goal 10 m away in any direction; in a maze, near a start cell's center with the
    goal at a goal cell's center. Done when the torso's height leaves 0.2 to 1.0 m.

    Source: the paper's code (ant, ant_maze), on brax's own model.
    """

    state_dim = 29
    goal_indices: tuple[int, ...] = (0, 1)
    action_size = 8
    goal_distance = 0.5
    goal_distance_easy = 2.0
    episode_length = 1000
    backends: tuple[str, ...] = ("spring", "generalized", "mjx")
    goal_radius = 10.0
    view = View("torso", distance=5.0, azimuth=25.0, elevation=-30.0)
    maze_view = View("torso", distance=9.0, elevation=-55.0)

    def __init__(
        self, id: str, maze: Maze | None = None, *, backend: str = "spring", normalize_quaternion: bool = True
    ):
        """
        Args:
          id: the environment's name.
          maze: the maze; None for the open floor.
          backend: ``spring`` (the paper's), ``generalized`` or ``mjx``.
          normalize_quaternion: normalize the initial quaternion. The paper's code adds noise to it and leaves it with
            a norm of 0.9 to 1.1.
        """
        self._normalize = normalize_quaternion
        timestep, frames = (0.005, 10) if backend == "spring" else (0.01, 5)
        super().__init__(id, self._model(maze), backend=backend, timestep=timestep, frames=frames, maze=maze)
        if backend == "mjx":
            self.sys = self.sys.tree_replace(_MJX)

    def _model(self, maze: Maze | None) -> ElementTree.Element:
        tree = physics.asset("ant")
        if maze:
            physics.add_walls(tree, maze, _WALL_HEIGHT)
        self._add_objects(tree)
        physics.add_target(tree)
        first = physics.child(tree, "numeric[@name='init_qpos']")
        first.set("data", first.get("data", "") + " 0" * len(tree.findall(".//joint[@type='slide']")))
        return tree

    def _add_objects(self, tree: ElementTree.Element) -> None:
        """Add further objects of a subclass to the model."""

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        position_key, velocity_key, goal_key, rest_key = jax.random.split(rng, 4)
        sys = self.sys
        q = sys.init_q + jax.random.uniform(position_key, (sys.q_size(),), minval=-_NOISE, maxval=_NOISE)
        qd = _NOISE * jax.random.normal(velocity_key, (sys.qd_size(),))
        if self.maze:
            origin, goal = physics.draw_pair(self.maze, goal_key, None, goal)
            # The noise spreads starts around a start cell's center; starts of generated pairs are exactly at centers.
            q = q.at[:2].set(origin) if self.maze.hops else q.at[:2].add(origin)
        elif goal is None:
            goal = self._draw_goal(goal_key)
        if start is not None:
            q = q.at[:2].set(start)
        if self._normalize:
            q = q.at[3:7].divide(jnp.linalg.norm(q[3:7]))
        return self._place(q, qd.at[-2:].set(0), jnp.asarray(goal, float), rest_key)

    def _draw_goal(self, rng: jax.Array) -> jax.Array:
        angle = jax.random.uniform(rng, maxval=2 * jnp.pi)
        return self.goal_radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    def _place(self, q: jax.Array, qd: jax.Array, goal: jax.Array, rng: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Set the positions of the goal and of movable objects in an initial state."""
        return q.at[-2:].set(goal), qd

    def _observe(self, physics, control: jax.Array) -> jax.Array:
        return jnp.concatenate([physics.q[:15], physics.qd[:14]])

    def _goal_of(self, physics) -> jax.Array:
        return physics.x.pos[-1, :2]

    def _failed(self, state) -> jax.Array:
        return physics.out_of(state.x.pos[0, 2], *_HEALTHY)
