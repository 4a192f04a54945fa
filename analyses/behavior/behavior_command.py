"""``crlviz behavior``: name what agents do, and find the depth at which it changes."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from analyses.behavior import hardest_episode, naming
from analyses.behavior.behavior_picture import plot
from analyses.common import outputs, play_links
from crlviz import options
from crlviz.options import OLD_POLICIES, Command, check_count, read_size
from crlviz.rendering import video


@click.command(cls=Command, old_options=OLD_POLICIES)
@outputs.checkpoints
@outputs.out("behavior.html", "mp4 or gif for a video of the hardest episode")
@click.option("--episodes", type=int, default=64, show_default=True, help="Episodes for each checkpoint.")
@options.policy
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of starts, goals and sampled actions.")
@click.option("--size", default="640x480", show_default=True, metavar="WxH", help="Pixels of each panel of a video.")
@play_links.option
def command(
    checkpoints: Sequence[Path],
    out: Sequence[Path],
    episodes: int,
    policy: str,
    seed: int,
    size: str,
    play: Path | None,
) -> None:
    """Name what agents do, describe it in numbers, and look for the depth at which it changes.

    \b
    Example: crlviz behavior runs/d4 runs/d16 --out behavior.html --out behavior.mp4
    """
    from crlviz.agent import load_all

    outputs.check(out, also=video.ENDINGS)
    check_count(episodes, "episodes")
    page = play_links.address(play, out)
    pixels = read_size(size)
    agents = load_all(checkpoints)
    dataset = naming.compute(agents, episodes=episodes, policy=policy, seed=seed)
    click.echo(naming.summary(dataset))
    videos = dict.fromkeys(video.ENDINGS, partial(hardest_episode.film, agents, dataset, size=pixels))
    outputs.write(out, dataset, lambda: plot(dataset, play=page), videos)
