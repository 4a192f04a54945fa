"""The ``crlviz`` command. Each verb's module is imported only when that verb runs."""

import importlib
import importlib.util
import io
import os
import stat
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import platformdirs

from crlviz import __version__, gpu_errors
from crlviz.errors import UsageError, one_line
from crlviz.escaping import printable
from crlviz.options import nearest
from crlviz.processes import interrupts

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

# Verb to the location of its click command and its help line, kept here so that --help imports no module.
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("analyses.pages.demo:command", "Train shallow and deep swimmers and show what they learned."),
    "envs": ("crlviz.rendering.envs_command:command", "List the environments."),
    "train": ("training.train_command:command", "Train an agent and write a run directory."),
    "watch": ("analyses.pages.watch:command", "Keep a page about a run while it trains."),
    "sweep": ("training.sweep.sweep_command:command", "Train every combination of settings."),
    "distill": ("training.distill_command:command", "Train a small student to imitate a trained agent."),
    "ls": ("crlviz.checkpoints.ls_command:command", "List runs: network, seed, steps, success, state."),
    "inspect": ("crlviz.interchange.inspection:command", "Print what is in a checkpoint or a file of trajectories."),
    "import": ("crlviz.interchange.importing:command", "Make run directories from runs of the paper's code."),
    "export": ("crlviz.interchange.exporting:command", "Write an agent's networks as safetensors or ONNX."),
    "eval": ("analyses.evaluation:command", "Score agents: success, time at goal and steps to goal."),
    "heatmap": ("analyses.heatmap.heatmap_command:command", "Draw Q over the positions of a maze."),
    "rollout": ("crlviz.rendering.rollout_command:command", "Film what agents do."),
    "record": ("crlviz.trajectories.record_command:command", "Record trajectories for offline learning."),
    "play": ("crlviz.browser.play_command:command", "Write a page in which agents live: set goals, push, compare."),
    "embed": ("analyses.embed:command", "Draw the embeddings along a trajectory."),
    "calibrate": (
        "analyses.calibrate.calibrate_command:command",
        "Compare the learned distance with the steps to the goal.",
    ),
    "norms": ("analyses.norms:command", "Measure what each residual block adds."),
    "stitch": ("analyses.stitch:command", "Run every start to every goal of a maze."),
    "behavior": (
        "analyses.behavior.behavior_command:command",
        "Name what agents do, and find the depth where it changes.",
    ),
    "kept": ("analyses.distillation:command", "Show what students kept of their teachers."),
    "scaling": ("analyses.sweeps.scaling:command", "Draw learning curves and final scores over depth."),
    "efficiency": ("analyses.sweeps.efficiency:command", "Compare depth and width at equal cost."),
    "paper": ("analyses.pages.paper:command", "Draw every figure of the paper that runs support, on one page."),
    "plan": ("training.bench.plan_command:command", "Estimate memory and time of a run before training."),
    "bench": ("training.bench.bench_command:command", "Measure speed on this machine."),
}


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise UsageError(f"no verb is called {args[0]!r}{nearest(args[0], VERBS)}; crlviz --help lists them")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name][0].partition(":")
        _prefer_own_package(module.partition(".")[0])
        with interrupts.exit_at_once():
            command = getattr(importlib.import_module(module), attribute)
        command.name = name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in VERBS.items()])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="crlviz")
def cli(debug: bool) -> None:
    """Train deep contrastive RL agents, look inside them, and see what depth bought.

    \b
    Start with: crlviz demo
    """
    _prepare_jax()
    if not debug:
        gpu_errors.listen()


def main() -> None:
    """Run the command line. Any error is printed as one sentence and sets the exit code."""
    debug = "--debug" in sys.argv
    warnings.showwarning = _warn  # type: ignore[assignment]
    sys.stdout, sys.stderr = (_ignoring_broken_pipe(stream) for stream in (sys.stdout, sys.stderr))
    try:
        with interrupts.listening():
            cli.main(prog_name="crlviz", standalone_mode=False)
    except click.ClickException as error:
        click.echo(_sentence(error), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.stdout.flush()
        os._exit(interrupts.exit_code())  # a normal exit would wait for threads that still compile
    except Exception as error:  # from any library
        if debug:
            traceback.print_exc()
        click.echo(f"Error: {printable(one_line(error))}", err=True)
        sys.exit(getattr(error, "exit_code", 1))


def _sentence(error: click.ClickException) -> str:
    """Click's message on one line, with the command's --help to read; without a verb, the help text itself."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message()
    words = " ".join(error.format_message().split()).rstrip(".")
    return f"Error: {words}" + (f"; see {context.command_path} --help" if context else "")


class _Pipe(io.FileIO):
    """A pipe that discards output when the reader has closed it."""

    def write(self, data: "Buffer") -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _ignoring_broken_pipe(stream: TextIO) -> TextIO:
    """Replace a stream to a pipe so that the command finishes even if the reader leaves (``| head -1``)."""
    try:
        descriptor = stream.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return stream
    except (OSError, AttributeError):  # no stream, or not a file
        return stream
    pipe = io.BufferedWriter(_Pipe(descriptor, "wb", closefd=False))
    return io.TextIOWrapper(pipe, encoding=stream.encoding, errors=stream.errors, line_buffering=True)


def _warn(message: Warning | str, *_: object) -> None:
    """Print a warning as one line, without its source line."""
    click.echo(f"Warning: {printable(message)}", err=True)


def _prefer_own_package(package: str) -> None:
    """Make sure that ``package`` is imported from beside crlviz, even if PYTHONPATH has another one of that name."""
    home = Path(__file__).parents[1]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin or Path(spec.origin).resolve().parents[1] != home.resolve():
        sys.path.insert(0, str(home))


def _prepare_jax() -> None:
    """Set jax's environment variables: a compilation cache for the user, and no switches that change its numbers.

    jax reads them when it is first imported, here and in child processes; see crlviz.jax_config.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", platformdirs.user_cache_dir("crlviz"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    for switch in ("JAX_ENABLE_X64", "JAX_DEFAULT_PRNG_IMPL", "JAX_THREEFRY_PARTITIONABLE"):
        os.environ.pop(switch, None)
