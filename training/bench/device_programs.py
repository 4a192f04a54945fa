"""Compile programs for a GPU that this machine lacks, and count what they launch.

XLA compiles for a card from a description of it; jax's CUDA wheels contain the compiler. The work runs in a separate
process, ``python -m training.bench.device_programs``, because jax has one platform in a process and here it must be the
CPU. The process reads the request as JSON from standard input and writes the answer as JSON to standard output.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crlviz.errors import CrlvizError, UsageError, one_line
from training.bench.cards import Card
from training.bench.launches import Program
from training.bench.plan import Memory, Plan

_REMEDY = "compiling for a GPU that this machine lacks needs jax's CUDA wheels (5 GB): pip install 'crlviz[cuda13]'"


@dataclass(frozen=True)
class OnCard:
    """What a run does on a card.

    Attributes:
      plan: its counts and memory.
      programs: for each of ``collect``, ``learn``, ``evaluate``, ``reset``, and for one ``update`` in ``learn``:
        ``kernels``, ``physics``, ``bytes``, ``waits`` as in ``launches.Counts``, ``flops`` of the networks' matrix
        products, and ``compile_seconds`` except of ``update``.
      path: whether the networks take the fused path or the plain one, and why.
    """

    plan: Plan
    programs: Mapping[str, Mapping[str, Any]]
    path: str


def plan(config: Any, card: Card) -> OnCard:
    """Plan a run on a card that need not be here; ``config`` is a ``TrainConfig``.

    Raises:
      UsageError: jax's CUDA wheels are not installed, the card's description is not XLA's, or an error of ``build``.
      CrlvizError: a program could not be compiled.
    """
    answer = _ask({"order": "plan", "config": dataclasses.asdict(config)}, card)
    memory = Memory(**answer["plan"].pop("memory"))
    return OnCard(Plan(memory=memory, **answer["plan"]), answer["programs"], answer["path"])


def updates(env: str, cases: list[dict[str, Any]], card: Card) -> list[dict[str, Any]]:
    """Compile the update of each case: the fused path if it applies, the plain path, and the reference if asked for.

    Args:
      env: id of the environment, which gives the networks' inputs.
      cases: of each, ``depth``, ``width``, ``batch_size``, ``remat``, ``precision`` as in ``timing.Case``, and
        ``reference``, whether to compile the reference too.
      card: need not be here.

    Returns:
      For each case and kind, ``kernels``, ``bytes``, ``flops``, ``temporaries`` (bytes) and ``compile_seconds`` of an
      update, under ``fused``, ``plain`` and ``reference``.

    Raises:
      UsageError, CrlvizError: as ``plan``.
    """
    return _ask({"order": "updates", "env": env, "cases": cases}, card)["updates"]


def _ask(request: Mapping[str, Any], card: Card) -> dict[str, Any]:
    """Send a request to a process of its own and return its answer."""
    check_wheels()
    home = str(Path(__file__).parents[2])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA logs how long it takes
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    child = subprocess.run(
        [sys.executable, "-P", "-m", "training.bench.device_programs"],
        input=json.dumps({**request, "card": card.text}),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        start_new_session=True,  # Ctrl-C reaches only this process, which then ends that one
    )
    try:
        answer = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        raise CrlvizError(
            f"the process that compiled for {card.name} ended with code {child.returncode}; compiling takes a few GB "
            "of this machine's memory"
        ) from None
    if error := answer.get("error"):
        raise (UsageError if answer["usage"] else CrlvizError)(error)
    return answer


def check_wheels() -> None:
    """Raise a UsageError if jax has no CUDA plugin here. Imports nothing."""
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    if not any(module.name.startswith("xla_cuda") for module in pkgutil.iter_modules(places or [])):
        raise UsageError(_REMEDY)


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    try:
        answer = _answer(request)
    except Exception as error:
        answer = {"error": one_line(error), "usage": isinstance(error, UsageError)}
    print(json.dumps(answer))


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    from jax.experimental import topologies

    from crlviz import jax_config

    # Set before shapes are traced, because jax caches traces.
    with jax_config.fixed_settings(), jax_config.made_for("gpu"):
        try:
            topology = topologies.get_topology_desc(platform="cuda", target_config=request["card"], topology="1x1x1")
        except NotImplementedError:
            raise UsageError(_REMEDY) from None
        except Exception as error:
            raise UsageError(f"XLA does not take this description of a card: {one_line(error)}") from None
        answers = {"plan": _plan_run, "updates": _compile_updates}
        return answers[request["order"]](request, functools.partial(compile_for, topology.devices[0]))


# Compiles a function for arguments of given shapes: (function, *shapes) -> (program, seconds).
_Compile = Callable[..., tuple[Any, float]]


def compile_for(device: Any, function: Any, *shapes: Any) -> tuple[Any, float]:
    import jax

    sharding = jax.sharding.SingleDeviceSharding(device)
    placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)
    start = time.perf_counter()
    with _for_kernels(device):
        program = function.lower(*placed).compile()
    return program, time.perf_counter() - start


def _for_kernels(device: Any) -> AbstractContextManager[Any]:
    """Context in which Pallas compiles kernels for a card that is not here; it asks for the card's kind."""
    import jax

    kinds = {
        "8.0": "NVIDIA A100",
        "8.6": "NVIDIA A10",
        "8.9": "NVIDIA L40",
        "9.0": "NVIDIA H100",
        "10.0": "NVIDIA B200",
    }
    kind = kinds.get(str(device.compute_capability), device.device_kind)
    abstract = jax.sharding.AbstractDevice(device_kind=kind, num_cores=None, platform="cuda")
    mesh = jax.sharding.AbstractMesh((1,), ("one",), (jax.sharding.AxisType.Auto,), abstract_device=abstract)
    return jax.sharding.use_abstract_mesh(mesh)


