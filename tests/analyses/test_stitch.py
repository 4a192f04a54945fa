"""The stitching matrix of policies whose outcome for every pair is known."""

import altair as alt
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from analyses import stitch
from crlviz import datasets, envs
from crlviz.envs import mazes
from crlviz.envs.point import PointMaze
from crlviz.errors import UsageError
from tests.helpers.carved import carved
from tests.helpers.toys import FACTS, Handmade, assert_described


class Teleporting(PointMaze):
    """A step takes the point to its goal from anywhere."""

    def step(self, state, action):
        point = state.pipeline_state
        return super().step(state.replace(pipeline_state=point.replace(position=point.goal)), action)


def _stay(observation, key=None):
    return jnp.zeros((*observation.shape[:-1], 2))


def _steer(observation, key=None):
    position, velocity, goal = jnp.split(observation, 3, axis=-1)
    return jnp.clip((goal - position - 0.5 * velocity) / 0.15, -1, 1)


def _shake(observation, key=None):
    """Sampled actions go to the goal at full speed, mean actions do not move."""
    return _stay(observation) if key is None else _steer(observation)


def test_a_teleporting_policy_reaches_every_goal():
    env = Teleporting("teleport", mazes.get("u_maze_gen_1f2f", centered=True))
    dataset = stitch.compute([Handmade(env, _stay)], length=5).isel(depth=0)
    task = ~np.eye(7, dtype=bool)
    assert (dataset.success.values[task] == 1).all()
    assert (dataset.time_at_goal.values[task] == 5).all()
    assert np.isnan(dataset.success.values[~task]).all()


def test_a_policy_that_stands_still_reaches_no_goal():
    dataset = stitch.compute([Handmade(envs.make("point_u_maze"), _stay)], length=5).isel(depth=0)
    task = ~np.eye(7, dtype=bool)
    assert (dataset.success.values[task] == 0).all()
    assert (dataset.time_at_goal.values[task] == 0).all()


def test_a_policy_that_goes_straight_reaches_visible_goals(monkeypatch):
    """The chunk size does not divide the number of pairs, so that a misplaced pair would fail the test."""
    monkeypatch.setattr(stitch, "_MAX_BATCH", 10)
    dataset = stitch.compute([Handmade(envs.make("point_u_maze"), _steer)]).isel(depth=0)
    straight = np.hypot(
        dataset.start_x.values[:, None] - dataset.goal_x.values, dataset.start_y.values[:, None] - dataset.goal_y.values
    )
    task = ~np.eye(7, dtype=bool)
    visible = np.isclose(straight, dataset.distance.values) & task
    assert 0 < visible.sum() < task.sum()
    assert (dataset.success.values[visible] == 1).all()
    # The wall between the arms of the U blocks it.
    assert dataset.success.values[0, 6] == dataset.success.values[6, 0] == 0


def test_cells_distances_and_the_pairs_of_training():
    along = [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3), (3, 2), (3, 1)]
    env = envs.make("point_u_maze_gen_1f2f3f")
    dataset = stitch.compute([Handmade(env, _stay)], length=1).isel(depth=0)
    places = np.stack([dataset.start_x, dataset.start_y], axis=1)
    assert [tuple(cell) for cell in env.maze.cell(places).tolist()] == along
    k = np.arange(7)
    np.testing.assert_array_equal(dataset.cells, abs(k[:, None] - k))
    hops = k[None] - k[:, None]
    np.testing.assert_array_equal(dataset.seen, (hops >= 1) & (hops <= 3))
    for start in range(7):
        for goal in range(7):
            way = env.maze.geodesic(places[start], places[goal])
            assert dataset.distance.values[start, goal] == pytest.approx(float(way))


def test_without_generated_pairs_the_layouts_own_pairs_are_seen():
    env = envs.make("point_big_maze")
    dataset = stitch.compute([Handmade(env, _stay)], length=1).isel(depth=0)
    start, goal = np.nonzero(dataset.seen.values)
    assert set(start) == {0}
    assert len(goal) == len(env.maze.goals)


def test_episodes_are_averaged_and_actions_sampled():
    agent = Handmade(envs.make("point_u_maze"), _shake)
    still = stitch.compute([agent], length=30).isel(depth=0)
    drawn = stitch.compute([agent], length=30, policy="sample", episodes=3).isel(depth=0)
    assert still.success.sum() == 0
    assert drawn.success.values[0, 1] == 1
    assert drawn.attrs["episodes"] == 3


