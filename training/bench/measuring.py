"""The measurements of ``crlviz bench``, printed as they are made, and their chart."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import click

_COLORS = {
    "crlviz": "#a8326e",
    "crlviz, fused path": "#e08a3c",
    "reference": "#8a94a0",
    "matrix products only": "#d5d8dc",
}
_KINDS = {"ours": "ours", "fused": "fused", "reference": "ref."}  # and their headings


def measure(
    depths: Sequence[int],
    widths: Sequence[int],
    batch_sizes: Sequence[int],
    algorithm: str,
    env: str,
    num_envs: int,
    window: int,
    updates: int,
    reference_depth: int,
    seeds: int,
    seconds: float,
    remat: bool,
    precision: str,
    step: bool,
) -> dict[str, Any]:
    """Run the measurements of ``crlviz bench``, and print each row of the table as it is measured.

    The arguments are the options of the command.

    Returns:
      A dict. ``machine``; ``env_steps_per_second``; ``copy_bytes_per_second``. ``sampling``: rows per second, and bytes
      without the buffer, of crlviz (``ours``) and the reference (None if its windows do not fill a batch). ``updates``:
      for each size, seconds of the first and the second update, peak bytes, and updates per second of crlviz, the
      reference, several seeds in total, and the roofline. ``steps``, with ``step``: for each size the seconds of each
      part.

    Raises:
      UsageError: with ``step``, a size that a training step cannot have. Raised before any measurement.
    """
    from crlviz import envs
    from training.bench import roofline, timing

    shapes = [(depth, width, rows) for rows in batch_sizes for width in widths for depth in depths]
    changes = {
        "algorithm": algorithm,
        "num_envs": num_envs,
        "window": window,
        "updates": updates,
        "precision": precision,
    }
    step_configs = [_step_config(env, shape, changes, remat) for shape in (shapes if step else [])]
    results: dict[str, Any] = {"machine": machine()}
    environment = envs.make(env)
    sizes = timing.sizes_of(environment)
    results |= {
        "algorithm": algorithm,
        "env": env,
        "num_envs": num_envs,
        "seeds": seeds,
        "remat": remat,
        "precision": precision,
    }
    results["env_steps_per_second"] = timing.env_steps_per_second(env, num_envs, seconds)
    results["copy_bytes_per_second"] = roofline.copy_rate()
    click.echo(f"{env}, {num_envs} in parallel, random actions: {results['env_steps_per_second']:,.0f} steps/s")
    batches = timing.Case(sizes, depths[0], widths[0], batch_sizes[0], algorithm=algorithm).built.rows
    sampling = timing.Sampling(sizes, num_envs, window, updates, batch_sizes[0], batches)
    results["sampling"] = _measure_sampling(sampling, results["copy_bytes_per_second"], seconds)
    cases = [timing.Case(sizes, depth, width, rows, remat, precision, algorithm) for depth, width, rows in shapes]
    kinds = [case.kinds(reference_depth) for case in cases]
    columns = [kind for kind in _KINDS if kind != "fused" or any(kind in some for some in kinds)]
    click.echo(_header(columns, seeds))
    results["updates"] = []
    for case, some in zip(cases, kinds, strict=True):
        row = measure_updates(case, some, seeds, seconds)
        results["updates"].append(row)
        click.echo(table_line(row, columns))
    results["steps"] = [_measure_step(config, seconds) for config in step_configs]
    return results


def _step_config(env: str, shape: tuple[int, int, int], changes: dict[str, Any], remat: bool) -> Any:
    """The config of a training step with this depth, width and batch size."""
    from training import config as configs

    of_shape: dict[str, Any] = dict(zip(("depth", "width", "batch_size"), shape, strict=True))
    config = configs.from_options(env, "paper", of_shape | changes)
    config = configs.replace(config, {"actor.remat": remat, "critic.remat": remat})
    config.check()
    return config


def _measure_sampling(case: Any, copy_rate: float, seconds: float) -> dict[str, Any]:
    """Measure and print sampling and relabeling, of crlviz and of the reference."""
    from training.bench import timing

    rates = timing.sampling_rates(case, seconds)
    peaks = {kind: timing.in_its_own_process(timing.sampling_peak, kind, case) for kind in rates}
    rows, roofline_rate = case.batches * case.batch_size, copy_rate / 2 / case.row_bytes
    results = {"window": case.window, "rows": rows, "roofline_rows_per_second": roofline_rate}
    for kind in _KINDS:
        results |= {f"{kind}_rows_per_second": rates.get(kind), f"{kind}_peak_bytes": peaks.get(kind)}
    comparison = ""
    if "reference" in rates:
        windows, speedup = min(case.num_envs, timing.REFERENCE_WINDOWS), rates["ours"] / rates["reference"]
        comparison = f"{speedup:.1f} times the reference ({windows} windows: {_size(peaks['reference'])}), "
    click.echo(
        f"sampling and relabeling, {case.num_envs} windows of {case.window:,}: {rates['ours']:,.0f} rows/s "
        f"({rows / rates['ours']:.2f} s per training step, "
        f"{_size(peaks['ours'])} without the buffer), {comparison}{rates['ours'] / roofline_rate:.0%} of the copy rate"
    )
    return results


def measure_updates(case: Any, kinds: Sequence[str], seeds: int, seconds: float) -> dict[str, Any]:
    """Measure one row of the table; ``kinds`` as in ``timing.Case``."""
    from training.bench import timing

    row: dict[str, Any] = {"depth": case.depth, "width": case.width, "batch_size": case.batch_size}
    with tempfile.TemporaryDirectory() as cache:
        for kind in kinds:
            first = timing.in_its_own_process(timing.first_update, kind, case, cache)
            row |= {f"{kind}_{name}": value for name, value in first.items()}
        rates = timing.in_its_own_process(timing.update_rates, case, kinds, seeds, seconds, cache)
    row["flops"] = rates.pop("flops")
    row |= {f"{kind}_updates_per_second": rate for kind, rate in rates.items()}
    ours = max(rates[kind] for kind in kinds if kind != "reference")  # a run takes the faster path
    row["times_reference"] = ours / rates["reference"] if "reference" in kinds else None
    row["of_roofline"] = ours / rates["roofline"]
    row["times_one_seed"] = rates["seeds"] / rates["ours"] if seeds > 1 else None
    return row


def _measure_step(config: Any, seconds: float) -> dict[str, Any]:
    """Measure the parts of one training step and print them."""
    from training.bench import timing
    from training.bench.step_timing import step_parts

    parts = timing.in_its_own_process(step_parts, config, seconds)
    total = sum(parts.values())
    click.echo(
        f"\none training step at depth {config.critic.depth}, width {config.critic.width}: {config.unroll} steps of "
        f"{config.num_envs} environments, {config.updates} updates of {config.batch_size}: {total:.1f} s"
    )
    for name, value in parts.items():
        click.echo(f"{name:>24}{value:10.2f} s{value / total:8.1%}")
    size = {"depth": config.critic.depth, "width": config.critic.width, "batch_size": config.batch_size}
    return {**size, "seconds": parts}


def _header(columns: Sequence[str], seeds: int) -> str:
    """The first lines of the table, with a column for each of some ``_KINDS`` in each group."""
    several, count = f"{seeds} seeds" if seeds > 1 else "", len(columns)
    groups = [f"{name:>{7 * count}}" for name in ("first update", "one update", "memory")]
    units = [f"{name:>{7 * count}}" for name in ("(s)", "(s)", "(GiB)")]
    names = [_KINDS[kind] for kind in columns]
    return "\n".join(
        line.rstrip()
        for line in (
            f"\n{'':18}{''.join(groups)}{'updates/s':>{9 * count}}{'times':>7}{'of':>10}{several:>10}",
            f"{'':18}{''.join(units)}{'':{9 * count}}{'ref.':>7}{'products':>10}{several and 'times 1':>10}",
            f"{'depth':>6}{'width':>6}{'batch':>6}"
            + 3 * "".join(f"{name:>7}" for name in names)
            + "".join(f"{name:>9}" for name in names),
        )
    )


def table_line(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Format a row of the table, with a column for each of some ``_KINDS`` in each group."""

    def number(name: str, width: int, scale: float = 1.0, digits: int = 1) -> str:
        value = row.get(name)
        return f"{'-':>{width}}" if value is None else f"{value / scale:{width}.{digits}f}"

    return (
        f"{row['depth']:6}{row['width']:6}{row['batch_size']:6}"
        + "".join(number(f"{kind}_first_seconds", 7) for kind in columns)
        + "".join(number(f"{kind}_update_seconds", 7, digits=2) for kind in columns)
        + "".join(number(f"{kind}_peak_bytes", 7, 2**30, 2) for kind in columns)
        + "".join(number(f"{kind}_updates_per_second", 9, digits=2) for kind in columns)
        + number("times_reference", 7)
        + f"{row['of_roofline']:10.0%}"
        + number("times_one_seed", 10, digits=2)
    )


