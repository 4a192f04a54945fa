"""Scores of policies whose outcome for every goal is known."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner

from analyses import evaluation
from crlviz import envs
from crlviz.errors import UsageError
from tests.helpers.toys import FACTS, Handmade, assert_described, untrained_run


def _stay(observation, key=None):
    return jnp.zeros((*observation.shape[:-1], 2))


def _steer(observation, key=None):
    position, velocity, goal = jnp.split(observation, 3, axis=-1)
    return jnp.clip((goal - position - 0.5 * velocity) / 0.15, -1, 1)


@pytest.fixture(scope="module")
def steered():
    return evaluation.compute([Handmade(envs.make("point_u_maze"), _steer)], episodes=60, length=60).isel(depth=0)


def test_a_policy_that_stands_still_reaches_nothing():
    dataset = evaluation.compute([Handmade(envs.make("point_u_maze"), _stay)], episodes=9, length=4).isel(depth=0)
    assert not dataset.success.any()
    assert (dataset.time_at_goal == 0).all()
    assert dataset.steps_to_goal.isnull().all()


def test_steering_straight_reaches_the_goals_that_no_wall_hides(steered):
    maze = envs.make("point_u_maze").maze
    start, goal = steered.start.values, steered.goal.values
    way = np.array([float(maze.geodesic(s[None], g)[0]) for s, g in zip(start, goal, strict=True)])
    visible = np.isclose(way, np.linalg.norm(goal - start, axis=1), atol=0.15)
    assert 0 < visible.sum() < len(visible)
    np.testing.assert_array_equal(steered.success.values[visible], True)
    # Once there, it stays: every step from the first one on is at the goal.
    reached = steered.success.values
    np.testing.assert_array_equal(steered.steps_to_goal.values[reached] + steered.time_at_goal.values[reached], 60 + 1)


def test_the_rows_of_goals_add_up_to_the_row_of_all(steered):
    table = evaluation.table(steered.expand_dims(depth=[4]))
    every, goals = table[table.goal == "all"].iloc[0], table[table.goal != "all"]
    assert len(goals) == len(np.unique(steered.goal.values, axis=0)) > 2
    assert goals.episodes.sum() == every.episodes == 60
    assert (goals.success * goals.episodes).sum() == pytest.approx(every.success * 60)
    for row in goals.itertuples():
        at = np.isclose(steered.goal.values, [row.x, row.y]).all(1)
        assert row.success == steered.success.values[at].mean()


@pytest.mark.parametrize("episodes", [1, 12, 128])
def test_the_interval_is_exact(episodes):
    """Clopper and Pearson's limits have a closed form where no episode, or each, reaches its goal."""
    limit = 0.025 ** (1 / episodes)
    assert evaluation.interval(0, episodes) == pytest.approx((0, 1 - limit))
    assert evaluation.interval(episodes, episodes) == pytest.approx((limit, 1))


def _dataset(scores):
    """A Dataset of 100 episodes for each depth and seed, with these shares of success."""
    depths, seeds = list(scores), range(len(next(iter(scores.values()))))
    success = [[np.arange(100) < round(100 * share) for share in shares] for shares in scores.values()]
    dims = ("depth", "seed", "episode")
    zeros = np.zeros_like(success, float)
    return xr.Dataset(
        {"success": (dims, success), "time_at_goal": (dims, zeros), "steps_to_goal": (dims, zeros)}
        | {name: ((*dims, "axis"), np.zeros((*zeros.shape, 2))) for name in ("start", "goal")},
        coords={"depth": depths, "seed": list(seeds)},
        attrs={"env": "point_u_maze", "differing": "depth\nseed"},
    )


def test_the_title_claims_only_what_the_seeds_tell():
    clear = _dataset({4: [0.1, 0.11, 0.12, 0.1], 16: [0.9, 0.88, 0.91, 0.9]})
    assert evaluation.title(clear) == "Depth 16 reaches 90 % of its goals, against 11 % (depth 4)"
    noisy = _dataset({4: [0.1, 0.9, 0.5], 16: [0.9, 0.2, 0.7]})
    assert evaluation.title(noisy) == "Goals reached: 60 % (depth 16), 50 % (depth 4); 3 seeds are too few to tell"
    assert evaluation.title(_dataset({4: [0.1], 16: [0.9]})) == "Goals reached: 90 % (depth 16), 10 % (depth 4)"
    many = _dataset({depth: [0.5] for depth in (4, 8, 16, 32, 64)})
    assert evaluation.title(many).endswith("and 1 more")


def test_the_summary_lists_seeds_and_their_mean():
    text = evaluation.summary(_dataset({4: [0.1, 0.2], 16: [0.9, 0.7]}))
    assert "0.15" in text
    assert text.splitlines()[-1].split()[-2:] == ["0.90", "0.70"]


def test_the_map_colors_the_goal_cells(steered):
    maze = envs.make("point_u_maze").maze
    spec = evaluation.plot(steered.expand_dims(depth=[4]), maze=maze).to_dict()
    tables = [pd.DataFrame(rows) for rows in spec["datasets"].values()]
    (tiles,) = [table for table in tables if {"success", "episodes"} <= set(table)]
    assert len(tiles) == len(np.unique(maze.cell(steered.goal.values), axis=0))
    assert tiles.episodes.sum() == 60
    assert (tiles.success * tiles.episodes).sum() == pytest.approx(steered.success.sum().item(), abs=0.1)


def test_all_agents_meet_the_same_starts_and_goals():
    env = envs.make("point_u_maze")
    agents = [Handmade(env, _stay), Handmade(env, _steer, facts=FACTS | {"depth": 16})]
    dataset = evaluation.compute(agents, episodes=5, length=2)
    np.testing.assert_array_equal(*dataset.goal.transpose("depth", ...).values)
    assert_described(dataset)
    with pytest.raises(UsageError, match="episodes"):
        evaluation.compute(agents, episodes=0)


def test_the_command_writes_a_page_and_a_csv(tmp_path):
    run = untrained_run(tmp_path / "run")
    page, scores, data = (tmp_path / f"eval.{ending}" for ending in ("html", "csv", "nc"))
    arguments = [str(run), "--episodes", "6", *(f"--out={path}" for path in (page, scores, data))]
    result = CliRunner().invoke(evaluation.command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "success" in result.output
    assert page.stat().st_size > 10_000
    rows = pd.read_csv(scores)
    assert rows.goal[0] == "all"
    assert rows.episodes[0] == 6
    saved = xr.load_dataset(data)
    assert evaluation.table(saved).success[0] == rows.success[0]
