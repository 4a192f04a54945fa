"""``crlviz envs``: list and draw environments."""

from pathlib import Path
from typing import Any

import click

from crlviz.errors import UsageError

PICTURES = (".png", ".jpg")


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID...]")
@click.option("--out", type=click.Path(path_type=Path), help="Draw these environments (png or jpg); several as a grid.")
@click.option("--seed", default=0, show_default=True, help="Seed of start and goal.")
@click.option("--size", default="480x360", show_default=True, metavar="WxH", help="Pixels of each picture.")
def command(ids: tuple[str, ...], out: Path | None, seed: int, size: str) -> None:
    """List all environments or those named: sizes of state, goal and action, physics engine, success distance,
    episode length, number of goals in the maze, and whether it is in the paper's table 1. With --out, draw them.

    \b
    Example: crlviz envs
    Example: crlviz envs ant_u4_maze --out ant.png
    """
    from crlviz import envs
    from crlviz.checkpoints import atomic_files
    from crlviz.options import read_size

    for id in ids:
        envs.check(id)
    if out is not None:
        if not ids:
            raise UsageError("name the environments to draw, for example crlviz envs ant_u4_maze --out ant.png")
        if out.suffix not in PICTURES:
            raise UsageError(f"{out} is not a picture; its name must end in {' or '.join(PICTURES)}")
        atomic_files.check_writable(out)
        pixels = read_size(size)
        from crlviz.rendering.env_picture import draw

        click.echo(f"wrote {out}, drawn by {draw(ids, out, pixels, seed)}")
        return
    show([row for row in table() if row["id"] in ids] if ids else table())
    if ids:
        return
    click.echo(
        f"\n..._gen_1f2f3f behind a maze's name: starts and goals 1, 2 or 3 cells apart.\n"
        f"{envs.CUSTOM} (or swimmer_maze, ant_maze, humanoid_maze) --layout FILE: a maze of your own."
    )


def table() -> list[dict[str, Any]]:
    """One row per environment id, without building any environment.

    Columns: id; state, goal and action sizes; physics, the default engine; threshold, success distance in meters;
    episode, length in steps; goals, number of goal cells in the maze (None without a maze); paper, whether it is in
    the paper's table 1.
    """
    from crlviz import envs

    rows = []
    for id in envs.ids():
        kind, maze = envs.env_class(id), envs.check(id)
        rows.append(
            {
                "id": id,
                "state": kind.state_dim,
                "goal": len(kind.goal_indices),
                "action": kind.action_size,
                "physics": kind.backends[0],
                "threshold": kind.goal_distance,
                "episode": kind.episode_length,
                "goals": len(maze.goals) if maze else None,
                "paper": id in envs.PAPER,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows of ``table``."""
    click.echo(
        f"{'id':32}{'state':>6}{'goal':>6}{'action':>7}  {'physics':12}"
        f"{'success':>8}{'episode':>9}{'goals':>7}{'paper':>7}"
    )
    for row in rows:
        goals, paper = row["goals"] or "", "yes" if row["paper"] else ""
        click.echo(
            f"{row['id']:32}{row['state']:6}{row['goal']:6}{row['action']:7}  {row['physics']:12}"
            f"{row['threshold']:6.2f} m{row['episode']:9}{goals:7}{paper:>7}".rstrip()
        )
