"""What could this machine do at best? Its matrix products at the shapes of an update, and its copies."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

# A hidden layer's products in one update: actor, phi of the action taken, phi and psi go forward and back to their
# inputs, and all but the second back to their weights.
PRODUCTS = {"forward": 4, "to inputs": 4, "to weights": 3}
_LAYERS = 8  # products in one call, each with arrays of its own
_TURN_SECONDS = 0.05
_COPIED = 2**25  # numbers: past every cache


def alternate(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Seconds of each call, the best of those in turn: what slows the machine down for a while slows all of them.

    Args:
      calls: what to run, compiled already; what they return is waited for.
      seconds: to go on for at least, and until each has run three times.
    """
    best = dict.fromkeys(calls, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            # A short call follows itself, not only the long ones, which leave the caches to it full of theirs.
            turn = time.perf_counter()
            while (start := time.perf_counter()) < turn + _TURN_SECONDS:
                jax.block_until_ready(call())
                best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def products(batch_size: int, width: int) -> dict[str, Callable[[], Any]]:
    """Calls that make ``_LAYERS`` products of each kind of ``PRODUCTS``, for ``alternate``."""
    keys = jax.random.split(jax.random.key(0), (2, _LAYERS))
    rows = [jax.random.normal(key, (batch_size, width)) for key in keys[0]]
    kernels = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys[1]]

    @jax.jit
    def forward(x, kernels):
        for kernel in kernels:
            x = x @ kernel
        return x

    @jax.jit
    def to_inputs(x, kernels):
        for kernel in kernels:
            x = x @ kernel.T
        return x

    @jax.jit
    def to_weights(x, rows):
        return [x.T @ slope for slope in rows]

    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(rows[0], kernels),
        "to inputs": lambda: to_inputs(rows[0], kernels),
        "to weights": lambda: to_weights(rows[0], rows),
    }
    jax.block_until_ready([call() for call in calls.values()])
    return calls


def flops_per_second(seconds: Mapping[str, float], batch_size: int, width: int) -> float:
    """Of an update's mix of products, from what ``alternate`` tells of ``products``."""
    flops = 2 * batch_size * width**2
    spent = sum(count * seconds[name] / _LAYERS for name, count in PRODUCTS.items())
    return flops * sum(PRODUCTS.values()) / spent


def copy_rate(seconds: float = 1.0) -> float:
    """Bytes a second that a program can copy from memory to memory, read and written counted once each."""

    def run(numbers, other):
        # Back and forth, so that no copy is left out and none needs new memory.
        return jax.lax.fori_loop(0, 2, lambda _, pair: (pair[1] + 1, pair[0] + 1), (numbers, other))

    copy, pair = jax.jit(run, donate_argnums=(0, 1)), (jnp.zeros(_COPIED), jnp.zeros(_COPIED))

    def call():
        nonlocal pair
        pair = copy(*pair)
        return pair

    jax.block_until_ready(call())
    return 2 * 2 * 2 * _COPIED * 4 / alternate({"copy": call}, seconds)["copy"]
