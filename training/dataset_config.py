"""The settings of a run that learns from a data set."""

from dataclasses import dataclass, replace

from crlviz.algorithms.batches import Rows, Shares
from crlviz.errors import UsageError


@dataclass(frozen=True)
class DatasetConfig:
    """Which data set, as it was found when the run began, and where the goals of its rows come from.

    Attributes:
      path: its file, as it was given; empty: no data set, the run steps environments.
      sha256: digest of the file; a resumed run refuses another one.
      rows, trajectories: their numbers, without those of a ``-val`` file beside it.
      name: of the environment that made it, such as ``antmaze-medium-stitch-v0`` or ``point_u_maze``.
      random: whether all its actions are random.
      state, action: lengths of a state and of an action.
      goal_indices: numbers of a state that are its goal; as many as the state has: the whole state, as in OGBench.
      value_goals: shares of current/trajectory/random goals for the critic's loss, such as ``0.2/0.5/0.3``; empty:
        the algorithm's own. Those of gcbc are its policy's.
      actor_goals: the same for the actor's loss.
      block_rows: rows on the device. Each training step draws new trajectories from the file, as many as fit. 0: all
        rows where they fit half of the device's memory, else a quarter of it.

    Raises:
      UsageError: a value is out of range.
    """

    path: str = ""
    sha256: str = ""
    rows: int = 0
    trajectories: int = 0
    name: str = ""
    random: bool = False
    state: int = 0
    action: int = 0
    goal_indices: tuple[int, ...] = ()
    value_goals: str = ""
    actor_goals: str = ""
    block_rows: int = 0

    def __post_init__(self):
        for name in ("value_goals", "actor_goals"):
            if text := getattr(self, name):
                shares(f"dataset.{name}", text, 1.0)
        if self.block_rows < 0:
            raise UsageError(f"dataset.block_rows is {self.block_rows}; it must be at least 0")

    def replaced(self, rows: Rows) -> Rows:
        """The rows of an algorithm with the shares of the settings instead of its own."""
        assert rows.value
        if self.value_goals:
            rows = replace(rows, value=shares("dataset.value_goals", self.value_goals, rows.value.gamma))
        if self.actor_goals and rows.actor:
            rows = replace(rows, actor=shares("dataset.actor_goals", self.actor_goals, rows.actor.gamma))
        return rows


def shares(name: str, text: str, gamma: float) -> Shares:
    """The shares of a setting's text.

    Raises:
      UsageError: it is not three numbers that sum to 1.
    """
    try:
        current, trajectory, random = map(float, text.split("/"))
        return Shares(current, trajectory, random, gamma)
    except (ValueError, UsageError):
        raise UsageError(
            f"{name} is {text!r}; take the shares of current, trajectory and random goals, which sum to 1, such as "
            "0.2/0.5/0.3"
        ) from None
