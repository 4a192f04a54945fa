"""``crlviz distill``: train a small student to imitate a trained agent."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

_SHARE = 4  # by default the student trains for 1/4 of the teacher's environment steps


@click.command()
@click.argument("teacher", metavar="TEACHER", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory to create.")
@click.option("--depth", type=int, help="Layers in the residual blocks of the student.  [default: 4]")
@click.option("--width", type=int, help="Units of each layer.  [default: the teacher's]")
@click.option("--env-steps", type=int, help="Environment steps in total.  [default: a quarter of the teacher's]")
@click.option("--seed", type=int, help="Random seed.  [default: the teacher's]")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Any other setting, as in config.json.")
def command(teacher: Path, out: Path, settings: Sequence[str], **options: Any) -> None:
    """Train a student that imitates the policy and the critic of a TEACHER, a run directory or a checkpoint in it.

    Teacher and student act in half of the environments each, and the student learns from the states of both. The
    student is an ordinary run of the teacher's algorithm: every analysis and export accepts it. train --resume resumes
    it if the teacher was not moved. To compare it with its teacher: crlviz kept RUN.

    \b
    Example: crlviz distill examples/swimmers/depth16-width32-seed0 --depth 4 --width 64 --out runs/student
             crlviz kept runs/student --out kept.html
    """
    from crlviz.processes import interrupts
    from training.run.signals import Stopped

    try:
        with interrupts.exit_at_once():
            _distill(teacher, out, settings, options)
    except Stopped as stopped:
        click.echo(stopped, err=True)
        sys.exit(stopped.exit_code)


def _distill(teacher: Path, out: Path, settings: Sequence[str], options: dict[str, Any]) -> None:
    from training import trainer

    config = student_config(teacher, settings, **options)
    config.check()
    run = trainer.train(config, out, command=["crlviz", *sys.argv[1:]])
    click.echo(f"wrote {run}")


def student_config(
    teacher: Path,
    settings: Sequence[str] = (),
    *,
    depth: int | None = None,
    width: int | None = None,
    env_steps: int | None = None,
    seed: int | None = None,
) -> Any:
    """The ``TrainConfig`` of a student: its teacher's, with other networks and another length.

    Args:
      teacher: its run directory, or a checkpoint in it.
      settings: further changes, as text ``NAME=VALUE``.
      depth: of the student; default 4.
      width: of the student; default: the teacher's.
      env_steps: default: a quarter of the teacher's.
      seed: default: the teacher's.

    Raises:
      CrlvizError: the teacher cannot be read.
      UsageError: an unknown setting or a value of the wrong type.
    """
    from crlviz.checkpoints.checkpoint import open_checkpoint
    from training import config as configs
    from training.teacher import Teacher

    path = open_checkpoint(teacher).path
    before = configs.read_run(path.parent.parent)
    changes: dict[str, Any] = {f"{network}.depth": depth or 4 for network in ("actor", "critic")}
    if width:
        changes |= {f"{network}.width": width for network in ("actor", "critic")}
    changes |= {"env_steps": env_steps or -(-int(path.name) // _SHARE), "explore": "sample", "fused": "off"}
    changes |= {"seed": before.seed if seed is None else seed, "collector_depth": 0}
    config = configs.replace(before, changes | configs.read_settings(settings))
    return dataclasses.replace(config, teacher=Teacher(str(teacher), before.critic.depth))
