"""``crlviz envs``."""

import click


@click.command()
def command() -> None:
    """List the environments: sizes of state, goal and action, success distance, episode length.

    \b
    Example: crlviz envs
    """
    from crlviz import envs

    click.echo(f"{'id':32}{'state':>6}{'goal':>6}{'action':>7}{'success':>9}{'episode':>9}{'goals':>7}")
    for id in envs.ids():
        env = envs.make(id)
        goals = len(env.maze.goals) if env.maze else ""
        click.echo(
            f"{id:32}{env.state_dim:6}{env.goal_dim:6}{env.action_size:7}{env.goal_distance:7.2f} m"
            f"{env.episode_length:9}{goals:7}"
        )
    click.echo(
        f"\n..._gen_1f2f3f behind a maze's name: starts and goals 1, 2 or 3 cells apart.\n"
        f"{envs.CUSTOM} (or ant_maze, humanoid_maze) --layout FILE: a maze of your own."
    )
