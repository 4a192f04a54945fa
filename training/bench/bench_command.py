"""``crlviz bench``: throughput of this machine, compared with a reference implementation and the roofline."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from crlviz.options import Command

_COLORS = {"crlviz": "#a8326e", "reference": "#8a94a0", "matrix products only": "#d5d8dc"}
_LISTS = ("depths", "widths", "batch_sizes")
_REFERENCE_DEPTH = 64  # an unrolled program with 256 layers takes minutes to compile


@click.command(cls=Command, old_options={"--seeds": "--parallel-seeds", "--twin-depth": "--reference-depth"})
@click.option("--depth", "depths", default="4,16,64", show_default=True, help="Depths, separated by commas.")
@click.option("--width", "widths", default="256", show_default=True, help="Units of each layer, separated by commas.")
@click.option(
    "--batch-size", "batch_sizes", default="512", show_default=True, help="Rows in a batch, separated by commas."
)
@click.option("--env", default="point_big_maze", show_default=True, help="Environment; also sets the network inputs.")
@click.option("--num-envs", type=click.IntRange(1), default=512, show_default=True, help="Parallel environments.")
@click.option(
    "--window",
    type=click.IntRange(2),  # a step, and a later one for the goal
    default=1000,
    show_default=True,
    help="Steps of each environment to sample from.",
)
@click.option("--updates", type=click.IntRange(1), default=800, show_default=True, help="Batches to sample.")
@click.option(
    "--reference-depth",
    type=click.IntRange(0),
    default=_REFERENCE_DEPTH,
    show_default=True,
    help="Maximum depth of the reference implementation, which compiles slowly. 0: none.",
)
@click.option(
    "--parallel-seeds",
    "seeds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Also measure this many seeds in parallel; 1: only one.",
)
@click.option("--seconds", default=5.0, show_default=True, help="Duration of each measurement, without compiling.")
@click.option("--remat", is_flag=True, help="Rematerialize our residual blocks in the backward pass: less memory.")
@click.option("--step", is_flag=True, help="Also measure the parts of a training step, at each size.")
@click.option("--out", type=click.Path(path_type=Path), help="Chart of the updates (.html, .png, .svg, .pdf).")
@click.option("--json", "data", type=click.Path(path_type=Path), help="Save the results.")
@click.option("--compile", "ids", metavar="ID,...", help="Only measure compile times of these environments.")
def command(ids: str | None, out: Path | None, data: Path | None, **options: Any) -> None:
    """Measure updates, environment steps and sampling for each depth, width and batch size, or compile times.

    Updates and sampling are compared with a reference implementation, written as in the paper's code: one module per
    layer, unrolled, and hindsight goals from a [steps, steps] matrix. They are also compared with the roofline: the
    machine's rate of matrix products of these shapes, and of memory copies. For several seeds in parallel the updates
    of all are added, which shows what train --seed 0-4 can gain. Memory and the time to the first update are measured
    in a new process and include compiling; the time of one update is listed next to them.

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
        results = _bench_compiling(ids.split(","))
    else:
        lists = {name: _numbers(f"--{name.replace('_', '-')[:-1]}", options.pop(name)) for name in _LISTS}
        envs.check(options["env"])
        from crlviz.networks.residual import NetworkConfig

        for depth in lists["depths"]:
            NetworkConfig(depth)  # raise for an impossible depth before measuring
        results = measure(**(lists | options))
    if data:
        atomic_files.write(data, (json.dumps(results, indent=1) + "\n").encode())
    if out:
        charts.save(plot(results), out)


