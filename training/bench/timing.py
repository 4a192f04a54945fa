"""Measurements of ``crlviz bench``: time and memory of each part of training, on this machine."""

import contextlib
import functools
import importlib.util
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz import envs
from crlviz.algorithms import registry
from crlviz.algorithms.base import Algorithm
from crlviz.algorithms.batches import Batch, Rows, Sizes, shapes
from crlviz.envs.base import GoalEnv
from crlviz.networks.config import NetworkConfig
from crlviz.networks.fused_trunk import FusedTrunk
from crlviz.precision import within
from training.bench import roofline
from training.bench.reference import sample as reference_sample
from training.bench.reference_learners import REFERENCES
from training.config import TrainConfig
from training.loop import buffer as replays
from training.loop import divergence
from training.loop.train_loop import update_or_skip
from training.run import fused_choice

_GAMMA = 0.99  # the paper's
_ROWS = Rows("future", _GAMMA)  # of CRL, and of the reference of sampling
COMPILED = 8  # parallel environments in the compile-time benchmark
REFERENCE_WINDOWS = 32  # limit for the reference implementation, which takes minutes for the paper's 512 windows
# A measured call runs at least this many updates and about this many FLOPs, so that its fixed cost is negligible.
MIN_UPDATES, _CALL_FLOPS = 3, 4e11


def sizes_of(env: GoalEnv) -> Sizes:
    """The sizes of an environment."""
    return Sizes(env.state_dim, env.action_size, env.goal_dim)


@dataclass(frozen=True)
class Case:
    """Configuration of one update to measure.

    Attributes:
      sizes: dimensions of states, actions and goals.
      depth: layers in residual blocks, of actor and critic.
      width: units of each layer.
      batch_size: rows in the batch.
      remat: whether our blocks are rematerialized in the backward pass.
      precision: of matrix products, as in ``TrainConfig``.
      algorithm: its name; it has its default settings.
    """

    sizes: Sizes
    depth: int
    width: int
    batch_size: int
    remat: bool = False
    precision: str = "float32"
    algorithm: str = "crl"

    @property
    def built(self) -> Algorithm:
        """Our implementation."""
        return self._built(None)

    @property
    def has_reference(self) -> bool:
        """Whether there is a reference implementation of its algorithm."""
        return self.algorithm in REFERENCES

    def _built(self, trunk: FusedTrunk | None) -> Algorithm:
        network = NetworkConfig(self.depth, self.width, remat=self.remat)
        settings = registry.of(self.algorithm).Config()
        return registry.build(self.algorithm, settings, network, network, Sizes(*self.sizes), gamma=_GAMMA, trunk=trunk)

    @property
    def batch(self) -> Batch:
        """The shapes of its batch."""
        algorithm = self.built
        return shapes(algorithm.rows, algorithm.sizes, self.batch_size)

    def implementation(self, kind: str) -> Any:
        """The ``reference``, or our algorithm: with the networks on the ``fused`` path, or else on the plain one."""
        if kind == "reference":
            return REFERENCES[self.algorithm](
                registry.of(self.algorithm).Config(), NetworkConfig(self.depth, self.width), self.sizes
            )
        return self._built(FusedTrunk(self.precision) if kind == "fused" else None)

    def kinds(self, reference_depth: int = 0) -> list[str]:
        """What can be measured here.

        ``ours`` on the plain path; ``fused``, on a GPU, where the kernels serve the case; the ``reference`` up to a
        depth.
        """
        on_gpu = jax.default_backend() == "gpu" and importlib.util.find_spec(fused_choice.TRITON)
        fused = on_gpu and self.built.fused and not self.remat
        return [
            "ours",
            *["fused"] * bool(fused),
            *["reference"] * (self.has_reference and self.depth <= reference_depth),
        ]

    def updates(self, kind: str, seeds: int = 1) -> "Updates":
        """Build the updates of one of its ``kinds``."""
        return Updates(self.implementation(kind), self.batch, seeds, self.precision)


