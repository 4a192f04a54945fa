"""``crlviz ls``: a table of the runs in directories, read from their files alone."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from crlviz.checkpoints import atomic_files, metrics_table, run_directory
from crlviz.checkpoints.metrics_table import LAST
from crlviz.checkpoints.run_directory import RunDirectory
from crlviz.errors import CrlvizError, UsageError, one_line
from crlviz.options import nearest, read_values

Row = dict[str, Any]

# The columns, each with the form of its values in the table.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "run": str,
    "algorithm": str,
    "env": str,
    "depth": str,
    "width": str,
    "seed": str,
    "env_steps": "{:,}".format,
    "success": "{:.2f}".format,
    "time_at_goal": "{:.0f}".format,
    "state": str,
}
_TEXTS = ("run", "algorithm", "env", "state")  # aligned left


def find(paths: Sequence[Path]) -> list[Path]:
    """The run directories at paths, or in them, sorted with numbers by value.

    Raises:
      CrlvizError: a path does not exist, or no path holds a run.
    """
    for path in paths:
        if not path.exists():
            raise CrlvizError(f"there is no {path}")
    found = [run for path in paths for run in ([path] if RunDirectory(path).exists() else run_directory.runs_in(path))]
    if not found:
        raise CrlvizError(f"{' '.join(map(str, paths))} holds no run (no config.json); crlviz train makes one")
    return sorted(dict.fromkeys(found), key=run_directory.by_number)


def describe(path: Path) -> Row:
    """A row of the table, by column; and the run's settings by dotted name, for filters.

    ``env_steps`` is that of the last evaluation (None on a data set), ``success`` and ``time_at_goal`` are means of the
    last five. Values that are not known are None. A run that cannot be read has only ``run`` and ``state``.
    """
    row: Row = dict.fromkeys(COLUMNS) | {"run": str(path)}
    run = RunDirectory(path)
    try:
        content, metrics = run.read_config(), run.read_metrics()
        settings = dict(_flat(content["config"]))
        for name in ("env", "seed"):
            row[name] = settings.get(name)
        row |= {"algorithm": content["algorithm"]} | {name: _both(settings, name) for name in ("depth", "width")}
        for name in ("success", "time_at_goal"):
            values = [float(each[name]) for each in metrics[-LAST:] if each.get(name)]
            row[name] = sum(values) / len(values) if values else None
        done = metrics_table.number(metrics[-1]) if metrics else 0
        row["env_steps"] = None if "dataset" in content["config"] else done
        row["env"] = row["env"] or settings.get("dataset.name")
        return settings | row | {"state": _state(run, RunDirectory.wanted(content), done)}
    except (CrlvizError, ValueError) as error:
        return row | {"state": f"damaged: {one_line(error)}"}


def _both(settings: Mapping[str, Any], name: str) -> Any:
    """Depth or width of the critic, with the actor's if it differs: ``16`` or ``16/4``."""
    critic, actor = (settings.get(f"{network}.{name}") for network in ("critic", "actor"))
    return critic if critic == actor else f"{critic}/{actor}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _state(run: RunDirectory, wanted: Any, done: int) -> str:
    """``finished``, ``training``, ``stopped at 40 %`` (it can be resumed), or ``no checkpoint``."""
    if run.finished():
        return "finished"
    if _locked(run.path / ".lock"):
        return "training"
    share = f" at {done / wanted:.0%}".replace("%", " %") if isinstance(wanted, int) and wanted else ""
    if run.newest_state():
        return f"stopped{share}"
    return f"broken off{share}" if run.checkpoints() else "no checkpoint"


def _locked(path: Path) -> bool:
    """Whether a process that trains the run holds its lock."""
    import filelock

    if not path.exists():
        return False
    try:
        with filelock.FileLock(path, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # a directory of somebody else
        return False


def chosen(rows: Sequence[Row], filters: Sequence[str]) -> list[Row]:
    """The rows for which every filter holds: ``depth=4,16`` or ``seed=0-4``, a column or a setting by its name.

    Raises:
      UsageError: a filter without an equals sign, or a name that no run has.
    """
    for text in filters:
        name, equals, values = text.partition("=")
        if not equals:
            raise UsageError(f"--where takes NAME=VALUE, not {text!r}")
        known = dict.fromkeys(key for row in rows for key in row)
        if rows and name not in known:
            raise UsageError(f"no run has {name!r}{nearest(name, known)}")
        wanted = {value.lower() for value in read_values("--where", values)}
        rows = [row for row in rows if _text(row.get(name)).lower() in wanted]
    return list(rows)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Row]) -> str:
    """The rows as an aligned text table. Columns that are the same in all rows stand above it."""
    shared = [name for name in ("algorithm", "env") if len({row[name] for row in rows}) == 1 and len(rows) > 1]
    names = [name for name in COLUMNS if name not in shared]
    cells = [["-" if row[name] is None else COLUMNS[name](row[name]) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]

    def line(words: Sequence[str]) -> str:
        parts = zip(names, words, widths, strict=True)
        return "  ".join(f"{word:<{width}}" if name in _TEXTS else f"{word:>{width}}" for name, word, width in parts)

    above = [", ".join(f"{name} {rows[0][name]}" for name in shared)] if shared else []
    return "\n".join(text.rstrip() for text in [*above, line(names), *map(line, cells)])


@click.command()
@click.argument("paths", nargs=-1, metavar="[DIR...]", type=click.Path(path_type=Path))
@click.option("--where", "filters", multiple=True, metavar="NAME=VALUE", help="Only these; may be given several times.")
@click.option("--sort", metavar="COLUMN", help="Order by a column or setting, largest first.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table as csv.")
def command(paths: Sequence[Path], filters: Sequence[str], sort: str | None, out: Path | None) -> None:
    """List the runs in directories (default: this one): network, seed, steps, success, and whether they are finished.

    Success and time at goal are means of the last five evaluations.

    \b
    Example: crlviz ls runs --where depth=16 --sort success
    Example: crlviz ls examples/runs --where critic.layer_norm=false --out runs.csv
    """
    if out and out.suffix != ".csv":
        raise UsageError(f"--out takes a name that ends in .csv, not {out}")
    rows = chosen([describe(path) for path in find(paths or [Path()])], filters)
    if not rows:
        raise UsageError("no run fits all of --where")
    if sort:
        if not any(row.get(sort) is not None for row in rows):
            raise UsageError(f"no run has {sort!r}{nearest(sort, dict.fromkeys(key for row in rows for key in row))}")
        rows.sort(key=lambda row: _rank(row.get(sort)), reverse=True)
    click.echo(table(rows))
    if out:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(COLUMNS), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        atomic_files.write(out, text.getvalue().encode())


def _rank(value: Any) -> tuple[int, float, str]:
    """Sort key: nothing, then text, then numbers."""
    if value is None:
        return 0, 0.0, ""
    return (2, float(value), "") if isinstance(value, (int, float)) else (1, 0.0, str(value))


__all__ = ["COLUMNS", "chosen", "command", "describe", "find", "table"]