def measure(
    depths: Sequence[int],
    widths: Sequence[int],
    batch_sizes: Sequence[int],
    env: str,
    num_envs: int,
    window: int,
    updates: int,
    reference_depth: int,
    seeds: int,
    seconds: float,
    remat: bool,
    step: bool,
) -> dict[str, Any]:
    """Run the measurements of ``crlviz bench``, and print each row of the table as it is measured.

    The arguments are the options of the command. In the names of the results, ``twin`` is the reference implementation
    and ``ceiling`` the roofline.

    Returns:
      ``machine``; ``env_steps_per_second``; ``copy_bytes_per_second``; ``sampling``: rows per second, and bytes without
      the buffer, of ours and the reference (None if its windows do not fill a batch); ``updates``: for each size,
      seconds of the first and the second update, peak bytes, and updates per second of ours, the reference, several
      seeds in total, and the roofline; ``steps``: with ``step``, for each size the seconds of each part.

    Raises:
      UsageError: with ``step``, a size that a training step cannot have. Raised before any measurement.
    """
    from crlviz import envs
    from training import config as configs
    from training.bench import roofline, timing

    shapes = [(depth, width, rows) for rows in batch_sizes for width in widths for depth in depths]
    step_configs = []
    for depth, width, rows in shapes if step else []:
        changes = {"depth": depth, "width": width, "batch_size": rows}
        changes |= {"num_envs": num_envs, "window": window, "updates": updates}
        config = configs.from_options(env, "paper", changes)
        step_configs.append(configs.replace(config, {"actor.remat": remat, "critic.remat": remat}))
        step_configs[-1].check()
    machine = _machine()
    environment = envs.make(env)
    sizes = environment.state_dim, environment.action_size, environment.goal_dim
    results: dict[str, Any] = {
        "machine": machine,
        "env": env,
        "num_envs": num_envs,
        "seeds": seeds,
        "remat": remat,
        "env_steps_per_second": timing.env_steps_per_second(env, num_envs, seconds),
        "copy_bytes_per_second": roofline.copy_rate(),
    }
    click.echo(f"{env}, {num_envs} in parallel, random actions: {results['env_steps_per_second']:,.0f} steps/s")
    case = timing.Sampling(sizes, num_envs, window, updates, batch_sizes[0])
    rates = timing.sampling_rates(case, seconds)
    peaks = {kind: timing.in_its_own_process(timing.sampling_peak, kind, case) for kind in rates}
    roofline_rate = results["copy_bytes_per_second"] / 2 / case.row_bytes
    results["sampling"] = {
        "window": window,
        "rows": updates * batch_sizes[0],
        "ceiling_rows_per_second": roofline_rate,
    }
    for kind in ("ours", "twin"):
        results["sampling"] |= {f"{kind}_rows_per_second": rates.get(kind), f"{kind}_peak_bytes": peaks.get(kind)}
    comparison = ""
    if "twin" in rates:
        windows, speedup = min(num_envs, timing.REFERENCE_WINDOWS), rates["ours"] / rates["twin"]
        comparison = f"{speedup:.1f} times the reference ({windows} windows: {_size(peaks['twin'])}), "
    click.echo(
        f"sampling and relabeling, {num_envs} windows of {window:,}: {rates['ours']:,.0f} rows/s "
        f"({updates * batch_sizes[0] / rates['ours']:.2f} s per training step, "
        f"{_size(peaks['ours'])} without the buffer), {comparison}{rates['ours'] / roofline_rate:.0%} of the copy rate"
    )
    several = f"{seeds} seeds" if seeds > 1 else ""
    click.echo(
        f"\n{'':18}{'first update':>14}{'one update':>14}{'memory':>14}{'updates/s':>18}{'times':>7}{'of':>10}"
        f"{several:>10}\n"
        f"{'':18}{'(s)':>14}{'(s)':>14}{'(GiB)':>14}{'':18}{'ref.':>7}{'products':>10}{several and 'times 1':>10}\n"
        f"{'depth':>6}{'width':>6}{'batch':>6}" + 3 * f"{'ours':>7}{'ref.':>7}" + f"{'ours':>9}{'ref.':>9}"
    )
    results["updates"], results["steps"] = [], []
    for depth, width, rows in shapes:
        row = _measure_updates(timing.Case(sizes, depth, width, rows, remat), depth <= reference_depth, seeds, seconds)
        results["updates"].append(row)
        click.echo(_line(row))
    for config in step_configs:
        results["steps"].append(_measure_step(config, seconds))
    return results


def _measure_updates(case: Any, with_reference: bool, seeds: int, seconds: float) -> dict[str, Any]:
    """Measure one row of the table."""
    from training.bench import timing

    row: dict[str, Any] = {"depth": case.depth, "width": case.width, "batch_size": case.batch_size}
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("ours", "twin") if with_reference else ("ours",):
            first = timing.in_its_own_process(timing.first_update, kind, case, cache)
            row |= {f"{kind}_{name}": value for name, value in first.items()}
        rates = timing.in_its_own_process(timing.update_rates, case, with_reference, seeds, seconds, cache)
    row["flops"] = rates.pop("flops")
    row |= {f"{kind}_updates_per_second": rate for kind, rate in rates.items()}
    row["of_ceiling"] = rates["ours"] / rates["ceiling"]
    row["times_twin"] = rates["ours"] / rates["twin"] if with_reference else None
    row["times_one_seed"] = rates["seeds"] / rates["ours"] if seeds > 1 else None
    return row


