"""How quick are the parts of training here and now? What ``crlviz bench`` measures, each part by itself."""

import contextlib
import functools
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crlviz import envs
from crlviz.algorithms.crl import CRL, CRLConfig
from crlviz.networks.residual import Actor, Critic, NetworkConfig
from crlviz.precision import within
from training.bench import roofline
from training.bench.reference import ReferenceCRL
from training.bench.reference import sample as reference_sample
from training.config import TrainConfig
from training.loop import buffer as replays
from training.loop import divergence
from training.loop.train_loop import update_or_skip
from training.run.compiled import build

COMPILED = 8  # environments in parallel where compiling is measured
REFERENCE_WINDOWS = 32  # that the twin relabels at most: all 512 of the paper take it minutes
_FEW, _CALL_FLOPS = 3, 4e11  # updates, and operations, of one measured call: what it needs once shall count little


@dataclass(frozen=True)
class Case:
    """One update to measure: sizes of states, actions and goals, both networks' shape, rows of the batch, and whether
    the inside of ours' blocks is computed anew on the way back."""

    sizes: tuple[int, int, int]
    depth: int
    width: int
    batch_size: int
    remat: bool = False

    @property
    def algorithm(self) -> CRL:
        """Ours."""
        state, action, goal = self.sizes
        network = NetworkConfig(self.depth, self.width, remat=self.remat)
        return CRL(CRLConfig(), Actor(network, state + goal, action), Critic(network, state, action, goal))

    @property
    def twin(self) -> ReferenceCRL:
        """The same, as the field writes it."""
        return ReferenceCRL(CRLConfig(), NetworkConfig(self.depth, self.width), self.sizes)

    def updates(self, kind: str, seeds: int = 1) -> "Updates":
        """Of the kind ``ours`` or ``twin``."""
        return Updates(self.twin if kind == "twin" else self.algorithm, self.sizes, self.batch_size, seeds)


class Updates:
    """Updates on one batch again and again, in one program as in a training step; of several ``seeds``, each with a
    learner and a batch of its own, all of them at once."""

    def __init__(
        self,
        algorithm: CRL | ReferenceCRL,
        sizes: tuple[int, int, int],
        batch_size: int,
        seeds: int = 1,
        precision: str = "float32",
    ):
        slots = (seeds,) if seeds > 1 else ()
        # Not by jax, which would compile for half a second what is no part of an update.
        random = np.random.default_rng(0)
        shapes = [(*slots, batch_size, size) for size in sizes]
        self._batch = [jnp.asarray(random.standard_normal(shape, np.float32)) for shape in shapes]
        bound = TrainConfig(env="").loss_bound

        def start(key):
            return algorithm.init(key), divergence.none()

        def update(index, carry, batch):
            key = jax.random.fold_in(jax.random.key(0), index)
            with within(precision):
                if isinstance(algorithm, CRL):
                    return update_or_skip(algorithm, bound, carry, index, key, *batch)[0]
                return algorithm.update(carry[0], key, *batch)[0], carry[1]

        key = jax.random.key(0)
        if seeds > 1:
            key, start, update = jax.random.split(key, seeds), jax.vmap(start), jax.vmap(update, in_axes=(None, 0, 0))

        def run(carry, batch, count):
            # The count is no part of the program: the first update and those measured later are of the same one.
            return jax.lax.fori_loop(0, count, lambda index, carry: update(index, carry, batch), carry)

        self._run = jax.jit(run, donate_argnums=0)
        self._carry = jax.jit(start)(key)

    def __call__(self, count: int) -> Any:
        """That many updates, begun; what comes back can be waited for."""
        self._carry = self._run(self._carry, self._batch, count)
        return self._carry


def in_its_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a module's function in a fresh process, where memory and compiling start from nothing."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def first_update(kind: str, case: Case, cache: str) -> dict[str, float]:
    """``first_seconds`` from nothing to the end of the first update, tracing and compiling included; ``update_seconds``
    of the next one, which is the arithmetic alone; and ``peak_bytes`` of memory they took beyond what the process had
    before.

    Args:
      kind: ``ours`` or ``twin``.
      case: the update.
      cache: an empty directory, which keeps the program for ``update_rates``.
    """
    _keep_programs(cache)
    jax.block_until_ready(jnp.zeros(1) + 1)  # the device has started
    before, start = _peak(), time.perf_counter()
    updates = case.updates(kind)
    jax.block_until_ready(updates(1))
    middle = time.perf_counter()
    jax.block_until_ready(updates(1))
    end = time.perf_counter()
    return {"first_seconds": middle - start, "update_seconds": end - middle, "peak_bytes": _peak() - before}