_LOG_TICKS = [base * 10.0**power for power in range(-3, 7) for base in (1, 2, 3, 4, 5, 7)]


def plot(results: Mapping[str, Any]) -> Any:
    """Chart of updates per second and seconds to the first update over depth: crlviz, reference, products only.

    Args:
      results: from ``measure``, or its JSON.
    """
    import altair as alt
    import pandas as pd

    from crlviz import charts

    names = dict(zip((*_KINDS, "roofline"), _COLORS, strict=True))
    measured = {kind for row in results["updates"] for kind in names if row.get(f"{kind}_updates_per_second")}
    names = {kind: name for kind, name in names.items() if kind in measured}
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
    shown = list(names.values())
    colors = [*(_COLORS[name] for name in shown[:-1]), charts.ink(0.25)]  # the last is the roofline
    color = alt.Color("implementation:N", scale=alt.Scale(domain=shown, range=colors), legend=charts.legend())
    depths = sorted(set(data["depth"]))
    x = alt.X("depth:Q", title="depth", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=depths, grid=False))

    def panel(column: str, title: str, network: str) -> alt.LayerChart | alt.FacetChart:
        scale = alt.Scale(type="log", nice=False, padding=10)
        y = alt.Y(f"{column}:Q", title=title, scale=scale, axis=charts.number_axis(values=_LOG_TICKS))
        base = alt.Chart(data[data.network == network].dropna(subset=[column])).encode(x=x, y=y, color=color)
        tooltip = ["implementation:N", "network:N", "depth:Q", alt.Tooltip(f"{column}:Q", format=".3~g")]
        points = base.mark_point(filled=True, size=50, opacity=1).encode(tooltip=tooltip)
        return charts.layers(base.mark_line(), points).properties(width=260, height=220, title=network)

    networks = list(dict.fromkeys(data.network))
    rows = [
        charts.row(*(panel(column, title, network) for network in networks))
        for column, title in (("updates", "updates per second"), ("first", "seconds to the first update"))
    ]
    machine = results["machine"]
    note = f"{machine['device']}, {machine['cores']}, sizes of {results['env']}"
    drawn = charts.self_contained(lambda: charts.claimed(alt.vconcat(*rows), _claim(results["updates"]), note))
    return drawn()


