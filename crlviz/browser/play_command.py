"""``crlviz play``: a page in which agents live, to set goals for, push, and compare."""

from pathlib import Path

import click

_ENDING = ".html"


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("play.html"), show_default=True, help="The html file."
)
@click.option(
    "--max-checkpoints",
    type=int,
    default=1,
    show_default=True,
    help="Checkpoints of each run, evenly spaced through its training; the page has a slider over them.",
)
def command(checkpoints: tuple[Path, ...], out: Path, max_checkpoints: int) -> None:
    """Write a page in which agents live: click to set goals, push bodies, switch depth under a running body.

    Networks and environment become JavaScript, so the page needs no network and no crlviz. Up to four agents of one
    environment. A body whose program cannot be translated shows recorded episodes, and the page says so.

    \b
    Example: crlviz play runs/d4 runs/d16 --out play.html
             crlviz play runs/d16 --max-checkpoints 5
    """
    from crlviz.agent import load, load_each
    from crlviz.browser import play_page
    from crlviz.checkpoints import atomic_files
    from crlviz.checkpoints.checkpoint import through_training
    from crlviz.errors import UsageError

    if out.suffix != _ENDING:
        raise UsageError(f"{out}: a page ends in {_ENDING}")
    if max_checkpoints < 1:
        raise UsageError(f"--max-checkpoints {max_checkpoints}: at least one is needed")
    atomic_files.check_writable(out)
    agents = []
    for path, newest in load_each(checkpoints):
        others = through_training(path, max_checkpoints)[:-1]
        agents += [*map(load, others), newest]
    page = play_page.page(agents).encode(errors="replace")
    atomic_files.write(out, page)
    click.echo(f"wrote {out} ({len(page) / 1e6:.1f} MB)")
