"""The setting of a run that names its teacher."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Teacher:
    """The agent that a student imitates (``crlviz distill``).

    Attributes:
      path: its run directory or checkpoint; empty: no teacher.
      depth: of its critic.
    """

    path: str = ""
    depth: int = 0
