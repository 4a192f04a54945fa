"""What the commands of the analyses take and write: checkpoints in, a picture and its data out."""

from collections.abc import Sequence
from pathlib import Path

import altair as alt
import click
import xarray as xr

from crlviz import charts, datasets

checkpoints = click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))


def out(default: str):
    """The option that names the files to write."""
    return click.option(
        "--out",
        multiple=True,
        type=click.Path(path_type=Path),
        default=[default],
        show_default=True,
        help="html, png, svg, pdf or json for the picture, nc for the data; may be given again.",
    )


def check(paths: Sequence[Path]) -> None:
    """Refuse files that cannot be written, before anything is computed. Raises as ``charts.check_endings``."""
    charts.check_endings(paths, also=(".nc",))


def write(paths: Sequence[Path], dataset: xr.Dataset, picture: alt.TopLevelMixin) -> None:
    """Write picture and data to files by their endings, and say so."""
    for path in paths:
        datasets.save(dataset, path) if path.suffix == ".nc" else charts.save(picture, path)
    click.echo(f"wrote {', '.join(map(str, paths))}")
