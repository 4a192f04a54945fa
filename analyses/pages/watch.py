"""``crlviz watch``: a page that shows the progress of a run, redrawn after evaluations while the run trains.

A separate process at the lowest priority reads the files of the trainer and computes on the CPU. It uses a GPU only to
render the sixty small frames of a clip. After each drawing it sleeps for four times the CPU time it took, so that it
slows training little even if evaluations come every second.
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

from crlviz.checkpoints import atomic_files, metrics_table
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from crlviz.agent import Agent

_POLL_SECONDS = 1.0
_REST_FACTOR = 4  # sleep for this many times the CPU time of the last drawing
_NICE = 10  # a session with this nice value gets a tenth of a core that the trainer also wants
_CURVES = {"success": "goals reached (share)", "time_at_goal": "time at goal (steps)"}
_HELD_OUT = {"held_out_accuracy": "held-out accuracy", "held_out_action_error": "held-out action error"}
_LINE_COLOR = "#333333"
_REFRESH_SECONDS = 5  # between reloads of the page; a page with a clip also waits for its end
_CLIP_EPISODES = 32
_VIDEO_SECONDS, _VIDEO_FPS, _VIDEO_SIZE = 10, 6, (240, 180)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--trainer", type=int, hidden=True, help="Process id of the trainer that started this.")
def command(run: Path, trainer: int | None) -> None:
    """Keep RUN/watch/index.html up to date until the run ends: learning curves, the newest heatmap and a clip.

    For a finished run the page is drawn once. A stopped run may resume, so the watch continues until Ctrl-C. crlviz
    train ... --watch starts this automatically.

    \b
    Example: crlviz watch runs/d16
    """
    if trainer is None:
        _check_run(run)
    os.nice(19)
    set_session_nice(_NICE)
    os.environ["JAX_PLATFORMS"] = "cpu"  # before importing jax: leave the GPU memory to the trainer
    drawn, next_time = None, 0.0
    previous = progress_of(run) if trainer is not None else None  # a finished run that is about to be extended
    if progress_of(run) is None:
        click.echo(f"waiting for the first checkpoint of {run}", err=True)
    while True:
        orphan = trainer is not None and os.getppid() != trainer
        if trainer is None and not run.exists():
            raise CrlvizError(f"{run} was removed")
        progress = progress_of(run)
        over = orphan or (progress is not None and progress[2] and progress != previous)
        if over:
            set_session_nice(0)  # training has ended
        if progress and (over or (progress != drawn and time.monotonic() >= next_time)):
            start = time.process_time()
            try:
                write(run, over=over)
                drawn = progress
            except CrlvizError:  # the trainer may just have replaced the checkpoint by a newer one
                if over:
                    raise
            next_time = time.monotonic() + _REST_FACTOR * (time.process_time() - start)
        if over:
            break
        time.sleep(_POLL_SECONDS)
    if drawn:
        click.echo(f"wrote {run / 'watch' / 'index.html'}")


def set_session_nice(nice: int) -> None:
    """Set the nice value of this session if this process leads it.

    With autogroups (see sched(7)) Linux first divides the CPU equally between sessions; the nice value of a process
    only counts within its session.
    """
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


def _check_run(run: Path) -> None:
    """Raise a UsageError if the run does not exist (probably a typo) or cannot train."""
    if not RunDirectory(run).exists():
        fault = "is not a run directory: it has no config.json" if run.exists() else "does not exist"
        raise UsageError(f"{run} {fault}; name a run that has started, or start one with crlviz train ... --watch")
    if "imported" in RunDirectory(run).read_config():
        raise UsageError(f"{run} was imported and is not training; crlviz heatmap {run} draws its heatmap")


def progress_of(run: Path) -> tuple[int, int, bool] | None:
    """Progress of a run; None before its first checkpoint.

    Returns:
      Environment steps of the last evaluation and of the newest checkpoint, or on a data set updates; and whether the
      run is finished.
    """
    try:
        # Ask this first: a finished run then certainly has its last checkpoint.
        finished = RunDirectory(run).finished()
        row, checkpoint = RunDirectory(run).read_metrics()[-1], RunDirectory(run).checkpoint_steps()[-1]
        return metrics_table.number(row), checkpoint, finished
    except (IndexError, CrlvizError):
        return None


def write(run: Path, *, over: bool) -> Path:
    """Write the page of a run that has a checkpoint; returns its path.

    Args:
      run: the run directory.
      over: the run has ended, so the page does not refresh itself.
    """
    import jinja2

    from analyses.common.runs import metrics
    from crlviz import charts
    from crlviz.agent import load

    table, agent = metrics(run), load(run)
    facts, last = agent.facts, table.iloc[-1]
    axis, unit = x_axis(table)
    wanted = agent.config["env_steps" if axis == "env_steps" else axis]
    has_env = bool(agent.config["env"])
    curves = {title: charts.render(curve, ".svg") for title, curve in _curves(table).items()}
    page = jinja2.Template(
        resources.files("analyses.pages").joinpath("watch.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        run=run.absolute().name,
        over=over,
        facts=facts,
        done=int(last[axis]),
        total=max(wanted, int(last[axis])),
        unit=unit,
        seconds=float(last.wall_seconds),
        success=float(last.success) if has_env else None,
        curves={title: base64.b64encode(curve).decode() for title, curve in curves.items()},
        now=time.strftime("%H:%M:%S"),
        **{"refresh": _REFRESH_SECONDS} | (_heatmap(agent) | clip_of(agent) if has_env else _without_env(agent)),
    )
    folder = run / "watch"
    with atomic_files.errors_naming(folder):  # without parents: do not recreate a removed run
        folder.mkdir(exist_ok=True)
    atomic_files.write(folder / "index.html", page.encode(errors="replace"))
    return folder / "index.html"


def x_axis(table: "pd.DataFrame") -> tuple[str, str]:
    """The column that counts a run's progress, and its words: environment steps, or on a data set updates."""
    stepped = table.env_steps.notna().any()
    return ("env_steps", "environment steps") if stepped else ("gradient_steps", "updates")


