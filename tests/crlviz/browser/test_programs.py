"""The programs of a page, for the small trained agent."""

import dataclasses

import jax
import numpy as np
import pytest

from crlviz import envs
from crlviz.algorithms.base import HasQ
from crlviz.browser import programs
from crlviz.envs.engine import mujoco
from crlviz.errors import UsageError
from tests.helpers import node
from tests.helpers.toys import toy_config
from training import config as configs
from training.run.building import algorithm as build_algorithm


@pytest.fixture(scope="module")
def page(toy_agent):
    return programs.page_programs([toy_agent])


def test_actions_and_q_of_an_agent_are_those_of_jax(page, toy_agent, tmp_path):
    (agent,) = page.agents
    states = page.starts.obs[:, : toy_agent.env.state_dim]
    goals = page.starts.obs[:, toy_agent.env.state_dim :]
    tolerance = programs.HALF_ERROR if agent.half else 1e-4
    actions = np.asarray(toy_agent.act(page.starts.obs))
    got = [row[0] for row in node.run(agent.act, page.starts.obs, tmp_path)]
    np.testing.assert_allclose(got, actions, atol=tolerance)
    q = np.asarray(toy_agent.q(states, actions, goals))
    rows = [(observation, action) for observation, action in zip(page.starts.obs, actions, strict=True)]
    np.testing.assert_allclose([row[0] for row in node.run(agent.q, rows, tmp_path)], q, rtol=5e-3)
    twice = np.tile(page.starts.obs, (2, 1))
    np.testing.assert_allclose(node.run(agent.q_map, [twice], tmp_path)[0][0], np.tile(q, 2), rtol=5e-3)
    assert agent.act.constants == agent.q.constants == agent.q_map.constants  # stored once


# Every learner's actor, and critics of one Q, of two and of none.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "td3", "gciql", "qrl", "gcbc", "cmd", "two critics"])
def test_actions_and_q_of_other_learners_are_those_of_jax(name, page, toy_agent, tmp_path):
    changes = {"crl__critics": 2, "crl__actor_loss": "awr"} if name == "two critics" else {"algorithm": name}
    config = toy_config(**changes)
    own, env = build_algorithm(config, toy_agent.env), toy_agent.env
    agent = dataclasses.replace(
        toy_agent,
        config=configs.content(config)["config"] | {"algorithm": config.algorithm},
        params=own.networks(own.init(jax.random.key(0))),
    )
    agent = dataclasses.replace(agent, params=jax.tree.map(np.asarray, agent.params))
    emitted = programs.agent_programs(agent, page.starts.obs)
    observations = page.starts.obs[:4]
    actions = np.asarray(own.act(agent.params, observations))
    got = [row[0] for row in node.run(emitted.act, observations, tmp_path)]
    np.testing.assert_allclose(got, actions, atol=programs.HALF_ERROR)
    if emitted.q:
        q = np.asarray(own.q(agent.params, observations[:, : env.state_dim], actions, observations[:, env.state_dim :]))
        rows = list(zip(observations, actions, strict=True))
        np.testing.assert_allclose([row[0] for row in node.run(emitted.q, rows, tmp_path)], q, rtol=5e-3, atol=1e-4)
    assert bool(emitted.q) == isinstance(own, HasQ)


@pytest.mark.slow
def test_a_scene_shows_the_state_and_where_its_geoms_are(page, toy_agent, tmp_path):
    env, leaves = toy_agent.env, [leaf[3] for leaf in page.starts.leaves]
    actions = np.float32([[1, 0.5], [-1, 1], [0.3, -0.2]])
    rows = [
        programs.Scene(row[: len(leaves)], *row[len(leaves) :])
        for row in node.walk(page.step, leaves, actions, tmp_path)
    ]
    state = jax.tree.map(lambda leaf: leaf[3], jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 32)))
    data = mujoco.MjData(env.model)
    for scene, action in zip(rows, actions, strict=True):
        state = env.step(state, action)
        np.testing.assert_allclose(scene.obs, state.obs, atol=1e-6)
        np.testing.assert_allclose(scene.distance, state.metrics["distance"], atol=1e-6)
        data.qpos[:] = env.pose(state)
        mujoco.mj_kinematics(env.model, data)
        np.testing.assert_allclose(scene.geoms[:, :3], data.geom_xpos[-2:], atol=1e-6)  # point and target
        np.testing.assert_allclose(scene.focus, data.body("point").xpos + env.view.lookat, atol=1e-6)


def test_a_goal_is_set_and_a_push_changes_the_velocity(page, tmp_path):
    leaves = [leaf[0] for leaf in page.starts.leaves]
    obs = page.starts.obs[0]
    scene = programs.Scene(leaves, *node.run(page.set_goal, [(leaves, np.float32([1, 2]))], tmp_path)[0][len(leaves) :])
    np.testing.assert_allclose(scene.obs, [*obs[:4], 1, 2], atol=1e-6)
    np.testing.assert_allclose(scene.distance, np.linalg.norm(obs[:2] - [1, 2]), rtol=1e-5)
    scene = programs.Scene(leaves, *node.run(page.push, [(leaves, np.float32([2, -1]))], tmp_path)[0][len(leaves) :])
    np.testing.assert_allclose(scene.obs[2:4], obs[2:4] + np.array([0.2, -0.1]), atol=1e-6)  # meters in a step of .1 s
    assert page.place_indices == (0, 1)


def test_parameters_are_float16_where_actions_hardly_change(toy_agent, page):
    wide = jax.tree.map(lambda leaf: 1e5 * leaf, toy_agent.params)  # beyond float16
    kept = programs.agent_programs(dataclasses.replace(toy_agent, params=wide), page.starts.obs)
    assert not kept.half


def test_agents_of_different_worlds_share_no_page(toy_agent):
    other = dataclasses.replace(toy_agent, config=toy_agent.config | {"env": "point_u4_maze"})
    with pytest.raises(UsageError, match="point_u4_maze"):
        programs.page_programs([toy_agent, other])
    with pytest.raises(UsageError, match="no agent"):
        programs.page_programs([])


@pytest.mark.parametrize("id", ["swimmer", "planar_arm"])
def test_a_body_without_velocity_cannot_be_pushed(id):
    env = envs.make(id)
    view = programs.StateView(env)
    assert programs.if_possible("a push", view.through(env.pushed), view.leaves, np.zeros(2, np.float32)) is None