def _measure_step(config: Any, seconds: float) -> dict[str, Any]:
    """Measure the parts of one training step and print them."""
    from training.bench import timing

    parts = timing.in_its_own_process(timing.step_parts, config, seconds)
    total = sum(parts.values())
    click.echo(
        f"\none training step at depth {config.critic.depth}, width {config.critic.width}: {config.unroll} steps of "
        f"{config.num_envs} environments, {config.updates} updates of {config.batch_size}: {total:.1f} s"
    )
    for name, value in parts.items():
        click.echo(f"{name:>24}{value:10.2f} s{value / total:8.1%}")
    size = {"depth": config.critic.depth, "width": config.critic.width, "batch_size": config.batch_size}
    return {**size, "seconds": parts}


def _line(row: Mapping[str, Any]) -> str:
    """Format a row of the table."""

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


def plot(results: Mapping[str, Any]) -> Any:
    """Chart of updates per second and seconds to the first update over depth: ours, reference and matrix products only.

    Args:
      results: from ``measure``, or its JSON.
    """
    import altair as alt
    import pandas as pd

    names = dict(zip(("ours", "twin", "ceiling"), _COLORS, strict=True))
    data = pd.DataFrame(
        {
            "implementation": name,
            "depth": row["depth"],
            "network": f"width {row['width']}, batch {row['batch_size']}",
            "updates": row.get(f"{kind}_updates_per_second"),
            "first": row.get(f"{kind}_first_seconds"),
        }
        for row in results["updates"]
        for kind, name in names.items()
    )
    color = alt.Color(
        "implementation:N", title=None, scale=alt.Scale(domain=list(_COLORS), range=list(_COLORS.values())), sort=None
    )
    depths = sorted(set(data["depth"]))
    x = alt.X("depth:Q", title="depth", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=depths))

    def panel(column: str, title: str) -> alt.FacetChart:
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(type="log"))
        base = alt.Chart(data.dropna(subset=[column])).encode(x=x, y=y, color=color)
        tooltip = ["implementation:N", "network:N", "depth:Q", alt.Tooltip(f"{column}:Q", format=".3~g")]
        lines = base.mark_line() + base.mark_point(filled=True, size=50, opacity=1).encode(tooltip=tooltip)
        header = alt.Header(title=None, labelFontSize=12)
        return lines.properties(width=260, height=220).facet(column=alt.Column("network:N", header=header))

    panels = alt.vconcat(panel("updates", "updates per second"), panel("first", "seconds to the first update"))
    machine = results["machine"]
    return panels.properties(
        title=alt.Title(
            "Cost of an update", subtitle=f"{machine['device']}, {machine['cores']}, sizes of {results['env']}"
        )
    )


def _check_alone() -> None:
    """Raise a UsageError for options that have no effect with ``--compile``, instead of ignoring them."""
    from crlviz.errors import UsageError

    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and name not in ("ids", "data"):
            raise UsageError(f"--compile only measures compile times; it does not go with {option.opts[0]}")


def _bench_compiling(ids: Sequence[str]) -> dict[str, Any]:
    """Measure and print the compile time of each environment."""
    import jax

    from crlviz import envs
    from training.bench import timing

    for id in ids:
        envs.check(id)  # raise for an unknown name before measuring
    # With the compilation cache the times would be too short.
    jax.config.update("jax_enable_compilation_cache", False)
    results: dict[str, Any] = {"machine": _machine(), "num_envs": timing.COMPILED, "compiled": []}
    click.echo(f"{timing.COMPILED} in parallel; seconds to trace and compile, and CPU seconds over all cores")
    click.echo(f"{'id':32}{'reset':>7}{'step':>7}{'cores':>7}{'steps/s':>9}")
    for row in map(timing.compile_speed, ids):
        results["compiled"].append(row)
        click.echo(
            f"{row['id']:32}{row['reset_seconds']:7.1f}{row['step_seconds']:7.1f}{row['cpu_seconds']:7.1f}"
            f"{row['steps_per_second']:9,.0f}"
        )
    return results


def _numbers(option: str, text: str) -> list[int]:
    """Parse a list of positive integers, separated by commas."""
    from crlviz.errors import UsageError

    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes whole numbers separated by commas, not {text!r}") from None
    if min(numbers) < 1:
        raise UsageError(f"{option} takes numbers of at least 1, not {text!r}")
    return numbers


def _machine() -> dict[str, str]:
    """Describe this machine, and print it."""
    import jax

    from crlviz.processes import process_pool

    count = len(process_pool.cores())
    device, cores = jax.devices()[0].device_kind, f"{count} core{'s' * (count > 1)}"
    click.echo(f"{device}, {cores}, jax {jax.__version__}")
    return {"device": device, "cores": cores, "jax": jax.__version__}


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
