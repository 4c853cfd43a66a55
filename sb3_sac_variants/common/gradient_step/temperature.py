"""The temperature alpha (SB3's ``ent_coef``) as an object, fixed or learned, so that no algorithm asks which."""

import math
from collections.abc import Callable

import torch as th
from torch import nn

from sb3_sac_variants.common.equations.losses import temperature_loss
from sb3_sac_variants.common.equations.types import PolicySample
from sb3_sac_variants.common.gradient_step.learner import Learner


class Temperature(nn.Module):
    """
    A fixed temperature.

    :param value: alpha, at least 0
    :param size: how many of them there are, all with this value: one for each agent, say
    """

    learned = False

    def __init__(self, value: float, size: int = 1):
        super().__init__()
        # Not saved: a fixed temperature is an argument of the algorithm, not something learned
        self.register_buffer("ent_coef", th.full((size,), value, dtype=th.float32), persistent=False)

    @property
    def value(self) -> th.Tensor:
        """The temperature alpha, ``(size,)``, without gradient."""
        return self.ent_coef  # type: ignore[return-value]

    def minimize(self, sample: PolicySample, target_entropy: float) -> dict[str, th.Tensor]:
        """One step of the temperature towards an entropy in nats, none here, and metrics to log."""
        return {}


class LearnedTemperature(Temperature):
    """
    A temperature learned by dual descent (Haarnoja et al. 2019, section 5 and eq. 18).

    The parameter is log alpha, which keeps alpha positive.

    :param value: initial alpha, greater than 0
    :param loss: what eq. 18 is differentiated by: "alpha" (the paper: the gradient of exp(log alpha)) or "log_alpha"
        (the authors' early code and SB3, where alpha moves at a speed independent of its size;
        rail-berkeley/softlearning issue 37)
    :param size: how many of them there are
    :param objective: eq. 18 for this kind of sample
    """

    learned = True

    def __init__(
        self, value: float, loss: str = "alpha", size: int = 1, objective: Callable[..., th.Tensor] = temperature_loss
    ):
        super().__init__(value, size)
        self.loss, self.objective = loss, objective
        self.log_ent_coef = nn.Parameter(th.full((size,), math.log(value), dtype=th.float32))
        self.optimizer: th.optim.Optimizer
        self.learner: Learner

    def setup_optimizer(self, learning_rate: float) -> None:
        """Make the optimiser, Adam as in SB3, whatever the networks use: weight decay has no meaning for one number."""
        self.optimizer = th.optim.Adam([self.log_ent_coef], lr=learning_rate)
        # The learner refers to this module: keep it out of the module's own tree
        object.__setattr__(self, "learner", Learner(self, "temperature"))

    @property
    def value(self) -> th.Tensor:
        return self.log_ent_coef.detach().exp()

    def coefficient(self) -> th.Tensor:
        """What multiplies the excess entropy in the loss, ``(size,)``: alpha or its logarithm."""
        return self.log_ent_coef.exp() if self.loss == "alpha" else self.log_ent_coef

    def minimize(self, sample: PolicySample, target_entropy: float) -> dict[str, th.Tensor]:
        loss = self.learner.minimize(
            lambda temperature: self.objective(temperature.coefficient(), sample, target_entropy)
        )
        return {"ent_coef_loss": loss}