def _agents(seeds=3):
    """Depth 4 goes straight to its goal, depth 8 teleports; three seeds each."""
    straight = envs.make("point_u_maze_gen_1f2f")
    jumping = Teleporting("teleport", straight.maze)
    return [
        Handmade(env, policy, facts=FACTS | {"depth": depth, "seed": seed}, source=f"{depth}")
        for depth, env, policy in ((4, straight, _steer), (8, jumping, _stay))
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("metric", ["success", "time_at_goal"])
def test_curves_against_numpy(metric):
    dataset = stitch.compute(_agents(), length=40)
    table = stitch.curves(dataset, metric=metric).set_index(["depth", "pairs", "x"])
    for (depth, pairs, cells), row in table.iterrows():
        part = dataset.sel(depth=depth, seed=0)
        chosen = (part.cells.values == cells) & (part.seen.values.astype(bool) == (pairs == "seen"))
        assert row.number == chosen.sum()
        assert row.value == pytest.approx(part[metric].values[chosen].mean())
        assert row["values"] == pytest.approx([row.value] * 3)  # all seeds alike
    assert table.number.groupby(["depth"]).sum().tolist() == [42, 42]


def test_meters_are_rounded_to_whole_cells():
    dataset = stitch.compute(_agents(1), length=3)
    table = stitch.curves(dataset, x_axis="meters")
    assert (table.x == table.x.round()).all()
    assert table.groupby("depth").number.sum().tolist() == [42, 42]


def test_a_saved_dataset_gives_the_same_chart(tmp_path):
    dataset = stitch.compute(_agents(2), length=10)
    assert_described(dataset)
    datasets.save(dataset, tmp_path / "stitch.nc")
    with xr.open_dataset(tmp_path / "stitch.nc") as read:
        chart = stitch.plot(read)
        assert chart.to_dict() == stitch.plot(dataset).to_dict()
    assert isinstance(chart, alt.VConcatChart)
    assert "2 seeds" in str(chart.to_dict()["title"])
    linked = stitch.plot(dataset, play="play.html").to_dict()["datasets"].values()
    cells = [row for rows in linked for row in rows if "play" in row]
    assert len(cells) >= 2 * 42
    for row in cells[::7]:
        start, goal = dataset.isel(start=row["start"]), dataset.isel(goal=row["goal"])
        assert f"#goal={goal.goal_x:.3f},{goal.goal_y:.3f}&from={start.start_x:.3f},{start.start_y:.3f}&" in row["play"]
    assert {row["play"].partition("agent=")[2] for row in cells} == {"depth%204", "depth%208"}
    assert "one seed" in str(stitch.plot(stitch.compute(_agents(1), length=3)).to_dict()["title"])


def test_mistakes():
    agents = [Handmade(envs.make(f"point_{maze}"), _stay) for maze in ("u_maze", "u4_maze")]
    with pytest.raises(UsageError, match="different mazes"):
        stitch.compute(agents)
    with pytest.raises(UsageError, match="0 episodes"):
        stitch.compute(agents[:1], episodes=0)
    dataset = stitch.compute(agents[:1], length=1)
    with pytest.raises(UsageError, match="x_axis 'feet'"):
        stitch.curves(dataset, x_axis="feet")
    with pytest.raises(UsageError, match="metric 'q' is unknown; take success or time_at_goal"):
        stitch.plot(dataset, metric="q")


def test_a_large_maze_uses_cells_that_lie_far_apart():
    maze = mazes.build(carved(21), centered=True)
    dataset = stitch.compute([Handmade(Teleporting("here", maze), _stay)], max_cells=20, length=2)
    assert dict(dataset.sizes)["start"] == dataset.sizes["goal"] == 20
    cells = [tuple(cell) for cell in maze.cell(np.stack([dataset.start_x, dataset.start_y], -1)).tolist()]
    assert cells[0] == maze.starts[0]
    assert int(dataset.seen.sum()) > 0
    # The chosen cells cover the maze: no cell is farther from its nearest chosen cell than two chosen cells are apart.
    steps = maze.steps(np.array(maze.free))
    chosen = [maze.free.index(cell) for cell in cells]
    between = steps[np.ix_(chosen, chosen)]
    assert steps[chosen].min(0).max() <= between[between > 0].min()
    np.testing.assert_allclose(dataset.distance, maze.geodesics(maze.xy(cells), maze.xy(cells)).T)
    assert "20 of 199 cells" in str(stitch.plot(dataset).to_dict()["title"])
