"""Compile the programs of a config: for a loop in an environment, or on a data set; and for how many runs at once."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from crlviz.envs.base import GoalEnv
from training.config import TrainConfig
from training.loop.train_loop import Loop, TrainState, shardings
from training.run import dataset_programs, hosts
from training.run.building import build, evaluation_env
from training.run.programs import Programs, compile_all, evaluation, memory, vmapped
from training.sharding import ONE, Devices

if TYPE_CHECKING:
    from crlviz.networks.fused_trunk import FusedTrunk


def compiled(
    config: TrainConfig, slots: int = 1, devices: Devices = ONE, trunk: "FusedTrunk | None" = None
) -> Programs:
    """Build and compile the programs of a config, from shapes alone, so a resumed run has exactly the same programs.

    Raises:
      UsageError: an error of ``build``, or the evaluation environment has another body.
    """
    loop = build(config, devices, trunk)
    eval_env = evaluation_env(loop)
    if config.dataset.path:
        return dataset_programs.compiled(loop, eval_env, slots)
    hosts.broadcast("compile", slots=slots, config=dataclasses.asdict(config))
    made = jitted(loop, eval_env, slots)
    return Programs(loop, slots, made.example, made.empty_buffer, **compile_all(**made.functions))


@dataclass(frozen=True)
class Jitted:
    """The programs of a run before they are compiled.

    Attributes:
      example, empty_buffer: as in ``Programs``.
      functions: for each compiled program of ``Programs``, the jitted function and the shapes of its arguments.
    """

    example: TrainState
    empty_buffer: Callable[[], Any]
    functions: dict[str, tuple[Any, ...]]


def jitted(loop: Loop, eval_env: GoalEnv, slots: int = 1) -> Jitted:
    """Jit the programs of a loop and its evaluations. Traces what is needed for shapes; compiles nothing."""
    devices = loop.devices
    replicated, sharded = devices.sharding(), shardings(devices)
    reset_envs = jax.jit(vmapped(loop.reset_envs, slots), in_shardings=(replicated,), out_shardings=sharded.collector)
    init = jax.jit(
        vmapped(loop.init, slots),
        in_shardings=(replicated, sharded.collector),
        out_shardings=sharded.replace(replay=None),
    )
    empty_buffer = jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (slots, *leaf.shape)), loop.empty_buffer()),
        out_shardings=sharded.replay,
    )
    collect = jax.jit(
        vmapped(loop.collect, slots),
        donate_argnums=0,
        in_shardings=(sharded, sharded.collector),
        out_shardings=sharded,
    )
    learn = jax.jit(
        vmapped(loop.learn, slots),
        donate_argnums=0,
        in_shardings=(sharded,),
        out_shardings=(sharded, replicated, replicated),
    )
    score = scoring(loop, eval_env, slots)
    some_keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), slots))
    first = jax.eval_shape(reset_envs, some_keys)
    stacked = jax.eval_shape(init, some_keys, first).replace(replay=jax.eval_shape(empty_buffer))
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    functions = {
        "collect": (collect, stacked, first if loop.config.redraw_goals else None),
        "evaluate_policy": (score, loop.algorithm.networks(stacked.learner), some_keys),
        "learn": (learn, stacked),
        "reset_envs": (reset_envs, some_keys),
        "init": (init, some_keys, first),
    }
    return Jitted(example, empty_buffer, functions)


def scoring(loop: Loop, eval_env: GoalEnv, slots: int = 1) -> Any:
    """The jitted function from (networks, keys) [slots, ...] to the scores [slots] of an evaluation."""
    replicated = loop.devices.sharding()
    evaluate_policy = vmapped(evaluation(loop, eval_env), slots)
    return jax.jit(evaluate_policy, in_shardings=(replicated, replicated), out_shardings=replicated)


def compile_for(
    config: TrainConfig, devices: Devices = ONE, trunk: "FusedTrunk | None" = None
) -> Callable[[int], Programs]:
    """Return a function that compiles programs for up to a number of slots: as many as train fastest on this device.

    An accelerator trains all at once if they fit its memory; else their number is halved until they do. A CPU is no
    faster with several at once, so there they take turns in one slot, each bit for bit what it is alone. Programs are
    compiled once for each number of slots.
    """

    @functools.cache
    def compile_slots(slots: int) -> Programs:
        if slots > 1 and not at_once():
            return compile_slots(1)
        programs, limit = compiled(config, slots, devices, trunk), memory()
        if slots == 1 or limit is None or programs.memory <= limit:
            return programs
        half = -(-slots // 2)
        tqdm.write(
            f"{slots} seeds at once take {programs.memory / 1e9:.2g} GB, but the device has {limit / 1e9:.2g}; "
            f"training {half} at once",
            file=sys.stderr,
        )
        return compile_slots(half)

    return compile_slots


def at_once() -> bool:
    """Whether this device trains several runs faster at once than one after the other."""
    return jax.default_backend() != "cpu"
