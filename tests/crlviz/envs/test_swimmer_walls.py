"""The swimmer's contacts with walls, and its starts and goals among them."""

import jax
import numpy as np
import pytest
from scipy.stats import kstest

from crlviz import envs
from crlviz.envs.swimmer import RADIUS, Swimmer
from tests.helpers.swimmers import (
    COUNT,
    KNOTS,
    anywhere,
    constant_pushes,
    first_states,
    points_along,
    simulate,
    waves_and_pushes,
)

ROOM = ["#" * 9, *["#.......#"] * 3, "#...r..g#", *["#.......#"] * 3, "#" * 9]


@pytest.fixture(scope="module")
def knots() -> Swimmer:
    return envs.make("swimmer_maze", layout=KNOTS)


@pytest.mark.parametrize("links", [4, pytest.param(7, marks=pytest.mark.slow)])
def test_no_link_is_ever_in_a_wall_or_through_one(links, knots):
    env = knots if links == 4 else envs.make("swimmer_maze", layout=KNOTS, links=links)
    q = simulate(env, waves_and_pushes(250, links - 1), **anywhere(env, COUNT, links))
    points = points_along(q, 12)
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
    actions = constant_pushes(count, 60, 3, 0)
    # Half of the bodies point at the wall, half lie along it.
    aside, angle = np.repeat([0.56, 0.08], count // 2), np.repeat([0, np.pi / 2], count // 2)
    first = {"middle": np.stack([wall - aside, 0 * aside], 1), "angle": angle + np.linspace(-0.04, 0.04, count)}
    free, pushed = simulate(envs.make("swimmer"), actions, **first), simulate(room, actions, **first)
    np.testing.assert_allclose(pushed[..., [1, 3, 4, 5]], free[..., [1, 3, 4, 5]], atol=2e-5)
    np.testing.assert_allclose(np.sin((pushed[..., 2] - free[..., 2]) / 2), 0, atol=2e-5)
    # A step has three substeps, on straight lines between the free body's states.
    steps = np.diff(free.astype(float), axis=0)
    steps[..., 2] = np.angle(np.exp(1j * steps[..., 2]))
    between = np.concatenate([free[:-1] + steps * third / 3 for third in (1, 2, 3)], 1).reshape(60, 3, count, 6)
    deepest = (
        points_along(between, 4)[..., 0].max(-1) + RADIUS - wall
    )  # with 4 links, discs are a third of a link apart
    depth = np.maximum.accumulate(np.maximum(deepest, 0).max(1), axis=0)
    assert (depth[-1] > 0.05).sum() > count / 4
    np.testing.assert_allclose(pushed[1:, :, 0], free[1:, :, 0] - depth, atol=5e-5)


@pytest.mark.parametrize("links", [4, 6])
def test_joints_move_freely_in_rooms_and_dead_ends(links):
    """A body of any shape fits in a cell, so walls without convex corners can always push it clear."""
    box = envs.make("swimmer_maze", layout=["####", "#rg#", "####"], links=links)
    actions = waves_and_pushes(120, links - 1)
    q = simulate(box, actions, **anywhere(box, COUNT, 3))
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
    pressed = simulate(knots, constant_pushes(100, 60, 3, 1), **anywhere(knots, 100, 1))[-1]
    q = simulate(knots, np.zeros((5, 100, 3)), middle=pressed[:, :2], angle=pressed[:, 2], joints=pressed[:, 3:])
    assert np.abs(q[1] - q[0]).max() < 0.006  # the rest of a push
    assert np.abs(q[-1] - q[2]).max() < 1e-5


def test_no_body_gets_stuck(knots):
    """After long pushing into corners and dead ends, some action moves each body's joints freely, many do partly."""
    pressed, shares = simulate(knots, constant_pushes(COUNT, 150, 3, 2), **anywhere(knots, COUNT, 2))[-1], []
    for action in np.random.default_rng(6).uniform(-1, 1, (40, 1, COUNT, 3)):
        q = simulate(knots, action, middle=pressed[:, :2], angle=pressed[:, 2], joints=pressed[:, 3:])
        wanted = np.clip(pressed[:, 3:] + knots.rate * action[0], -knots.limit, knots.limit) - pressed[:, 3:]
        shares.append(((q[1] - q[0])[:, 3:] * wanted).sum(1) / np.maximum((wanted**2).sum(1), 1e-9))
    shares = np.array(shares)
    assert (shares.max(0) > 0.99).all()
    assert shares.min() < 0.5  # walls do block some motions
    assert (shares.mean(0) > 0.2).all()


def test_starts_are_clear_of_walls_and_goals_are_drawn(knots):
    for env in (envs.make("swimmer_u_maze"), knots):
        state = first_states(env, 2000)
        body = state.pipeline_state
        q = np.concatenate([body.middle, body.angle[:, None], body.joints], -1)
        nearest = points_along(q, 9)[..., None, :] + RADIUS * 0.98 * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
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
    assert knots.maze.is_free(points_along(q, 9)).all()
    around = 0.549 * np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 720)), np.sin(t)], -1)
    fits = knots.maze.is_free(starts[:, None] + around).all(1)
    np.testing.assert_allclose(np.asarray(body.middle)[fits], starts[fits], atol=2e-3)
    assert 0.02 < fits.mean() < 0.9