def _without_env(agent: "Agent") -> dict[str, str]:
    """Why a run on a data set without an environment has no map and no clip."""
    reason = f"a data set of {agent.facts['env']} without an environment of crlviz"
    return {"no_map": reason, "no_clip": reason}


def _curves(table: "pd.DataFrame") -> "dict[str, alt.Chart]":
    """Small charts of the metrics over environment steps or updates, by their titles."""
    import altair as alt

    from crlviz import charts

    axis, unit = x_axis(table)
    x = alt.X(f"{axis}:Q", title=unit, axis=charts.number_axis(tickCount=4))
    curves = {}
    loss = next(column for column in table if column.endswith("_loss"))  # the first of the algorithm's
    scores = _CURVES | _HELD_OUT if "held_out_action_error" in table else _CURVES
    titles = {column: title for column, title in scores.items() if column in table and table[column].notna().any()}
    titles |= {loss: loss.replace("_", " "), "updates_per_second": "updates per second"}
    for column, title in titles.items():
        domain: dict[str, Any] = {"domain": [0, 1]} if column == "success" else {"zero": column != loss}
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(**domain))
        line = alt.Chart(table[[axis, column]].dropna()).mark_line(point={"color": _LINE_COLOR}, color=_LINE_COLOR)
        curves[title] = line.encode(x=x, y=y).properties(width=175, height=150)
    return curves


def _heatmap(agent: "Agent") -> dict[str, str]:
    """Heatmap of Q for the farthest goal as a picture, or the reason why there is none."""
    from analyses.heatmap import q_map
    from crlviz import charts

    try:
        goals = q_map.default_goals(agent)[:1] if agent.env.goal_dim > 1 else None
        # For a body with a physics engine, the rollouts for the outline would take minutes.
        dataset = q_map.compute([agent], goals, coverage=agent.env.backend == "jax")
    except UsageError as error:
        return {"no_map": str(error)}
    return {"map": base64.b64encode(charts.render(q_map.plot(dataset, tips=False), ".png")).decode()}


def clip_of(agent: "Agent") -> dict[str, Any]:
    """GIF of the deterministic policy, or the reason why there is none. A point goes to all goals, others to one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        try:
            is_point = agent.env.maze and agent.env.id.startswith("point")
            values = _animate_points(agent, path) if is_point else _render_video(agent, path)
        except CrlvizError as error:
            return {"no_clip": str(error)}
        return {"clip": base64.b64encode(path.read_bytes()).decode()} | values


def _animate_points(agent: "Agent", path: Path) -> dict[str, Any]:
    """Write a GIF of point masses that go to every goal; returns values for the page."""
    from crlviz.charts import depth_color
    from crlviz.rendering.top_view import Ground, Panel, animate
    from crlviz.rollouts import rollout

    maze = agent.env.maze
    assert maze is not None
    goals = maze.xy(maze.goals)[:_CLIP_EPISODES]
    episodes = rollout(agent, len(goals), goals=goals)
    panel = Panel("newest checkpoint", episodes, depth_color(agent.facts["depth"]))
    animate(Ground(maze.extent, 300, maze), [panel], path, every=4, fps=15)
    return {"clip_shows": "from the start to all goals at once"}


def _render_video(agent: "Agent", path: Path) -> dict[str, Any]:
    """Write a GIF of the start of an episode, always to the same goal; returns values for the page.

    The frames are few and small: rendering takes a second or two with OpenGL.
    """
    from crlviz.rendering import video
    from crlviz.rollouts import rollout

    env = agent.eval_env
    length = min(env.episode_length, round(_VIDEO_SECONDS / env.dt))
    episode = rollout(agent, 1, length=length, env=env).isel(episode=0)
    video.write(path, [[video.Panel("newest checkpoint", env, episode)]], size=_VIDEO_SIZE, fps=_VIDEO_FPS)
    seconds = length * env.dt
    return {
        "clip_shows": f"first {seconds:.0f} s of an episode with one goal",
        "refresh": round(seconds) + _REFRESH_SECONDS,
    }