def update_rates(case: Case, twin: bool, seeds: int, seconds: float, cache: str) -> dict[str, float]:
    """Updates a second of ours, of the ``twin`` if asked for, of several ``seeds`` at once in total (where it is more
    than one), and of the machine's matrix products alone (``ceiling``), in turn; and the ``flops`` of an update."""
    _keep_programs(cache)
    flops = case.algorithm.cost(case.batch_size)["flops_per_update"]
    count = int(min(max(_CALL_FLOPS / flops, _FEW), 32))
    calls: dict[str, Callable[[], Any]] = dict(roofline.products(case.batch_size, case.width))
    measured = {"ours": case.updates("ours")}
    if twin:
        measured["twin"] = case.updates("twin")
    if seeds > 1:
        measured["seeds"] = case.updates("ours", seeds)
    for kind, updates in measured.items():
        jax.block_until_ready(updates(1))
        calls[kind] = functools.partial(updates, count)
    best = roofline.alternate(calls, seconds)
    rates = {kind: (seeds if kind == "seeds" else 1) * count / best[kind] for kind in measured}
    return rates | {
        "ceiling": roofline.flops_per_second(best, case.batch_size, case.width) / flops,
        "flops": flops,
    }


@dataclass(frozen=True)
class Sampling:
    """One training step's sampling to measure: sizes of states, actions and goals, and counts as in TrainConfig."""

    sizes: tuple[int, int, int]
    num_envs: int
    window: int
    batches: int
    batch_size: int

    @property
    def row_bytes(self) -> int:
        """Of a row that is sampled: state, action, the goal achieved, the trajectory's number, and a hindsight goal."""
        state, action, goal = self.sizes
        return 4 * (state + action + 2 * goal + 1)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What can be measured: the twin, too, where its windows fill a batch."""
        return ("ours", "twin") if self.reference_rows else ("ours",)

    @property
    def reference_rows(self) -> int:
        """Rows of the twin's batches, which are whole: those of its windows but what is left over."""
        rows = min(self.num_envs, REFERENCE_WINDOWS) * (self.window - 1)
        return rows // self.batch_size * self.batch_size


def _sampler(kind: str, case: Sampling) -> tuple[Callable[[Any, jax.Array], Any], Any, int]:
    """A program (ring, key) that samples a step's rows and looks at each once, its full ring, and how many rows."""
    environments = min(case.num_envs, REFERENCE_WINDOWS) if kind == "twin" else case.num_envs
    state, action, goal = (jnp.ones((environments, size)) for size in case.sizes)
    rows = replays.Transitions(state, action, goal, jnp.ones(environments, int))
    # Written, since memory that nobody wrote to is not read from memory either.
    capacity = 2 * case.window
    rows = jax.tree.map(lambda leaf: jnp.ones((capacity, *leaf.shape), leaf.dtype), rows)
    ring = replays.Replay(rows, jnp.zeros((), int), jnp.array(capacity))

    def look(batch):
        return sum(leaf.sum() for leaf in jax.tree.leaves(batch))

    def ours(ring, key):
        indices = replays.sample(ring, key, case.batches * case.batch_size, case.window, 0.99)
        indices = jax.tree.map(lambda leaf: leaf.reshape(case.batches, case.batch_size), indices)
        return jax.lax.map(lambda indices: look(replays.gather(ring, indices)), indices)

    def twin(ring, key):
        start_key, key = jax.random.split(key)
        starts = jax.random.randint(start_key, (environments,), 0, capacity - case.window)
        return look(reference_sample(ring.rows, starts, key, case.window, 0.99, case.batch_size))

    count = case.reference_rows if kind == "twin" else case.batches * case.batch_size
    return jax.jit(twin if kind == "twin" else ours), ring, count


def sampling_peak(kind: str, case: Sampling) -> int:
    """Bytes that sampling takes beyond the ring; the twin's are of at most ``REFERENCE_WINDOWS`` windows."""
    program, ring, _ = _sampler(kind, case)
    jax.block_until_ready(ring)
    before = _peak()
    jax.block_until_ready(program(ring, jax.random.key(0)))
    return _peak() - before


def sampling_rates(case: Sampling, seconds: float) -> dict[str, float]:
    """Rows a second, sampled, relabeled and read, of each of the case's ``kinds`` in turn."""
    calls: dict[str, Callable[[], Any]] = {}
    counts = {}
    for kind in case.kinds:
        program, ring, counts[kind] = _sampler(kind, case)
        calls[kind] = functools.partial(program, ring, jax.random.key(0))
        jax.block_until_ready(calls[kind]())
    return {kind: counts[kind] / best for kind, best in roofline.alternate(calls, seconds).items()}


