"""What the commands of the analyses take and write: checkpoints or runs in, a picture and its data out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import altair as alt
import click
import xarray as xr

from analyses.common.runs import METRICS
from crlviz import charts, datasets

checkpoints = click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))
runs = click.argument("paths", nargs=-1, required=True, metavar="RUNS...", type=click.Path(path_type=Path))
metric = click.option(
    "--metric", type=click.Choice(list(METRICS)), default="time_at_goal", show_default=True, help="The score."
)


def out(default: str, others: str = ""):
    """The option that names the files to write; ``others``: in words, the forms that this analysis alone has."""
    forms = ", ".join(filter(None, ["html, png, svg, pdf or json for the picture", others, "nc for the data"]))
    return click.option(
        "--out",
        multiple=True,
        type=click.Path(path_type=Path),
        default=[default],
        show_default=True,
        help=f"{forms}; may be given again.",
    )


def check(paths: Sequence[Path], also: Sequence[str] = ()) -> None:
    """Refuse files that cannot be written, before anything is computed. Raises as ``charts.check_endings``.

    Args:
      paths: the files.
      also: endings that this analysis alone has.
    """
    charts.check_endings(paths, also=(*also, ".nc"))


def label_width(dataset: xr.Dataset) -> int:
    """Columns that the labels of a Dataset's checkpoints take in a table of text."""
    return max(28, *(len(label) for label, _, _ in datasets.each(dataset)))


def write(
    paths: Sequence[Path],
    dataset: xr.Dataset,
    plot: Callable[[], alt.TopLevelMixin],
    others: Mapping[str, Callable[[Path], str | None]] | None = None,
) -> None:
    """Write files by their endings, and say so.

    Args:
      paths: the files, ``check``ed before.
      dataset: what .nc holds.
      plot: draws the picture; called where one is asked for.
      others: ending -> writes such a file, in place of the picture or beside it, and may have a word on it.
    """
    makers: dict[str, Callable[[Path], str | None]] = {
        **dict.fromkeys(charts.ENDINGS, lambda path: charts.save(plot(), path)),
        ".nc": lambda path: datasets.save(dataset, path),
        **(others or {}),
    }
    words = []
    for path in paths:
        word = makers[path.suffix](path)
        words.append(f"{path} ({word})" if word else str(path))
    click.echo(f"wrote {', '.join(words)}")
