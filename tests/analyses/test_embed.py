"""Embeddings of an agent whose phi and psi are known, against numbers in closed form."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from analyses import embed
from crlviz import datasets, envs
from crlviz.errors import UsageError
from tests.helpers.toys import FACTS, ROOM, Handmade, assert_described


def _steer(observation, key=None):
    position, velocity, goal = jnp.split(observation, 3, axis=-1)
    return jnp.clip((goal - position - 0.5 * velocity) / 0.15, -1, 1)


def _stay(observation, key=None):
    return jnp.zeros((*observation.shape[:-1], 2))


def _plane(places):
    """Positions [..., 2] embedded in three dimensions, stretched by 2 along y."""
    return np.stack([places[..., 0], 2 * places[..., 1], np.zeros(places.shape[:-1])], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedder(Handmade):
    """phi is ``layout`` of the state's position, psi is ``layout`` of the goal."""

    layout: Callable = _plane

    def embed(self, state, action):
        return self.layout(np.asarray(state)[..., :2])

    def embed_goal(self, goal):
        return self.layout(np.asarray(goal))


@pytest.fixture(scope="module")
def room():
    return envs.make("point_maze", layout=ROOM)


def test_a_plane_keeps_its_distances(room):
    """Two components explain all variance, so distances are those of the plane, for psi too."""
    dataset = embed.compute([Embedder(room, _steer)], episodes=4).isel(depth=0)
    assert dataset.reached == 1
    np.testing.assert_allclose(dataset.explained.sum(), 1)
    known = np.isfinite(dataset.distance.values)
    gaps = np.linalg.norm(dataset.phi.values[known] - dataset.psi.values, axis=1)
    # In an empty room the geodesic distance is the straight line; start and goal differ by 2 m in x and y.
    assert dataset.distance.values[0] == pytest.approx(np.hypot(2, 2), abs=0.3)
    assert gaps[0] == pytest.approx(np.hypot(2, 2 * 2), abs=0.5)
    assert np.all(np.diff(dataset.distance.values[known]) <= 1e-6)
    assert np.all(gaps >= dataset.distance.values[known] - 1e-5)
    assert np.all(gaps <= 2 * dataset.distance.values[known] + 1e-5)


@pytest.mark.parametrize("stretch", [1, 5])
def test_spread_near_the_goal(room, stretch):
    """Positions within half the distance are stretched by a factor; the ratio is that factor."""
    goal = room.maze.xy((5, 1))
    distance = np.linalg.norm(goal)  # from the start in the middle, up to noise at reset

    def layout(places):
        offset = places - goal
        near = np.linalg.norm(offset, axis=-1, keepdims=True) < 0.5 * distance
        return np.where(near, stretch, 1) * offset + np.where(near, 0, 100)

    agent = Embedder(room, _steer, layout=layout)
    dataset = embed.compute([agent], episodes=4).isel(depth=0)
    assert dataset.spread_ratio.item() == pytest.approx(stretch, rel=0.15 if stretch > 1 else 1e-5)


@pytest.mark.parametrize("directions", [1, 2, 7])
def test_effective_rank_counts_directions_of_equal_variance(directions):
    """Equal variance in n orthogonal directions, in a rotated frame, gives rank n exactly."""
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    points = 3 * np.concatenate([np.eye(64)[:directions], -np.eye(64)[:directions]]) @ frame + 5
    axes, shares = embed.principal(points)
    assert embed.effective_rank(shares) == pytest.approx(directions)
    np.testing.assert_allclose(shares[:directions], 1 / directions)
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-9)


def test_effective_rank_of_unequal_shares():
    assert embed.effective_rank(np.array([0.5, 0.25, 0.25, 0])) == pytest.approx(2**1.5)


def test_principal_axes_against_the_covariance():
    points = np.random.default_rng(1).normal(size=(50, 6)) @ np.diag([5, 3, 2, 1, 0.5, 0.1])
    axes, shares = embed.principal(points)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    np.testing.assert_allclose(shares, values[::-1] / values.sum())
    np.testing.assert_allclose(abs(axes @ vectors[:, ::-1]), np.eye(6), atol=1e-8)
    assert (np.take_along_axis(axes, abs(axes).argmax(1)[:, None], 1) > 0).all()


def _pair(room):
    return [
        Embedder(room, _stay, facts=FACTS, layout=lambda places: _plane(places) * 3),
        Embedder(room, _steer, facts=FACTS | {"depth": 8}),
    ]


def test_shared_is_the_best_agents_trajectory(room):
    shared = embed.compute(_pair(room), episodes=4)
    np.testing.assert_allclose(shared.phi.sel(depth=4), 3 * shared.phi.sel(depth=8), rtol=1e-4, atol=1e-5)
    own = embed.compute(_pair(room), episodes=4, trajectory="own")
    assert own.reached.sel(depth=4) == 0
    assert own.reached.sel(depth=8) == 1
    np.testing.assert_allclose(own.phi.sel(depth=4), 0, atol=1e-5)  # it stands still
    assert np.isnan(own.spread_ratio.sel(depth=4))
    steps = np.isfinite(own.distance).sum("time")
    assert steps.sel(depth=4) == room.episode_length
    assert steps.sel(depth=8) < 20  # ends when it reaches the goal


def test_a_saved_dataset_gives_the_same_chart(room, tmp_path):
    dataset = embed.compute(_pair(room), episodes=4)
    assert_described(dataset)
    datasets.save(dataset, tmp_path / "embed.nc")
    with xr.open_dataset(tmp_path / "embed.nc") as read:
        assert embed.plot(read).to_dict() == embed.plot(dataset).to_dict()
    assert "one seed" in str(embed.plot(dataset).to_dict()["title"])


def test_mistakes(room, toy_agent):
    with pytest.raises(UsageError, match="take shared or own"):
        embed.compute([toy_agent], trajectory="both")
    with pytest.raises(UsageError, match="--trajectory own"):
        embed.compute([toy_agent, Embedder(envs.make("reacher"), _stay)])
