"""Maps of Q and their numbers, for agents whose Q is known."""

import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy.stats import spearmanr

from analyses.heatmap import q_map
from analyses.heatmap.heatmap_pictures import covered
from crlviz import charts, datasets, envs
from crlviz.algorithms.base import Meaning
from crlviz.errors import UsageError
from tests.helpers.carved import carved
from tests.helpers.toys import assert_described, toy_config, untrained_run


class KnownAgent:
    """Q is minus a known distance and minus the sum of the action; the policy's action is constant, 0.25."""

    def __init__(self, env_id: str, measure, depth: int = 4):
        self.env = self.eval_env = envs.make(env_id)
        self.config = {"env": env_id}
        self.measure = measure
        self.facts = dict.fromkeys(datasets.FACTS, 0) | {"env": env_id, "algorithm": "known", "depth": depth}
        self.source = Path(f"known{depth}")

    q_meaning = Meaning("minus a distance", "m")

    def act(self, observation, key=None):
        return np.full((len(observation), 2), 0.25, np.float32)

    def q(self, state, action, goal):
        assert np.ptp(goal, axis=0).max() == 0
        assert np.all(state[:, 2:] == 0)  # the velocity as at reset
        return -self.measure(self.env.maze, state[:, :2], goal[0]) - action.sum(axis=1)


def by_maze(maze, points, goal):
    return maze.geodesic(points, goal)


def by_line(maze, points, goal):
    return np.linalg.norm(points - goal, axis=1)


def test_a_critic_that_knows_the_maze_scores_one():
    dataset = q_map.compute([KnownAgent("point_u4_maze", by_maze)], resolution=4, action="zeros")
    correlation = dataset.rank_correlation
    np.testing.assert_allclose(correlation.sel(distance_kind="geodesic"), 1, atol=1e-4)
    assert correlation.sel(distance_kind="straight").isel(goal=0) < 0.8  # the farthest goal is around the corner


def test_a_critic_that_knows_the_straight_line_scores_one_on_it():
    dataset = q_map.compute([KnownAgent("point_u4_maze", by_line)], resolution=4)
    np.testing.assert_allclose(dataset.rank_correlation.sel(distance_kind="straight"), 1, atol=1e-4)
    assert dataset.rank_correlation.sel(distance_kind="geodesic").isel(goal=0) < 0.8


def test_over_goals_the_start_is_fixed(monkeypatch):
    agent = KnownAgent("point_u4_maze", by_maze)
    start = agent.env.maze.xy(agent.env.maze.starts[0])

    def q(state, action, goal):  # the geodesic distance is symmetric
        assert np.all(state == [*start, 0, 0])
        return -agent.env.maze.geodesic(goal, start)

    monkeypatch.setattr(agent, "q", q)
    dataset = q_map.compute([agent], over="goals", resolution=4, action="zeros")
    assert [dataset.start_x.item(), dataset.start_y.item()] == start.tolist()
    np.testing.assert_allclose(dataset.rank_correlation.sel(distance_kind="geodesic"), 1, atol=1e-4)
    nearest = dataset.q.isel(depth=0, start=0).argmax(["x", "y"])
    assert abs(dataset.x[nearest["x"]] - start[0]) < 0.5
    assert abs(dataset.y[nearest["y"]] - start[1]) < 0.5
    words = json.dumps(q_map.plot(dataset).to_dict())
    assert "Over goals, Q follows" in words
    assert "every goal, from one start" in words


def test_positions_and_walls():
    agent = KnownAgent("point_u_maze", by_line)
    dataset = q_map.compute([agent], np.array([[1.0, 0.0]]), resolution=2, action="zeros")
    points = np.stack(np.meshgrid(dataset.x, dataset.y, indexing="ij"), -1)
    free = agent.env.maze.is_free(points)
    q = dataset.q.isel(depth=0, goal=0).values
    assert np.array_equal(np.isfinite(q), free)
    np.testing.assert_allclose(q[free], -np.linalg.norm(points[free] - [1, 0], axis=1), rtol=1e-5)
    assert dataset.sizes["x"] == 2 * agent.env.maze.shape[0]


