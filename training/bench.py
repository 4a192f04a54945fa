"""``crlviz bench``: what this machine does, measured now."""

import time
from collections.abc import Sequence
from typing import Any

import click


@click.command()
@click.option("--depth", "depths", default="4,64,256,1024", show_default=True, help="Depths, with commas between.")
@click.option("--width", default=64, show_default=True, help="Units of each layer.")
@click.option("--batch-size", default=64, show_default=True, help="Rows of an update.")
@click.option("--env", default="point_big_maze", show_default=True, help="Environment to step.")
@click.option("--num-envs", default=256, show_default=True, help="Environments stepped in parallel.")
def command(depths: str, width: int, batch_size: int, env: str, num_envs: int) -> None:
    """Measure environment steps a second, seconds to the first update and updates a second by depth.

    \b
    Example: crlviz bench --depth 4,64
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
    click.echo(f"{env}, {num_envs} in parallel, random actions: {env_steps_per_second(env, num_envs):,.0f} steps/s")
    click.echo(
        f"\nwidth {width}, batch {batch_size}, {env}\n{'depth':>6}{'first update':>15}{'ratio':>7}{'updates/s':>11}"
    )
    first = None
    for row in (update_speed(env, depth, width, batch_size) for depth in numbers):
        first = first or row["first_seconds"]
        ratio = row["first_seconds"] / first
        click.echo(f"{row['depth']:6}{row['first_seconds']:13.1f} s{ratio:7.2f}{row['updates_per_second']:11.1f}")


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
