"""``crlviz bench``: throughput of this machine, compared with a reference implementation and the roofline.

With ``--device`` it measures nothing: it compiles the updates for a GPU that is not here and counts what they launch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from crlviz.algorithms import registry
from crlviz.charts import print_options
from crlviz.options import Command

_LISTS = ("depths", "widths", "batch_sizes")
_REFERENCE_DEPTH = 64  # an unrolled program with 256 layers takes minutes to compile
# The options that can be given beside --compile, and those beside --device.
_WITH_COMPILE = {"ids", "data"}
_WITH_DEVICE = {*_LISTS, "algorithm", "device", "data", "env", "reference_depth", "remat", "precision"}


@click.command(cls=Command, old_options={"--seeds": "--parallel-seeds", "--twin-depth": "--reference-depth"})
@click.option("--depth", "depths", default="4,16,64", show_default=True, help="Depths, separated by commas.")
@click.option("--width", "widths", default="256", show_default=True, help="Units of each layer, separated by commas.")
@click.option(
    "--batch-size", "batch_sizes", default="512", show_default=True, help="Rows in a batch, separated by commas."
)
@click.option("--algorithm", default="crl", show_default=True, help=f"Learning algorithm: {', '.join(registry.NAMES)}.")
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
@click.option("--remat", is_flag=True, help="Rematerialize the residual blocks in the backward pass: less memory.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of matrix products; lower is faster on a GPU.",
)
@click.option("--step", is_flag=True, help="Also measure the parts of a training step, at each size.")
@click.option("--out", type=click.Path(path_type=Path), help="Chart of the updates (.html, .png, .svg, .pdf).")
@click.option("--json", "data", type=click.Path(path_type=Path), help="Save the results.")
@click.option("--compile", "ids", metavar="ID,...", help="Only measure compile times of these environments.")
@click.option(
    "--device",
    metavar="CARD|FILE",
    help="Measure nothing; count what an update launches on a GPU that this machine lacks: a100, h100, h200, l40s, or "
    "XLA's description of another.",
)
@print_options.printed
def command(ids: str | None, device: str | None, out: Path | None, data: Path | None, **options: Any) -> None:
    """Measure updates, environment steps and sampling for each depth, width and batch size, or compile times.

    Updates and sampling are compared with a reference implementation, if the algorithm has one. The reference of crl is
    written as in the paper's code: one module per layer, unrolled, and hindsight goals from a [steps, steps] matrix.
    They are also compared with the roofline: the machine's rate of matrix products of these shapes, and of memory
    copies. For several seeds in parallel the updates of all seeds are added, which shows what train --seed 0-4 can
    gain. Memory and the time to the first update are measured in a new process and include compiling; the time of one
    update is listed next to them.

    With --device the updates are compiled for a card that this machine lacks (needs jax's CUDA wheels: pip install
    'crlviz[cuda13]'). The table then shows an update's launches, its memory and a bound on its time.

    \b
    Example: crlviz bench --depth 4,64 --out speed.html --json speed.json
    Example: crlviz bench --env humanoid --depth 64 --step
    Example: crlviz bench --compile ant,humanoid,arm_reach
    Example: crlviz bench --device h100 --env humanoid --depth 4,64 --json h100.json
    """
    from crlviz import charts, envs
    from crlviz.checkpoints import atomic_files

    if ids is not None:
        _check_alone("--compile only measures compile times; it", _WITH_COMPILE)
    if device is not None:
        _check_alone("--device only counts what updates do on a card; it", _WITH_DEVICE)
    charts.check_endings([path for path in (out, data) if path])
    from training.bench import measuring

    if ids is not None:
        results = measuring.measure_compiling(ids.split(","))
    else:
        lists = {name: _numbers(f"--{name.replace('_', '-')[:-1]}", options.pop(name)) for name in _LISTS}
        envs.check(options["env"])
        registry.check(options["algorithm"])
        if device is not None:
            results = _count(device, lists, options)
        else:
            results = measuring.measure(**(_checked(lists) | options))
    if data:
        atomic_files.write(data, (json.dumps(results, indent=1) + "\n").encode())
    if out:
        charts.save(print_options.draw(lambda: measuring.plot(results)), out)


def _checked(lists: dict[str, list[int]]) -> dict[str, Any]:
    """The lists, after raising a UsageError for a depth that no network has."""
    from crlviz.networks.config import NetworkConfig

    for depth in lists["depths"]:
        NetworkConfig(depth)
    return dict(lists)


def _count(device: str, lists: dict[str, list[int]], options: Mapping[str, Any]) -> dict[str, Any]:
    """Compile the updates of all sizes for a card, print what each does there, and return it."""
    from training.bench import cards, device_model, device_programs

    card = cards.read(device)
    shapes = [
        {"depth": depth, "width": width, "batch_size": rows}
        for rows in lists["batch_sizes"]
        for width in lists["widths"]
        for depth in _checked(lists)["depths"]
    ]
    shared = {name: options[name] for name in ("algorithm", "remat", "precision")}
    cases = [shape | shared | {"reference": shape["depth"] <= options["reference_depth"]} for shape in shapes]
    click.echo(
        f"an update of {shared['algorithm']} on {card.name}, {shared['precision']}, sizes of {options['env']}; "
        "times by a model, not measured\n"
        f"{'':55}{'ms if nothing took time but':>33}\n"
        f"{'depth':>6}{'width':>6}{'batch':>6}  {'path':9}{'kernels':>9}{'temp. MB':>9}{'compiled s':>11}"
        f"{'launches':>11}{'bytes':>9}{'FLOPs':>9}"
    )
    rows = []
    for shape, found in zip(shapes, device_programs.updates(options["env"], cases, card), strict=True):
        row: dict[str, Any] = dict(shape)
        for kind, values in found.items():
            work = device_model.Work(*(values[name] for name in ("kernels", "bytes", "flops")))
            times = device_model.seconds(work, card, shared["precision"])
            counts = {f"{name}_per_update": values[name] for name in ("kernels", "bytes", "flops")}
            counts |= {name: values[name] for name in ("temporaries", "compile_seconds")} | {"modeled_seconds": times}
            if kind == next(iter(found)):  # what a run takes
                row |= counts | {"path": kind}
            row |= {f"{kind}_{name}": value for name, value in counts.items()}
            click.echo(_line(row, kind))
        rows.append(row)
    click.echo(device_model.checked())
    return {"target": card.name, "env": options["env"], **shared, "updates": rows}


def _line(row: Mapping[str, Any], kind: str) -> str:
    """Format a line of the table of ``--device``: what one kind of implementation does at a size."""
    times = "".join(
        f"{1e3 * seconds:{width}.3f}"
        for seconds, width in zip(row[f"{kind}_modeled_seconds"].values(), (11, 9, 9), strict=True)
    )
    return (
        f"{row['depth']:6}{row['width']:6}{row['batch_size']:6}  {kind:9}{row[f'{kind}_kernels_per_update']:9,}"
        f"{row[f'{kind}_temporaries'] / 1e6:9,.0f}{row[f'{kind}_compile_seconds']:11.0f}{times}"
    )


def _check_alone(what: str, allowed: set[str]) -> None:
    """Raise a UsageError for options that have no effect in this use, instead of ignoring them."""
    from crlviz.errors import UsageError

    context = click.get_current_context()
    for option in context.command.params:
        name = option.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE and name not in allowed:
            raise UsageError(f"{what} does not go with {option.opts[0]}")


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