class Updates:
    """A compiled loop of updates on one fixed batch, as in a training step.

    With several ``seeds``, as many learners update in parallel, each with its own batch. ``algorithm`` is one of
    ``Case.implementation``, ``batch`` the shapes of its batch.
    """

    def __init__(self, algorithm: Any, batch: Batch, seeds: int = 1, precision: str = "float32"):
        slots = (seeds,) if seeds > 1 else ()
        # With numpy: jax would spend half a second on compiling this, which is not part of an update.
        rng = np.random.default_rng(0)
        self._batch = jax.tree.map(
            lambda leaf: jnp.asarray(rng.standard_normal((*slots, *leaf.shape), np.float32)), batch
        )
        bound = TrainConfig(env="").loss_bound

        def start(key):
            return algorithm.init(key), divergence.none()

        def update(index, carry, batch):
            key = jax.random.fold_in(jax.random.key(0), index)
            with within(precision):
                if isinstance(algorithm, Algorithm):
                    return update_or_skip(algorithm, bound, carry, index, key, batch)[0]
                return algorithm.update(carry[0], key, batch)[0], carry[1]

        key = jax.random.key(0)
        if seeds > 1:
            key, start, update = jax.random.split(key, seeds), jax.vmap(start), jax.vmap(update, in_axes=(None, 0, 0))

        def run(carry, batch, count):
            # ``count`` is an argument, so that the first update and the measured ones use the same compiled program.
            return jax.lax.fori_loop(0, count, lambda index, carry: update(index, carry, batch), carry)

        self._run = jax.jit(run, donate_argnums=0)
        self._carry = jax.jit(start)(key)

    def __call__(self, count: int) -> Any:
        """Dispatch ``count`` updates; returns the (learner, divergence) arrays, to block on."""
        self._carry = self._run(self._carry, self._batch, count)
        return self._carry


def in_its_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a module-level function in a new process, with nothing allocated or compiled; returns its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def first_update(kind: str, case: Case, cache: str) -> dict[str, float]:
    """Measure the first two updates in this process.

    Args:
      kind: one of ``case.kinds``.
      case: the update to measure.
      cache: empty directory for the compiled program, which ``update_rates`` reuses.

    Returns:
      ``first_seconds`` of the first update, including tracing and compiling; ``update_seconds`` of the second, which is
      the computation only; ``peak_bytes``, the increase of peak memory over both.
    """
    use_cache(cache)
    jax.block_until_ready(jnp.zeros(1) + 1)  # initialize the device
    memory_before, start = _peak_bytes(), time.perf_counter()
    updates = case.updates(kind)
    jax.block_until_ready(updates(1))
    middle = time.perf_counter()
    jax.block_until_ready(updates(1))
    end = time.perf_counter()
    return {
        "first_seconds": middle - start,
        "update_seconds": end - middle,
        "peak_bytes": _peak_bytes() - memory_before,
    }


def update_rates(case: Case, kinds: Sequence[str], seeds: int, seconds: float, cache: str) -> dict[str, float]:
    """Measure updates per second; the implementations run in turn.

    Args:
      case: the update to measure.
      kinds: those of its ``kinds`` to measure.
      seeds: learners that update in parallel; 1: do not measure several.
      seconds: minimum duration of the measurement.
      cache: directory of compiled programs, from ``first_update``.

    Returns:
      Updates per second of each of ``kinds``, ``seeds`` (total over all) and ``roofline`` (matrix products only), and
      ``flops``, the FLOPs of one update.
    """
    use_cache(cache)
    flops = case.built.cost(case.batch_size)["flops_per_update"]
    count = int(min(max(_CALL_FLOPS / flops, MIN_UPDATES), 32))
    calls: dict[str, Callable[[], Any]] = dict(roofline.products(case.batch_size, case.width, case.precision))
    measured = {kind: case.updates(kind) for kind in kinds}
    if seeds > 1:
        measured["seeds"] = case.updates("ours", seeds)
    for kind, updates in measured.items():
        jax.block_until_ready(updates(1))
        calls[kind] = functools.partial(updates, count)
    best = roofline.alternate(calls, seconds)
    rates = {kind: (seeds if kind == "seeds" else 1) * count / best[kind] for kind in measured}
    return rates | {
        "roofline": roofline.flops_per_second(best, case.batch_size, case.width) / flops,
        "flops": flops,
    }


@dataclass(frozen=True)
class Sampling:
    """Configuration of the sampling in one training step.

    Attributes:
      sizes: dimensions of states, actions and goals.
      num_envs, window, batch_size: as in ``TrainConfig``.
      batches: number of batches, ``updates`` in ``TrainConfig``.
      rows: what they hold.
    """

    sizes: Sizes
    num_envs: int
    window: int
    batches: int
    batch_size: int
    rows: Rows = _ROWS

    @property
    def row_bytes(self) -> int:
        """Bytes of a sampled row: for CRL its state, action and hindsight goal."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes(self.rows, self.sizes, 1)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Implementations that can run: the reference (``reference``), of CRL's rows, only if they fill a batch."""
        served = self.reference_rows and self.rows == _ROWS
        return ("ours", "reference") if served else ("ours",)

    @property
    def reference_rows(self) -> int:
        """Rows that the reference samples: as many full batches as its windows give."""
        rows = min(self.num_envs, REFERENCE_WINDOWS) * (self.window - 1)
        return rows // self.batch_size * self.batch_size


