"""How is a run doing, while it trains? A page that is drawn anew after evaluations and refreshes itself.

It is a process of its own, at the lowest priority, that reads what the trainer writes and computes on the CPU; a GPU
may draw a film's sixty small frames, and no more. It rests four times as long as it computes, so that it takes little
from the training even where evaluations come every second.
"""

import base64
import contextlib
import os
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crlviz import checkpoints, files
from crlviz.errors import CrlvizError, UsageError

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from crlviz.agent import Agent

_POLL_SECONDS = 1.0
_REST = 4  # times the seconds of CPU that the last drawing took
_LOW = 10  # a session of this nice gets a tenth of a core that the trainer wants too
_CURVES = {
    "success": "goals reached (share)",
    "time_at_goal": "time at goal (steps)",
    "critic_loss": "critic loss (nats)",
    "updates_per_second": "updates a second",
}
_LINE = "#333333"
_REFRESH_SECONDS = 5  # between two looks of the page at itself; a film is shown to its end
_CLIP_EPISODES = 32
_FILM_SECONDS, _FILM_FPS, _FILM_SIZE = 10, 6, (240, 180)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--trainer", type=int, hidden=True, help="Id of the process that starts this, trains RUN and ends it.")
def command(run: Path, trainer: int | None) -> None:
    """Keep RUN/watch/index.html up to date until the run ends: learning curves, its newest heatmap and a clip.

    Of a finished run the page is drawn once. A run that was stopped may go on: Ctrl-C ends the watch. ``crlviz train
    ... --watch`` starts this by itself.

    \b
    Example: crlviz watch runs/d16
    """
    if trainer is None:
        _refuse_unwatchable(run)
    os.nice(19)
    _session_nice(_LOW)
    os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: the GPU's memory is the trainer's
    drawn, rested = None, 0.0
    ended = _seen(run) if trainer is not None else None  # what is about to be trained longer
    if _seen(run) is None:
        click.echo(f"waiting for the first checkpoint of {run}", err=True)
    while True:
        orphan = trainer is not None and os.getppid() != trainer
        if trainer is None and not run.exists():
            raise CrlvizError(f"{run} was removed")
        seen = _seen(run)
        over = orphan or (seen is not None and seen[2] and seen != ended)
        if over:
            _session_nice(0)  # nothing left to give way to
        if seen and (over or (seen != drawn and time.monotonic() >= rested)):
            began = time.process_time()
            try:
                write(run, over=over)
                drawn = seen
            except CrlvizError:  # a checkpoint that was there a moment ago may have given way to a newer one
                if over:
                    raise
            rested = time.monotonic() + _REST * (time.process_time() - began)
        if over:
            break
        time.sleep(_POLL_SECONDS)
    if drawn:
        click.echo(f"wrote {run / 'watch' / 'index.html'}")


def _session_nice(nice: int) -> None:
    """Set the nice of this process's session, if it is its own: Linux deals the CPU out to sessions first, to each as
    much, and a process's nice counts within its session alone (autogroups, sched(7))."""
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


def _refuse_unwatchable(run: Path) -> None:
    """Of a run that somebody names by hand there is one already; else a typo would be waited for."""
    if not (run / "config.json").is_file():
        what = "is no run directory: it has no config.json" if run.exists() else "does not exist"
        raise UsageError(f"{run} {what}; name a run that has begun, or begin one with crlviz train ... --watch")
    if "imported" in checkpoints.read_config(run):
        raise UsageError(f"{run} was imported, and nothing trains it; crlviz heatmap {run} draws it")


def _seen(run: Path) -> tuple[int, int, bool] | None:
    """Environment steps of the last evaluation and of the newest checkpoint, and whether that is the run's last; None
    before a checkpoint."""
    try:
        last = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[-1]
        # In this order: what is finished has its last checkpoint.
        over = checkpoints.finished(run, checkpoints.read_config(run))
        return int(last.partition(",")[0]), checkpoints.all_steps(run)[-1], over
    except (OSError, ValueError, IndexError, KeyError, CrlvizError):
        return None


