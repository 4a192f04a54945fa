"""The point mass: its motion among walls, checked along whole paths, and its initial states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from crlviz import envs
from crlviz.envs import mazes
from crlviz.envs.point import PointMaze

MARGIN = 1e-4  # distance kept between the point and the faces of its cell
TOP_SPEED = 0.3  # with force 0.15 and drag 0.5: v = 0.5 v + 0.15
# Walls in all arrangements: corners, dead ends, one-cell gaps, pillars, and pairs that touch at a corner.
KNOTS = ("########", "#r.#..g#", "#.#..#.#", "#....#.#", "##.#...#", "#..##.##", "#.#...g#", "########")
MAZES = {"u": "u_maze", "big": "big_maze", "hardest": "hardest_maze", "knots": KNOTS}


def _env(name: str) -> PointMaze:
    layout = MAZES[name]
    return envs.make(f"point_{layout}") if isinstance(layout, str) else envs.make("point_maze", layout=layout)


@pytest.fixture(scope="module", params=MAZES)
def env(request) -> PointMaze:
    return _env(request.param)


@pytest.fixture(scope="module")
def knots() -> PointMaze:
    return _env("knots")


@pytest.fixture(scope="module")
def room() -> PointMaze:
    return envs.make("point_maze", layout=["#" * 9, *["#.......#"] * 3, "#...r..g#", *["#.......#"] * 3, "#" * 9])


@functools.cache
def _first(env: PointMaze, count: int):
    return jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))


def _states(env: PointMaze, position, velocity):
    """Batched states at positions and velocities [B, 2], with drawn goals."""
    first = _first(env, len(position))
    point = first.pipeline_state.replace(
        position=jnp.asarray(position, jnp.float32), velocity=jnp.asarray(velocity, jnp.float32)
    )
    return first.replace(pipeline_state=point)


@functools.partial(jax.jit, static_argnums=0)
def _walk(env: PointMaze, state, actions):
    def step(state, action):
        state = jax.vmap(env.step)(state, action)
        return state, (state.pipeline_state.position, state.pipeline_state.velocity)

    return jax.lax.scan(step, state, actions)[1]


def _steps(env: PointMaze, position, velocity, actions):
    """Positions and velocities [T + 1, B, 2] under actions [T, B, 2]."""
    positions, velocities = _walk(env, _states(env, position, velocity), jnp.asarray(actions, jnp.float32))
    first = np.asarray(position, np.float32)[None], np.asarray(velocity, np.float32)[None]
    return np.concatenate([first[0], positions]), np.concatenate([first[1], velocities])


def _anywhere(env: PointMaze, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    cells = np.array(env.maze.free)[rng.integers(len(env.maze.free), size=count)]
    return env.maze.xy(cells) + rng.uniform(-0.499, 0.499, (count, 2))


def test_one_step_never_crosses_a_wall(env):
    """Every path is checked at 200 points, and every stop must be at a wall."""
    count, rng = 5_000, np.random.default_rng(1)
    before = _anywhere(env, count, seed=0)
    speed = rng.uniform(-TOP_SPEED, TOP_SPEED, (count, 2))
    action = rng.choice([-1, 0, 1], (count, 2)) * rng.uniform(0, 1, (count, 2))
    positions, velocities = _steps(env, before, speed, action[None])
    end, after = positions[1].astype(float), velocities[1]
    wanted = 0.5 * speed + 0.15 * action  # the velocity without walls
    goal = before + wanted

    stopped = (after == 0) & (wanted != 0)
    np.testing.assert_allclose(after[~stopped], wanted[~stopped], atol=1e-6)
    np.testing.assert_allclose(end[~stopped], goal[~stopped], atol=1e-5)
    assert stopped.any()
    assert not stopped.all()

    # An axis moves until a wall stops it, and the other slides on: each clips the straight path at its end.
    low, high = np.minimum(before, end), np.maximum(before, end)
    for t in np.linspace(0, 1, 200):
        assert env.maze.is_free(_inward(env, np.clip(before + t * wanted, low, high))).all()
    assert ((end - before) * wanted >= -1e-3 * np.abs(wanted)).all()  # only the margin may push a point back

    # At the position at which an axis was stopped, there is a wall beyond the margin.
    for axis in (0, 1):
        hit = stopped[:, axis]
        time = (end[hit, axis] - before[hit, axis]) / wanted[hit, axis]
        place = np.clip(before[hit] + time[:, None] * wanted[hit], low[hit], high[hit])
        place[:, axis] = end[hit, axis] + 2e-3 * np.sign(wanted[hit, axis])
        # If the path ends near a corner, either of the two cells beside it may be the wall.
        beside = [place, place + np.eye(2)[1 - axis] * 2e-3, place - np.eye(2)[1 - axis] * 2e-3]
        assert (~np.stack([env.maze.is_free(p) for p in beside])).any(0).all()


def _inward(env: PointMaze, xy: np.ndarray) -> np.ndarray:
    """Move positions that lie on a wall's face, up to float32 rounding, to the free side of it."""
    at = (xy - env.maze.origin) + 0.5
    face = np.rint(at)
    near = np.abs(at - face) < 2e-6
    candidates = [np.where(near, face + np.array(sign) * 2e-6, at) for sign in np.ndindex(2, 2)]
    candidates += [np.where(near, face - np.array(sign) * 2e-6, at) for sign in np.ndindex(2, 2)]
    candidates += [np.where(near, face + np.array(s) * 2e-6, at) for s in ((1, -1), (-1, 1))]
    result = xy.copy()
    for candidate in candidates:
        candidate = candidate - 0.5 + env.maze.origin
        bad = ~env.maze.is_free(result)
        result[bad] = candidate[bad]
    return result


