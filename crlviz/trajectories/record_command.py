"""``crlviz record``: record trajectories of agents and of random actions, or convert a file of them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crlviz import options
from crlviz.errors import UsageError

if TYPE_CHECKING:
    from crlviz.envs.base import GoalEnv
    from crlviz.trajectories.data import Trajectories
    from crlviz.trajectories.recording import Source

_STARTS = ("env", "anywhere")


@click.command()
@click.argument("sources", nargs=-1, metavar="[CKPT|random]...")
@click.option("--out", required=True, metavar="FILE", help=".nc, .npz as OGBench reads it, or minari:NAME-v0.")
@click.option("--episodes", type=int, help="Trajectories in all. Default: 100.")
@click.option("--env", "env_id", metavar="ENV", help="Without a checkpoint: the environment of the random actions.")
@click.option("--layout", type=click.Path(path_type=Path), help="A maze of your own, for ENV point_maze.")
@click.option(
    "--policy",
    default="mean",
    show_default=True,
    help="The agents' actions: mean, sample, best-of-K, softmax-K, or random, which uses no agent.",
)
@click.option("--noise", default=0.0, show_default=True, help="Standard deviation of noise on the agents' actions.")
@click.option("--shares", metavar="S,S,...", help="Share of the episodes of each CKPT or random, such as 2,1,1.")
@click.option("--starts", default="env", show_default=True, help="Starts: env, or anywhere that is free in the maze.")
@click.option("--steps", type=int, help="Most transitions of a trajectory. Default: the environment's episode.")
@click.option("--seed", default=0, show_default=True, help="Seed of starts, goals, noise and random actions.")
@click.option("--validation", type=float, metavar="SHARE", help="Share of the trajectories to hold out, in FILE-val.")
@click.option("--from", "source_file", metavar="FILE", help="Convert this file instead of recording.")
def command(
    sources: tuple[str, ...],
    out: str,
    episodes: int | None,
    env_id: str | None,
    layout: Path | None,
    policy: str,
    noise: float,
    shares: str | None,
    starts: str,
    steps: int | None,
    seed: int,
    validation: float | None,
    source_file: str | None,
) -> None:
    """Record trajectories for offline learning. Reached goals do not end a trajectory; falls do.

    Several checkpoints, and the word random, share the episodes.

    \b
    Example: crlviz record runs/d16 --episodes 1000 --noise 0.2 --out walk.nc
    Example: crlviz record runs/d16 random --shares 1,3 --starts anywhere --out mixed.npz
    Example: crlviz record --env point_u_maze --policy random --out random.npz --validation 0.1
    Example: crlviz record --from pointmaze-medium-navigate-v0.npz --out navigate.nc
    """
    from crlviz.trajectories import files

    options.check_choice("--starts", starts, _STARTS)
    options.check_count(episodes, "episodes")
    options.check_count(steps, "steps")
    if validation is not None and not 0 < validation < 1:
        raise UsageError(f"--validation {validation:g}: a share is between 0 and 1")
    episodes = 100 if episodes is None and source_file is None else episodes
    files.check_writable(out)
    if validation is not None:
        files.check_split(out, validation, episodes)
    if source_file is not None:
        if sources or env_id or episodes:
            raise UsageError("--from converts a file; it takes no checkpoint, --env or --episodes")
        blocks: Iterable[Trajectories] = files.blocks(source_file)
    else:
        blocks = _recorded(sources, 100 if episodes is None else episodes, env_id, layout, policy, noise, shares,
                           starts, steps, seed)  # fmt: skip
    count = rows = 0

    def counted() -> Iterator["Trajectories"]:
        nonlocal count, rows
        for block in blocks:
            count, rows = count + len(block.ends), rows + block.rows
            yield block

    files.write(out, counted())
    click.echo(f"wrote {out}: {count:,} trajectories, {rows - count:,} transitions")
    if validation is not None:
        click.echo(f"wrote {files.split(out, validation, seed)}: of them {validation:g} held out")


def _recorded(
    words: Sequence[str],
    episodes: int,
    env_id: str | None,
    layout: Path | None,
    policy: str,
    noise: float,
    shares: str | None,
    starts: str,
    steps: int | None,
    seed: int,
) -> "Iterator[Trajectories]":
    """Record with a progress bar."""
    from tqdm import tqdm

    from crlviz.trajectories import recording

    env, made, sources = _sources(words, env_id, layout, policy, noise)
    sources = _shared(sources, episodes, shares)
    blocks = recording.record(env, sources, seed=seed, length=steps, anywhere=starts == "anywhere", made=made)
    with tqdm(total=sum(source.episodes for source in sources), unit="episode", disable=None) as bar:
        for block in blocks:
            yield block
            bar.update(len(block.ends))


def _sources(
    words: Sequence[str], env_id: str | None, layout: Path | None, policy: str, noise: float
) -> "tuple[GoalEnv, dict[str, Any], list[Source]]":
    """The environment, its facts for the file, and the sources, each with one episode for now."""
    from crlviz import envs
    from crlviz.agent import load
    from crlviz.envs import mazes
    from crlviz.trajectories.recording import RANDOM, Source

    at_random = [Source(None, 1)]
    agents = [load(Path(word)) for word in words if word != RANDOM]
    if not agents:
        if env_id is None:
            raise UsageError("name a checkpoint; or, for random actions, an environment with --env")
        if policy != RANDOM and RANDOM not in words:
            raise UsageError(f"--env {env_id} without a checkpoint: only --policy random needs none")
        rows = None if layout is None else list(mazes.parse(layout))
        return envs.make(env_id, layout=rows), {"layout": rows} if rows else {}, at_random
    if env_id is not None or layout is not None:
        raise UsageError("--env and --layout are for random actions without a checkpoint; a checkpoint has its own")
    env = agents[0].env
    for agent in agents:
        if agent.env is not env:
            raise UsageError(
                f"{agents[0].source} was trained in {env.id} and {agent.source} in {agent.env.id}, of another name, "
                "layout or options; a file holds one environment"
            )
    config = agents[0].config
    made = {name: config[name] for name in ("layout", "env_options") if config.get(name)}
    if policy == RANDOM:
        if noise:
            raise UsageError("random actions take no noise: leave out --noise")
        if len(words) > 1:
            raise UsageError("--policy random uses no agent: name one checkpoint, or write random beside checkpoints")
        return env, made, at_random
    acting = iter(agents)
    return env, made, [Source(None, 1) if w == RANDOM else Source(next(acting), 1, policy, noise) for w in words]


def _shared(sources: "list[Source]", episodes: int, shares: str | None) -> "list[Source]":
    """The sources with their numbers of episodes, by largest remainders; those without any are left out."""
    import dataclasses

    import numpy as np

    try:
        weights = np.array([float(share) for share in shares.split(",")] if shares else [1.0] * len(sources))
    except ValueError:
        weights = np.zeros(0)
    if len(weights) != len(sources) or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.sum():
        raise UsageError(f"--shares {shares}: give a number for each of the {len(sources)} that act, such as 2,1")
    exact = episodes * weights / weights.sum()
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: episodes - counts.sum()]] += 1
    counted = zip(sources, counts, strict=True)
    return [dataclasses.replace(source, episodes=int(count)) for source, count in counted if count]
