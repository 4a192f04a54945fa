"""``crlviz plan``: predict the memory and hours of a run before training it.

Memory is taken from the compiled training step, which is not executed. It holds for the device that makes the plan: a
program for a CPU has other temporaries than one for a GPU. Hours are the run's number of updates and steps divided by
throughput, measured now for a few seconds or by ``crlviz bench --json`` on another machine.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from crlviz.errors import CrlvizError
from training.bench.throughput import Rates, measure, of_bench, paper_hours, read
from training.options import of_a_run


@dataclass(frozen=True)
class Memory:
    """Memory of a run in bytes, by purpose. All but ``saving`` is on the device.

    Attributes:
      parameters: parameters of actor and critic.
      optimizer: Adam's two moments of each parameter, and the temperature with its own.
      replay: the ring buffer.
      environments: states of the environments, and the first states that episodes reset to.
      collecting: temporaries of stepping the environments, including new episodes and the collected steps.
      learning: temporaries of the updates, including activations and gradients.
      evaluation: temporaries of an evaluation.
      saving: copy of the state in host memory, which is written while training continues.
      shared: whether the device uses host memory, as a CPU does.
    """

    parameters: int
    optimizer: int
    replay: int
    environments: int
    collecting: int
    learning: int
    evaluation: int
    saving: int
    shared: bool

    @property
    def total(self) -> int:
        """Peak memory; collecting, learning and evaluation never overlap."""
        state = self.parameters + self.optimizer + self.replay + self.environments
        return state + max(self.collecting, self.learning, self.evaluation) + self.shared * self.saving


@dataclass(frozen=True)
class Plan:
    """Resources that a run needs.

    Attributes:
      parameters: number of parameters of actor and critic.
      flops_per_update: FLOPs of the matrix products in one update.
      updates: number of updates in the run.
      env_steps: environment steps in the run, without evaluations.
      evaluation_steps: environment steps of all evaluations.
      memory: memory by purpose.
      checkpoint_bytes: size of all checkpoints on disk.
    """

    parameters: int
    flops_per_update: int
    updates: int
    env_steps: int
    evaluation_steps: int
    memory: Memory
    checkpoint_bytes: int

    def hours(self, rates: Rates) -> tuple[float, float]:
        """Hours of updates, and hours of environment steps (training and evaluations)."""
        return self.updates / rates.updates / 3600, (self.env_steps + self.evaluation_steps) / rates.env_steps / 3600


def compute(config: Any) -> Plan:
    """Plan a run: build and compile it without executing it.

    Args:
      config: a ``TrainConfig``.

    Raises:
      UsageError: the environment is unknown, or the settings contradict each other.
      CrlvizError: jax does not report the memory of programs on this device.
    """
    import jax

    from training.run import saved_state as states
    from training.run.compiled import compiled

    programs = compiled(config)
    counts, loop, example = config.schedule, programs.loop, programs.example
    cost = loop.algorithm.cost(config.batch_size)
    learner = example.learner
    parameters = _bytes((learner.actor, learner.critic, learner.log_alpha))
    collect, learn, evaluate = (
        _memory_analysis(program) for program in (programs.collect, programs.learn, programs.evaluate_policy)
    )
    reset_states = _bytes(example.collector.states) if config.redraw_goals else 0
    checkpoints = counts.epochs // config.save_every + bool(counts.epochs % config.save_every)
    return Plan(
        parameters=cost["parameters"],
        flops_per_update=cost["flops_per_update"],
        updates=counts.gradient_steps(counts.steps),
        env_steps=counts.total_env_steps,
        evaluation_steps=(counts.epochs + 1) * config.eval_episodes * loop.episode_length,
        memory=Memory(
            parameters=parameters,
            optimizer=_bytes(learner) - parameters,
            replay=_bytes(example.replay),
            environments=_bytes(example.collector),
            collecting=reset_states + _temporary_bytes(collect),
            learning=_temporary_bytes(learn),
            evaluation=evaluate.temp_size_in_bytes,
            saving=states.size(example, replay=config.save_replay),
            shared=jax.default_backend() == "cpu",
        ),
        checkpoint_bytes=_bytes((learner.actor, learner.critic)) * min(checkpoints, config.keep or checkpoints),
    )


def _memory_analysis(program: Any) -> Any:
    analysis = program.memory_analysis()
    if analysis is None:
        raise CrlvizError(
            "jax does not report the memory of a program on this device; plan on a CPU: JAX_PLATFORMS=cpu"
        )
    return analysis


def _temporary_bytes(analysis: Any) -> int:
    """Bytes that a program needs in addition to its arguments."""
    return analysis.temp_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def _bytes(tree: Any) -> int:
    """Size of a tree of arrays or their shapes."""
    import jax

    shapes = jax.eval_shape(lambda t: jax.tree.map(_as_plain_array, t), tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _as_plain_array(leaf: Any) -> Any:
    import jax

    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def knob(config: Any, memory: Memory, limit: float) -> str:
    """Name a setting, and a value for it, that makes a run fit into ``limit`` bytes; empty if the run fits already."""
    if memory.total <= limit:
        return ""
    usable = 0.99 * limit  # leaves a margin: the prediction is not exact
    saved_parts = {"replay", "environments"} if config.save_replay else {"environments"}

    def total(share: float, *parts: str) -> float:
        """Peak memory if some parts shrink to a share of their size."""
        smaller = {part: share * getattr(memory, part) for part in parts}
        if "learning" in parts:  # the gradients keep their size
            smaller["learning"] += (1 - share) * memory.parameters
        difference = sum(getattr(memory, part) - smaller[part] for part in saved_parts & set(parts))
        return dataclasses.replace(memory, saving=memory.saving - difference, **smaller).total

    if config.save_replay and dataclasses.replace(memory, saving=memory.saving - memory.replay).total <= usable:
        return "--set save_replay=false would fit: the buffer is then not copied to save it (a resumed run refills it)"
    for steps in range(config.replay_steps - config.unroll, config.window - 1, -config.unroll):
        if total(steps / config.replay_steps, "replay") <= usable:
            return (
                f"--set replay_steps={steps} (now {config.replay_steps:,}) would fit: the buffer is proportional to it"
            )
    for name, parts in {
        "batch_size": ["learning"],
        "eval_episodes": ["evaluation"],
        "num_envs": ["replay", "environments", "collecting"],
    }.items():
        value = now = getattr(config, name)
        while (value := value // 2) >= 2:
            if total(value / now, *parts) <= usable:
                return f"--set {name}={value} (now {now:,}) would fit, approximately"
    return (
        "no single setting is enough: lower --width, --depth or --batch-size, or --set num_envs, window, replay_steps"
    )


def device_memory() -> int:
    """Memory in bytes of the device that trains: of the accelerator, or the limit of this process."""
    from training.bench import memory_limits
    from training.run import compiled

    return compiled.memory() or memory_limits.memory()


def describe(config: Any, plan: Plan, limit: float, rates: Sequence[Rates]) -> str:
    """Format a plan as text, and say whether the run fits.

    Args:
      config: settings of the run.
      plan: from ``compute``.
      limit: memory of the device in bytes.
      rates: throughput of each machine to predict hours for.
    """
    memory, actor, critic = plan.memory, config.actor, config.critic
    depth = f"depth {critic.depth}" if actor.depth == critic.depth else f"depth {actor.depth} and {critic.depth}"
    lines = [
        f"{config.env}, {depth} (actor, encoders), width {critic.width}, batch {config.batch_size}",
        "",
        f"parameters        {plan.parameters:15,}",
        f"FLOPs per update  {plan.flops_per_update:15.3g}",
        f"updates           {plan.updates:15,}",
        f"environment steps {plan.env_steps:15,}  and {plan.evaluation_steps:,} in evaluations",
        "",
        "memory on the device, from the compiled training step",
        *(
            f"  {name:15} {_size(getattr(memory, name))}  {description}"
            for name, description in (
                ("parameters", "actor, phi and psi"),
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
        f"  {'peak':15} {_size(memory.total)}  of {_size(limit).strip()}",
        f"disk: saved state {_size(memory.saving).strip()}, twice that while it is replaced; checkpoints "
        f"{_size(plan.checkpoint_bytes).strip()}",
        "",
    ]
    for rate in rates:
        updating, stepping = plan.hours(rate)
        lines += [
            f"{_time(updating + stepping)}: {rate.updates:,.3g} updates/s ({_time(updating)}) and "
            f"{rate.env_steps:,.3g} environment steps/s ({_time(stepping)}), {rate.source}"
        ]
    if actor.depth == critic.depth and critic.width == 256:
        lines += [
            f"{_time(hours)}: the paper's own code on one 80 GB GPU ({source})"
            for hours, source in paper_hours(config.env, critic.depth)
        ]
    advice = knob(config, memory, limit)
    return "\n".join([*lines, "", f"It will not fit: {advice}" if advice else "It fits."])


def _size(size: float) -> str:
    return f"{size / 2**30:8.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:8.2f} MiB"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


@click.command()
@click.argument("env")
@of_a_run
@click.option("--memory", type=float, metavar="GB", help="Memory of the accelerator.  [default: this machine's]")
@click.option(
    "--measure/--no-measure", "measuring", default=True, help="Measure throughput on this machine to predict hours."
)
@click.option(
    "--rates",
    "measured",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Also predict hours from a file of crlviz bench --json; can be repeated.",
)
def command(
    env: str,
    preset: str | None,
    layout: Path | None,
    settings: tuple[str, ...],
    memory: float | None,
    measuring: bool,
    measured: tuple[Path, ...],
    **options: Any,
) -> None:
    """Predict what training in ENV needs: parameters, FLOPs, memory, disk and hours.

    Memory is taken from the compiled training step, which is not executed. Compiling a humanoid takes a minute or two.

    \b
    Example: crlviz plan humanoid_u_maze --depth 256 --memory 80
    Example: crlviz plan point_big_maze --depth 16
    Example: crlviz plan humanoid --depth 64 --rates gpu.json
    """
    from crlviz import envs
    from crlviz.errors import UsageError
    from training.config import from_options

    config = from_options(env, preset, options, settings, layout)
    envs.check(env, config.layout or None)
    if memory is not None and not 0 < memory < math.inf:
        raise UsageError(f"--memory {memory} is not a size in GB")
    benchmarks = [read(path, env) for path in measured]
    plan = compute(config)
    if memory is not None:  # memory of an accelerator, even if the plan is made on a CPU
        plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, shared=False))
    limit = device_memory() if memory is None else memory * 1e9
    rates = [measure(config)] if measuring else []
    rates += [of_bench(results, config, plan.flops_per_update) for results in benchmarks]
    click.echo(describe(config, plan, limit, rates))
