"""The swimmer: its motion against a float64 reference of the forces, and its contacts with walls."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.stats import kstest

from crlviz import envs
from crlviz.envs.swimmer import RADIUS, Swimmer, drift
from crlviz.errors import UsageError

# Walls in all arrangements, with dead ends and pairs that touch at a corner.
KNOTS = ("########", "#r.#..g#", "#.#..#.#", "#....#.#", "##.#...#", "#..##.##", "#.#...g#", "########")
ROOM = ["#" * 9, *["#.......#"] * 3, "#...r..g#", *["#.......#"] * 3, "#" * 9]


@pytest.fixture(scope="module")
def plane() -> Swimmer:
    return envs.make("swimmer")


@pytest.fixture(scope="module")
def knots() -> Swimmer:
    return envs.make("swimmer_maze", layout=KNOTS)


# ---- a reference in float64, from the definition


def _chain(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles [N, 2] and angles [N] of the links, from x, y, angle and joints [N + 2]."""
    angles = q[2] + np.concatenate([[0], np.cumsum(q[3:])])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1) / len(angles)
    middles = np.cumsum(vectors, 0) - vectors / 2
    return middles - middles.mean(0) + q[:2], angles


def _connection(q: np.ndarray, ratio: float) -> np.ndarray:
    """Motion of x, y and angle per radian of each joint [3, N - 1]; velocities are central differences."""
    links, h = len(q) - 2, 1e-5
    power = np.zeros((links + 2, links + 2))
    ends = [(_chain(q + d), _chain(q - d)) for d in h * np.eye(links + 2)]
    velocities = [[(a - b) / 2 / h for a, b in zip(*pair, strict=True)] for pair in ends]
    for k, angle in enumerate(_chain(q)[1]):
        along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        drag = (np.outer(along, along) + ratio * np.outer(across, across)) / links
        linear = np.array([velocity[k] for velocity, _ in velocities])
        angular = np.array([spin[k] for _, spin in velocities])
        power += linear @ drag @ linear.T + ratio / links**3 / 12 * np.outer(angular, angular)
    # The generalized forces on x, y and the angle are zero.
    return -np.linalg.solve(power[:3, :3], power[:3, 3:])


def _integrate(q: np.ndarray, turns: np.ndarray, ratio: float, pieces: int) -> np.ndarray:
    """The reference after its joints turned by turns [N - 1], by classical Runge-Kutta in so many steps."""

    def rate(q):
        return np.concatenate([_connection(q, ratio) @ turns, turns]) / pieces

    for _ in range(pieces):
        a = rate(q)
        b = rate(q + a / 2)
        c = rate(q + b / 2)
        q = q + (a + 2 * b + 2 * c + rate(q + c)) / 6
    return q


def _world(joints, turns, ratio, angle):
    """``drift`` as x, y, angle [3] in the world, for the first link's angle at the midpoint."""
    (x, y), turn = drift(jnp.asarray(joints, jnp.float32), jnp.asarray(turns, jnp.float32), ratio)
    return np.array([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, turn])


# ---- many steps of many bodies

COUNT = 256  # bodies in every batch, so that each environment compiles one program


@functools.cache
def _step(env: Swimmer):
    return jax.jit(jax.vmap(env.step))


def _steps(env: Swimmer, actions, middle=(0, 0), angle=0, joints=0) -> np.ndarray:
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
def _first(env: Swimmer, count: int):
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))


def _anywhere(env: Swimmer, count: int, seed: int) -> dict[str, np.ndarray]:
    """Straight bodies at centers of free cells, at random angles."""
    rng = np.random.default_rng(seed)
    cells = np.array(env.maze.free)[rng.integers(len(env.maze.free), size=count)]
    return {"middle": env.maze.xy(cells), "angle": rng.uniform(-3, 3, count)}


