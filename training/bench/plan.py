"""What a run needs before it is trained: counts, memory by purpose, disk; and a setting that makes it fit.

Memory is taken from the compiled programs, which are not executed. It holds for the device that they are compiled for:
a program for a CPU has other temporaries than one for a GPU.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from crlviz.errors import CrlvizError
from training.bench.throughput import Rates


@dataclass(frozen=True)
class Memory:
    """Memory of a run in bytes, by purpose. All but ``saving`` is on the device.

    Attributes:
      parameters: all that is trained: the networks, and a temperature.
      optimizer: Adam's two moments of each parameter, and what else an update keeps, such as averaged networks.
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
      parameters: number of parameters of the networks.
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

    from training.run.compiled import compiled

    programs = compiled(config)
    return of_programs(
        programs.loop,
        programs.example,
        programs.collect,
        programs.learn,
        programs.evaluate_policy,
        shared=jax.default_backend() == "cpu",
    )


def of_programs(loop: Any, example: Any, collect: Any, learn: Any, evaluate: Any, *, shared: bool) -> Plan:
    """Plan a run from its compiled programs.

    Args:
      loop: the ``Loop`` they are compiled from.
      example: shapes of its TrainState.
      collect, learn, evaluate: compiled for the device that the plan is for.
      shared: whether that device uses host memory.

    Raises:
      CrlvizError: jax does not report the memory of programs on this device.
    """
    from training.run import saved_state as states

    config, counts = loop.config, loop.config.schedule
    cost = loop.algorithm.cost(config.batch_size)
    learner, algorithm = example.learner, loop.algorithm
    parameters = _bytes(algorithm.trained(learner))
    of_collect, of_learn, of_evaluate = (_memory_analysis(program) for program in (collect, learn, evaluate))
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
            collecting=reset_states + _temporary_bytes(of_collect),
            learning=_temporary_bytes(of_learn),
            evaluation=of_evaluate.temp_size_in_bytes,
            saving=states.size(example, replay=config.save_replay),
            shared=shared,
        ),
        checkpoint_bytes=_bytes(algorithm.networks(learner)) * min(checkpoints, config.keep or checkpoints),
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
