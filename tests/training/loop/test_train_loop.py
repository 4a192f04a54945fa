"""The training loop: what it steps, stores and counts, checked on the states it returns."""

import dataclasses
import re
from collections import Counter
from functools import partial

import jax
import numpy as np
import pytest

from crlviz.envs import mazes
from tests.helpers.shared_programs import toy_programs
from tests.helpers.toys import FallingPoint, begun, stepped, toy_config
from training.run.compiled import jitted
from training.trainer import build


@pytest.fixture(scope="module")
def run():
    """A loop, its states after the first and the third training step, and the metrics of the last step.

    Episodes have 20 steps, the prefill 30 and a training step 10: then every environment was just reset.
    """
    programs, states = toy_programs(), []
    state = programs.start([0], [0])
    for _ in range(3):
        state, metrics, _ = programs.advance(state)
        states.append(jax.tree.map(lambda leaf: leaf[0], state))
    return programs.loop, states[::2], jax.tree.map(lambda leaf: leaf[0], metrics)


def test_counters_match_the_steps_taken(run):
    loop, states, _ = run
    for step, state in zip((1, 3), states, strict=True):
        collector = state.collector
        taken = np.asarray(collector.trajectory * loop.episode_length + collector.steps)
        assert (taken == 30 + 10 * step).all()
        assert int(state.replay.size) == min(taken[0], loop.schedule.replay_capacity)
        assert loop.schedule.env_steps(step) == taken.sum()
        for optimizer in (state.learner.actor_optimizer, state.learner.critic_optimizer, state.learner.alpha_optimizer):
            assert int(optimizer[0].count) == loop.schedule.gradient_steps(step)


@pytest.mark.parametrize("redraw", [True, False], ids=["redrawn", "kept"])
def test_goals_are_redrawn_or_kept(redraw):
    # The prefill alone is three whole episodes of each environment.
    loop = build(toy_config(window=60, redraw_goals=redraw))
    state = jax.jit(partial(begun, loop))(jax.random.key(0))
    collector, rows = state.collector, jax.tree.map(np.asarray, state.replay.rows)
    np.testing.assert_array_equal(collector.trajectory, 3)
    np.testing.assert_array_equal(collector.steps, 0)
    np.testing.assert_array_equal(collector.states.obs[:, 4:], collector.states.pipeline_state.goal)
    first, now = collector.first.pipeline_state, collector.states.pipeline_state
    starts = rows.state[[0, 20, 40], :, :2]  # where each episode began
    assert (loop.env.maze.cell(starts) == (1, 1)).all()
    np.testing.assert_array_equal(starts[0], first.position)
    if redraw:
        assert len(np.unique(starts.reshape(-1, 2), axis=0)) == 12
        assert (np.asarray(now.position) != np.asarray(first.position)).any(-1).all()
        assert (np.asarray(now.goal) != np.asarray(first.goal)).any()
    else:
        np.testing.assert_array_equal(starts, np.broadcast_to(first.position, starts.shape))
        np.testing.assert_array_equal(now.position, first.position)
        np.testing.assert_array_equal(now.goal, first.goal)


@pytest.mark.slow
def test_exploring_by_the_critic_takes_actions_of_higher_q():
    """Both runs take their first step in the same states with the same networks; the best of 8 wins 8 times of 9."""
    q = {}
    for explore in ("sample", "best-of-8"):
        loop = build(toy_config(window=20, redraw_goals=False, num_envs=32, explore=explore))
        state = jax.jit(partial(begun, loop))(jax.random.key(0))
        first = jax.tree.map(lambda rows: rows[0], (state.replay.rows.state, state.replay.rows.action))
        goals = state.collector.first.obs[:, 4:]
        q[explore] = np.asarray(loop.algorithm.q(loop.algorithm.networks(state.learner), *first, goals))
    assert np.mean(q["best-of-8"] > q["sample"]) > 0.7


def test_the_buffer_holds_the_steps_taken(run):
    loop, states, _ = run
    state = states[-1]
    rows = jax.tree.map(np.asarray, state.replay.rows)
    assert int(state.replay.size) == 60
    assert int(state.replay.head) == 0  # 60 rows in a buffer of 60: rows are in order of time
    np.testing.assert_array_equal(rows.trajectory, np.repeat([0, 1, 2], 20)[:, None] + np.zeros((1, 4), int))
    same = rows.trajectory[1:] == rows.trajectory[:-1]
    # The achieved goal of a step is the position at the next step of the episode.
    np.testing.assert_array_equal(rows.achieved[:-1][same], rows.state[1:, :, :2][same])
    # An episode's first row is a start, and its last achieved goal is its own, not the start of the next episode.
    starts = loop.env.maze.cell(rows.state[[0, 20, 40], :, :2])
    assert (starts == (1, 1)).all()
    assert np.abs(rows.achieved - rows.state[..., :2]).max() <= 0.3 + 1e-5
    assert np.abs(rows.action).max() <= 1
    assert len(np.unique(rows.action)) > 400  # every environment and step has its own noise
    # The equation of motion, where no wall was in the way.
    before, move = rows.state[..., :2], 0.5 * rows.state[..., 2:] + 0.15 * rows.action
    way = before + np.linspace(0, 1, 50)[:, None, None, None] * move
    free = loop.env.maze.is_free(way).all(0)
    assert free.sum() > 100
    np.testing.assert_allclose(rows.achieved[free], (before + move)[free], atol=1e-4)


