"""``crlviz bench``: what this machine does, measured now, beside a plain twin and beside what it could do."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

_COLORS = {"crlviz": "#a8326e", "plain twin": "#8a94a0", "matrix products alone": "#d5d8dc"}
_LISTS = ("depths", "widths", "batch_sizes")
_TWIN_DEPTH = 64  # a program unrolled over 256 layers takes minutes to compile


@click.command()
@click.option("--depth", "depths", default="4,16,64", show_default=True, help="Depths, with commas between.")
@click.option("--width", "widths", default="256", show_default=True, help="Units of each layer, with commas between.")
@click.option("--batch-size", "batch_sizes", default="512", show_default=True, help="Rows, with commas between.")
@click.option("--env", default="point_big_maze", show_default=True, help="Environment to step, and whose sizes count.")
@click.option("--num-envs", type=click.IntRange(1), default=512, show_default=True, help="Environments in parallel.")
@click.option(
    "--window",
    type=click.IntRange(2),  # a step and one after it, for a goal
    default=1000,
    show_default=True,
    help="Steps of each environment that are sampled from.",
)
@click.option("--updates", type=click.IntRange(1), default=800, show_default=True, help="Batches that are sampled.")
@click.option(
    "--twin-depth",
    type=click.IntRange(0),
    default=_TWIN_DEPTH,
    show_default=True,
    help="Deepest plain twin; compiling takes long. 0: none.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Seeds updated at once, beside one; 1: none.",
)
@click.option("--seconds", default=5.0, show_default=True, help="To measure each rate for, compiling apart.")
@click.option("--remat", is_flag=True, help="Ours computes the inside of blocks anew on the way back: less memory.")
@click.option("--step", is_flag=True, help="Measure the parts of a whole training step too, at each size.")
@click.option("--out", type=click.Path(path_type=Path), help="Draw the updates (.html, .png, .svg, .pdf).")
@click.option("--json", "data", type=click.Path(path_type=Path), help="Keep the numbers.")
@click.option("--compile", "ids", metavar="ID,...", help="Measure these environments instead: seconds to compile them.")
def command(ids: str | None, out: Path | None, data: Path | None, **options: Any) -> None:
    """Measure updates, environment steps and sampling by depth, width and batch size; or what it takes to compile
    environments.

    Updates and sampling are measured in turn with a plain twin, which is written as the field writes them (one module a
    layer, unrolled; a matrix of every step against every other for the hindsight goals), and with the machine's
    ceiling: its rate of matrix products of these shapes, and of copies. Updates of several seeds at once are counted in
    total, beside those of one seed: what train --seeds can gain here. Memory and the seconds to the first update are
    those of a process of its own; they count compiling, and the update itself, which stands beside them.

    \b
    Example: crlviz bench --depth 4,64 --out speed.html --json speed.json
    Example: crlviz bench --env humanoid --depth 64 --step
    Example: crlviz bench --compile ant,humanoid,arm_reach
    """
    from crlviz import charts, envs
    from crlviz.checkpoints import atomic_files

    if ids is not None:
        _check_alone()
    charts.check_endings([out] if out else [])
    if data:
        charts.check_endings([data])
    if ids is not None:
        found = _bench_compiling(ids.split(","))
    else:
        lists = {name: _numbers(f"--{name.replace('_', '-')[:-1]}", options.pop(name)) for name in _LISTS}
        envs.check(options["env"])
        from crlviz.networks.residual import NetworkConfig

        for depth in lists["depths"]:
            NetworkConfig(depth)  # what makes no network is told before anything is measured
        found = measure(**(lists | options))
    if data:
        atomic_files.write(data, (json.dumps(found, indent=1) + "\n").encode())
    if out:
        charts.save(plot(found), out)


def measure(
    depths: Sequence[int],
    widths: Sequence[int],
    batch_sizes: Sequence[int],
    env: str,
    num_envs: int,
    window: int,
    updates: int,
    twin_depth: int,
    seeds: int,
    seconds: float,
    remat: bool,
    step: bool,
) -> dict[str, Any]:
    """Measure all that ``crlviz bench`` does, printing each row of its table as it comes.

    Returns:
      ``machine``; ``env_steps_per_second``; ``copy_bytes_per_second``; ``sampling`` (rows a second and bytes beyond the
      ring, of ours and the twin; the twin's are None where its windows fill no batch); ``updates``, a row a size
      (seconds to the first update and of the next, bytes, updates a second, of ours, the twin, several seeds in total
      and the ceiling); with ``step``, ``steps``, a row a size (seconds of each part).

    Raises:
      UsageError: with ``step``, a size that no training step can have; before anything is measured.
    """
    from crlviz import envs
    from training import config as configs
    from training.bench import roofline, timing

    shapes = [(depth, width, rows) for rows in batch_sizes for width in widths for depth in depths]
    wholes = []
    for depth, width, rows in shapes if step else []:
        changes = {"depth": depth, "width": width, "batch_size": rows}
        changes |= {"num_envs": num_envs, "window": window, "updates": updates}
        whole = configs.from_options(env, "paper", changes)
        wholes.append(configs.replace(whole, {"actor.remat": remat, "critic.remat": remat}))
        configs.schedule(wholes[-1])
    machine = _machine()
    world = envs.make(env)
    sizes = world.state_dim, world.action_size, world.goal_dim
    found: dict[str, Any] = {
        "machine": machine,
        "env": env,
        "num_envs": num_envs,
        "seeds": seeds,
        "remat": remat,
        "env_steps_per_second": timing.env_steps_per_second(env, num_envs, seconds),
        "copy_bytes_per_second": roofline.copy_rate(),
    }
    click.echo(f"{env}, {num_envs} in parallel, random actions: {found['env_steps_per_second']:,.0f} steps/s")
    case = timing.Sampling(sizes, num_envs, window, updates, batch_sizes[0])
    rates = timing.sampling_rates(case, seconds)
    peaks = {kind: timing.in_its_own_process(timing.sampling_peak, kind, case) for kind in rates}
    possible = found["copy_bytes_per_second"] / 2 / case.row_bytes
    found["sampling"] = {"window": window, "rows": updates * batch_sizes[0], "ceiling_rows_per_second": possible}
    for kind in ("ours", "twin"):
        found["sampling"] |= {f"{kind}_rows_per_second": rates.get(kind), f"{kind}_peak_bytes": peaks.get(kind)}
    beside = ""
    if "twin" in rates:
        windows = min(num_envs, timing.REFERENCE_WINDOWS)
        beside = f"{rates['ours'] / rates['twin']:.1f} times the twin ({windows} windows: {_size(peaks['twin'])}), "
    click.echo(
        f"sampling and relabelling, {num_envs} windows of {window:,}: {rates['ours']:,.0f} rows/s "
        f"({updates * batch_sizes[0] / rates['ours']:.2f} s a training step, {_size(peaks['ours'])} beyond the ring), "
        f"{beside}{rates['ours'] / possible:.0%} of copying"
    )
    several = f"{seeds} seeds" if seeds > 1 else ""
    click.echo(
        f"\n{'':18}{'first update':>14}{'update itself':>14}{'memory':>14}{'updates/s':>18}{'times':>7}{'of':>10}"
        f"{several:>10}\n"
        f"{'':18}{'(s)':>14}{'(s)':>14}{'(GiB)':>14}{'':18}{'twin':>7}{'products':>10}{several and 'times 1':>10}\n"
        f"{'depth':>6}{'width':>6}{'batch':>6}" + 3 * f"{'ours':>7}{'twin':>7}" + f"{'ours':>9}{'twin':>9}"
    )
    found["updates"], found["steps"] = [], []
    for depth, width, rows in shapes:
        row = _measure_updates(timing.Case(sizes, depth, width, rows, remat), depth <= twin_depth, seeds, seconds)
        found["updates"].append(row)
        click.echo(_line(row))
    for whole in wholes:
        found["steps"].append(_measure_step(whole, seconds))
    return found


def _measure_updates(case: Any, twin: bool, seeds: int, seconds: float) -> dict[str, Any]:
    from training.bench import timing

    row: dict[str, Any] = {"depth": case.depth, "width": case.width, "batch_size": case.batch_size}
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("ours", "twin") if twin else ("ours",):
            first = timing.in_its_own_process(timing.first_update, kind, case, cache)
            row |= {f"{kind}_{name}": value for name, value in first.items()}
        rates = timing.in_its_own_process(timing.update_rates, case, twin, seeds, seconds, cache)
    row["flops"] = rates.pop("flops")
    row |= {f"{kind}_updates_per_second": rate for kind, rate in rates.items()}
    row["of_ceiling"] = rates["ours"] / rates["ceiling"]
    row["times_twin"] = rates["ours"] / rates["twin"] if twin else None
    row["times_one_seed"] = rates["seeds"] / rates["ours"] if seeds > 1 else None
    return row


def _measure_step(config: Any, seconds: float) -> dict[str, Any]:
    from training.bench import timing

    parts = timing.in_its_own_process(timing.step_parts, config, seconds)
    total = sum(parts.values())
    click.echo(
        f"\none training step at depth {config.critic.depth}, width {config.critic.width}: {config.unroll} steps of "
        f"{config.num_envs} environments, {config.updates} updates of {config.batch_size}: {total:.1f} s"
    )
    for name, value in parts.items():
        click.echo(f"{name:>24}{value:10.2f} s{value / total:8.1%}")
    named = {"depth": config.critic.depth, "width": config.critic.width, "batch_size": config.batch_size}
    return {**named, "seconds": parts}


def _line(row: Mapping[str, Any]) -> str:
    def number(name: str, width: int, scale: float = 1.0, digits: int = 1) -> str:
        value = row.get(name)
        return f"{'-':>{width}}" if value is None else f"{value / scale:{width}.{digits}f}"

    return (
        f"{row['depth']:6}{row['width']:6}{row['batch_size']:6}"
        + "".join(number(f"{kind}_first_seconds", 7) for kind in ("ours", "twin"))
        + "".join(number(f"{kind}_update_seconds", 7, digits=2) for kind in ("ours", "twin"))
        + "".join(number(f"{kind}_peak_bytes", 7, 2**30, 2) for kind in ("ours", "twin"))
        + "".join(number(f"{kind}_updates_per_second", 9, digits=2) for kind in ("ours", "twin"))
        + number("times_twin", 7)
        + f"{row['of_ceiling']:10.0%}"
        + number("times_one_seed", 10, digits=2)
    )


def plot(found: Mapping[str, Any]) -> Any:
    """Updates a second and seconds to the first update over depth, of ours, the twin and the matrix products alone.

    Args:
      found: what ``measure`` returned, or its JSON.
    """
    import altair as alt
    import pandas as pd

    names = dict(zip(("ours", "twin", "ceiling"), _COLORS, strict=True))
    data = pd.DataFrame(
        {
            "what": name,
            "depth": row["depth"],
            "network": f"width {row['width']}, batch {row['batch_size']}",
            "updates": row.get(f"{kind}_updates_per_second"),
            "first": row.get(f"{kind}_first_seconds"),
        }
        for row in found["updates"]
        for kind, name in names.items()
    )
    color = alt.Color(
        "what:N", title=None, scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())), sort=None
    )
    depths = sorted(set(data["depth"]))
    place = alt.X("depth:Q", title="depth", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=depths))

    def panel(column: str, title: str) -> alt.FacetChart:
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(type="log"))
        base = alt.Chart(data.dropna(subset=[column])).encode(x=place, y=y, color=color)
        tip = ["what:N", "network:N", "depth:Q", alt.Tooltip(f"{column}:Q", format=".3~g")]
        drawn = base.mark_line() + base.mark_point(filled=True, size=50, opacity=1).encode(tooltip=tip)
        header = alt.Header(title=None, labelFontSize=12)
        return drawn.properties(width=260, height=220).facet(column=alt.Column("network:N", header=header))

    both = alt.vconcat(panel("updates", "updates a second"), panel("first", "seconds to the first update"))
    machine = found["machine"]
    return both.properties(
        title=alt.Title(
            "What an update costs", subtitle=f"{machine['device']}, {machine['cores']}, sizes of {found['env']}"
        )
    )


def _check_alone() -> None:
    """Refuse what says nothing about compiling environments, rather than leave it out unsaid."""
    from crlviz.errors import UsageError

    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("ids", "data"):
            raise UsageError(f"--compile measures compiling alone; {option.opts[0]} cannot be given beside it")


def _bench_compiling(ids: Sequence[str]) -> dict[str, Any]:
    import jax

    from crlviz import envs
    from training.bench import timing

    for id in ids:
        envs.check(id)  # a wrong name is told before the first minute
    # A cached program would make compiling look cheaper than it is.
    jax.config.update("jax_enable_compilation_cache", False)
    found: dict[str, Any] = {"machine": _machine(), "num_envs": timing.COMPILED, "compiled": []}
    click.echo(f"{timing.COMPILED} in parallel; seconds to trace and compile, and those of all cores together")
    click.echo(f"{'id':32}{'reset':>7}{'step':>7}{'cores':>7}{'steps/s':>9}")
    for row in map(timing.compile_speed, ids):
        found["compiled"].append(row)
        click.echo(
            f"{row['id']:32}{row['reset_seconds']:7.1f}{row['step_seconds']:7.1f}{row['cpu_seconds']:7.1f}"
            f"{row['steps_per_second']:9,.0f}"
        )
    return found


def _numbers(option: str, text: str) -> list[int]:
    from crlviz.errors import UsageError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes whole numbers with commas between, not {text!r}") from None
    if min(numbers) < 1:
        raise UsageError(f"{option} takes numbers of at least 1, not {text!r}")
    return numbers


def _machine() -> dict[str, str]:
    """What is measured on, printed before anything is."""
    import jax

    from crlviz.processes import process_pool

    count = len(process_pool.cores())
    device, cores = jax.devices()[0].device_kind, f"{count} core{'s' * (count > 1)}"
    click.echo(f"{device}, {cores}, jax {jax.__version__}")
    return {"device": device, "cores": cores, "jax": jax.__version__}


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"