def _constant_pushes(count: int, steps: int, joints: int, seed: int) -> np.ndarray:
    """Actions [steps, count, joints], each constant for 5 steps, so that bodies press on walls."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, -0.3, 0.0, 1.0], (-(-steps // 5), count, joints)).repeat(5, axis=0)[:steps]


def _waves_and_pushes(steps: int, joints: int) -> np.ndarray:
    """Actions [steps, COUNT, joints]: every second body swims ahead, the others push."""
    actions = _constant_pushes(COUNT, steps, joints, joints)
    lags = np.linspace(-1.2, 1.2, COUNT)[::2, None] * np.arange(joints)
    actions[:, ::2] = np.sin(np.arange(steps)[:, None, None] * 0.6 + lags)
    return actions


def _points_along(q: np.ndarray, each: int) -> np.ndarray:
    """Evenly spaced points [..., each * N, 2] on the links' center lines, for q [..., N + 2], in float64."""
    q = q.astype(float)
    links = q.shape[-1] - 2
    angles = q[..., 2, None] + np.cumsum(np.concatenate([0 * q[..., :1], q[..., 3:]], -1), -1)
    vectors = np.stack([np.cos(angles), np.sin(angles)], -1) / links
    ends = np.cumsum(vectors, -2) - vectors
    ends = ends - (ends + vectors / 2).mean(-2, keepdims=True) + q[..., None, :2]
    points = ends[..., None, :] + vectors[..., None, :] * np.linspace(0, 1, each)[:, None]
    return points.reshape(*q.shape[:-1], links * each, 2)


# ---- in the open


@pytest.mark.parametrize(("links", "ratio"), [(3, 10.0), (4, 20.0), (5, 1.5)])
def test_drift_balances_forces_and_torque(links, ratio):
    rng = np.random.default_rng(links)
    for _ in range(20):
        q = np.concatenate([rng.normal(size=2), rng.uniform(-3, 3, 1), rng.uniform(-1.5, 1.5, links - 1)])
        turns = rng.uniform(-1, 1, links - 1)
        np.testing.assert_allclose(_world(q[3:], turns, ratio, q[2]), _connection(q, ratio) @ turns, atol=3e-5)


def test_a_step_is_a_midpoint_step():
    """Against the finely integrated reference: half the step has an eighth of the error."""
    rng, errors = np.random.default_rng(0), []
    for _ in range(6):
        q = np.concatenate([np.zeros(2), rng.uniform(-3, 3, 1), rng.uniform(-0.7, 0.7, 3)])
        turns = rng.uniform(-0.8, 0.8, 3)
        row = []
        for part in (turns, turns / 2):
            exact = _integrate(q, part, 20.0, 16)
            moved = _world(q[3:] + part / 2, part, 20.0, 0.0)
            moved[:2] = _world(q[3:] + part / 2, part, 20.0, q[2] + moved[2] / 2)[:2]
            row.append(np.abs(moved - (exact - q)[:3]).max())
        errors.append(row)
    whole, half = np.array(errors).T
    assert whole.max() < 0.05
    assert np.median(whole / half) == pytest.approx(8, rel=0.25)


def test_steps_follow_the_reference_and_joints_stop_at_their_limits(plane):
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1.5, 1.5, (6, 4, 3))
    q = _steps(plane, actions, angle=[0, 1, 2, -3]).astype(float)
    joints = [q[0, :, 3:]]
    for action in actions:
        joints.append(np.clip(joints[-1] + 0.8 * np.clip(action, -1, 1), -1.5, 1.5))
    np.testing.assert_allclose(q[..., 3:], joints, atol=1e-5)
    assert (np.abs(joints) == 1.5).any()
    for before, after in zip(q[:-1].reshape(-1, 6), q[1:].reshape(-1, 6), strict=True):
        turns = after[3:] - before[3:]
        turn = _connection(np.r_[0, 0, 0, before[3:] + turns / 2], 20.0)[2] @ turns
        shift = _connection(np.r_[0, 0, before[2] + turn / 2, before[3:] + turns / 2], 20.0)[:2] @ turns
        np.testing.assert_allclose(after[:2] - before[:2], shift, atol=1e-5)
        assert np.sin((after[2] - before[2] - turn) / 2) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("ratio", [2.0, 20.0])
