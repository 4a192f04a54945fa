"""``crlviz rollout``: run agents and write videos, strips of frames, 3-D replays or data of their episodes."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from crlviz import options
from crlviz.errors import UsageError
from crlviz.options import OLD_POLICIES, Command

DATA, PAGE = ".nc", ".html"
_MOST_COLUMNS = 4  # of a page


@click.command(cls=Command, old_options=OLD_POLICIES)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CKPT...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    multiple=True,
    type=click.Path(path_type=Path),
    default=["rollout.mp4"],
    show_default=True,
    help="mp4 or gif for a video, png for a strip of its frames, html for a 3-D replay, nc for the data; may be given "
    "several times.",
)
@click.option(
    "--goal",
    "goals",
    multiple=True,
    metavar="X,Y",
    help="Goal in meters; may be given several times, one episode each. Default: different goals drawn by the "
    "environment.",
)
@click.option(
    "--episodes", type=int, help="Episodes of each agent, one below the other. Default: one, or one for each --goal."
)
@click.option("--seed", default=0, show_default=True, help="Seed of starts and goals, the same for all agents.")
@click.option("--steps", type=int, help="Steps of an episode. Default: the environment's.")
@options.policy
@click.option("--camera", default="follow", show_default=True, help="follow, side or top.")
@click.option("--fps", type=float, help="Frames per second; the video always runs in real time. Default: about 30.")
@click.option("--size", default="640x480", show_default=True, metavar="WxH", help="Pixels of each picture.")
def command(
    checkpoints: tuple[Path, ...],
    out: tuple[Path, ...],
    goals: tuple[str, ...],
    episodes: int | None,
    seed: int,
    steps: int | None,
    policy: str,
    camera: str,
    fps: float | None,
    size: str,
) -> None:
    """Run agents in their evaluation environment and show their episodes side by side, in sync.

    \b
    Example: crlviz rollout runs/d4 runs/d16 --goal 2.5,-1 --out walk.mp4
    """
    from crlviz import datasets
    from crlviz.agent import load_all
    from crlviz.algorithms import action_choice
    from crlviz.checkpoints import atomic_files
    from crlviz.rendering import film_strip, replay_page, video
    from crlviz.rendering.cameras import CAMERAS

    known = (*video.ENDINGS, film_strip.ENDING, PAGE, DATA)
    for path in out:
        if path.suffix not in known:
            raise UsageError(f"{path}: a rollout ends in {', '.join(known)}")
        atomic_files.check_writable(path)
    if camera not in CAMERAS:
        raise UsageError(f"no camera is called {camera!r}; take {', '.join(CAMERAS)}")
    pixels = options.read_size(size)
    options.check_rate(fps)
    episodes = max(len(goals), 1) if episodes is None else episodes
    options.check_count(episodes, "episodes")
    if episodes < len(goals):
        raise UsageError(f"--episodes {episodes}: {len(goals)} goals take at least {len(goals)}")
    options.check_count(steps, "steps")
    agents = load_all(checkpoints)
    action_choice.for_agents(policy, agents)  # before any runs
    runs, captions = {}, labels(agents)
    if PAGE in {path.suffix for path in out}:
        for label, agent in zip(captions, agents, strict=True):
            replay_page.check_world(agents[0].eval_env, agent.eval_env.id, label)
    for label, agent in zip(captions, agents, strict=True):
        runs[label] = run(agent, episodes, seed, goals, steps, policy)
        click.echo(summary(label, runs[label]))
    for path in out:
        renderer = ""
        if path.suffix == DATA:
            parts = [part.drop_vars("goal_index", errors="ignore") for part in runs.values()]
            datasets.save(datasets.combine(agents, parts, parts[0][[]]), path)
        elif path.suffix == PAGE:
            shown = split_episodes(runs)
            by_episode = {label: shown[label] for row in range(episodes) for label in list(shown)[row::episodes]}
            replay_page.write(path, agents[0].eval_env, by_episode, columns=min(len(agents), _MOST_COLUMNS))
        else:
            renderer = f", drawn by {_film(path, agents, runs, pixels, fps, camera)}"
        click.echo(f"wrote {path}{renderer}")


def _film(
    path: Path, agents: Any, runs: Mapping[str, Any], size: tuple[int, int], fps: float | None, camera: str
) -> str:
    """Write a video or a strip of frames, a column or a row for each agent; returns the renderer's name."""
    from crlviz.rendering import film_strip, video

    shown = split_episodes(runs)
    episodes = len(shown) // len(agents)
    panels = [
        video.Panel(caption, agents[index // episodes].eval_env, episode)
        for index, (caption, episode) in enumerate(shown.items())
    ]
    if path.suffix == film_strip.ENDING:
        return film_strip.write(path, panels, size=size, camera=camera)
    rows = [panels[row::episodes] for row in range(episodes)]
    return video.write(path, rows, size=size, fps=fps, camera=camera)


def split_episodes(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Split each agent's rollout into episodes; returns caption to episode, agent by agent."""
    return {
        label + (f", episode {episode + 1}" if run.sizes["episode"] > 1 else ""): run.isel(episode=episode)
        for label, run in runs.items()
        for episode in range(run.sizes["episode"])
    }


def labels(agents: Any) -> list[str]:
    """Captions of the agents: the settings in which they differ, and always depth and seed.

    Raises:
      UsageError: two agents do not differ in any setting.
    """
    from crlviz import datasets

    differing = datasets.check_differing(agents)
    names = ["depth"] * ("depth" not in differing) + differing + ["seed"] * ("seed" not in differing)
    return datasets.labels([{name: agent.facts.get(name, "unknown") for name in names} for agent in agents])


def run(agent: Any, episodes: int, seed: int, goals: Sequence[str], steps: int | None, policy: str) -> Any:
    """Run episodes of one agent in its evaluation environment.

    Args:
      agent: the agent.
      episodes: number of episodes.
      seed: of starts and goals.
      goals: "X,Y" in meters, used in turn; empty: different goals drawn by the environment.
      steps: length of an episode; None: the environment's.
      policy: how actions are chosen, as in ``action_choice.read``: mean, sample, best-of-K or softmax-K.

    Returns:
      The Dataset of ``crlviz.rollout``.

    Raises:
      UsageError: a goal cannot be parsed, or is not free in the maze.
    """
    import jax
    import numpy as np

    from crlviz.rollouts import rollout

    env, commanded = agent.eval_env, None
    if goals:
        # Coordinates that the user does not give (a height) are taken from a goal that the environment draws.
        default = np.array(jax.jit(env.reset)(jax.random.key(seed)).obs[env.state_dim :])
        completed = []
        for goal in goals:
            numbers = _read_goal(goal, env.goal_dim)
            completed.append(np.concatenate([numbers, default[len(numbers) :]]))
        commanded = np.resize(np.array(completed, default.dtype), (max(episodes, 1), env.goal_dim))
    return rollout(
        agent,
        episodes,
        seed=seed,
        goals=commanded,
        policy=policy,
        length=steps,
        env=env,
        distinct=not goals,
    )


def summary(label: str, episodes: Any) -> str:
    """One line on a rollout: goals reached, time at goal, falls."""
    count, reached = episodes.sizes["episode"], int(episodes.success.any("time").sum())
    at_goal = float(episodes.success.sum("time").mean())
    fallen = int((~episodes.alive.all("time")).sum())
    line = f"{label}: reached the goal in {reached} of {count}, {at_goal:.0f} steps at the goal"
    return line + (f", fell in {fallen}" if fallen else "")


def _read_goal(text: str, most: int) -> list[float]:
    """Parse "X,Y" or up to ``most`` numbers."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not min(2, most) <= len(numbers) <= most or not all(map(math.isfinite, numbers)):
        wanted = "X" if most == 1 else "X,Y" if most < 3 else f"X,Y or up to {most} numbers"
        raise UsageError(f"--goal takes {wanted} in meters, not {text!r}")
    return numbers
