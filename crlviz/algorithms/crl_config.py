"""Settings of contrastive learners."""

from dataclasses import dataclass
from typing import Any, ClassVar

from crlviz.algorithms import actor_losses
from crlviz.algorithms.base import check_positive
from crlviz.algorithms.contrastive_losses import LOSSES
from crlviz.algorithms.energies import ENERGIES
from crlviz.errors import UsageError
from crlviz.networks.policies import POLICIES
from crlviz.networks.squashing import LOG_PROBS
from crlviz.options import check_choice


@dataclass(frozen=True)
class CRLConfig:
    """Settings of the update.

    Attributes:
      learning_rate: Adam's learning rate for actor and critic.
      temperature_learning_rate: Adam's learning rate for the temperature.
      initial_temperature: alpha before the first update.
      entropy_per_dimension: target entropy per action dimension.
      logsumexp_penalty: weight of mean(logsumexp^2) in the critic's loss.
      energy: a key of ``energies.ENERGIES``: f(phi, psi), which is Q. Its values for all pairs of a batch are the
        logits.
      loss: of the logits: a key of ``contrastive_losses.LOSSES``.
      softmax_temperature: tau; the logits are f / tau. Q stays f.
      learn_softmax_temperature: train tau with the critic, from that value on.
      log_prob: the log-probability of actions near -1 and 1 (``squashing.log_slope``): ``paper`` or ``stable``. With
        ``paper``, the float32 gradient is off by 1 % if a deep actor starts saturated.
      actor_loss: ``sac``: the paper's; or ``ddpgbc`` or ``awr`` of ``actor_losses``.
      bc_weight: of the log probabilities in ``ddpgbc``, and of the advantage in ``awr``; OGBench's alpha.
      policy: ``tanh``: the paper's tanh-Gaussian; ``gaussian``: OGBench's, with a fixed deviation, not for ``sac``.
      critics: 1 or 2; of two, Q is the smaller one.

    Raises:
      UsageError: a value is out of range, or values contradict each other.
    """

    learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -0.5
    logsumexp_penalty: float = 0.1
    energy: str = "norm"
    loss: str = "forward"
    softmax_temperature: float = 1.0
    learn_softmax_temperature: bool = False
    log_prob: str = "paper"
    actor_loss: str = "sac"
    bc_weight: float = 0.1
    policy: str = "tanh"
    critics: int = 1

    section: ClassVar[str] = "crl"

    def __post_init__(self):
        positive = "learning_rate", "temperature_learning_rate", "initial_temperature", "softmax_temperature"
        check_positive(self.section, self, *positive, "bc_weight")
        choices: dict[str, Any] = {"energy": ENERGIES, "loss": LOSSES, "log_prob": LOG_PROBS}
        choices |= {"actor_loss": ("sac", *actor_losses.LOSSES), "policy": POLICIES}
        for name, known in choices.items():
            check_choice(f"{self.section}.{name}", getattr(self, name), known)
        if self.actor_loss == "sac" and self.policy != "tanh":
            raise UsageError(f"{self.section}.actor_loss=sac takes the policy tanh; or give actor_loss=ddpgbc or awr")
        if self.critics not in (1, 2):
            raise UsageError(f"{self.section}.critics is {self.critics}; take 1 or 2")

    @property
    def fused(self) -> bool:
        """Whether GPU kernels serve the losses: the paper's, of one critic."""
        return self.actor_loss == "sac" and self.critics == 1