def test_small_square_strokes_of_purcells_swimmer(ratio):
    """With three links, nearly straight, a square stroke of side s moves it by 5 (ratio - 1) / 243 s^2 body lengths.

    That is the curvature d1 A2 - d2 A1 + [A1, A2] of the connection A at the straight body, derived by hand for links
    of length 1/3; the other components are zero there.
    """
    h = 1e-3

    def connection(first, second):
        return _connection(np.array([0, 0, 0, first, second]), ratio)

    d1, d2 = (connection(h, 0) - connection(-h, 0)) / 2 / h, (connection(0, h) - connection(0, -h)) / 2 / h
    (x1, y1, w1), (x2, y2, w2) = connection(0, 0).T
    curvature = d1[:, 1] - d2[:, 0] + np.array([w2 * y1 - w1 * y2, w1 * x2 - w2 * x1, 0])
    closed = -5 * (ratio - 1) / 243
    np.testing.assert_allclose(curvature, [closed, 0, 0], atol=1e-5 * ratio)

    env, side, cut = envs.make("swimmer", links=3, drag_ratio=ratio), 0.1, 5
    stroke = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)]).repeat(cut, 0) * side / cut / env.rate
    actions = np.tile(stroke, (30, 1))[:, None]
    q = _steps(env, actions, joints=-side / 2)[-1, 0]
    assert np.hypot(*q[:2]) == pytest.approx(30 * abs(closed) * side**2, rel=0.02)
    assert abs(q[2]) < 0.01  # it returns to its angle


def test_a_scallop_gets_nowhere(plane):
    """Joints that turn along a path of shapes and back along the same path, at any speed, bring it back."""
    rng = np.random.default_rng(2)
    turns = rng.uniform(-0.3, 0.3, (10, 8, 3))
    # The path avoids the joint limits, which would not be met in the same way on the way back.
    forward = np.clip(np.cumsum(turns, 0), -1.4, 1.4)
    turns = np.diff(forward, axis=0, prepend=np.zeros((1, 8, 3))) / plane.rate
    q = _steps(plane, np.concatenate([turns, -turns[::-1]]))
    assert np.abs(q[10] - q[0])[:, :2].max() > 0.1
    np.testing.assert_allclose(q[-1], q[0], atol=2e-6)


def test_isotropic_drag_gives_no_motion():
    env = envs.make("swimmer", drag_ratio=1)
    q = _steps(env, np.random.default_rng(3).uniform(-1, 1, (100, 8, 3)), joints=[0.1, 0.2, -0.3])
    np.testing.assert_allclose(q[..., :2], 0, atol=1e-5)
    assert np.ptp(q[..., 2], axis=0).max() > 0.5  # but it turns


def test_a_rotated_start_rotates_the_path(plane):
    actions = np.random.default_rng(4).uniform(-1, 1, (50, 4, 3))
    turn, away, angle = 1.1, np.array([3.0, -2.0]), np.linspace(-1, 1, 4)
    q = _steps(plane, actions, angle=angle)
    turned = _steps(plane, actions, middle=away, angle=angle + turn)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    np.testing.assert_allclose(turned[..., :2], q[..., :2] @ matrix.T + away, atol=5e-5)
    np.testing.assert_allclose(np.sin((turned[..., 2] - q[..., 2] - turn) / 2), 0, atol=5e-5)


# Body lengths in 200 steps of the best sine gait on a coarse grid, by an earlier program for the same physics.
GAITS = [
    (3, 10, 0.4, 1.2, 3.5),
    (3, 20, 0.8, 1.5, 9.4),
    (4, 20, 0.8, 1.5, 7.7),
    (5, 20, 0.8, 1.5, 6.3),
    (5, 10, 0.4, 1.2, 2.8),
]


@pytest.mark.parametrize(("links", "ratio", "rate", "limit", "recorded"), GAITS)
def test_traveling_waves_move_the_body(links, ratio, rate, limit, recorded):
    """Sines with a phase lag between joints: the best is as fast as recorded and as the reference; noise is not."""

    class Body(Swimmer):
        pass

    Body.rate, Body.limit = rate, limit
    env = Body("swimmer", links=links, drag_ratio=ratio)
    periods, lags = (x.ravel() for x in np.meshgrid(np.arange(8, 20, 2), np.arange(1, 9) * 0.2))
    phase = 2 * np.pi * np.arange(200)[:, None] / periods
    actions = np.sin(phase[..., None] + lags[:, None] * np.arange(links - 1))
    q = _steps(env, actions)
    far = np.hypot(*q[-1, :, :2].T)
    best = far.argmax()
    assert recorded <= far[best] < 2.2 * recorded
    # As far as the reference with the same joint angles, over a few strokes.
    reference = q[0, best].astype(float)
    for before, after in zip(q[:20, best], q[1:21, best], strict=True):
        reference = _integrate(reference, (after - before)[3:].astype(float), ratio, 2)
    np.testing.assert_allclose(q[20, best, :2], reference[:2], atol=0.1 * np.abs(q[:21, best, :2]).max())
    noise = _steps(env, np.random.default_rng(5).uniform(-1, 1, actions.shape))
    assert np.hypot(*noise[-1, :, :2].T).mean() < 0.2 * recorded


