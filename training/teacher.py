"""The setting of a run that says whom it imitates."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Teacher:
    """Whom a student imitates (``crlviz distill``).

    Attributes:
      path: its run directory or checkpoint; empty: nobody.
      depth: of its critic.
    """

    path: str = ""
    depth: int = 0
