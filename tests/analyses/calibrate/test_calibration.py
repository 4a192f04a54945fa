"""Calibration against agents whose distance is known in closed form, and pairs against a double loop."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from analyses import calibrate
from analyses.calibrate import pairs
from analyses.calibrate.calibration import step_edges
from crlviz import datasets
from crlviz.algorithms.batches import Sizes
from crlviz.algorithms.registry import build, of
from crlviz.envs import mazes
from crlviz.envs.point import PointMaze
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.rollouts import rollout
from tests.helpers import pictured
from tests.helpers.toys import FACTS, Handmade, assert_described

GAMMA = 0.9
CORRIDOR = ["###", "#r#", *["#.#"] * 19, "#g#", *["#.#"] * 19, "###"]  # rows are x


class Conveyor(PointMaze):
    """A corridor in which the point moves one meter a step, whatever it does. So meters are steps."""

    episode_length = 36

    def step(self, state, action):
        point = state.pipeline_state
        point = point.replace(position=point.position + jnp.array([self.maze.cell_size, 0.0]))
        metrics = self._measure(point)
        return state.replace(pipeline_state=point, obs=self._observe(point), reward=metrics["success"], metrics=metrics)


@dataclass(frozen=True, eq=False)
class InSteps(Handmade):
    """An agent whose Q is log(gamma) for each step of its distance, which is ``distance(meters)`` minus a constant."""

    def steps_of(self, q):
        return q / math.log(GAMMA)


ENV = Conveyor("corridor", mazes.build(CORRIDOR))


def agent(distance, kind=InSteps, **facts):
    def value(state, action, goal):
        meters = jnp.linalg.norm(state[..., :2] - goal, axis=-1)
        return math.log(GAMMA) * distance(meters, state, goal)

    def still(observation, key):
        return jnp.zeros((*observation.shape[:-1], 2))

    return kind(ENV, still, value, facts=FACTS | facts)


def exact(meters, state, goal):
    return meters - 7


def saturating(meters, state, goal):
    return jnp.minimum(meters, 17)


def noise(meters, state, goal):
    return 20 * jnp.sin(1e4 * (state[..., 0] * 0.7 + goal[..., 0] * 1.3)) ** 2


def title(dataset):
    text = calibrate.plot(dataset).to_dict()["title"]["text"]
    return " ".join(text if isinstance(text, list) else [text]).replace("\u00a0", " ")


def test_a_distance_that_is_the_steps():
    dataset = calibrate.compute([agent(exact)], episodes=8).isel(depth=0)
    reached = dataset.sel(goals="achieved")
    known = reached.needed_steps.notnull()
    assert known.sum() > 8
    np.testing.assert_allclose(reached.learned_steps.sel(quantile=0.5)[known], reached.needed_steps[known], atol=1e-3)
    assert dataset["shift"].item() == pytest.approx(7, abs=1e-3)
    for name in ("rank_achieved", "rank_commanded", "near", "far"):
        assert dataset[name].item() == pytest.approx(1, abs=0.01), name
    assert dataset.rank_geodesic.item() > 0.999
    for name in ("bias_near", "bias_far"):
        assert dataset[name].item() == pytest.approx(0, abs=1e-3), name
    # Along the maze a meter is a step, behind the point too.
    along = dataset.sel(quantile=0.5).geodesic_steps.dropna("meters")
    np.testing.assert_allclose(along, along.meters, atol=3)
    assert "Learned distance is time at depth 4: one step counts as 1.0 near the goal, 1.0 far" in title(
        dataset.expand_dims("depth")
    )


@pytest.mark.slow
def test_a_distance_that_saturates_is_time_near_the_goal_alone():
    dataset = calibrate.compute([agent(saturating)], episodes=8)
    assert dataset.near.item() == pytest.approx(1, abs=0.01)
    assert dataset.far.item() == pytest.approx(0, abs=0.1)
    assert dataset.bias_far.item() < -5 < dataset.bias_near.item()
    assert "is time near the goal but not far" in title(dataset)


@pytest.mark.slow
def test_noise_is_not_time():
    dataset = calibrate.compute([agent(noise)], episodes=8)
    assert abs(dataset.rank_achieved.item()) < 0.1
    assert abs(dataset.rank_commanded.item()) < 0.3
    assert abs(dataset.rank_geodesic.item()) < 0.1
    assert "is not time" in title(dataset)


@pytest.mark.slow
def test_a_distance_without_a_unit_is_compared_with_itself(tmp_path):
    """Handmade agents do not say what Q is in steps."""
    agents = [
        agent(lambda meters, *_: jnp.where(meters < 17, meters, 17 + 3 * (meters - 17)), Handmade),
        agent(exact, Handmade, depth=8),
    ]
    dataset = calibrate.compute(agents, episodes=8)
    assert dataset.learned_steps.isnull().all()
    assert dataset.far.values == pytest.approx([3, 1], abs=0.1)
    assert "A step far from the goal changes the learned distance of depth" in title(dataset)
    assert "one seed, so this is a picture and no claim" in calibrate.summary(dataset)
    assert_described(dataset)
    datasets.save(dataset, tmp_path / "c.nc")
    with xr.open_dataset(tmp_path / "c.nc") as read:
        assert calibrate.plot(read).to_dict() == calibrate.plot(dataset).to_dict()


def test_seeds_without_pairs_are_named_and_do_not_hide_the_mean():
    dataset = pictured.calibrated(2, False, 3)  # three seeds each of depths 4 and 8
    lost = dataset.copy(deep=True)
    lost["learned_steps"][0] = lost["learned_distance"][0] = lost["needed_steps"][0] = np.nan  # a seed has no pairs
    lost["rank_achieved"][0] = lost["near"][0] = np.nan
    chart = calibrate.plot(lost).to_dict()
    note = " ".join(chart["title"]["subtitle"]).replace("\u00a0", " ")
    assert "depth 4: 2 of 3 seeds, too few seeds to compare" in note
    subtitles = [panel["title"].get("subtitle") for panel in chart["vconcat"][1]["concat"]]
    assert subtitles == [["depth 4: 2 of 3 seeds"], [""], ["depth 4: 2 of 3 seeds"], [""]]
    rows = [row for table in chart["datasets"].values() for row in table if "low" in row and row["group"] == "depth 4"]
    bins = dataset.sizes["bin"]
    assert len(rows) == 2 * bins + dataset.sizes["meters"]  # achieved, commanded, along the maze
    expected = dataset.learned_steps.values[1:3, 0, :, 1].mean(0)
    np.testing.assert_allclose(sorted(row["value"] for row in rows[:bins]), np.sort(expected))
    lost["learned_steps"][1] = lost["learned_distance"][1] = lost["needed_steps"][1] = np.nan  # and most have none
    rows = [row for table in calibrate.plot(lost).to_dict()["datasets"].values() for row in table if "low" in row]
    assert sum(row["group"] == "depth 4" for row in rows) == dataset.sizes["meters"]


@pytest.mark.slow
def test_pairs_against_a_double_loop(toy_agent):
    """Also in episodes that come back to where they were."""
    env, edges = toy_agent.env, step_edges(40)
    runs = rollout(toy_agent, 6, policy="sample", length=40)
    drawn = pairs.achieved(runs, env, edges, 20, np.random.default_rng(0))
    assert len(drawn.steps) > 50
    indices = list(env.goal_indices)
    for episode, time, goal, steps in zip(*drawn, strict=True):
        places = np.concatenate([runs.state.values[episode, :1, indices].reshape(1, -1), runs.achieved.values[episode]])
        arrival = next(n for n in range(41) if np.linalg.norm(places[time + n] - goal) < env.goal_distance)
        assert arrival == steps > 0
    counts = np.histogram(drawn.steps, edges)[0]
    assert counts.max() == 20


def test_commanded_pairs_end_where_the_goal_is_reached():
    runs = rollout(agent(exact), 3)
    drawn = pairs.commanded(runs)
    assert sorted(drawn.steps[drawn.episode == 1]) == list(range(1, 21))
    assert (drawn.time + drawn.steps == 20).all()
    missed = runs.assign(success=runs.success & False)
    assert len(pairs.commanded(missed).steps) == 0


def test_bins_hold_every_number_of_steps_once():
    edges = step_edges(100)
    assert edges.tolist() == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 101]


def _algorithm(name, gamma=0.99, **settings):
    shape = NetworkConfig(depth=4, width=8)
    return build(name, of(name).Config(**settings), shape, shape, Sizes(4, 2, 2), gamma=gamma)


def test_what_q_is_in_steps():
    steps = np.array([1.0, 5.0, 30.0])
    for loss in ("forward", "binary"):
        # The best logits: log of p(g | s, a) / p(g), where p(g | s, a) = (1 - gamma) gamma^(n - 1) and p(g) = 0.05.
        q = 2 * np.log(0.1 * 0.9 ** (steps - 1) / 0.05)
        found = np.asarray(_algorithm("crl", 0.9, loss=loss, softmax_temperature=2.0).steps_of(q))
        np.testing.assert_allclose(np.diff(found), np.diff(steps), rtol=1e-6)
    returns = np.array([sum(3 * 0.8**k for k in range(int(n), 400)) for n in steps])
    found = _algorithm("td3", discount=0.8, reward_scale=3.0).steps_of(jnp.array(returns))
    np.testing.assert_allclose(found, steps, rtol=1e-3)
    assert np.isfinite(_algorithm("td3").steps_of(jnp.array([-1.0]))).all()
    for other in (
        _algorithm("crl", loss="dpo"),
        _algorithm("crl", 1.0),
        _algorithm("sac"),
        _algorithm("td3", discount=1.0),
    ):
        assert other.steps_of(returns) is None


def test_faults_of_users(toy_agent):
    with pytest.raises(UsageError, match="0 episodes: at least one is needed"):
        calibrate.compute([toy_agent], episodes=0)
