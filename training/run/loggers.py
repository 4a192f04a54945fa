"""Loggers of other tools, ``--log tensorboard`` and ``--log wandb``: they get each new row of metrics.csv.

A log mirrors metrics.csv, which remains the record. When a run continues after a stop, a kill or a rewind, its log is
rewritten from the valid rows, so no row appears twice. If a logger fails, the run continues without it and prints one
warning.
"""

import abc
import importlib.util
import json
import os
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tqdm import tqdm

from crlviz.checkpoints import atomic_files
from crlviz.checkpoints.metrics_table import Row
from crlviz.errors import UsageError, one_line
from crlviz.escaping import printable


class Logger(abc.ABC):
    """A log of one run.

    Attributes:
      package: what it needs to be installed, and the name of the extra.
    """

    package: ClassVar[tuple[str, str]]

    @abc.abstractmethod
    def __init__(self, run: Path, config: Mapping[str, Any], wall_seconds: float):
        """Begin the log.

        Args:
          run: the run directory; the log is inside.
          config: the run's settings, nested.
          wall_seconds: of the run until now.
        """

    @abc.abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row at an environment step."""

    @abc.abstractmethod
    def close(self) -> None:
        """End the log."""


class TensorBoard(Logger):
    """Event files in RUN/tensorboard, which ``tensorboard --logdir RUNS`` shows.

    The events are written at once: tensorboardX's own queue would wait forever for a writer that has failed.
    """

    package = "tensorboardX", "tensorboard"

    def __init__(self, run: Path, config: Mapping[str, Any], wall_seconds: float):
        from tensorboardX import event_file_writer, summary

        self._began = time.time() - wall_seconds
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))
        settings = "\n".join(f"    {line}" for line in json.dumps(config, indent=2).splitlines())  # Markdown's code
        self._add(summary.text("config", settings), 0, wall_seconds)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX import summary

        for name, value in values.items():
            self._add(summary.scalar(name, value), step, values["wall_seconds"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

    def _add(self, content: Any, step: int, wall_seconds: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(wall_time=self._began + wall_seconds, step=step, summary=content))


class WeightsAndBiases(Logger):
    """A run of Weights & Biases, with its files in RUN/wandb; the variables WANDB_PROJECT, WANDB_MODE and so on apply.

    Without an account's key it is written offline, and ``wandb sync RUN/wandb/offline-run-*`` uploads it. A run that is
    online keeps what was uploaded: after a rewind the rows that it has already are not replaced.
    """

    package = "wandb", "wandb"

    def __init__(self, run: Path, config: Mapping[str, Any], wall_seconds: float):
        import wandb

        folder = run / "wandb"
        folder.mkdir(exist_ok=True)
        for old in folder.glob("offline-run-*"):
            shutil.rmtree(old)
        name = folder / "id.txt"
        if not name.exists():
            atomic_files.write(name, secrets.token_hex(4).encode())
        mode: Any = wandb.setup().settings.mode  # of WANDB_MODE, or what `wandb offline` wrote
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
        self._run = wandb.init(
            dir=run,
            project=os.environ.get("WANDB_PROJECT", "crlviz"),
            name=os.environ.get("WANDB_NAME", run.absolute().name),
            id=name.read_text().strip(),
            config=dict(config),
            mode=mode,
            resume=None if mode == "offline" else "allow",
            reinit="create_new",  # several seeds train at once
            settings=wandb.Settings(console="off", silent=mode != "online", init_timeout=30),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:
            self._run.log(dict(values), step=step, commit=True)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def read(text: str) -> tuple[str, ...]:
    """The loggers that the setting ``log`` names, separated by commas.

    Raises:
      UsageError: a logger is unknown, or its package is not installed.
    """
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in LOGGERS:
            raise UsageError(f"no logger is called {name[:100]!r}; log takes {' or '.join(LOGGERS)}")
        module, extra = LOGGERS[name].package
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"--log {name} needs a package that is not installed: pip install 'crlviz[{extra}]'")
    return names


class Logs:
    """The logs of one run, each begun with its first row.

    Args:
      names: of ``LOGGERS``.
      run: the run directory.
      config: the run's settings, nested.
    """

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any]):
        self._waiting, self._run, self._config = list(names), run, config
        self._open: dict[str, Logger] = {}

    def record(self, rows: Sequence[Row]) -> None:
        """Log the last of the rows of metrics.csv; a log that begins here gets all of them."""
        for name in [*self._open]:
            self._try(name, rows[-1:])
        for name in self._waiting:
            self._try(name, rows)
        self._waiting = []

    def close(self) -> None:
        """End the logs; a later row would begin them anew."""
        for name, logger in self._open.items():
            try:
                logger.close()
            except Exception as error:  # of any kind, from somebody's service
                self._warn(name, error)
        self._waiting = [*self._open]
        self._open = {}

    def _try(self, name: str, rows: Sequence[Row]) -> None:
        try:
            if name not in self._open:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the tool's own code
                    self._open[name] = LOGGERS[name](self._run, self._config, float(rows[-1]["wall_seconds"]))
            for row in rows:
                values = {key: float(value) for key, value in row.items() if value != ""}
                self._open[name].write(int(row["env_steps"]), values)
        except Exception as error:  # of any kind, from somebody's service
            self._open.pop(name, None)
            self._warn(name, error)

    def _warn(self, name: str, error: Exception) -> None:
        reason = printable(one_line(error))
        tqdm.write(f"Warning: {self._run}: --log {name} is switched off, the run continues: {reason}", file=sys.stderr)
