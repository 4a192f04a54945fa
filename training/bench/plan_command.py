"""``crlviz plan``: predict the memory and hours of a run before training it.

Hours are the run's number of updates and steps divided by throughput, measured now for a few seconds or by ``crlviz
bench --json`` on another machine. For a card that this machine lacks (``--device``), a model predicts them.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from training.bench.cards import Card
from training.bench.device_model import describe as describe_programs
from training.bench.device_model import duration, hours
from training.bench.device_programs import OnCard
from training.bench.plan import Plan, compute, knob
from training.bench.throughput import Rates, measure, of_bench, paper_hours, read
from training.options import of_a_run

_JAX_SHARE = 0.75  # of a GPU's memory, which jax takes for a process unless XLA_PYTHON_CLIENT_MEM_FRACTION says else


def device_memory() -> int:
    """Memory in bytes of the device that trains: of the accelerator, or the limit of this process."""
    from training.bench import memory_limits
    from training.run import programs

    return programs.memory() or memory_limits.memory()


def describe(
    config: Any,
    plan: Plan,
    limit: float,
    rates: Sequence[Rates] = (),
    card: Card | None = None,
    on_card: OnCard | None = None,
) -> str:
    """Format a plan as text, and say whether the run fits.

    Args:
      config: settings of the run.
      plan: from ``compute`` or ``device_programs.plan``.
      limit: memory of the device in bytes.
      rates: throughput of each machine to predict hours for.
      card, on_card: the card that ``device_programs.plan`` compiled for, and what it found.
    """
    actor, critic = config.actor, config.critic
    depth = f"depth {critic.depth}" if actor.depth == critic.depth else f"depth {actor.depth} and {critic.depth}"
    compiled_for = f"; compiled for {card.name}" if card else ""
    lines = [
        f"{config.env}, {config.algorithm}, {depth} (actor, critic), width {critic.width}, batch {config.batch_size}"
        f"{compiled_for}",
        "",
        f"parameters        {plan.parameters:15,}",
        f"FLOPs per update  {plan.flops_per_update:15.3g}",
        f"updates           {plan.updates:15,}",
        f"environment steps {plan.env_steps:15,}  and {plan.evaluation_steps:,} in evaluations",
        "",
        *_of_memory(config, plan, limit, card),
        "",
    ]
    if card and on_card:
        lines += describe_programs(config, on_card.programs, card)
        took = sum(each.get("compile_seconds", 0) for each in on_card.programs.values())
        lines += [f"Networks: {on_card.path}. Compiling took {took:.0f} s.", ""]
    for rate in rates:
        updating, stepping = plan.hours(rate)
        lines += [
            f"{duration(updating + stepping)}: {rate.updates:,.3g} updates/s ({duration(updating)}) and "
            f"{rate.env_steps:,.3g} environment steps/s ({duration(stepping)}), {rate.source}"
        ]
    if actor.depth == critic.depth and critic.width == 256:
        lines += [
            f"{duration(hours)}: the paper's own code on one 80 GB GPU ({source})"
            for hours, source in paper_hours(config.algorithm, config.env, critic.depth)
        ]
    advice = knob(config, plan.memory, limit)
    return "\n".join([*lines, "", f"It will not fit: {advice}" if advice else "It fits."])


def _of_memory(config: Any, plan: Plan, limit: float, card: Card | None) -> list[str]:
    """Lines of text about memory and disk."""
    memory = plan.memory
    share = ", the part of the card that jax takes" if card and limit == _JAX_SHARE * card.memory else ""
    return [
        "memory on the device, from the compiled training step",
        *(
            f"  {name:15} {_size(getattr(memory, name))}  {description}"
            for name, description in (
                ("parameters", "of the networks"),
                ("optimizer", "two moments of each parameter"),
                ("replay", f"{config.replay_steps:,} steps of {config.num_envs} environments"),
                ("environments", f"states of {config.num_envs} environments"),
                ("collecting", f"{config.unroll} steps of each environment, and new episodes"),
                ("learning", "not at the same time as collecting: activations, gradients"),
                ("evaluation", f"not at the same time as either: {config.eval_episodes} episodes"),
            )
        ),
        f"  {'saving':15} {_size(memory.saving)}  a copy of the state while it is written, "
        + ("in the same memory" if memory.shared else "in host memory: not counted"),
        f"  {'peak':15} {_size(memory.total)}  of {_size(limit).strip()}{share}",
        f"disk: saved state {_size(memory.saving).strip()}, twice that while it is replaced; checkpoints "
        f"{_size(plan.checkpoint_bytes).strip()}",
    ]


def _size(size: float) -> str:
    return f"{size / 2**30:8.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:8.2f} MiB"


def results(
    config: Any, plan: Plan, limit: float, rates: Sequence[Rates], card: Card | None, on_card: OnCard | None
) -> dict[str, Any]:
    """What ``--json`` writes: the plan's numbers by the names of ``Plan`` and ``Memory``; arguments as ``describe``."""
    found = {
        "env": config.env,
        "algorithm": config.algorithm,
        "depth": config.critic.depth,
        "actor_depth": config.actor.depth,
    }
    found |= {"width": config.critic.width, "batch_size": config.batch_size, "precision": config.precision}
    found |= dataclasses.asdict(plan)
    found["memory"] |= {"total": plan.memory.total, "limit": limit, "fits": plan.memory.total <= limit}
    found["rates"] = [dataclasses.asdict(rate) | {"hours": sum(plan.hours(rate))} for rate in rates]
    if card and on_card:
        found |= {"device": card.name, "path": on_card.path, "programs": on_card.programs}
        found["modeled_hours"] = hours(config, on_card.programs, card)
    return found


