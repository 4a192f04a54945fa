"""Links from an analysis's html into a page of ``crlviz play``, with the goal, start and agent of the clicked mark."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import click
import numpy as np

from crlviz.errors import UsageError

option = click.option(
    "--play",
    type=click.Path(path_type=Path),
    help="A page of crlviz play with the same agents; the html links into it at the place that is clicked.",
)


def address(play: Path | None, out: Sequence[Path]) -> str:
    """The page's address relative to the first html of the output files; empty without a page or an html.

    Raises:
      UsageError: there is no such page.
    """
    if play is None:
        return ""
    if not play.is_file():
        raise UsageError(f"--play {play}: there is no such page; write it with: crlviz play CKPT... --out {play}")
    pages = [path for path in out if path.suffix == ".html"]
    if not pages:
        return ""
    return quote(Path(os.path.relpath(play.resolve(), pages[0].resolve().parent)).as_posix())


def link(page: str, *, goal: Sequence[float] | np.ndarray, start: Sequence[float] | np.ndarray = (), agent: str) -> str:
    """The link into a page that sets a goal in meters, the recorded start nearest to ``start``, and an agent.

    Args:
      page: from ``address``.
      goal: x, y, and what else the goal has.
      start: x, y; empty: the page's first.
      agent: its label, such as "depth 16"; the page takes the first agent with a label that begins with this.
    """
    parts = [f"goal={_meters(goal)}", *([f"from={_meters(start)}"] if len(start) else []), f"agent={quote(agent)}"]
    return f"{page}#{'&'.join(parts)}"


def _meters(place: Sequence[float] | np.ndarray) -> str:
    return ",".join(f"{value:.3f}" for value in place)