def test_the_action_is_the_policys_by_default():
    agent = KnownAgent("point_u_maze", by_line)
    goal = np.array([[1.0, 0.0]])
    acting = q_map.compute([agent], goal, resolution=1)
    still = q_map.compute([agent], goal, resolution=1, action="zeros")
    np.testing.assert_allclose((still.q - acting.q).values[np.isfinite(still.q.values)], 0.5, atol=1e-5)


def test_default_goals_are_the_evaluation_layouts():
    agent = KnownAgent("point_u4_maze", by_line)
    goals = q_map.default_goals(agent)
    maze = agent.env.maze
    # U4's evaluation goals, the farthest along the corridor first.
    assert [tuple(cell) for cell in maze.cell(goals)] == [(4, 1), (5, 1), (5, 2), (5, 3)]


def test_depth_and_seed_become_dimensions():
    agents = [KnownAgent("point_u_maze", by_line, depth) for depth in (16, 4)]
    dataset = q_map.compute(agents, resolution=1)
    assert dataset.depth.values.tolist() == [4, 16]
    assert dataset.q.dims == ("depth", "goal", "x", "y")
    assert dataset.attrs["checkpoints"].splitlines() == ["known16", "known4"]


def test_variables_have_units_and_long_names():
    dataset = q_map.compute([KnownAgent("point_u_maze", by_line)], resolution=1)
    assert_described(dataset)


@pytest.fixture(scope="module")
def two_depths(tmp_path_factory):
    import crlviz

    folder = tmp_path_factory.mktemp("depths")
    changes = ({}, {"actor__depth": 8, "critic__depth": 8})
    return [
        crlviz.load(untrained_run(folder / f"run{index}", toy_config(**change))) for index, change in enumerate(changes)
    ]


def test_real_agents_agree_with_their_own_q(two_depths):
    goal = np.array([[1.0, -1.0]])
    dataset = q_map.compute(two_depths, goal, resolution=2, coverage=True)
    for agent in two_depths:
        part = dataset.sel(depth=agent.facts["depth"]).isel(goal=0)
        i, j = 3, 4
        state = np.array([part.x[i], part.y[j], 0, 0], np.float32)
        observation = np.concatenate([state, goal[0]]).astype(np.float32)
        expected = agent.q(state, agent.act(observation), goal[0].astype(np.float32))
        assert part.q.values[i, j] == pytest.approx(float(expected), rel=1e-5)


def test_visits_count_every_step(two_depths):
    dataset = q_map.compute(two_depths[:1], resolution=2, coverage=True)
    env = two_depths[0].env
    assert dataset.visits.sum() == 128 * env.episode_length
    walls = ~np.isfinite(dataset.q.isel(depth=0, goal=0).values)
    assert dataset.visits.isel(depth=0).values[walls].sum() == 0


def test_a_saved_dataset_gives_the_same_chart(two_depths, tmp_path):
    dataset = q_map.compute(two_depths, resolution=2, coverage=True)
    datasets.save(dataset, tmp_path / "map.nc")
    with xr.open_dataset(tmp_path / "map.nc") as read:
        assert q_map.plot(read).to_dict() == q_map.plot(dataset).to_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["map.nc"]


def _domains(spec) -> list:
    found = []
    if isinstance(spec, dict):
        color = spec.get("encoding", {}).get("color", {})
        if "scale" in color:
            found.append(tuple(color["scale"]["domain"]))
        for value in spec.values():
            found += _domains(value)
    elif isinstance(spec, list):
        for value in spec:
            found += _domains(value)
    return found