def test_long_walks_stay_out_of_walls(env):
    count, length, rng = 500, 300, np.random.default_rng(2)
    # Constant pushes press the point into walls and corners.
    actions = rng.choice([-1.0, -0.3, 0.0, 1.0], (length // 5, count, 2)).repeat(5, axis=0)
    start = np.tile(env.maze.xy(env.maze.starts[0]), (count, 1))
    positions, velocities = _steps(env, start, np.zeros((count, 2)), actions)
    assert env.maze.is_free(positions).all()
    assert np.abs(velocities).max() <= TOP_SPEED + 1e-6
    assert np.abs(np.diff(positions, axis=0)).max() <= TOP_SPEED + MARGIN + 1e-5
    # A path does not jump over walls: the geodesic distance between consecutive positions is small.
    for a, b in zip(positions[:-1:37].reshape(-1, 2)[:60], positions[1::37].reshape(-1, 2)[:60], strict=True):
        assert env.maze.geodesic(a, b) <= 2 * TOP_SPEED


@settings(max_examples=60)
@given(
    cell=st.integers(0, 1000),
    offset=st.tuples(*[st.floats(-0.498, 0.498)] * 2),
    velocity=st.tuples(*[st.floats(-TOP_SPEED, TOP_SPEED)] * 2),
    actions=st.lists(st.tuples(*[st.sampled_from([-2.0, -1.0, -0.25, 0.0, 1.0, 5.0])] * 2), min_size=1, max_size=8),
)
def test_any_actions_from_anywhere(knots, cell, offset, velocity, actions):
    start = knots.maze.xy(knots.maze.free[cell % len(knots.maze.free)]) + offset
    padded = np.zeros((8, 1, 2))
    padded[: len(actions), 0] = actions
    positions, velocities = _steps(knots, start[None], np.array([velocity]), padded)
    assert knots.maze.is_free(positions).all()
    assert np.abs(velocities).max() <= TOP_SPEED + 1e-6


def test_rounding_at_a_face_does_not_enter_the_wall(env):
    """Steps that end within a few float32 ulps of a cell's face: rounding must not put the point in the wall."""
    count, rng, rows = 100_000, np.random.default_rng(3), np.arange(100_000)
    cells = np.array(env.maze.free)[rng.integers(len(env.maze.free), size=count)]
    axis, sign, far = rng.integers(2, size=count), rng.choice([-1, 1], count), rng.uniform(0.01, 0.29, count)
    position = (env.maze.xy(cells) + rng.uniform(-0.45, 0.45, (count, 2))).astype(np.float32)
    velocity = rng.uniform(-0.1, 0.1, (count, 2))
    velocity[rows, axis] = sign * far
    aim = (env.maze.xy(cells)[rows, axis] + sign * (0.5 - far)).astype(np.float32)
    position[rows, axis] = aim + rng.integers(-4, 5, count) * np.spacing(aim)
    free = env.maze.is_free(position)
    position, velocity = position[free], velocity[free]
    # Twice the velocity without a push is the wanted velocity after drag.
    push = np.zeros((12, len(position), 2))
    push[1:] = rng.choice([-1.0, 1.0], (11, len(position), 2))
    positions, _ = _steps(env, position, 2 * velocity, push)
    cell = np.floor(positions - np.float32(env.maze.origin) + np.float32(0.5)).astype(int)
    inside = env.maze.walls[np.clip(cell[..., 0], 0, None), np.clip(cell[..., 1], 0, None)].any(0)
    assert not inside.any(), f"{inside.sum()} of {len(inside)}; first from {position[inside][0]}, {velocity[inside][0]}"


def test_full_speed_into_a_wall_stops_at_it(room):
    positions, velocities = _steps(room, [[0.0, 0.0]], [[TOP_SPEED, 0.0]], np.tile([[[1.0, 0.0]]], (30, 1, 1)))
    x, y = positions[:, 0].T
    assert (np.diff(x) >= -1e-6).all()
    assert x[-1] == pytest.approx(3.5, abs=2e-3)
    assert x.max() < 3.5
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(velocities[-1], 0)
    assert np.abs(velocities[1]).max() == pytest.approx(TOP_SPEED)


def test_the_point_slides_along_a_wall(room):
    positions, velocities = _steps(room, [[3.4, -2.0]], [[TOP_SPEED, 0.0]], np.tile([[[1.0, 1.0]]], (10, 1, 1)))
    assert (positions[1:, 0, 0] > 3.49).all()
    np.testing.assert_array_equal(velocities[1:, 0, 0], 0)
    # There is no friction along the wall: speeds are as in the open.
    speed, speeds = 0.0, []
    for _ in range(10):
        speed = 0.5 * speed + 0.15
        speeds.append(speed)
    np.testing.assert_allclose(velocities[1:, 0, 1], speeds, rtol=1e-5)
    np.testing.assert_allclose(positions[1:, 0, 1], -2 + np.cumsum(speeds), rtol=1e-5)


def test_there_is_no_passage_between_walls_that_touch():
    """Straight at the corner where two walls touch, and slightly beside it, from both free cells."""
    rows = ["#####", "#rg##", "#.#.#", "#...#", "#####"]  # walls (1, 3) and (2, 2) touch between (1, 2) and (2, 3)
    env = envs.make("point_maze", layout=rows)
    corner = env.maze.xy((1, 2)) + 0.5
    aims = np.array([(0, 0), (1e-4, 0), (0, 1e-4), (-1e-4, 0), (0, -1e-4), (1e-7, 0), (0, 1e-7)])
    for sign in (1, -1):
        start = corner - sign * 0.1 + aims
        speed = np.full((len(aims), 2), sign * TOP_SPEED)
        positions, _ = _steps(env, start, speed, np.full((20, len(aims), 2), float(sign)))
        cells = env.maze.cell(positions)
        assert (cells == cells[0]).all()
        assert not env.maze.walls[tuple(cells[-1].T)].any()


def test_an_exact_hit_of_a_convex_corner_stops_one_axis():
    rows = ["######", "#r...#", "#....#", "#..#.#", "#...g#", "######"]
    env = envs.make("point_maze", layout=rows)
    corner = env.maze.xy((3, 3)) - 0.5
    positions, _ = _steps(env, [corner - 0.25], [[0.5, 0.5]], np.zeros((1, 1, 2)))
    end = positions[1, 0] - (corner - 0.25)
    assert env.maze.is_free(positions).all()
    # One axis moves on by 0.25; the other stops a margin before the face, which is 0.25 away too.
    assert sorted(end) == pytest.approx([0.25 - MARGIN, 0.25 + MARGIN], abs=1e-5)


def test_observation_is_state_then_goal(env):
    state = env.reset(jax.random.key(3))
    point = state.pipeline_state
    assert state.obs.shape == (env.observation_size,) == (env.state_dim + env.goal_dim,) == (6,)
    np.testing.assert_array_equal(state.obs, [*point.position, *point.velocity, *point.goal])
    after = env.step(state, jnp.array([1.0, -1.0]))
    point = after.pipeline_state
    np.testing.assert_array_equal(after.obs, [*point.position, *point.velocity, *point.goal])
    np.testing.assert_array_equal(after.obs[jnp.array(env.goal_indices)], point.position)
    np.testing.assert_array_equal(after.obs[env.state_dim :], state.obs[env.state_dim :])
    assert after.obs.dtype == jnp.float32
    assert float(after.done) == 0


def test_actions_are_clipped(room):
    ways = np.array([[[7.0, -9.0]]])
    np.testing.assert_array_equal(
        _steps(room, [[0, 0]], [[0, 0]], ways)[0], _steps(room, [[0, 0]], [[0, 0]], np.sign(ways))[0]
    )


@pytest.mark.parametrize(("away", "success", "easy"), [(0.2499, 1, 1), (0.25, 0, 1), (0.4999, 0, 1), (0.5, 0, 0)])
def test_success_is_strictly_within_the_threshold(room, away, success, easy):
    goal = jnp.array([0.25, 0.0])  # subtracting 0.25 or 0.5 is exact in float32, and ends on no face
    after = room.step(room.reset(jax.random.key(0), goal - jnp.array([away, 0.0]), goal), jnp.zeros(2))
    assert float(after.metrics["distance"]) == pytest.approx(away, abs=1e-6)
    assert (float(after.metrics["success"]), float(after.metrics["success_easy"])) == (success, easy)
    assert float(after.reward) == success


def test_metrics_are_of_the_position_after_the_step(room):
    after = room.step(room.reset(jax.random.key(0), jnp.zeros(2), jnp.array([0.15, 0.0])), jnp.array([1.0, 0.0]))
    assert float(after.metrics["distance"]) == pytest.approx(0, abs=1e-6)


def test_resets_draw_start_and_goal(env):
    count = 4000
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), count))
    point = states.pipeline_state
    away = np.asarray(point.position) - env.maze.xy(env.maze.starts[0])
    assert np.abs(away).max() <= 0.1 + 1e-6
    assert np.abs(away).max() > 0.095
    # Uniform over the square: all four quarters are equally likely.
    quarter = 2 * (away[:, 0] > 0) + (away[:, 1] > 0)
    assert chisquare(np.bincount(quarter, minlength=4)).pvalue > 1e-3
    np.testing.assert_array_equal(point.velocity, 0)

    centers = env.maze.xy(env.maze.goals)
    which = np.abs(np.asarray(point.goal)[:, None] - centers).max(-1)
    np.testing.assert_allclose(which.min(1), 0, atol=1e-6)  # exactly the center of a goal cell
    drawn = np.bincount(which.argmin(1), minlength=len(centers))
    assert chisquare(drawn).pvalue > 1e-3


