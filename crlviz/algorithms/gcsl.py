"""Goal-conditioned supervised learning (GCSL): collect, relabel with what was achieved, imitate.

The loss is defined in ``gcbc.py``. The goal of a row is uniform over what its episode achieves later in the window, as
in GCSL's code; ``gamma`` is not used.

Differences from GCSL's code:

- Actions are continuous; GCSL's code uses three values on each axis.
- The initial policy takes the first steps; GCSL's code draws the actions of 10,000 steps uniformly.
- The policy explores with its own standard deviation; GCSL's code acts greedily after those steps.
- The row is drawn first, then its goal from the later steps; GCSL's code draws two steps of an episode.
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