def test_scales(two_depths):
    dataset = q_map.compute(two_depths, np.array([[1.0, 1.0]]), resolution=2)
    assert len(set(_domains(q_map.plot(dataset, scale="shared").to_dict()))) == 1
    own = _domains(q_map.plot(dataset, scale="own").to_dict())
    assert len(set(own)) == 2
    for (low, high), depth in zip(own, (4, 8), strict=True):
        assert low == pytest.approx(float(dataset.q.sel(depth=depth).min()), rel=1e-5)
        assert high == pytest.approx(float(dataset.q.sel(depth=depth).max()), rel=1e-5)


def test_walls_are_drawn_where_they_are():
    agent = KnownAgent("point_u_maze", by_line)
    chart = q_map.plot(q_map.compute([agent], np.array([[1.0, 0.0]]), resolution=1))
    spec = chart.to_dict()
    drawn = {
        (round(r["x"] + 0.5, 3), round(r["y"] + 0.5, 3))
        for rows in spec["datasets"].values()
        for r in rows
        if set(r) == {"x", "x2", "y", "y2"} and r["x2"] - r["x"] == r["y2"] - r["y"] == 1  # not a line of the hatching
    }
    maze = agent.env.maze
    assert drawn == {tuple(center) for center in maze.xy(np.argwhere(maze.walls)).tolist()}
    # As in the layout's text, x increases downwards and y to the right.
    text = json.dumps(spec)
    assert '"reverse": true' in text
    assert spec["vconcat"][0]["hconcat"][0]["width"] == spec["vconcat"][0]["hconcat"][0]["height"]  # 5 by 5 cells


def test_without_a_maze(monkeypatch):
    agent = KnownAgent("point_u_maze", lambda maze, points, goal: np.linalg.norm(points - goal, axis=1))
    monkeypatch.setattr(agent.env, "maze", None)
    dataset = q_map.compute([agent])
    assert dataset.q.size > 5000  # more rows than Altair accepts by default
    assert np.isfinite(dataset.q).all()
    np.testing.assert_allclose(dataset.rank_correlation, 1, atol=1e-4)
    # The plane contains the start and all goals of the episodes.
    assert dataset.x.min() < -1
    assert dataset.x.max() > 1
    assert "datasets" in q_map.plot(dataset).to_dict()


def test_no_seams_show_between_tiles():
    """A constant Q gives a constant color, although the edges of tiles fall inside pixels."""
    dataset = q_map.compute([KnownAgent("point_u_maze", by_line)], np.array([[1.0, 0.0]]), resolution=16)
    flat = dataset.assign(q=dataset.q.where(dataset.q.isnull(), -1.0))
    picture = np.asarray(Image.open(io.BytesIO(charts.render(q_map.plot(flat, size=307), ".png"))).convert("RGB"))
    tile = (picture == (33, 145, 141)).all(axis=2)  # the middle of viridis
    cell = 2 * 307 / 5
    top, right = (
        np.nonzero(tile)[0].min(),
        np.flatnonzero(tile.sum(axis=0) > cell).max(),
    )  # more than a cell's worth: the legend has this color too
    # The free cell that connects the arms of the U, without its sides.
    joint = tile[round(top + cell) : round(top + 2 * cell), round(right - 0.8 * cell) : round(right - 0.2 * cell)]
    assert joint.size > 8000
    assert joint.all()


def test_the_outline_closes_gaps_but_not_walls():
    """A gap of two points between visited points is closed if the points are free, and not if they are a wall."""
    visits, free = np.ones((6, 10), int), np.ones((6, 10), bool)
    visits[:, 4:6] = 0
    assert covered(visits, free).all()
    free[:, 4:6] = False
    np.testing.assert_array_equal(covered(visits, free), free)


