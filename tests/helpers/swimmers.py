"""Swimmers: a float64 reference of their motion, and many steps of many bodies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from crlviz.envs.swimmer import Swimmer

# Walls in all arrangements, with dead ends and pairs that touch at a corner.
KNOTS = ("########", "#r.#..g#", "#.#..#.#", "#....#.#", "##.#...#", "#..##.##", "#.#...g#", "########")
COUNT = 256  # bodies in every batch, so that each environment compiles one program


def chain(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles [N, 2] and angles [N] of the links, from x, y, angle and joints [N + 2]."""
    angles = q[2] + np.concatenate([[0], np.cumsum(q[3:])])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) / len(angles)
    middles = np.cumsum(vectors, 0) - vectors / 2
    return middles - middles.mean(0) + q[:2], angles


def connection(q: np.ndarray, ratio: float) -> np.ndarray:
    """Motion of x, y and angle per radian of each joint [3, N - 1]; velocities are central differences."""
    links, h = len(q) - 2, 1e-5
    power = np.zeros((links + 2, links + 2))
    ends = [(chain(q + d), chain(q - d)) for d in h * np.eye(links + 2)]
    velocities = [[(a - b) / 2 / h for a, b in zip(*pair, strict=True)] for pair in ends]
    for k, angle in enumerate(chain(q)[1]):
        along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        drag = (np.outer(along, along) + ratio * np.outer(across, across)) / links
        linear = np.array([velocity[k] for velocity, _ in velocities])
        angular = np.array([spin[k] for _, spin in velocities])
        power += linear @ drag @ linear.T + ratio / links**3 / 12 * np.outer(angular, angular)
    # The generalized forces on x, y and the angle are zero.
    return -np.linalg.solve(power[:3, :3], power[:3, 3:])


def integrate(q: np.ndarray, turns: np.ndarray, ratio: float, pieces: int) -> np.ndarray:
    """The reference after its joints turned by turns [N - 1], by classical Runge-Kutta in so many steps."""

    def rate(q):
        return np.concatenate([connection(q, ratio) @ turns, turns]) / pieces

    for _ in range(pieces):
        a = rate(q)
        b = rate(q + a / 2)
        c = rate(q + b / 2)
        q = q + (a + 2 * b + 2 * c + rate(q + c)) / 6
    return q


@functools.cache
def _step(env: Swimmer):
    return jax.jit(jax.vmap(env.step))


def simulate(env: Swimmer, actions, middle=(0, 0), angle=0, joints=0) -> np.ndarray:
    """x, y, angle and joints [T + 1, B, N + 2] under actions [T, B, N - 1], from a given pose."""
    steps, count = actions.shape[:2]
    shapes = jax.eval_shape(env.reset, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros((COUNT, *leaf.shape), leaf.dtype), shapes)
    body, initial = state.pipeline_state, {}
    for name, values in {"middle": middle, "angle": angle, "joints": joints}.items():
        padded = np.zeros((COUNT, *getattr(body, name).shape[1:]), np.float32)
        padded[:count] = values
        initial[name] = jnp.asarray(padded)
    padded = np.zeros((steps, COUNT, env.action_size), np.float32)
    padded[:, :count] = actions
    bodies = [state.pipeline_state.replace(**initial)]
    for action in padded:
        state = _step(env)(state.replace(pipeline_state=bodies[-1]), action)
        bodies.append(state.pipeline_state)
    each = [np.stack([getattr(body, name) for body in bodies])[:, :count] for name in ("middle", "angle", "joints")]
    return np.concatenate([each[0], each[1][..., None], each[2]], -1)


@functools.cache
def first_states(env: Swimmer, count: int):
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))


def anywhere(env: Swimmer, count: int, seed: int) -> dict[str, np.ndarray]:
    """Straight bodies at centers of free cells, at random angles."""
    rng = np.random.default_rng(seed)
    cells = np.array(env.maze.free)[rng.integers(len(env.maze.free), size=count)]
    return {"middle": env.maze.xy(cells), "angle": rng.uniform(-3, 3, count)}


def constant_pushes(count: int, steps: int, joints: int, seed: int) -> np.ndarray:
    """Actions [steps, count, joints], each constant for 5 steps, so that bodies press on walls."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, -0.3, 0.0, 1.0], (-(-steps // 5), count, joints)).repeat(5, axis=0)[:steps]


def waves_and_pushes(steps: int, joints: int) -> np.ndarray:
    """Actions [steps, COUNT, joints]: every second body swims ahead, the others push."""
    actions = constant_pushes(COUNT, steps, joints, joints)
    lags = np.linspace(-1.2, 1.2, COUNT)[::2, None] * np.arange(joints)
    actions[:, ::2] = np.sin(np.arange(steps)[:, None, None] * 0.6 + lags)
    return actions


def points_along(q: np.ndarray, each: int) -> np.ndarray:
    """Evenly spaced points [..., each * N, 2] on the links' center lines, for q [..., N + 2], in float64."""
    q = q.astype(float)
    links = q.shape[-1] - 2
    angles = q[..., 2, None] + np.cumsum(np.concatenate([0 * q[..., :1], q[..., 3:]], -1), -1)
    vectors = np.stack([np.cos(angles), np.sin(angles)], -1) / links
    ends = np.cumsum(vectors, -2) - vectors
    ends = ends - (ends + vectors / 2).mean(-2, keepdims=True) + q[..., None, :2]
    points = ends[..., None, :] + vectors[..., None, :] * np.linspace(0, 1, each)[:, None]
    return points.reshape(*q.shape[:-1], links * each, 2)
