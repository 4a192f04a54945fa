"""Arguments, options and output files that the commands of the analyses share."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import click
import xarray as xr

from analyses.common.metrics import METRICS
from crlviz import charts, datasets
from crlviz.charts import print_options
from crlviz.checkpoints import atomic_files

checkpoints = click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))
runs = click.argument("paths", nargs=-1, required=True, metavar="RUNS...", type=click.Path(path_type=Path))
metric = click.option(
    "--metric", type=click.Choice(list(METRICS)), default="time_at_goal", show_default=True, help="The score."
)


def out(default: str, others: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option ``--out`` and those for print, as a decorator. ``write`` follows the latter.

    Args:
      default: the default file.
      others: the formats that only this analysis writes, in words.
    """
    formats = ", ".join(filter(None, ["html, png, svg, pdf or json for the picture", others, "nc for the data"]))
    option = click.option(
        "--out",
        multiple=True,
        type=click.Path(path_type=Path),
        default=[default],
        show_default=True,
        help=f"{formats}; may be given several times.",
    )
    return lambda command: option(print_options.printed(command))


def check(paths: Sequence[Path], also: Sequence[str] = ()) -> None:
    """Check that the output files can be written, before anything is computed. Raises as ``charts.check_endings``.

    Args:
      paths: the output files.
      also: endings that only this analysis writes.
    """
    charts.check_endings(paths, also=(*also, ".nc"))


def label_width(dataset: xr.Dataset) -> int:
    """Width in characters of the column of checkpoint labels in a text table."""
    return max(28, *(len(label) for label, _, _ in datasets.each(dataset)))


def write(
    paths: Sequence[Path],
    dataset: xr.Dataset,
    plot: Callable[[], alt.TopLevelMixin],
    others: Mapping[str, Callable[[Path], str | None]] | None = None,
) -> None:
    """Write each file in the format of its ending, and print what was written.

    Args:
      paths: the output files, already passed to ``check``.
      dataset: content of .nc files.
      plot: draws the picture; called only if a picture is asked for.
      others: ending -> a function that writes such a file and may return a note to print. Replaces the default writer
        of that ending.
    """
    drawn = functools.cache(lambda: charts.Rendering(print_options.draw(plot)))
    writers: dict[str, Callable[[Path], str | None]] = {
        **dict.fromkeys(charts.ENDINGS, lambda path: atomic_files.write(path, drawn().file(path.suffix))),
        ".nc": lambda path: datasets.save(dataset, path),
        **(others or {}),
    }
    written = []
    for path in paths:
        note = writers[path.suffix](path)
        written.append(f"{path} ({note})" if note else str(path))
    click.echo(f"wrote {', '.join(written)}")