@click.command()
@click.argument("env")
@of_a_run
@click.option(
    "--device",
    metavar="CARD|FILE",
    help="Compile for a GPU that this machine lacks: a100, h100, h200, l40s, or XLA's description of another.",
)
@click.option("--memory", type=float, metavar="GB", help="Memory of the accelerator.  [default: the device's]")
@click.option(
    "--measure/--no-measure",
    "measuring",
    default=None,
    help="Measure throughput on this machine to predict hours.  [default: measure, without --device]",
)
@click.option(
    "--rates",
    "measured",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Also predict hours from a file of crlviz bench --json; can be repeated.",
)
@click.option("--json", "data", type=click.Path(path_type=Path), help="Save the numbers.")
def command(
    env: str,
    preset: str | None,
    layout: Path | None,
    settings: tuple[str, ...],
    device: str | None,
    memory: float | None,
    measuring: bool | None,
    measured: tuple[Path, ...],
    data: Path | None,
    **options: Any,
) -> None:
    """Predict what training in ENV needs: parameters, FLOPs, memory, disk and hours.

    Memory is taken from the compiled programs, which are not executed. Compiling a humanoid takes a minute or two.

    With --device they are compiled for a card that this machine lacks; this needs jax's CUDA wheels, pip install
    'crlviz[cuda13]'. Then the plan also counts launches, bytes and FLOPs on the card, and models hours from them.

    \b
    Example: crlviz plan humanoid_u_maze --depth 256 --device h100
    Example: crlviz plan point_big_maze --depth 16
    Example: crlviz plan humanoid --depth 64 --rates gpu.json
    """
    from crlviz import charts, envs
    from crlviz.checkpoints import atomic_files
    from crlviz.errors import UsageError
    from training.bench import cards, device_programs
    from training.config import from_options

    config = from_options(env, preset, options, settings, layout)
    envs.check(env, config.layout or None)
    if memory is not None and not 0 < memory < math.inf:
        raise UsageError(f"--memory {memory} is not a size in GB")
    if device and measuring:
        raise UsageError("--measure measures this machine and --device plans for another; give one of the two")
    if data:
        charts.check_endings([data])
    benchmarks = [read(path, env, config.algorithm) for path in measured]
    card = cards.read(device) if device else None
    on_card = device_programs.plan(config, card) if card else None
    plan = on_card.plan if on_card else compute(config)
    if memory is not None:  # memory of an accelerator, even if the plan is made on a CPU
        plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, shared=False))
        limit = memory * 1e9
    else:
        limit = _JAX_SHARE * card.memory if card else device_memory()
    rates = [measure(config)] if measuring is not False and not card else []
    rates += [of_bench(each, config, plan.flops_per_update) for each in benchmarks]
    if data:
        found = results(config, plan, limit, rates, card, on_card)
        atomic_files.write(data, (json.dumps(found, indent=1) + "\n").encode())
    click.echo(describe(config, plan, limit, rates, card, on_card))