# ---- among walls


@pytest.mark.parametrize("links", [4, 7])
def test_no_link_is_ever_in_a_wall_or_through_one(links, knots):
    env = knots if links == 4 else envs.make("swimmer_maze", layout=KNOTS, links=links)
    q = _steps(env, _waves_and_pushes(250, links - 1), **_anywhere(env, COUNT, links))
    points = _points_along(q, 12)
    assert env.maze.is_free(points).all()
    # If consecutive points are in diagonal cells, a cell beside the corner is free: no walls touch there.
    cells = env.maze.cell(points)
    one, other = cells[..., :-1, :], cells[..., 1:, :]
    diagonal = (one != other).all(-1)
    (i, j), (i2, j2) = one[diagonal].T, other[diagonal].T
    assert diagonal.any()
    assert not (env.maze.walls[i, j2] & env.maze.walls[i2, j]).any()
    assert (cells[-1, :, 0] != cells[0, :, 0]).any(-1).mean() > 0.25  # bodies change cells
    assert np.isfinite(q).all()


def test_one_flat_wall_pushes_out_by_the_largest_depth():
    """Skorokhod reflection: x is the free body's minus the largest depth so far; all else is unchanged."""
    room, count = envs.make("swimmer_maze", layout=ROOM), 64
    wall = room.maze.xy((7, 0))[0] + 0.5 * room.maze.cell_size
    actions = _constant_pushes(count, 60, 3, 0)
    # Half of the bodies point at the wall, half lie along it.
    aside, angle = np.repeat([0.56, 0.08], count // 2), np.repeat([0, np.pi / 2], count // 2)
    first = {"middle": np.stack([wall - aside, 0 * aside], 1), "angle": angle + np.linspace(-0.04, 0.04, count)}
    free, pushed = _steps(envs.make("swimmer"), actions, **first), _steps(room, actions, **first)
    np.testing.assert_allclose(pushed[..., [1, 3, 4, 5]], free[..., [1, 3, 4, 5]], atol=2e-5)
    np.testing.assert_allclose(np.sin((pushed[..., 2] - free[..., 2]) / 2), 0, atol=2e-5)
    # A step has three substeps, on straight lines between the free body's states.
    steps = np.diff(free.astype(float), axis=0)
    steps[..., 2] = np.angle(np.exp(1j * steps[..., 2]))
    between = np.concatenate([free[:-1] + steps * third / 3 for third in (1, 2, 3)], 1).reshape(60, 3, count, 6)
    deepest = (
        _points_along(between, 4)[..., 0].max(-1) + RADIUS - wall
    )  # with 4 links, discs are a third of a link apart
    depth = np.maximum.accumulate(np.maximum(deepest, 0).max(1), axis=0)
    assert (depth[-1] > 0.05).sum() > count / 4
    np.testing.assert_allclose(pushed[1:, :, 0], free[1:, :, 0] - depth, atol=5e-5)


@pytest.mark.parametrize("links", [4, 6])
def test_joints_move_freely_in_rooms_and_dead_ends(links):
    """A body of any shape fits in a cell, so walls without convex corners can always push it clear."""
    box = envs.make("swimmer_maze", layout=["####", "#rg#", "####"], links=links)
    actions = _waves_and_pushes(120, links - 1)
    q = _steps(box, actions, **_anywhere(box, COUNT, 3))
    wanted = np.clip(q[:-1, :, 3:] + box.rate * actions, -box.limit, box.limit)
    np.testing.assert_allclose(q[1:, :, 3:], wanted, atol=1e-5)
    assert np.abs(np.diff(q[..., :2], axis=0)).max() < 0.5  # no jumps


def test_pushes_against_brute_force(knots):
    """Discs at random positions, against the distances to the squares of all walls."""
    rng, radius = np.random.default_rng(8), 0.05
    x_low, x_high, y_low, y_high = knots.maze.extent
    points = rng.uniform((x_low, y_low), (x_high, y_high), (20_000, 2)).astype(np.float32)
    half, walls = knots.maze.cell_size / 2, knots.maze.xy(knots.maze.cells("#"))

    def signed_distance(points):
        """Distance to the nearest wall; inside a wall, minus the distance to the nearest free cell."""
        out = np.hypot(*np.maximum(np.abs(points[:, None] - walls) - half, 0).T).min(0)
        free = knots.maze.xy(knots.maze.free)
        return np.where(out > 0, out, -np.hypot(*np.maximum(np.abs(points[:, None] - free) - half, 0).T).min(0))

    before = signed_distance(points)
    x, y, distance = (np.asarray(a, float) for a in jax.jit(lambda p: knots._walls.pushes(*p, radius))(points.T))
    near = (before > 0) & (before < 0.6)
    np.testing.assert_allclose(distance[near], before[near], atol=1e-5)
    assert (distance[before < -1e-5] == -1).all()
    moved = np.hypot(x, y)
    assert (moved[before > radius + 1e-5] == 0).all()
    touching = (before < radius - 1e-5) & (before > -0.4)
    after = signed_distance(points + np.stack([x, y], 1))
    # Exceptions: walls that touch at a corner, or a wall that ends near the disc.
    assert (after[touching] > radius - 1e-5).mean() > 0.99
    # Never less than the shortest displacement, and equal to it if only one face or corner is near.
    assert (moved[touching] > radius - before[touching] - 1e-5).all()
    assert (moved[touching] < radius - before[touching] + 1e-5).mean() > 0.9


def test_a_body_at_rest_stays_where_it_is(knots):
    pressed = _steps(knots, _constant_pushes(100, 60, 3, 1), **_anywhere(knots, 100, 1))[-1]
    q = _steps(knots, np.zeros((5, 100, 3)), middle=pressed[:, :2], angle=pressed[:, 2], joints=pressed[:, 3:])
    assert np.abs(q[1] - q[0]).max() < 0.006  # the rest of a push
    assert np.abs(q[-1] - q[2]).max() < 1e-5


def test_no_body_gets_stuck(knots):
    """After long pushing into corners and dead ends, some action moves each body's joints freely, many do partly."""
    pressed, shares = _steps(knots, _constant_pushes(COUNT, 150, 3, 2), **_anywhere(knots, COUNT, 2))[-1], []
    for action in np.random.default_rng(6).uniform(-1, 1, (40, 1, COUNT, 3)):
        q = _steps(knots, action, middle=pressed[:, :2], angle=pressed[:, 2], joints=pressed[:, 3:])
        wanted = np.clip(pressed[:, 3:] + knots.rate * action[0], -knots.limit, knots.limit) - pressed[:, 3:]
        shares.append(((q[1] - q[0])[:, 3:] * wanted).sum(1) / np.maximum((wanted**2).sum(1), 1e-9))
    shares = np.array(shares)
    assert (shares.max(0) > 0.99).all()
    assert shares.min() < 0.5  # walls do block some motions
    assert (shares.mean(0) > 0.2).all()


def test_starts_are_clear_of_walls_and_goals_are_drawn(knots):
    for env in (envs.make("swimmer_u_maze"), knots):
        state = _first(env, 2000)
        body = state.pipeline_state
        q = np.concatenate([body.middle, body.angle[:, None], body.joints], -1)
        nearest = _points_along(q, 9)[..., None, :] + RADIUS * 0.98 * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
        assert env.maze.is_free(nearest).all()
        assert np.abs(body.middle - env.maze.xy(env.maze.starts[0])).max() <= 0.1 + 1e-6
        assert np.abs(body.joints).max() <= 0.3
        assert kstest(np.asarray(body.angle), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
        goals = {tuple(cell) for cell in env.maze.cell(np.asarray(body.goal)).tolist()}
        assert goals == set(env.maze.goals)
        np.testing.assert_allclose(body.goal, env.maze.xy(env.maze.cell(np.asarray(body.goal))), atol=1e-6)


def test_given_starts_are_kept_or_moved_until_the_body_fits(knots):
    rng, count = np.random.default_rng(7), 500
    cells = np.array(knots.maze.free)[rng.integers(len(knots.maze.free), size=count)]
    starts = knots.maze.xy(cells) + rng.uniform(-0.62, 0.62, (count, 2))
    goals = rng.normal(size=(count, 2))
    keys = jax.random.split(jax.random.key(1), count)
    body = jax.jit(jax.vmap(knots.reset))(keys, starts, goals).pipeline_state
    np.testing.assert_allclose(body.goal, goals, rtol=1e-6)
    q = np.concatenate([body.middle, body.angle[:, None], body.joints], -1)
    assert knots.maze.is_free(_points_along(q, 9)).all()
    around = 0.549 * np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 720)), np.sin(t)], -1)
    fits = knots.maze.is_free(starts[:, None] + around).all(1)
    np.testing.assert_allclose(np.asarray(body.middle)[fits], starts[fits], atol=2e-3)
    assert 0.02 < fits.mean() < 0.9


