"""``crlviz paper``: every figure of the paper that runs support, on one page; for the others, what would make them."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import click
from tqdm import tqdm

from analyses import estimate, figures, outputs
from analyses.figures import Figure, Runs
from analyses.runs import clock, find, metrics
from crlviz import checkpoints, files
from crlviz.errors import CrlvizError
from crlviz.escaping import printable

_ENDINGS = (".html", ".svg", ".pdf")


@dataclass
class Entry:
    """What became of a figure for one environment.

    Attributes:
      figure: of the paper.
      env: the environment's id.
      missing: what the runs lack for it; empty where they lack nothing.
      command: the sweep that would make it, where one would.
      hours: about how long that sweep takes; None where no run tells how long it took.
      error: why it could not be drawn although the runs have it all.
      chart: the HTML that draws it.
      files: what was written, in the directory of the page.
    """

    figure: Figure
    env: str
    missing: str = ""
    command: str = ""
    hours: float | None = None
    error: str = ""
    chart: str = ""
    files: tuple[str, ...] = ()

    @property
    def time(self) -> str:
        """The hours in words; empty where no run tells how long it took."""
        if self.hours is None:
            return ""
        return f"{max(1, round(60 * self.hours))} min" if self.hours < 1 else f"{self.hours:,.1f} h"

    @property
    def name(self) -> str:
        """Of its files and its place in the page."""
        return f"figure{self.figure.number.replace(', ', '-')}-{self.env}"


@click.command()
@outputs.runs
@click.option(
    "--out", type=click.Path(path_type=Path), default="figures", show_default=True, help="Directory to write."
)
@click.option("--only", metavar="NUMBERS", help="Figures to draw, such as 1,9.  [default: all]")
def command(paths: Sequence[Path], out: Path, only: str | None) -> None:
    """Draw the figures of the paper from runs, and say what the others would take.

    RUNS are run directories, or directories that hold some. OUT gets index.html, which stands alone, and each figure as
    html, svg and pdf.

    \b
    Example: crlviz paper runs --out figures
    """
    began = time.perf_counter()
    wanted = figures.choose(only)
    files.make_directory(out)
    entries = draw(group(find(paths)), out, wanted)
    index = write_index(entries, paths, out)
    for entry in entries:
        if entry.error:
            click.echo(f"figure {entry.figure.number}, {entry.env}: {printable(entry.error)}", err=True)
    drawn = sorted(
        {entry.figure.number for entry in entries if entry.chart}, key=lambda number: int(number.split(",")[0])
    )
    click.echo(f"drew figures {', '.join(drawn) or 'none'} in {time.perf_counter() - began:.0f} s")
    click.echo(f"wrote {index}")
    if not drawn:
        raise CrlvizError(f"these runs support no figure; {index} says what each would take")


def group(paths: Sequence[Path]) -> list[Runs]:
    """Runs by the environment they were trained in; one that cannot be loaded is left out with a warning."""
    from crlviz.agent import load, readable

    together: dict[tuple, list] = {}
    for path, agent in readable(paths, load):
        together.setdefault((agent.env.id, agent.env.maze), []).append((path, agent))
    return [Runs(*map(list, zip(*members, strict=True))) for members in together.values()]


def draw(all_runs: Sequence[Runs], out: Path, wanted: Sequence[Figure]) -> list[Entry]:
    """Write every figure that the runs support; one that fails loses no other."""
    from crlviz import charts

    files.make_directory(out)
    entries = []
    jobs = [(figure, runs) for figure in wanted for runs in all_runs]
    for figure, runs in (bar := tqdm(jobs, unit="figure", disable=None)):
        bar.set_postfix_str(f"{figure.number}, {runs.env.id}")
        entry = Entry(figure, runs.env.id, figure.missing(runs))
        entries.append(entry)
        if entry.missing:
            if figure.sweep:
                typed = checkpoints.read_config(runs.paths[0]).get("command") or []
                entry.command = estimate.command(figure, runs, typed)
                if timed := _seconds(runs):
                    entry.hours = estimate.hours(figure, *timed)
            continue
        if figure.draw is None:
            entry.missing = "an analysis that draws it"
            continue
        try:
            chart = figure.draw(runs)
            made = {ending: make(runs) for ending, make in figure.others.items()}
            made |= {ending: charts.render(chart, ending) for ending in _ENDINGS if ending not in made}
            for ending, data in made.items():
                files.write(out / f"{entry.name}{ending}", data)
            entry.files = tuple(f"{entry.name}{ending}" for ending in made)
            entry.chart = charts.embed(chart, entry.name)
        except Exception as error:  # whatever an analysis may raise, its sentence takes the figure's place
            entry.error = str(error) if isinstance(error, CrlvizError) else f"{type(error).__name__}: {error}"
    return entries


def _seconds(runs: Runs) -> tuple[Runs, list[float]] | None:
    """The runs that tell how long they trained, and their seconds; an imported one does not."""
    told = []
    for path, agent in zip(runs.paths, runs.agents, strict=True):
        with contextlib.suppress(CrlvizError):
            told.append((path, agent, float(clock(metrics(path))[0][-1])))
    if not told:
        return None
    paths, agents, seconds = zip(*told, strict=True)
    return Runs(paths, agents), list(seconds)


def write_index(entries: Sequence[Entry], paths: Sequence[Path], out: Path) -> Path:
    """The page that holds all figures, and the table of what each answers; its path."""
    import jinja2

    from crlviz import charts

    page = jinja2.Template(
        resources.files("analyses").joinpath("paper.html").read_text(encoding="utf-8"), autoescape=True
    ).render(
        entries=entries,
        envs=list(dict.fromkeys(entry.env for entry in entries)),
        paths=paths,
        seeds=estimate.SEEDS,
        script=charts.embed_script(),
    )
    files.write(out / "index.html", page.encode(errors="replace"))
    return out / "index.html"
