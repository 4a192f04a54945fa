"""Norms of residual blocks against a forward pass in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm as normal

import crlviz
from analyses import norms
from crlviz import datasets
from crlviz.errors import UsageError
from crlviz.networks.config import NetworkConfig
from crlviz.networks.residual import Critic, contributions
from crlviz.rollouts import rollout
from tests.helpers.toys import FACTS, Handmade, assert_described, toy_config, untrained_run


def _layer(x, params, config):
    x = x @ params["dense"]["kernel"] + params["dense"]["bias"]
    if config.layer_norm:
        centered = x - x.mean(-1, keepdims=True)
        x = centered / np.sqrt((x**2).mean(-1, keepdims=True) - x.mean(-1, keepdims=True) ** 2 + 1e-6)
        x = x * params["norm"]["scale"] + params["norm"]["bias"]
    return np.maximum(x, 0) if config.activation == "relu" else x / (1 + np.exp(-x))


def _by_numpy(x, params, config):
    """Norms [blocks, B], layer by layer."""
    return _forward(x, params, config)[0]


def _forward(x, params, config):
    """Norms [blocks, B], and the outputs [B, ...] of each head."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = _layer(x, params["stem"], config)
    norms_of_blocks = []
    for index in range(config.depth // 4):
        y = x
        for k in range(4):
            y = _layer(y, jax.tree.map(lambda leaf, index=index: leaf[index], params["blocks"][f"layer_{k}"]), config)
        norms_of_blocks.append(np.sqrt((y**2).sum(-1)))
        x = x + y if config.residual else y
    heads = [params[name] for name in sorted(params) if name.startswith("head_")]
    return np.array(norms_of_blocks), [x @ head["kernel"] + head["bias"] for head in heads]


@pytest.mark.parametrize(
    "changes", [{}, {"residual": False}, {"layer_norm": False, "activation": "relu"}], ids=["paper", "plain", "relu"]
)
def test_norms_against_numpy(changes):
    config = NetworkConfig(depth=12, width=16, **changes)
    params = Critic(config, 4, 2, 2).init(jax.random.key(0))["psi"]
    goals = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_allclose(contributions(config, params, goals), _by_numpy(goals, params, config), rtol=1e-4)


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norms")
    changes = [{"actor__depth": 8, "critic__depth": 12}, {"seed": 1, "actor__depth": 8, "critic__depth": 12}, {}]
    return [crlviz.load(untrained_run(folder / f"run{k}", toy_config(**change))) for k, change in enumerate(changes)]


def test_means_over_the_states_of_rollouts(agents):
    dataset = norms.compute(agents[:1], episodes=2).isel(depth=0)
    runs = rollout(agents[0], 2)
    arrays = [runs[name].values.reshape(-1, runs[name].shape[-1]) for name in ("state", "action", "achieved")]
    goals = np.repeat(runs.goal.values, runs.sizes["time"], axis=0)
    actor, critic = agents[0].actor.config, agents[0].critic.config
    params = agents[0].params
    expected = {
        "actor": _by_numpy(np.concatenate([arrays[0], goals], 1), params["actor"], actor),
        "phi": _by_numpy(np.concatenate(arrays[:2], 1), params["critic"]["phi"], critic),
        "psi": _by_numpy(arrays[2], params["critic"]["psi"], critic),
    }
    assert dataset.block.values.tolist() == [1, 2, 3]
    for network, values in expected.items():
        found = dataset.norm.sel(part=network).values
        np.testing.assert_allclose(found[: len(values)], values.mean(1), rtol=1e-4)
        assert np.isnan(found[len(values) :]).all()


def test_outputs_against_numpy(agents):
    agent = agents[0]
    dataset = norms.compute([agent], episodes=2, seed=3).isel(depth=0)
    runs = rollout(agent, 2, seed=3)
    state = runs.state.values.reshape(-1, runs.state.shape[-1])
    goals = np.repeat(runs.goal.values, runs.sizes["time"], axis=0)
    drawn = np.random.default_rng(3).permutation(len(state))
    state, goals = state[drawn], goals[drawn]
    mean, raw = _forward(np.concatenate([state, goals], 1), agent.params["actor"], agent.actor.config)[1]
    deviation = np.exp(-5 + 3.5 * (np.tanh(raw) + 1))
    before = mean + deviation * np.asarray(jax.random.normal(jax.random.key(3), mean.shape))
    # By the change of variables: the density of the Gaussian over the slope of the tanh.
    density = normal.pdf(before, mean, deviation) / (1 - np.tanh(before) ** 2)
    critic, config = agent.params["critic"], agent.critic.config
    (phi,) = _forward(np.concatenate([state, np.tanh(before)], 1), critic["phi"], config)[1]
    (psi,) = _forward(goals, critic["psi"], config)[1]
    expected = {
        "saturation": (abs(np.tanh(before)) > 0.99).mean(),
        "entropy": -np.log(density).sum(1).mean(),
        "distance": np.sqrt(((phi - psi) ** 2).sum(1)).mean(),
        "spread": np.sqrt(((phi - phi.mean(0)) ** 2).sum(1)).mean(),
    }
    assert list(norms.OUTPUTS) == list(expected)
    assert expected["saturation"] > 0
    for name, value in expected.items():
        assert dataset[name].item() == pytest.approx(value, rel=1e-3), name


def test_the_start_is_that_of_fresh_networks_not_the_checkpoints(agents):
    """A checkpoint whose parameters are zero: its embeddings are one point, those of a fresh network are not."""
    dull = dataclasses.replace(agents[0], params=jax.tree.map(np.zeros_like, agents[0].params))
    agents = [agents[0], dull]
    trained = [norms.compute([agent], episodes=2) for agent in agents]
    fresh = [norms.compute([agent], episodes=2, start=True) for agent in agents]
    assert trained[1].spread.item() == 0 < trained[0].spread.item()
    xr.testing.assert_equal(fresh[0], fresh[1])
    assert fresh[0].spread.item() > 0.5
    assert "Before training" in str(norms.plot(fresh[0]).to_dict()["title"])


def test_a_dataset_of_an_older_crlviz_is_still_drawn(agents):
    dataset = norms.compute(agents[:1], episodes=2)
    older = dataset.drop_vars(list(norms.OUTPUTS))
    del older.attrs["start"]
    assert len(norms.plot(older).to_dict()["vconcat"][0]["hconcat"]) == len(norms.NETWORKS)
    assert len(norms.plot(dataset).to_dict()["vconcat"][1]["hconcat"]) == len(norms.OUTPUTS)


def test_depths_and_seeds_share_a_dataset(agents, tmp_path):
    dataset = norms.compute(agents, episodes=2)
    assert dataset.sizes["block"] == 3
    rows = norms.table(dataset).set_index(["group", "part", "block"])
    assert len(rows) == (2 + 3 + 3) + (1 + 1 + 1)
    deep = next(group for group in rows.index.levels[0] if "12" in group)
    values = [part.norm.sel(part="phi", block=3).item() for label, _, part in datasets.each(dataset) if "12" in label]
    assert rows.loc[(deep, "phi", 3)].value == pytest.approx(np.mean(values))
    assert rows.loc[(deep, "phi", 3)]["values"] == pytest.approx(values)
    assert_described(dataset)
    datasets.save(dataset, tmp_path / "norms.nc")
    with xr.open_dataset(tmp_path / "norms.nc") as read:
        assert norms.plot(read).to_dict() == norms.plot(dataset).to_dict()
    assert "1-2 seeds" in str(norms.plot(dataset).to_dict()["title"])


def test_agents_without_these_networks_are_rejected():
    from crlviz import envs

    with pytest.raises(UsageError, match="by hand has no residual network called phi or psi"):
        norms.compute([Handmade(envs.make("point_u_maze"), None, params={"actor": (), "critic": {}})])


@pytest.mark.slow
def test_networks_without_a_block(tmp_path):
    """Networks from JaxGCRL may have any depth from 1 on, different for actor and critic."""

    def agent(name, *shallow):
        config = dataclasses.replace(toy_config(), **dict.fromkeys(shallow, NetworkConfig(depth=2, width=8, tail=2)))
        return crlviz.load(untrained_run(tmp_path / name, config))

    dataset = norms.compute([agent("mixed", "actor")], episodes=2)
    values = dataset.norm.squeeze()
    assert np.isnan(values.sel(part="actor")).all()
    assert (values.sel(part=["phi", "psi"]) > 0).all()
    assert "actor" not in norms.summary(dataset)
    assert set(norms.table(dataset).part) == {"phi", "psi"}
    norms.plot(dataset).to_dict()
    with pytest.raises(UsageError, match="has no block of four layers: its networks have depth 2 at most"):
        norms.compute([agent("none", "actor", "critic")], episodes=2)


def test_the_title_of_blocks_that_begin_at_zero():
    """Such a network has no ratio of its last block to its first, however many it has; another may have one block."""

    def titled(norm, depth):
        parts = xr.Dataset(
            {"norm": (("agent", "part", "block"), np.full((1, 3, depth // 4), norm))},
            coords={
                "agent": ["one"],
                "part": list(norms.NETWORKS),
                "block": np.arange(1, depth // 4 + 1),
                **{name: ("agent", [value]) for name, value in {**FACTS, "depth": depth}.items()},
            },
            attrs={"start": 1},
        )
        return norms.claim(parts)

    assert titled(0.0, 8).endswith("adds nothing")
    assert titled(0.0, 4).endswith("has one block in each network")
    assert titled(1.0, 4).endswith("has one block in each network")
    assert titled(1.0, 8).endswith("adds 1.00 (actor), 1.00 (phi), 1.00 (psi) times what the first adds")
