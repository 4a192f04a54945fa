"""``crlviz paper``: one page with every figure of the paper that the runs support, and commands for the others."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click
from tqdm import tqdm

from analyses.common import outputs
from analyses.common.runs import clock, find, metrics
from analyses.pages import figures, sweep_cost
from analyses.pages.figures import Figure, Runs
from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError
from crlviz.escaping import printable

_ENDINGS = (".html", ".svg", ".pdf", ".png")


@dataclass
class Entry:
    """Result of drawing one figure for one environment.

    Attributes:
      figure: figure of the paper.
      env: environment id.
      algorithm: the algorithm of its runs, if there are runs of several and the figure does not compare them; else
        empty.
      missing: what the runs lack; empty if they have everything.
      command: sweep that would train the missing runs; empty if none would.
      hours: estimated duration of that sweep; None if no run recorded its training time.
      error: why drawing failed although the runs have everything.
      chart: the chart as HTML.
      files: names of the files written to the directory of the page.
    """

    figure: Figure
    env: str
    algorithm: str = ""
    missing: str = ""
    command: str = ""
    hours: float | None = None
    error: str = ""
    chart: str = ""
    files: tuple[str, ...] = ()

    @property
    def time(self) -> str:
        """``hours`` as text; empty if None."""
        if self.hours is None:
            return ""
        return f"{max(1, round(60 * self.hours))} min" if self.hours < 1 else f"{self.hours:,.1f} h"

    @property
    def name(self) -> str:
        """Name of its files and of its anchor in the page."""
        return f"{self.figure.name}-{self.env}"


@click.command()
@outputs.runs
@click.option(
    "--out", type=click.Path(path_type=Path), default="figures", show_default=True, help="Directory to write."
)
@click.option("--only", metavar="NUMBERS", help="Figures to draw, such as 1,9,table5.  [default: all]")
def command(paths: Sequence[Path], out: Path, only: str | None) -> None:
    """Draw the figures of the paper from runs, and list the sweeps that the other figures need.

    RUNS are run directories, or directories that contain some. OUT gets a self-contained index.html, and each figure as
    html, svg, pdf and png.

    \b
    Example: crlviz paper runs --out figures
    """
    start = time.perf_counter()
    wanted = figures.choose(only)
    atomic_files.make_directory(out)
    entries = draw(group(find(paths)), out, wanted)
    index = write_index(entries, paths, out)
    for entry in entries:
        if entry.error:
            click.echo(f"figure {entry.figure.number}, {entry.env}: {printable(entry.error)}", err=True)
    drawn = [figure.number for figure in wanted if any(entry.chart for entry in entries if entry.figure is figure)]
    click.echo(f"drew figures {', '.join(drawn) or 'none'} in {time.perf_counter() - start:.0f} s")
    click.echo(f"wrote {index}")
    if not drawn:
        raise CrlvizError(f"these runs support no figure; {index} lists the sweeps that each needs")


def group(paths: Sequence[Path]) -> list[Runs]:
    """Group runs by their environment; warn about runs that cannot be loaded and skip them."""
    from crlviz.agent import load, readable

    by_env: dict[tuple, list] = {}
    for path, agent in readable(paths, load):
        maze = agent.env.maze if agent.config["env"] else None
        by_env.setdefault((agent.facts["env"], maze), []).append((path, agent))
    return [Runs(*map(list, zip(*pairs, strict=True))) for pairs in by_env.values()]


def draw(all_runs: Sequence[Runs], out: Path, wanted: Sequence[Figure]) -> list[Entry]:
    """Draw and write every figure that the runs support; a figure that fails does not stop the others."""
    from crlviz import charts

    atomic_files.make_directory(out)
    entries = []
    jobs = [(figure, runs) for figure in wanted for runs in all_runs]
    for figure, runs in (bar := tqdm(jobs, unit="figure", disable=None)):
        bar.set_postfix_str(f"{figure.number}, {runs.name}")
        entry = Entry(figure, runs.name)
        entries.append(entry)
        if len(runs.by_algorithm) > len((runs := figure.chosen(runs)).by_algorithm):
            entry.algorithm = runs.agents[0].facts["algorithm"]
        entry.missing = figure.missing(runs)
        if entry.missing:
            if figure.sweep:
                typed = RunDirectory(runs.paths[0]).read_config().get("command") or []
                entry.command = sweep_cost.command(figure, runs, typed)
                if timed_runs := _train_seconds(runs):
                    entry.hours = sweep_cost.hours(figure, *timed_runs)
            continue
        if figure.draw is None:
            entry.missing = "an analysis that draws it"
            continue
        try:
            drawn = charts.Rendering(figure.draw(runs))
            files = {ending: make(runs) for ending, make in figure.others.items()}
            files |= {ending: drawn.file(ending) for ending in _ENDINGS if ending not in files}
            for ending, data in files.items():
                atomic_files.write(out / f"{entry.name}{ending}", data)
            entry.files = tuple(f"{entry.name}{ending}" for ending in files)
            entry.chart = drawn.embed(entry.name)
        except Exception as error:  # any error of an analysis is shown in place of its figure
            entry.error = str(error) if isinstance(error, CrlvizError) else f"{type(error).__name__}: {error}"
    return entries


def _train_seconds(runs: Runs) -> tuple[Runs, list[float]] | None:
    """The runs that recorded their training time, and their seconds; None if no run did. Imported runs did not."""
    timed = []
    for path, agent in zip(runs.paths, runs.agents, strict=True):
        with contextlib.suppress(CrlvizError):
            timed.append((path, agent, float(clock(metrics(path))[0][-1])))
    if not timed:
        return None
    paths, agents, seconds = zip(*timed, strict=True)
    return Runs(paths, agents), list(seconds)


def write_index(entries: Sequence[Entry], paths: Sequence[Path], out: Path) -> Path:
    """Write the page with all charts, then the table of what is missing; returns its path."""
    import jinja2

    from crlviz import charts

    by_figure: dict[Figure, list[Entry]] = {}
    for entry in entries:
        by_figure.setdefault(entry.figure, []).append(entry)
    page = jinja2.Template(
        resources.files("analyses.pages").joinpath("paper.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        drawn={
            figure: shown for figure, own in by_figure.items() if (shown := [entry for entry in own if entry.chart])
        },
        failed=[entry for entry in entries if entry.error],
        trainable=[entry for entry in entries if entry.command],
        impossible={
            figure: own[0].missing
            for figure, own in by_figure.items()
            if all(entry.missing and not entry.command for entry in own)
        },
        paths=paths,
        seeds=sweep_cost.SEEDS,
        script=charts.embed_script(),
    )
    atomic_files.write(out / "index.html", page.encode(errors="replace"))
    return out / "index.html"