def env_steps_per_second(env: str, num_envs: int, seconds: float) -> float:
    """Environment steps a second of a jitted scan under random actions, compilation apart; the best of some."""
    world, length = envs.make(env), 10

    @jax.jit
    def run(states, key):
        def step(states, key):
            actions = jax.random.uniform(key, (num_envs, world.action_size), minval=-1, maxval=1)
            return jax.vmap(world.step)(states, actions), None

        return jax.lax.scan(step, states, jax.random.split(key, length))[0]

    states = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), num_envs))
    jax.block_until_ready(run(states, jax.random.key(0)))
    best = roofline.alternate({"run": lambda: run(states, jax.random.key(0))}, seconds)["run"]
    return num_envs * length / best


def step_parts(config: TrainConfig, seconds: float) -> dict[str, float]:
    """Seconds of each part of a training step, measured by itself and added up over the step.

    ``products`` is what the updates' matrix products take at the machine's rate, ``rest of the updates`` all else in
    them. ``physics`` has the reset of an unroll's new episodes.
    """
    loop = build(config)
    env, actor, steps = loop.env, loop.algorithm.actor, min(config.unroll, 5)
    keys = jax.random.split(jax.random.key(0), config.num_envs)
    states = jax.jit(jax.vmap(env.reset))(keys)
    params = jax.jit(actor.init)(jax.random.key(0))
    actions = jax.random.uniform(jax.random.key(1), (config.num_envs, env.action_size), minval=-1, maxval=1)

    @jax.jit
    def physics(states):
        return jax.lax.scan(lambda s, _: (jax.vmap(env.step)(s, actions), None), states, None, length=steps)[0]

    @jax.jit
    def policy(observation):
        def act(action, key):
            # Each from the last one, or the compiler would do it once.
            noise = jax.random.normal(key, action.shape)
            with loop.precision():
                return actor.sample(params, observation + 1e-9 * action.sum(), noise)[0], None

        return jax.lax.scan(act, actions, jax.random.split(jax.random.key(2), steps))[0]

    sizes = (env.state_dim, env.action_size, env.goal_dim)
    case = Sampling(sizes, config.num_envs, config.window, config.updates, config.batch_size)
    sampler, ring, _ = _sampler("ours", case)
    insert = jax.jit(replays.insert, donate_argnums=0)
    example = jax.tree.map(lambda leaf: leaf[0], ring.rows)
    target = replays.create(2 * config.unroll, example)
    new = jax.tree.map(lambda leaf: jnp.ones((config.unroll, *leaf.shape), leaf.dtype), example)

    def write():
        nonlocal target
        target = insert(target, new)
        return target

    updates = Updates(loop.algorithm, sizes, config.batch_size, precision=config.precision)
    calls: dict[str, Callable[[], Any]] = {
        "physics": lambda: physics(states),
        "policy": lambda: policy(states.obs),
        "insert": write,
        "sample and relabel": lambda: sampler(ring, jax.random.key(0)),
        "updates": lambda: updates(_FEW),
    }
    if config.redraw_goals:
        reset_envs = jax.jit(loop.reset_envs)
        calls["reset"] = lambda: reset_envs(jax.random.key(0))
    jax.block_until_ready([call() for call in calls.values()])
    products = roofline.products(config.batch_size, config.critic.width)
    best = roofline.alternate({**calls, **products}, seconds)
    flops = loop.algorithm.cost(config.batch_size)["flops_per_update"]
    needed = config.updates * flops / roofline.flops_per_second(best, config.batch_size, config.critic.width)
    return {
        "physics": best["physics"] * config.unroll / steps + best.get("reset", 0.0),
        "policy": best["policy"] * config.unroll / steps,
        "insert": best["insert"],
        "sample and relabel": best["sample and relabel"],
        "products": needed,
        "rest of the updates": best["updates"] / _FEW * config.updates - needed,
    }


def compile_speed(id: str) -> dict[str, Any]:
    """Seconds from a built environment to compiled programs of reset and step, for 8 in parallel, and steps a second.

    ``cpu_seconds`` is what both cost on all cores together: where other work runs, it says more than the clock.
    """
    world = envs.make(id)
    keys = jax.random.split(jax.random.key(0), COMPILED)
    actions = jax.random.uniform(keys[0], (COMPILED, world.action_size), minval=-1, maxval=1)
    jax.block_until_ready(actions)
    start, cpu = time.perf_counter(), time.process_time()
    reset = jax.jit(jax.vmap(world.reset)).lower(keys).compile()
    middle = time.perf_counter()
    states = reset(keys)
    step = jax.jit(jax.vmap(world.step)).lower(states, actions).compile()
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


def _keep_programs(cache: str) -> None:
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_enable_compilation_cache", True)


def _peak() -> int:
    """The most memory so far, in bytes: of the accelerator where it says, else of the process."""
    told = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return told["peak_bytes_in_use"]
    with contextlib.suppress(OSError):  # Linux; what getrusage tells there was partly the parent's
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