def test_correlations_against_scipy():
    generator = np.random.default_rng(0)
    a = generator.normal(size=(3, 5, 4)).round(1)  # with ties
    b = generator.normal(size=(3, 5, 4)) + a
    b[:, 0, 1] = np.nan
    known = np.isfinite(b[0])
    expected = [spearmanr(x[known], y[known]).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(q_map.spearman(a, b), expected, atol=1e-12)


@pytest.fixture(scope="module")
def large():
    agent = KnownAgent("point_u_maze", by_line)
    agent.env = agent.eval_env = envs.make("point_maze", layout=carved(41))
    return agent


def test_goals_of_a_large_maze_lie_far_apart(large):
    maze = large.env.maze
    goals = q_map.default_goals(large)
    assert goals.shape == (4, 2)
    cells = [tuple(cell) for cell in maze.cell(goals).tolist()]
    assert set(cells) <= set(maze.goals)
    steps = maze.steps(np.array([maze.starts[0], *cells]))
    to_all = maze.steps(np.array(maze.free))[maze.free.index(maze.starts[0])]
    assert steps[0, 1] == to_all.max()
    # The four cells farthest from the start are neighbors; the chosen ones are not.
    assert steps[np.triu_indices(5, 1)].min() > 0.2 * to_all.max()
    assert len(q_map.default_goals(large, 9)) == 9


def test_a_map_of_a_large_maze_has_at_most_256_points_a_side(large):
    dataset = q_map.compute([large], action="zeros")
    assert dataset.sizes["x"] <= 256
    spec = json.dumps(q_map.plot(dataset, tips=False).to_dict())
    assert len(spec) < 2e6


def test_a_goal_inside_a_wall_is_rejected():
    with pytest.raises(UsageError, match=r"goal 0,0 is not in a free cell"):
        q_map.compute([KnownAgent("point_u_maze", by_line)], np.array([[0.0, 0.0]]))


def test_a_partial_correlation_is_that_of_what_the_other_distance_leaves():
    rng = np.random.default_rng(0)
    line = rng.normal(size=200)
    maze = line + 0.3 * rng.normal(size=200)
    q = -maze + 0.2 * rng.normal(size=200)
    ranks = [values.argsort().argsort() for values in (q, -maze, -line)]

    def left(values, other):
        slope, shift = np.polyfit(other, values, 1)
        return values - slope * other - shift

    expected = [
        np.corrcoef(left(ranks[0], ranks[3 - k]), left(ranks[k], ranks[3 - k]))[0, 1] for k in (1, 2)
    ]  # geodesic given straight, straight given geodesic
    whole = np.corrcoef(ranks)
    np.testing.assert_allclose(q_map._partial(whole[:1, 1:], whole[1:2, 2]), [expected], atol=1e-9)


@pytest.mark.slow
def test_arrows_are_steps_of_the_policy(two_depths):
    agent, goal = two_depths[0], np.array([[1.0, 1.0]])
    dataset = q_map.compute([agent], goal, resolution=1, show="policy").isel(depth=0, goal=0)
    env = agent.env
    assert dataset.sizes["step"] == 1 + round(env.episode_length / 20)
    places = np.stack([dataset.walk_x[7], dataset.walk_y[7]], axis=-1)
    assert env.maze.is_free(places[0])
    state, step = env.reset(jax.random.key(5), places[0], goal[0]), jax.jit(env.step)
    for place in places[1:]:
        state = step(state, agent.act(np.asarray(state.obs)))
        np.testing.assert_allclose(place, state.obs[:2], atol=1e-4)
    drawn = q_map.plot(q_map.compute([agent], goal, resolution=1, show="policy"), tips=False).to_dict()
    assert "where the policy heads" in json.dumps(drawn)
    lines = q_map.compute([agent], goal, resolution=1, show="trajectories")
    assert lines.sizes["step"] == env.episode_length + 1
    assert "episodes from the start" in json.dumps(q_map.plot(lines, tips=False).to_dict())
    with pytest.raises(UsageError, match="over goals"):
        q_map.compute([agent], over="goals", show="policy")