def sampler_of(kind: str, case: Sampling) -> tuple[Callable[[Any, jax.Array], Any], Any, int]:
    """Build a compiled function of (buffer, key) that samples the rows of a training step and reads each once.

    Returns the function, a full buffer and the number of rows.
    """
    environments = min(case.num_envs, REFERENCE_WINDOWS) if kind == "reference" else case.num_envs
    rows = replays.example(case.rows, case.sizes, environments)
    # Write to the arrays: the system does not allocate pages that nothing wrote to, so reading them costs nothing.
    capacity = 2 * case.window
    rows = jax.tree.map(lambda leaf: jnp.ones((capacity, *leaf.shape), leaf.dtype), rows)
    buffer = replays.Replay(rows, jnp.zeros((), int), jnp.array(capacity))

    def read(batch):
        return sum(leaf.sum() for leaf in jax.tree.leaves(batch))

    def ours(buffer, key):
        indices = replays.sample(buffer, key, case.batches * case.batch_size, case.window, case.rows)
        indices = jax.tree.map(lambda leaf: leaf.reshape(case.batches, case.batch_size), indices)
        return jax.lax.map(lambda indices: read(replays.gather(buffer, indices, case.rows, 1.0)), indices)

    def reference(buffer, key):
        start_key, key = jax.random.split(key)
        starts = jax.random.randint(start_key, (environments,), 0, capacity - case.window)
        rows, goals = reference_sample(buffer.rows, starts, key, case.window, _GAMMA, case.batch_size)
        return read((rows.state, rows.action, goals))

    count = case.reference_rows if kind == "reference" else case.batches * case.batch_size
    return jax.jit(reference if kind == "reference" else ours), buffer, count


def sampling_peak(kind: str, case: Sampling) -> int:
    """Peak memory of sampling in bytes, without the buffer. The reference has at most ``REFERENCE_WINDOWS`` windows."""
    sampler, buffer, _ = sampler_of(kind, case)
    jax.block_until_ready(buffer)
    memory_before = _peak_bytes()
    jax.block_until_ready(sampler(buffer, jax.random.key(0)))
    return _peak_bytes() - memory_before


def sampling_rates(case: Sampling, seconds: float) -> dict[str, float]:
    """Rows per second that each of the case's ``kinds`` samples, relabels and reads; measured in turn."""
    calls: dict[str, Callable[[], Any]] = {}
    counts = {}
    for kind in case.kinds:
        sampler, buffer, counts[kind] = sampler_of(kind, case)
        calls[kind] = functools.partial(sampler, buffer, jax.random.key(0))
        jax.block_until_ready(calls[kind]())
    return {kind: counts[kind] / best for kind, best in roofline.alternate(calls, seconds).items()}


def env_steps_per_second(env: str, num_envs: int, seconds: float) -> float:
    """Environment steps per second of a jitted scan with random actions, without compile time; the fastest call."""
    environment, length = envs.make(env), 10

    @jax.jit
    def run(states, key):
        def step(states, key):
            actions = jax.random.uniform(key, (num_envs, environment.action_size), minval=-1, maxval=1)
            return jax.vmap(environment.step)(states, actions), None

        return jax.lax.scan(step, states, jax.random.split(key, length))[0]

    states = jax.jit(jax.vmap(environment.reset))(jax.random.split(jax.random.key(0), num_envs))
    jax.block_until_ready(run(states, jax.random.key(0)))
    best = roofline.alternate({"run": lambda: run(states, jax.random.key(0))}, seconds)["run"]
    return num_envs * length / best


def compile_speed(id: str) -> dict[str, Any]:
    """Measure compile times of reset and step for ``COMPILED`` parallel environments, and steps per second.

    ``cpu_seconds`` is the CPU time of both, summed over all cores. On a busy machine trust it more than wall time.
    """
    environment = envs.make(id)
    keys = jax.random.split(jax.random.key(0), COMPILED)
    actions = jax.random.uniform(keys[0], (COMPILED, environment.action_size), minval=-1, maxval=1)
    jax.block_until_ready(actions)
    start, cpu = time.perf_counter(), time.process_time()
    reset = jax.jit(jax.vmap(environment.reset)).lower(keys).compile()
    middle = time.perf_counter()
    states = reset(keys)
    step = jax.jit(jax.vmap(environment.step)).lower(states, actions).compile()
    end, cpu = time.perf_counter(), time.process_time() - cpu
    count = 0
    while (seconds := time.perf_counter() - end) < 2 or count < 3:
        states = jax.block_until_ready(step(states, actions))
        count += 1
    return {
        "id": id,
        "reset_seconds": middle - start,
        "step_seconds": end - middle,
        "cpu_seconds": cpu,
        "steps_per_second": COMPILED * count / seconds,
    }


def use_cache(cache: str) -> None:
    """Keep this process's compiled programs in a directory."""
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_enable_compilation_cache", True)


def _peak_bytes() -> int:
    """Peak memory so far in bytes: of the accelerator if it reports it, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    with contextlib.suppress(OSError):  # Linux, where the maximum of getrusage includes the parent process
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