# ---- as an environment


def test_goals_in_the_open_are_uniform_in_a_disc(plane):
    goal = np.asarray(_first(plane, 4000).pipeline_state.goal)
    assert kstest(np.hypot(*goal.T) ** 2 / 4, "uniform").pvalue > 1e-3
    assert kstest(np.arctan2(*goal.T), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
    np.testing.assert_array_equal(_first(plane, 4000).pipeline_state.middle, 0)


def test_the_observation_is_the_whole_state(plane):
    state = plane.step(plane.reset(jax.random.key(3)), jnp.array([1.0, -0.5, 0.2]))
    body = state.pipeline_state
    expected = [*body.middle, np.cos(body.angle), np.sin(body.angle), *body.joints, *body.goal]
    np.testing.assert_allclose(state.obs, expected, atol=1e-6)
    assert state.obs.shape == (plane.observation_size,) == (9,)
    assert float(state.metrics["distance"]) == pytest.approx(np.hypot(*(body.middle - body.goal)), rel=1e-5)


@pytest.mark.parametrize(("away", "success", "easy"), [(0.249, 1, 1), (0.251, 0, 1), (0.499, 0, 1), (0.501, 0, 0)])
def test_success_is_within_a_quarter_of_the_body_length(plane, away, success, easy):
    after = plane.step(plane.reset(jax.random.key(0), jnp.array([away, 0.0]), jnp.zeros(2)), jnp.zeros(3))
    assert (float(after.metrics["success"]), float(after.metrics["success_easy"])) == (success, easy)


def test_a_scan_agrees_with_plain_steps(knots):
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 3)).astype(np.float32)
    state = first = jax.jit(knots.reset)(jax.random.key(1))
    for action in actions:
        state = knots.step(state, action)
    scanned = jax.jit(lambda state: jax.lax.scan(lambda s, a: (knots.step(s, a), None), state, actions)[0])(first)
    np.testing.assert_allclose(scanned.obs, state.obs, atol=1e-5)


