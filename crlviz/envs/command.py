"""``crlviz envs``."""

from typing import Any

import click


@click.command()
def command() -> None:
    """List the environments: sizes of state, goal and action, physics, success distance, episode length, goals of the
    maze, and whether the paper's table 1 has it.

    \b
    Example: crlviz envs
    """
    from crlviz import envs

    show(table())
    click.echo(
        f"\n..._gen_1f2f3f behind a corridor's name: starts and goals 1, 2 or 3 cells apart.\n"
        f"{envs.CUSTOM} (or ant_maze, humanoid_maze) --layout FILE: a maze of your own."
    )


def table() -> list[dict[str, Any]]:
    """A row for every id, without building an environment.

    Columns: id; state, goal and action sizes; physics, the engine it runs on by default; threshold of success in
    metres; episode length in steps; goals, how many cells of its maze are goals (None without a maze); paper, whether
    the paper's table 1 has it.
    """
    from crlviz import envs

    rows = []
    for id in envs.ids():
        kind, maze = envs.kind(id), envs.check(id)
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
