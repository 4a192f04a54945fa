"""Bodies train: the smoke preset goes the whole way, from the first step to a checkpoint that loads and acts."""

import numpy as np
import pytest

import crlviz
from training import config as configs
from training.trainer import train


@pytest.mark.parametrize(
    "id",
    [
        "point_u_maze",
        pytest.param("ant_u_maze", marks=pytest.mark.slow),
        pytest.param("humanoid", marks=pytest.mark.slow),
    ],
)
def test_smoke(id, tmp_path):
    config = configs.replace(configs.TrainConfig(env=id), configs.preset("smoke"))
    agent = crlviz.load(train(config, tmp_path / "run", progress=False))
    assert agent.env_steps >= 2_000
    episodes = crlviz.rollout(agent, 2, length=5)
    assert np.isfinite(episodes.action).all()
    assert (np.abs(episodes.action) <= 1).all()
    assert episodes.sizes["state_index"] == agent.env.state_dim
