"""Goal-conditioned supervised learning (GCSL): collect, relabel with what was achieved, imitate.

The loss is that of ``gcbc.py``. The goal of a row is uniform over what its episode achieves later in the window, as in
GCSL's code; ``gamma`` has no part in it.

Different from GCSL's code: actions are continuous, where it takes one of three values on each axis; the first steps are
the initial policy's, where it draws 10,000 uniformly; the policy explores by its own standard deviation, where it acts
greedily after that; and a row is drawn first and its goal from the rest, where it draws two steps of an episode.
"""

from dataclasses import dataclass
from typing import ClassVar

from crlviz.algorithms.batches import Rows
from crlviz.algorithms.gcbc import GCBC, GCBCConfig


@dataclass(frozen=True)
class GCSLConfig(GCBCConfig):
    """Settings of the update.

    Attributes:
      learning_rate: Adam's learning rate; GCSL's.
    """

    learning_rate: float = 5e-4

    section: ClassVar[str] = "gcsl"


@dataclass(frozen=True)
class GCSL(GCBC):
    """Imitation of the policy's own actions toward uniform hindsight goals."""

    name: ClassVar[str] = "gcsl"
    Config: ClassVar[type] = GCSLConfig

    @property
    def rows(self) -> Rows:
        return Rows("future", 1.0)
