"""brax's humanoid: walks to a point on the open floor or in a maze."""

from xml.etree import ElementTree

import jax
import jax.numpy as jnp
from brax import actuator
from brax.base import Transform

from crlviz.envs import physics
from crlviz.envs.base import State
from crlviz.envs.looks import View
from crlviz.envs.mazes import Maze
from crlviz.envs.physics import PhysicsEnv

_WALL_HEIGHT = 1.0
_HEALTHY = (1.0, 2.0)  # range of the torso's height in meters
_GOAL_HEIGHT = 1.25  # meters
_GOAL_DISTANCE = (1.0, 5.0)  # meters
_GEAR = [350.0] * 11 + [100.0] * 6
_FRAMES = 10


class Humanoid(PhysicsEnv):
    """State: q [26] and qd [25], each ending in the target's x, y; inertias of the 12 links about the center of mass
    [12 x 10]; their velocities [12 x 6]; joint forces of the actuators [25]. Goal: torso x, y, z. The goal's z is
    always 1.25 m; of a given goal, only x and y are used.

    Starts standing at the origin with the goal 1 to 5 m away; in a maze, at a start cell's center with the goal above
    a goal cell's center. Done when the torso's height leaves 1 to 2 m.

    As in the paper, the state reveals the commanded goal: at indices 24 and 25, and because the target's mass counts
    in the center of mass.

    Source: the paper's code (humanoid, humanoid_maze), on brax's own model.
    """

    state_dim = 268
    goal_indices = (0, 1, 2)
    action_size = 17
    goal_distance = 0.5
    goal_distance_easy = 2.0
    episode_length = 1000
    backends = ("spring",)
    view = View("torso", (0, 0, -0.3), distance=4.0, azimuth=40.0, elevation=-15.0)
    maze_view = View("torso", (0, 0, -0.3), distance=7.0, elevation=-45.0)

    def __init__(self, id: str, maze: Maze | None = None, *, backend: str = "spring", physics_step: float = 0.0015):
        """
        Args:
          id: the environment's name.
          maze: the maze; None for the open floor.
          backend: ``spring``.
          physics_step: seconds of a physics step; ten make a step. The paper's code asks for 0.0015. On the open floor
            brax 0.10 ignored that, so the paper's ``humanoid`` used 0.003.
        """
        super().__init__(
            id, _model(maze), backend=backend, timestep=physics_step, frames=_FRAMES, gear=_GEAR, maze=maze
        )  # fmt: skip
        inertia = self.sys.link.inertia
        # As brax's humanoid observes them: masses and moments of inertia with the scaling of the spring engine.
        self._inertia = inertia.replace(
            i=jax.vmap(jnp.diag)(jax.vmap(jnp.diagonal)(inertia.i) ** (1 - self.sys.spring_inertia_scale)),
            mass=inertia.mass ** (1 - self.sys.spring_mass_scale),
        )

    def _draw(self, rng: jax.Array, start: jax.Array | None, goal: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        q = self.sys.init_q
        if self.maze:
            start, goal = physics.draw_pair(self.maze, rng, start, goal)
        elif goal is None:
            distance_key, angle_key = jax.random.split(rng)
            distance = jax.random.uniform(distance_key, minval=_GOAL_DISTANCE[0], maxval=_GOAL_DISTANCE[1])
            angle = jax.random.uniform(angle_key, maxval=2 * jnp.pi)
            goal = distance * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        if start is not None:
            q = q.at[:2].set(start)
        return q.at[-2:].set(jnp.asarray(goal, float)[:2]), jnp.zeros(self.sys.qd_size())

    def observation_at(self, state: State, place: jax.Array | None, goal: jax.Array) -> jax.Array:
        # The target is part of the state, and it moves the center of mass, to which the links' inertias refer.
        q = state.pipeline_state.q
        q = (q if place is None else q.at[:2].set(place)).at[-2:].set(goal[:2])
        return jnp.concatenate([self.at(q, state.pipeline_state.qd).obs[: self.state_dim], goal])

    def _control(self, action: jax.Array) -> jax.Array:
        low, high = self.control_range.T
        return (action + 1) * (high - low) * 0.5 + low

    def _observe(self, physics, control: jax.Array) -> jax.Array:
        inertia = self._inertia
        x_i = physics.x.vmap().do(inertia.transform)
        total = jnp.sum(inertia.mass)
        center = jnp.sum(inertia.mass[:, None] * x_i.pos, axis=0) / total
        about_center = x_i.replace(pos=x_i.pos - center).vmap().do(inertia)
        moments = jnp.hstack([about_center.i.reshape(len(inertia.mass), -1), inertia.mass[:, None]])
        motion = Transform.create(pos=x_i.pos - physics.x.pos).vmap().do(physics.xd)
        velocities = jnp.hstack([inertia.mass[:, None] * motion.vel / total, motion.ang])
        force = actuator.to_tau(self.sys, control, physics.q, physics.qd)
        return jnp.concatenate([physics.q, physics.qd, moments.ravel(), velocities.ravel(), force])

    def _goal_of(self, physics) -> jax.Array:
        return jnp.append(physics.x.pos[-1, :2], _GOAL_HEIGHT)

    def _failed(self, state) -> jax.Array:
        return physics.out_of(state.x.pos[0, 2], *_HEALTHY)


def _model(maze: Maze | None) -> ElementTree.Element:
    tree = physics.asset("humanoid")
    # In brax only the feet collide; in the paper all parts of the body do.
    for geom in physics.child(tree, "body[@name='torso']").iter("geom"):
        geom.set("contype", "1")
    physics.child(tree, "geom[@name='floor']").set("contype", "1")
    if maze:
        physics.add_walls(tree, maze, _WALL_HEIGHT)
    physics.add_target(tree, radius=0.5, height=_GOAL_HEIGHT)
    return tree