def _claim(rows: Sequence[Mapping[str, Any]]) -> str:
    """The result in a sentence: the rate against the reference, at the sizes that both were measured at."""

    from training.bench.throughput import updates_per_second as rate

    ratios = [
        rate(row) / row["reference_updates_per_second"] for row in rows if row.get("reference_updates_per_second")
    ]
    if not ratios:
        deepest = max(rows, key=lambda row: row["depth"])
        return f"{rate(deepest):.3g} updates a second at depth {deepest['depth']}"
    low, high = f"{min(ratios):.2g}", f"{max(ratios):.2g}"
    return f"{low if low == high else f'{low} to {high}'} times the reference's updates a second"


def measure_compiling(ids: Sequence[str]) -> dict[str, Any]:
    """Measure and print the compile time of each environment."""
    import jax

    from crlviz import envs
    from training.bench import timing

    for id in ids:
        envs.check(id)  # raise for an unknown name before measuring
    # With the compilation cache the times would be too short.
    jax.config.update("jax_enable_compilation_cache", False)
    results: dict[str, Any] = {"machine": machine(), "num_envs": timing.COMPILED, "compiled": []}
    click.echo(f"{timing.COMPILED} in parallel; seconds to trace and compile, and CPU seconds over all cores")
    click.echo(f"{'id':32}{'reset':>7}{'step':>7}{'cores':>7}{'steps/s':>9}")
    for row in map(timing.compile_speed, ids):
        results["compiled"].append(row)
        click.echo(
            f"{row['id']:32}{row['reset_seconds']:7.1f}{row['step_seconds']:7.1f}{row['cpu_seconds']:7.1f}"
            f"{row['steps_per_second']:9,.0f}"
        )
    return results


def machine() -> dict[str, str]:
    """Describe this machine, and print it."""
    import jax

    from crlviz.processes import process_pool

    count = len(process_pool.cores())
    device, cores = jax.devices()[0].device_kind, f"{count} core{'s' * (count > 1)}"
    click.echo(f"{device}, {cores}, jax {jax.__version__}")
    return {"device": device, "cores": cores, "jax": jax.__version__}


def _size(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
