"""Every body trains with the smoke preset: one of each engine from the first step to a checkpoint that acts.

Most of that time is compiling, so of the other bodies only one training step is, without an evaluation, and all other
ids are only traced: mazes differ only in their walls, and the harder variant of a task has the same program as the
easier one, which a test checks.
"""

import csv
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import crlviz
from crlviz import envs
from crlviz.envs.base import State
from crlviz.rendering.envs_command import table
from training import config as configs
from training.run import compiled
from training.trainer import train

TRAINED = [
    "point_u_maze",
    "swimmer",
    "swimmer_u_maze",
    "planar_arm",
    "ant",
    "ant_u_maze",
    "ant_ball",
    "humanoid",
    "reacher",
    "pusher_easy",
    "cheetah",
    "arm_reach",
]
QUICK = "point_u_maze"  # it needs no physics engine; the others take up to a minute
WHOLE = [QUICK, "swimmer", "ant", "arm_reach"]  # our own physics, brax's and MJX's
VARIANTS = {"pusher_hard": "pusher_easy", "arm_push_hard": "arm_push_easy", "arm_binpick_hard": "arm_binpick_easy"}
# They share their code with a body that is trained; test_parity.py compiles and takes their steps, or their variants'.
STEPPED = {"ant_push", "humanoid_u_maze", "arm_grasp", "arm_push_easy", "arm_binpick_easy"}
TRACED = [id for id in envs.ids() if id not in TRAINED]
# Tracing an ant or a humanoid in a maze takes a second, and there are about fifty: only an ant is a quick test.
# An arm takes four.
SLOW = {id for id in TRACED if re.match(r"(ant|humanoid)_.*maze", id)} - {"ant_big_maze"} | {
    *STEPPED,
    "arm_push_hard",
    "arm_binpick_hard",
    "pusher_hard",
}
ROWS = {row["id"]: row for row in table()}


def test_every_body_is_trained_or_stepped():
    for name, body in envs.BODIES.items():
        assert not body.open or {name, VARIANTS.get(name)} & {*TRAINED, *STEPPED}
        assert not body.cell_size or f"{name}_u_maze" in {*TRAINED, *STEPPED}


@pytest.mark.parametrize("id", [pytest.param(id, marks=[pytest.mark.slow] * (id != QUICK)) for id in WHOLE])
def test_smoke(id, tmp_path):
    config = _smoke(id)
    run = train(config, tmp_path / "run", progress=False)
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == config.evaluations + 1
    assert all(0 <= float(row["time_at_goal"]) <= float(row["episode_steps"]) <= config.episode_length for row in rows)
    agent = crlviz.load(run)
    assert agent.env_steps == int(rows[-1]["env_steps"]) >= config.env_steps
    state = jax.random.normal(jax.random.key(0), (8, agent.env.state_dim))
    goal = state[:, jnp.array(agent.env.goal_indices)]
    action = agent.act(jnp.concatenate([state, goal], axis=1))
    assert action.shape == (8, ROWS[id]["action"])
    assert (np.abs(action) <= 1).all()
    assert np.isfinite(agent.q(state, action, goal)).all()


@pytest.mark.slow
@pytest.mark.parametrize("id", [id for id in TRAINED if id not in WHOLE])
def test_a_training_step(id):
    """From the bodies' reset over the filled buffer to an update; the body has moved, within the actions' bounds."""
    loop = compiled.build(_smoke(id))
    made = compiled.jitted(loop, loop.env)
    scores = jax.eval_shape(*made.functions.pop("evaluate_policy"))
    assert {"time_at_goal", "success", "success_easy", "distance", "episode_steps"} == set(scores)
    made_programs = compiled.compile_all(**made.functions)
    programs = compiled.Programs(loop, 1, made.example, made.empty_buffer, evaluate_policy=None, **made_programs)
    started = programs.start([0], [0])
    before = jax.device_get(loop.algorithm.networks(started.learner))
    state, metrics, diverged = programs.advance(started)
    assert not diverged.found.any()
    assert all(np.isfinite(value).all() for value in jax.tree.leaves((state.learner, metrics)))
    after = loop.algorithm.networks(state.learner)
    changed = [not np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (before, after)), strict=True)]
    assert np.mean(changed) > 0.9
    rows = jax.tree.map(lambda leaf: leaf[0, : int(state.replay.size[0])], state.replay.rows)
    assert rows.state.shape[1:] == (loop.config.num_envs, ROWS[id]["state"])
    assert rows.action.shape[1:] == (loop.config.num_envs, ROWS[id]["action"])
    assert np.isfinite(rows.state).all()
    assert (np.abs(rows.action) <= 1).all()
    moved = np.abs(np.diff(rows.state[: loop.config.unroll], axis=0)).max((0, 1))
    assert np.mean(moved > 1e-6) > 0.5


def _smoke(id: str) -> configs.TrainConfig:
    return configs.replace(configs.TrainConfig(env=id), configs.preset("smoke"))


@pytest.mark.parametrize("id", [pytest.param(id, marks=[pytest.mark.slow] * (id in SLOW)) for id in TRACED])
def test_reset_and_step_have_matching_shapes(id):
    """By tracing only: a step keeps shapes and types, so that a scan can carry the state, and sizes are as listed."""
    row = ROWS[id]
    first, after, _ = _traced(id)
    assert first.obs.shape == (row["state"] + row["goal"],)
    assert {"distance", "success", "success_easy"} <= set(first.metrics)
    assert jax.tree.map(_kind, after) == jax.tree.map(_kind, first)


@functools.cache
def _traced(id: str) -> tuple[State, State, str]:
    """A first state, the state after a step, and for variants of a task the step's program without addresses."""
    env = envs.make(id)
    first = jax.eval_shape(env.reset, jax.random.key(0))
    program, after = jax.make_jaxpr(env.step, return_shape=True)(first, jnp.zeros(env.action_size))
    compared = id in (*VARIANTS, *VARIANTS.values())
    return first, after, re.sub(r"0x[0-9a-f]+", "", str(program)) if compared else ""


def _kind(leaf: jax.ShapeDtypeStruct) -> tuple:
    return leaf.shape, leaf.dtype


@pytest.mark.slow
@pytest.mark.parametrize(("id", "easier"), VARIANTS.items())
def test_variants_of_a_task_have_the_same_program(id, easier):
    """Training one then shows that the other compiles: their steps differ in constants, not in operations."""
    first, second = (_traced(name)[2] for name in (id, easier))
    assert first
    assert first == second
