"""``crlviz plan``: what does a run need, in memory and hours, before a night is spent on it?

Memory is read off the compiled training step, which is never run; so it is that of the device the plan is made on: a
CPU's program keeps other temporaries than a GPU's. Hours are the run's counts over rates measured now, for a few
seconds each, or over those that ``crlviz bench --json`` measured on another machine.
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
    """Bytes that a run holds on its device at once, by what they are for.

    Attributes:
      parameters: of actor and critic.
      optimizer: Adam's two moments of each, and the temperature's.
      replay: the ring.
      environments: what is being stepped, and the first states that episodes go back to.
      collecting: new episodes, collected steps and all else that stepping environments needs beyond the run's state.
      learning: activations, gradients and all else that updates need beyond it.
      evaluation: what an evaluation needs beyond it.
      saving: the copy of the state, in the machine's own memory, that is written beside training.
      shared: whether the device's memory is the machine's own, as a CPU's is.
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
        """The most there is at one moment; collecting, learning and evaluating take turns."""
        held = self.parameters + self.optimizer + self.replay + self.environments
        return held + max(self.collecting, self.learning, self.evaluation) + self.shared * self.saving


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes:
      parameters: of actor and critic.
      flops_per_update: of an update's matrix products.
      updates: in the whole run.
      env_steps: in the whole run, without evaluations.
      evaluation_steps: environment steps of all evaluations.
      memory: on the device.
      checkpoint_bytes: of all checkpoints, on disk.
    """

    parameters: int
    flops_per_update: int
    updates: int
    env_steps: int
    evaluation_steps: int
    memory: Memory
    checkpoint_bytes: int

    def hours(self, rates: Rates) -> tuple[float, float]:
        """Hours of updating, and of stepping environments (training and evaluations)."""
        return self.updates / rates.updates / 3600, (self.env_steps + self.evaluation_steps) / rates.env_steps / 3600


def compute(config: Any) -> Plan:
    """Build and compile a run, run nothing.

    Args:
      config: a ``TrainConfig``.

    Raises:
      UsageError: unknown environment, or settings that do not fit each other.
      CrlvizError: the device does not tell what a program needs.
    """
    import jax

    from training.config import schedule
    from training.run import saved_state as states
    from training.run.compiled import compiled

    programs = compiled(config)
    counts, loop, example = schedule(config), programs.loop, programs.example
    cost = loop.algorithm.cost(config.batch_size)
    learner = example.learner
    parameters = _bytes((learner.actor, learner.critic, learner.log_alpha))
    collect, learn, measure = (_analysis(made) for made in (programs.collect, programs.learn, programs.evaluate_policy))
    fresh = _bytes(example.collector.states) if config.redraw_goals else 0
    kept = counts.epochs // config.save_every + bool(counts.epochs % config.save_every)
    return Plan(
        parameters=cost["parameters"],
        flops_per_update=cost["flops_per_update"],
        updates=counts.gradient_steps(config, counts.steps),
        env_steps=counts.env_steps(config, counts.steps),
        evaluation_steps=(counts.epochs + 1) * config.eval_episodes * loop.episode_length,
        memory=Memory(
            parameters=parameters,
            optimizer=_bytes(learner) - parameters,
            replay=_bytes(example.replay),
            environments=_bytes(example.collector),
            collecting=fresh + _beyond_arguments(collect),
            learning=_beyond_arguments(learn),
            evaluation=measure.temp_size_in_bytes,
            saving=states.size(example, replay=config.save_replay),
            shared=jax.default_backend() == "cpu",
        ),
        checkpoint_bytes=_bytes((learner.actor, learner.critic)) * min(kept, config.keep or kept),
    )


def _analysis(program: Any) -> Any:
    found = program.memory_analysis()
    if found is None:
        raise CrlvizError("jax does not tell what a program needs on this device; plan on a CPU: JAX_PLATFORMS=cpu")
    return found


def _beyond_arguments(found: Any) -> int:
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def _bytes(tree: Any) -> int:
    import jax

    shapes = jax.eval_shape(lambda t: jax.tree.map(_data, t), tree)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _data(leaf: Any) -> Any:
    import jax

    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def knob(config: Any, memory: Memory, limit: float) -> str:
    """Which setting brings a run under a limit of bytes, and to what; empty where it fits."""
    if memory.total <= limit:
        return ""
    room = 0.99 * limit  # a setting that fits by a hair does not
    copied = {"replay", "environments"} if config.save_replay else {"environments"}

    def total(share: float, *parts: str) -> float:
        """What there would be with so much of some parts."""
        less = {part: share * getattr(memory, part) for part in parts}
        if "learning" in parts:  # but for the gradients
            less["learning"] += (1 - share) * memory.parameters
        saved = sum(getattr(memory, part) - less[part] for part in copied & set(parts))
        return dataclasses.replace(memory, saving=memory.saving - saved, **less).total

    if config.save_replay and dataclasses.replace(memory, saving=memory.saving - memory.replay).total <= room:
        return "--set save_replay=false would fit: nothing then copies replay to write it (what resumes collects anew)"
    for steps in range(config.replay_steps - config.unroll, config.window - 1, -config.unroll):
        if total(steps / config.replay_steps, "replay") <= room:
            return f"--set replay_steps={steps} (now {config.replay_steps:,}) would fit: replay is linear in it"
    for name, parts in {
        "batch_size": ["learning"],
        "eval_episodes": ["evaluation"],
        "num_envs": ["replay", "environments", "collecting"],
    }.items():
        value = now = getattr(config, name)
        while (value := value // 2) >= 2:
            if total(value / now, *parts) <= room:
                return f"--set {name}={value} (now {now:,}) would about fit"
    return "no one knob is enough: lower --width, --depth or --batch-size, and --set num_envs, window and replay_steps"


def device_memory() -> int:
    """Bytes of the device that trains: an accelerator's, or what this process may take of the machine's."""
    from training.bench import memory_limits
    from training.run import compiled

    return compiled.memory() or memory_limits.memory()


def describe(config: Any, plan: Plan, limit: float, rates: Sequence[Rates]) -> str:
    """A plan as text, with what fits and what does not.

    Args:
      config: of the plan.
      plan: of ``compute``.
      limit: bytes there are on the device.
      rates: of each machine to tell hours for.
    """
    memory, actor, critic = plan.memory, config.actor, config.critic
    depth = f"depth {critic.depth}" if actor.depth == critic.depth else f"depth {actor.depth} and {critic.depth}"
    lines = [
        f"{config.env}, {depth} (actor, encoders), width {critic.width}, batch {config.batch_size}",
        "",
        f"parameters        {plan.parameters:15,}",
        f"FLOPs an update   {plan.flops_per_update:15.3g}",
        f"updates           {plan.updates:15,}",
        f"environment steps {plan.env_steps:15,}  and {plan.evaluation_steps:,} of evaluations",
        "",
        "memory on the device, of the compiled training step",
        *(
            f"  {name:15} {_size(getattr(memory, name))}  {what}"
            for name, what in (
                ("parameters", "actor, phi and psi"),
                ("optimizer", "two moments of each"),
                ("replay", f"{config.replay_steps:,} steps of {config.num_envs} environments"),
                ("environments", f"{config.num_envs} of them"),
                ("collecting", f"{config.unroll} steps of each, and new episodes"),
                ("learning", "in turn with that: activations, gradients"),
                ("evaluation", f"in turn with both: {config.eval_episodes} episodes"),
            )
        ),
        f"  {'saving':15} {_size(memory.saving)}  a copy of the state while it is written, "
        + ("here as well" if memory.shared else "in the machine's own memory: not counted"),
        f"  {'at most':15} {_size(memory.total)}  of {_size(limit).strip()}",
        f"disk: a state to resume from {_size(memory.saving).strip()}, twice that while it is replaced; checkpoints "
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


def _size(count: float) -> str:
    return f"{count / 2**30:8.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:8.2f} MiB"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.2f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"


@click.command()
@click.argument("env")
@of_a_run
@click.option("--memory", type=float, metavar="GB", help="Memory of the accelerator to fit.  [default: what is here]")
@click.option("--measure/--no-measure", "measuring", default=True, help="Measure this machine for the hours.")
@click.option(
    "--rates",
    "measured",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Hours on the machine, too, whose rates are in this file of crlviz bench --json; may be given again.",
)
def command(env, preset, layout, settings, memory, measuring, measured, **options) -> None:
    """Tell what training in ENV would need, before it is trained: parameters, FLOPs, memory, disk and hours.

    Memory is that of the compiled training step, which is not run. Compiling a humanoid takes a minute or two.

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
        raise UsageError(f"--memory {memory} is no size in GB")
    elsewhere = [read(path, env) for path in measured]
    plan = compute(config)
    if memory is not None:  # an accelerator's, wherever the plan is made
        plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, shared=False))
    limit = device_memory() if memory is None else memory * 1e9
    rates = [measure(config)] if measuring else []
    rates += [of_bench(found, config, plan.flops_per_update) for found in elsewhere]
    click.echo(describe(config, plan, limit, rates))
