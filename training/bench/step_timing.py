"""Measure the parts of a training step on this machine."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.algorithms.batches import shapes
from training.bench import roofline
from training.bench.timing import MIN_UPDATES, Sampling, Updates, sampler_of
from training.config import TrainConfig
from training.loop import buffer as replays
from training.loop.train_loop import Loop
from training.run.building import build


def step_parts(config: TrainConfig, seconds: float) -> dict[str, float]:
    """Seconds that each part of a training step takes in total; each part is measured separately.

    ``products`` is the time of the updates' matrix products at the roofline rate; ``rest of the updates`` is their
    remaining time. ``physics`` includes resetting the environments at the start of an unroll.

    The measurement runs for at least ``seconds``.
    """
    loop, steps = build(config), min(config.unroll, 5)
    algorithm = loop.algorithm
    batch = shapes(algorithm.rows, algorithm.sizes, config.batch_size)
    updates = Updates(algorithm, batch, precision=config.precision)
    calls = _collecting(loop, steps) | _buffering(loop) | {"updates": lambda: updates(MIN_UPDATES)}
    jax.block_until_ready([call() for call in calls.values()])
    products = roofline.products(config.batch_size, config.critic.width, config.precision)
    best = roofline.alternate({**calls, **products}, seconds)
    flops = algorithm.cost(config.batch_size)["flops_per_update"]
    product_seconds = config.updates * flops / roofline.flops_per_second(best, config.batch_size, config.critic.width)
    return {
        "physics": best["physics"] * config.unroll / steps + best.get("reset", 0.0),
        "policy": best["policy"] * config.unroll / steps,
        "insert": best["insert"],
        "sample and relabel": best["sample and relabel"],
        "products": product_seconds,
        "rest of the updates": best["updates"] / MIN_UPDATES * config.updates - product_seconds,
    }


def _collecting(loop: Loop, steps: int) -> dict[str, Callable[[], Any]]:
    """Functions of ``steps`` steps of all environments: ``physics``, ``policy``, and ``reset`` if goals are redrawn."""
    config, env, algorithm = loop.config, loop.env, loop.algorithm
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), config.num_envs))
    params = jax.jit(lambda key: algorithm.networks(algorithm.init(key)))(jax.random.key(0))
    actions = jax.random.uniform(jax.random.key(1), (config.num_envs, env.action_size), minval=-1, maxval=1)

    @jax.jit
    def physics(states):
        return jax.lax.scan(lambda s, _: (jax.vmap(env.step)(s, actions), None), states, None, length=steps)[0]

    @jax.jit
    def policy(observation):
        def act(action, key):
            # Each action depends on the last, or the compiler would hoist the policy out of the loop.
            with loop.precision():
                return algorithm.act(params, observation + 1e-9 * action.sum(), key), None

        return jax.lax.scan(act, actions, jax.random.split(jax.random.key(2), steps))[0]

    calls: dict[str, Callable[[], Any]] = {"physics": lambda: physics(states), "policy": lambda: policy(states.obs)}
    if config.redraw_goals:
        reset_envs = jax.jit(loop.reset_envs)
        calls["reset"] = lambda: reset_envs(jax.random.key(0))
    return calls


def _buffering(loop: Loop) -> dict[str, Callable[[], Any]]:
    """Functions that ``insert`` an unroll into a buffer, and ``sample and relabel`` the rows of a training step."""
    config, algorithm = loop.config, loop.algorithm
    sizes = algorithm.sizes
    case = Sampling(sizes, config.num_envs, config.window, config.updates, config.batch_size, algorithm.rows)
    sampler, buffer, _ = sampler_of("ours", case)
    insert = jax.jit(replays.insert, donate_argnums=0)
    example = jax.tree.map(lambda leaf: leaf[0], buffer.rows)
    insert_buffer = replays.create(2 * config.unroll, example)
    new_rows = jax.tree.map(lambda leaf: jnp.ones((config.unroll, *leaf.shape), leaf.dtype), example)

    def insert_rows():
        nonlocal insert_buffer
        insert_buffer = insert(insert_buffer, new_rows)
        return insert_buffer

    return {"insert": insert_rows, "sample and relabel": lambda: sampler(buffer, jax.random.key(0))}
