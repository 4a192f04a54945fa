"""Roofline of this machine: its rate of matrix products at the shapes of an update, and of memory copies."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from crlviz.precision import within

# Matrix products of one hidden layer in an update. Four networks run forward and backward to their inputs: the actor,
# phi of the policy's action, and phi and psi of the critic loss. All but the second also need gradients of the weights.
PRODUCTS = {"forward": 4, "to inputs": 4, "to weights": 3}
_LAYERS = 8  # products in one call, each with its own arrays
_TURN_SECONDS = 0.05
_COPY_LENGTH = 2**25  # floats: larger than every cache


def alternate(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Time calls in turn, so that other load on the machine slows all calls equally.

    Args:
      calls: compiled functions by name; each call waits for the arrays that are returned.
      seconds: minimum duration; every call runs in at least three rounds.

    Returns:
      For each call, the shortest time in seconds.
    """
    best = dict.fromkeys(calls, float("inf"))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for name, call in calls.items():
            # Repeat a short call, so that it does not always find caches filled by a long one.
            turn = time.perf_counter()
            while (start := time.perf_counter()) < turn + _TURN_SECONDS:
                jax.block_until_ready(call())
                best[name] = min(best[name], time.perf_counter() - start)
        rounds += 1
    return best


def products(batch_size: int, width: int, precision: str = "float32") -> dict[str, Callable[[], Any]]:
    """Functions for ``alternate``: for each kind in ``PRODUCTS``, one that computes ``_LAYERS`` products.

    ``precision`` as in ``TrainConfig``.
    """
    keys = jax.random.split(jax.random.key(0), (2, _LAYERS))
    rows = [jax.random.normal(key, (batch_size, width)) for key in keys[0]]
    kernels = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys[1]]

    @jax.jit
    def forward(x, kernels):
        with within(precision):
            for kernel in kernels:
                x = x @ kernel
        return x

    @jax.jit
    def to_inputs(x, kernels):
        with within(precision):
            for kernel in kernels:
                x = x @ kernel.T
        return x

    @jax.jit
    def to_weights(x, rows):
        with within(precision):
            return [x.T @ gradient for gradient in rows]

    calls: dict[str, Callable[[], Any]] = {
        "forward": lambda: forward(rows[0], kernels),
        "to inputs": lambda: to_inputs(rows[0], kernels),
        "to weights": lambda: to_weights(rows[0], rows),
    }
    jax.block_until_ready([call() for call in calls.values()])
    return calls


def flops_per_second(seconds: Mapping[str, float], batch_size: int, width: int) -> float:
    """FLOP/s for the mix of products in an update, from the seconds that ``alternate`` measured for ``products``."""
    flops = 2 * batch_size * width**2
    total_seconds = sum(count * seconds[name] / _LAYERS for name, count in PRODUCTS.items())
    return flops * sum(PRODUCTS.values()) / total_seconds


def copy_rate(seconds: float = 1.0) -> float:
    """Memory bandwidth in bytes per second; reads and writes both count. Measures for ``seconds``."""

    def run(numbers, other):
        # Copy back and forth: the compiler can drop no copy and needs no new memory.
        return jax.lax.fori_loop(0, 2, lambda _, pair: (pair[1] + 1, pair[0] + 1), (numbers, other))

    copy, pair = jax.jit(run, donate_argnums=(0, 1)), (jnp.zeros(_COPY_LENGTH), jnp.zeros(_COPY_LENGTH))

    def call():
        nonlocal pair
        pair = copy(*pair)
        return pair

    jax.block_until_ready(call())
    return 2 * 2 * 2 * _COPY_LENGTH * 4 / alternate({"copy": call}, seconds)["copy"]