def test_losses_are_means_and_finite(run):
    metrics = run[2]
    assert all(np.isfinite(value) and np.shape(value) == () for value in metrics.values())
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert np.log(8) * 0.5 < float(metrics["critic_loss"]) < np.log(8) * 3  # near chance, for 8 rows


def test_an_episode_that_ends_early_starts_again():
    loop = build(toy_config(window=60))
    # The line runs through the middle of the start cell: about half of the episodes end after one step.
    env = FallingPoint("falling", mazes.get("u_maze", centered=True))
    env.line = -1.0
    loop = dataclasses.replace(loop, env=env)
    state = jax.jit(partial(begun, loop))(jax.random.key(0))
    rows = jax.tree.map(np.asarray, state.replay.rows)
    fell = rows.achieved[..., 1] > env.line
    changed = rows.trajectory[1:] != rows.trajectory[:-1]
    assert fell.any()
    assert changed[fell[:-1]].all()  # a fall is the last row of its episode
    lengths = np.diff(np.flatnonzero(np.concatenate([[True], changed[:, 0], [True]])))
    assert lengths.max() <= loop.episode_length
    steps = np.asarray(state.collector.steps)
    assert (steps < loop.episode_length).all()
    np.testing.assert_array_equal(np.diff(rows.trajectory, axis=0)[changed], 1)


@pytest.mark.slow
def test_the_buffer_is_never_copied():
    """A training step takes no more temporary memory with a long buffer than with a short one."""

    def size(example):
        return sum(leaf.size * 4 for leaf in jax.tree.leaves(example.replay.rows))

    short, loop = toy_programs(), build(toy_config(replay_steps=60_000))
    long = jitted(loop, loop.env)
    few, many = size(short.example), size(long.example)
    shorts = [program.memory_analysis() for program in (short.collect, short.learn)]
    programs = [(function, shapes) for function, *shapes in map(long.functions.get, ("collect", "learn"))]
    longs = [function.lower(*shapes).compile().memory_analysis() for function, shapes in programs]
    assert many - few > 1e6
    for short, long in zip(shorts, longs, strict=True):
        assert long.temp_size_in_bytes - short.temp_size_in_bytes < 0.01 * (many - few)
        assert long.alias_size_in_bytes - short.alias_size_in_bytes == many - few  # updated in place


def _precisions(function, *shapes):
    """The number of matrix products of a function at each precision."""
    products = str(jax.make_jaxpr(function)(*shapes)).split("dot_general[")[1:]
    return Counter(re.search(r"precision=(\S+)", product)[1].strip("(,") for product in products)


@pytest.mark.parametrize(("precision", "expected"), [("float32", "Precision.HIGHEST"), ("bfloat16", "BF16_BF16_F32")])
def test_every_product_of_a_block_has_the_configured_precision(precision, expected):
    """``test_precision.py`` covers the other products."""
    loop = build(toy_config(precision=precision))
    found = _precisions(partial(stepped, loop), jax.eval_shape(partial(begun, loop), jax.random.key(0)))
    assert found.keys() == {expected, "Precision.HIGHEST"}
    assert found[expected] >= 11 * 4


@pytest.mark.slow
def test_physics_is_exact_whatever_the_precision():
    exact, short = (build(toy_config(env="reacher", precision=name)) for name in ("float32", "bfloat16"))
    key = jax.eval_shape(lambda: jax.random.key(0))
    fresh = jax.eval_shape(exact.reset_envs, key)
    state = jax.eval_shape(exact.init, key, fresh).replace(replay=jax.eval_shape(exact.empty_buffer))
    (highest,) = _precisions(short.reset_envs, key)
    before, after = (_precisions(loop.collect, state, fresh) for loop in (exact, short))
    assert set(before) == {highest}
    assert before.total() == after.total()
    block = 4  # products in the block of the policy, which the scan contains once
    assert after[highest] == before.total() - block
    assert after["BF16_BF16_F32"] == block


def test_runs_that_differ_in_their_seed_share_their_cost():
    """Counting it traces a whole update, which takes longer than all of a toy run."""
    first, second, wider = (build(toy_config(**changes)).cost for changes in ({}, {"seed": 7}, {"critic__width": 16}))
    assert first is second
    assert wider["parameters"] > first["parameters"]