def test_the_mujoco_model_has_the_bodys_pose(plane):
    state = plane.step(plane.reset(jax.random.key(5)), jnp.array([1.0, -1.0, 1.0]))
    body, data = state.pipeline_state, mujoco.MjData(plane.model)
    data.qpos[:] = np.asarray(plane.pose(state))
    mujoco.mj_kinematics(plane.model, data)
    middles, angles = _chain(np.r_[body.middle, body.angle, body.joints].astype(float))
    for k in range(4):
        np.testing.assert_allclose(data.geom(f"link_{k}").xpos[:2], middles[k], atol=1e-5)
        along = data.geom(f"link_{k}").xmat.reshape(3, 3)[:, 2]  # a capsule's axis
        np.testing.assert_allclose(np.abs(along[:2] @ [np.cos(angles[k]), np.sin(angles[k])]), 1, atol=1e-5)
    outline = plane.outline(np.asarray(plane.pose(state)))
    np.testing.assert_allclose((outline[1:] + outline[:-1]) / 2, middles, atol=1e-5)
    np.testing.assert_allclose(data.body("middle").xpos[:2], body.middle, atol=1e-6)
    np.testing.assert_allclose(data.body("target").xpos[:2], body.goal, atol=1e-6)


def test_sizes_and_options():
    env = envs.make("swimmer_u_maze", links=6)
    assert (env.state_dim, env.action_size, env.observation_size) == (9, 5, 11)
    assert env.model.nq == 2 + 2 + 6 + 2
    with pytest.raises(UsageError, match="take 3 to 12"):
        envs.make("swimmer", links=2)
    with pytest.raises(UsageError, match=r"links = 3\.5"):
        envs.make("swimmer", links=3.5)
    with pytest.raises(UsageError, match="drag_ratio = 0"):
        envs.make("swimmer", drag_ratio=0)
    with pytest.raises(UsageError, match="drag_ratio = 'much'"):
        envs.make("swimmer", drag_ratio="much")