def _plan_run(request: Mapping[str, Any], compile_for: _Compile) -> dict[str, Any]:
    from training import config as configs
    from training.bench.plan import of_programs
    from training.run import fused_choice
    from training.run.building import build, evaluation_env
    from training.run.compiled import jitted

    config = configs.load(request["config"])
    choice = fused_choice.expected(config)
    loop = build(config, trunk=choice.trunk)
    made = jitted(loop, evaluation_env(loop))
    compiled, programs = {}, {}
    names = {"collect": "collect", "learn": "learn", "evaluate_policy": "evaluate", "reset_envs": "reset"}
    flops = _flops(loop)
    with tqdm(total=len(names), unit="program", disable=None, leave=False) as bar:
        for name, shown in names.items():
            bar.set_description(f"compiling {shown}")
            compiled[shown], seconds = compile_for(*made.functions[name])
            program = Program(compiled[shown].as_text())
            counts = dataclasses.asdict(program.counts)
            programs[shown] = {**counts, "flops": flops[shown], "compile_seconds": seconds}
            if shown == "learn" and (update := program.turn(config.updates)):
                programs["update"] = {**dataclasses.asdict(update), "flops": flops["learn"] // config.updates}
            bar.update()
    plan = of_programs(loop, made.example, compiled["collect"], compiled["learn"], compiled["evaluate"], shared=False)
    return {"plan": dataclasses.asdict(plan), "programs": programs, "path": choice.why}


def _flops(loop: Any) -> dict[str, int]:
    """FLOPs of the networks' matrix products in each program of a loop; the physics' own are not counted."""
    import jax
    import jax.numpy as jnp

    from crlviz.networks import flops

    config, algorithm = loop.config, loop.algorithm.plain
    params = algorithm.network_shapes

    def acting(rows: int) -> int:
        return flops.count(algorithm.act, params, jax.ShapeDtypeStruct((rows, loop.env.observation_size), jnp.float32))

    return {
        "collect": config.unroll * acting(config.num_envs),
        "learn": config.updates * algorithm.cost(config.batch_size)["flops_per_update"],
        "evaluate": loop.episode_length * acting(config.eval_episodes),
        "reset": 0,
    }


def _compile_updates(request: Mapping[str, Any], compile_for: _Compile) -> dict[str, Any]:
    from crlviz import envs
    from training.bench.timing import Case, sizes_of

    sizes = sizes_of(envs.make(request["env"]))
    results = []
    with tqdm(unit="program", disable=None) as bar:
        for values in request["cases"]:
            case = Case(sizes, **{name: value for name, value in values.items() if name != "reference"})
            kinds = ["fused"] * (case.built.fused and not case.remat) + ["plain"]
            kinds += ["reference"] * (values["reference"] and case.has_reference)
            result = {}
            for kind in kinds:
                bar.set_description(f"compiling depth {case.depth}, {kind}")
                result[kind] = _compile_update(case, kind, compile_for)
                bar.update()
            results.append(result)
    return {"updates": results}


def _compile_update(case: Any, kind: str, compile_for: _Compile) -> dict[str, Any]:
    import jax

    from crlviz.precision import within

    algorithm = case.implementation(kind)

    def update(*arguments: Any) -> Any:
        with within(case.precision):
            return algorithm.update(*arguments)

    key = jax.eval_shape(lambda: jax.random.key(0))
    learner = jax.eval_shape(algorithm.init, key)
    program, seconds = compile_for(jax.jit(update, donate_argnums=0), learner, key, case.batch)
    counts = Program(program.as_text()).counts
    return {
        "kernels": counts.kernels,
        "bytes": counts.bytes,
        "flops": case.built.cost(case.batch_size)["flops_per_update"],
        "temporaries": program.memory_analysis().temp_size_in_bytes,
        "compile_seconds": seconds,
    }


if __name__ == "__main__":
    main()