def test_generated_pairs_are_drawn_by_distance_first():
    env = envs.make("point_u_maze_gen_1f6f")
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(1), 4000))
    starts, goals = (env.maze.cell(np.asarray(p)) for p in (states.pipeline_state.position, states.pipeline_state.goal))
    along = {cell: k for k, cell in enumerate([(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)])}
    hops = np.array([along[tuple(g)] - along[tuple(s)] for s, g in zip(starts, goals, strict=True)])
    assert chisquare([(hops == 1).sum(), (hops == 6).sum()]).pvalue > 1e-3
    assert set(hops) == {1, 6}
    places = np.array([along[tuple(s)] for s in starts])[hops == 1]
    assert chisquare(np.bincount(places, minlength=6)).pvalue > 1e-3


def test_start_and_goal_can_be_given(env):
    start, goal = env.maze.xy(env.maze.free[-1]) + 0.2, env.maze.xy(env.maze.free[0]) + 0.3
    state = jax.jit(env.reset)(jax.random.key(0), start, goal)
    np.testing.assert_allclose(state.obs, [*start, 0, 0, *goal], rtol=1e-6)
    drawn, given_start, given_goal = (env.reset(jax.random.key(5), *a) for a in ((), (start, None), (None, goal)))
    np.testing.assert_array_equal(given_start.obs[4:], drawn.obs[4:])
    np.testing.assert_array_equal(given_goal.obs[:2], drawn.obs[:2])


def test_jit_vmap_and_scan_agree_with_plain_steps(knots):
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    plain = []
    for key in keys:
        state = knots.reset(key)
        for action in actions:
            state = knots.step(state, action)
        plain.append(state.obs)

    def run(key):
        return jax.lax.scan(lambda s, a: (knots.step(s, a), None), knots.reset(key), actions)[0]

    batched = jax.jit(jax.vmap(run))(keys)
    np.testing.assert_allclose(batched.obs, plain, atol=1e-5)
    # A scan needs steps that keep shapes and types of the state.
    state = knots.reset(keys[0])
    before, after = jax.eval_shape(lambda: state), jax.eval_shape(knots.step, state, actions[0])
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


def test_every_id_can_be_built():
    points = [id for id in envs.ids() if id.startswith("point_")]
    assert points == [f"point_{name}" for name in mazes.LAYOUTS]
    for id in points:
        env = envs.make(id)
        assert env.id == id
        assert env.maze.rows == tuple(mazes.LAYOUTS[id.removeprefix("point_")].split())
        assert (env.observation_size, env.action_size, env.goal_dim) == (6, 2, 2)