def write(run: Path, *, over: bool) -> Path:
    """Draw the page of a run that has a checkpoint; its path.

    Args:
      run: the run directory.
      over: the run has ended, so that the page need not refresh itself.
    """
    import jinja2

    from analyses.runs import metrics
    from crlviz import charts
    from crlviz.agent import load

    table, agent = metrics(run), load(run)
    facts, last = agent.facts, table.iloc[-1]
    curves = charts.render(_curves(table), ".svg")
    page = jinja2.Template(
        resources.files("analyses").joinpath("watch.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        run=run.absolute().name,
        over=over,
        facts=facts,
        done=int(last.env_steps),
        total=max(agent.config["env_steps"], int(last.env_steps)),
        seconds=float(last.wall_seconds),
        success=float(last.success),
        curves=base64.b64encode(curves).decode(),
        now=time.strftime("%H:%M:%S"),
        **{"refresh": _REFRESH_SECONDS} | _heatmap(agent) | _clip(agent),
    )
    folder = run / "watch"
    with files.naming(folder):  # not its parents: a run that was removed stays so
        folder.mkdir(exist_ok=True)
    files.write(folder / "index.html", page.encode(errors="replace"))
    return folder / "index.html"


def _curves(table: "pd.DataFrame") -> "alt.HConcatChart":
    """Small panels of what metrics.csv tells, over environment steps."""
    import altair as alt

    from crlviz import charts

    x = alt.X("env_steps:Q", title="environment steps", axis=charts.amounts(tickCount=4))
    panels = []
    for column, title in _CURVES.items():
        domain: dict[str, Any] = {"domain": [0, 1]} if column == "success" else {"zero": column != "critic_loss"}
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(**domain))
        line = alt.Chart(table[["env_steps", column]].dropna()).mark_line(point={"color": _LINE}, color=_LINE)
        panels.append(line.encode(x=x, y=y).properties(width=165, height=150))
    return alt.hconcat(*panels, spacing=18)


def _heatmap(agent: "Agent") -> dict[str, str]:
    """Q for the farthest goal as a picture, or why there is none."""
    from analyses import heatmap
    from crlviz import charts

    try:
        goals = heatmap.default_goals(agent)[:1] if agent.env.goal_dim > 1 else None
        # Of a body with a physics engine, the episodes of the outline would take minutes.
        dataset = heatmap.compute([agent], goals, coverage=agent.env.backend == "jax")
    except UsageError as error:
        return {"no_map": str(error)}
    return {"map": base64.b64encode(charts.render(heatmap.plot(dataset, tips=False), ".png")).decode()}


def _clip(agent: "Agent") -> dict[str, Any]:
    """The policy by its mean as a GIF, or why there is none: a point on its way to all goals, another body to one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        try:
            shown = _points(agent, path) if agent.env.maze and agent.env.id.startswith("point") else _film(agent, path)
        except CrlvizError as error:
            return {"no_clip": str(error)}
        return {"clip": base64.b64encode(path.read_bytes()).decode()} | shown


def _points(agent: "Agent", path: Path) -> dict[str, Any]:
    from crlviz.animation import animate
    from crlviz.charts import depth_colour
    from crlviz.rollouts import rollout

    maze = agent.env.maze
    assert maze is not None
    goals = maze.xy(maze.goals)[:_CLIP_EPISODES]
    episodes = rollout(agent, len(goals), goals=goals)
    colours = [depth_colour(agent.facts["depth"])]
    animate(maze, {"newest checkpoint": episodes}, path, colours=colours, every=4, fps=15)
    return {"clip_shows": "from the start to all goals at once"}


def _film(agent: "Agent", path: Path) -> dict[str, Any]:
    """An episode's first seconds, each time to the same goal; few and small frames, a second or two with OpenGL."""
    from crlviz import video
    from crlviz.rollouts import rollout

    env = agent.eval_env
    length = min(env.episode_length, round(_FILM_SECONDS / env.dt))
    episode = rollout(agent, 1, length=length, env=env).isel(episode=0)
    video.write(path, [[video.Panel("newest checkpoint", env, episode)]], size=_FILM_SIZE, fps=_FILM_FPS)
    seconds = length * env.dt
    return {"clip_shows": f"its first {seconds:.0f} s to one goal", "refresh": round(seconds) + _REFRESH_SECONDS}
