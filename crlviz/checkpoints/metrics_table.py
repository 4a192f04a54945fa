"""metrics.csv: one row for each evaluation. The file is rewritten atomically, so no row is ever cut off."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crlviz.checkpoints import atomic_files
from crlviz.errors import CrlvizError

# Values that were not measured are empty: ``env_steps`` on a data set, and scores without an evaluation environment.
#
# The columns before and after those of the algorithm (``Algorithm.columns``). Its columns are means over the updates
# since the previous row.
#
# ``train_seconds`` is the time spent on collecting and updating; both throughputs are computed from it. Seeds that an
# accelerator trains at once share it equally: each counts the group's seconds divided by its size, which is less than
# the seed would take alone. ``together`` in config.json lists them. ``wall_seconds`` is clock time and is not shared.
_BEFORE = (
    "env_steps",
    "gradient_steps",
    "wall_seconds",
    "train_seconds",
    "time_at_goal",
    "success",
    "success_easy",
    "distance",
    "episode_steps",
)
_AFTER = ("env_steps_per_second", "updates_per_second")

LAST = 5  # a run's score is the mean of its last five evaluations (paper section 4)

Row = Mapping[str, Any]


def columns(own: Sequence[str]) -> tuple[str, ...]:
    """All columns of a table; ``own`` are the columns of the algorithm."""
    return *_BEFORE, *own, *_AFTER


def number(row: Row) -> int:
    """The number that names a row's checkpoint: its environment steps, or on a data set its updates.

    Raises:
      KeyError, ValueError: it has neither.
    """
    return int(row.get("env_steps") or row["gradient_steps"])


def read(path: Path) -> list[dict[str, str]]:
    """Read a metrics.csv: one row for each evaluation, values as text, so that a row is written again unchanged.

    Raises:
      FileNotFoundError: there is no such file.
      CrlvizError: the file cannot be read or is not a table of evaluations.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, restkey="", restval=None))
        for row in rows:
            if "" in row or None in row.values():
                raise ValueError("a row is longer or shorter than the first")
            number(row)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise CrlvizError(f"{path} is not a table of evaluations ({error})") from None
    return rows


def write(path: Path, rows: Sequence[Row], own: Sequence[str]) -> None:
    """Write a metrics.csv in place of the old one; ``own`` are the columns of the run's algorithm.

    Raises:
      CrlvizError: it cannot be written.
    """
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns(own))
    table.writeheader()
    for row in rows:
        table.writerow({name: _short(value) for name, value in row.items()})
    atomic_files.write(path, text.getvalue().encode())


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
