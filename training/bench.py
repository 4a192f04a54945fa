"""``crlviz bench``: what this machine does, measured now."""

import time
from collections.abc import Sequence
from typing import Any

import click

_COMPILED = 8  # environments in parallel where compiling is measured


@click.command()
@click.option("--depth", "depths", default="4,64,256,1024", show_default=True, help="Depths, with commas between.")
@click.option("--width", default=64, show_default=True, help="Units of each layer.")
@click.option("--batch-size", default=64, show_default=True, help="Rows of an update.")
@click.option("--env", default="point_big_maze", show_default=True, help="Environment to step.")
@click.option("--num-envs", default=256, show_default=True, help="Environments stepped in parallel.")
@click.option("--compile", "ids", metavar="ID,...", help="Measure these environments instead: seconds to compile them.")
def command(depths: str, width: int, batch_size: int, env: str, num_envs: int, ids: str | None) -> None:
    """Measure environment steps a second, seconds to the first update and updates a second by depth; or what it takes
    to compile environments.

    \b
    Example: crlviz bench --depth 4,64
    Example: crlviz bench --compile ant,humanoid,arm_reach
    """
    from crlviz.errors import UsageError

    try:
        numbers = [int(depth) for depth in depths.split(",")]
    except ValueError:
        raise UsageError(f"--depth takes whole numbers with commas between, not {depths!r}") from None
    import jax

    # A cached program would make the first update look cheaper than it is.
    jax.config.update("jax_enable_compilation_cache", False)
    click.echo(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    if ids:
        _bench_compiling(ids.split(","))
        return
    click.echo(f"{env}, {num_envs} in parallel, random actions: {env_steps_per_second(env, num_envs):,.0f} steps/s")
    click.echo(
        f"\nwidth {width}, batch {batch_size}, {env}\n{'depth':>6}{'first update':>15}{'ratio':>7}{'updates/s':>11}"
    )
    first = None
    for row in (update_speed(env, depth, width, batch_size) for depth in numbers):
        first = first or row["first_seconds"]
        ratio = row["first_seconds"] / first
        click.echo(f"{row['depth']:6}{row['first_seconds']:13.1f} s{ratio:7.2f}{row['updates_per_second']:11.1f}")


def _bench_compiling(ids: Sequence[str]) -> None:
    from crlviz import envs

    for id in ids:
        envs.check(id)  # a wrong name is told before the first minute
    click.echo(f"{_COMPILED} in parallel; seconds to trace and compile, and those of all cores together")
    click.echo(f"{'id':32}{'reset':>7}{'step':>7}{'cores':>7}{'steps/s':>9}")
    for row in map(compile_speed, ids):
        click.echo(
            f"{row['id']:32}{row['reset_seconds']:7.1f}{row['step_seconds']:7.1f}{row['cpu_seconds']:7.1f}"
            f"{row['steps_per_second']:9,.0f}"
        )


def compile_speed(id: str) -> dict[str, Any]:
    """Seconds from a built environment to compiled programs of reset and step, for 8 in parallel, and steps a second.

    ``cpu_seconds`` is what both cost on all cores together: where other work runs, it says more than the clock.
    """
    import jax

    from crlviz import envs

    world = envs.make(id)
    keys = jax.random.split(jax.random.key(0), _COMPILED)
    actions = jax.random.uniform(keys[0], (_COMPILED, world.action_size), minval=-1, maxval=1)
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
        "steps_per_second": _COMPILED * count / seconds,
    }


def env_steps_per_second(env: str, num_envs: int, length: int = 1000, repeats: int = 5) -> float:
    """Environment steps a second of a jitted scan under random actions, compilation apart; the best of repeats."""
    import jax

    from crlviz import envs

    world = envs.make(env)

    @jax.jit
    def run(states, key):
        def step(states, key):
            actions = jax.random.uniform(key, (num_envs, world.action_size), minval=-1, maxval=1)
            return jax.vmap(world.step)(states, actions), None

        return jax.lax.scan(step, states, jax.random.split(key, length))[0]

    states = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), num_envs))
    return num_envs * length / min(_seconds(run, (states, jax.random.key(n)), once=n == 0) for n in range(repeats + 1))


def update_speed(env: str, depth: int, width: int, batch_size: int) -> dict[str, Any]:
    """Seconds from nothing to the end of the first update (tracing and compiling included), and updates a second."""
    import jax

    from crlviz import envs
    from crlviz.networks import Actor, Critic, NetworkConfig
    from training.crl import CRL, CRLConfig

    world = envs.make(env)
    network = NetworkConfig(depth, width)
    algorithm = CRL(
        CRLConfig(),
        Actor(network, world.observation_size, world.action_size),
        Critic(network, world.state_dim, world.action_size, world.goal_dim),
    )
    batch = [jax.random.normal(jax.random.key(n), (batch_size, size)) for n, size in enumerate(_sizes(world))]
    jax.block_until_ready(batch)
    start = time.perf_counter()
    learner = jax.jit(algorithm.init)(jax.random.key(0))
    update = jax.jit(algorithm.update, donate_argnums=0)
    learner, _ = jax.block_until_ready(update(learner, jax.random.key(1), *batch))
    first = time.perf_counter() - start
    start, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < 2 or count < 3:
        learner, _ = jax.block_until_ready(update(learner, jax.random.key(count), *batch))
        count += 1
    return {"depth": depth, "first_seconds": first, "updates_per_second": count / seconds}


def _sizes(world: Any) -> Sequence[int]:
    return world.state_dim, world.action_size, world.goal_dim


def _seconds(function, arguments, once: bool) -> float:
    import jax

    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return float("inf") if once else time.perf_counter() - start
