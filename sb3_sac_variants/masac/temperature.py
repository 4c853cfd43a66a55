"""One learned temperature for each agent."""

import torch as th

from sb3_sac_variants.common.gradient_step.temperature import LearnedTemperature
from sb3_sac_variants.masac.losses import JointSample, agent_temperature_loss


class AgentTemperature(LearnedTemperature):
    """
    Learned temperatures alpha_i, ``(N,)``, each with its own agent's entropy.

    Arguments as :class:`~sb3_sac_variants.common.gradient_step.temperature.LearnedTemperature`.
    """

    def minimize(self, sample: JointSample, target_entropy: float) -> dict[str, th.Tensor]:  # type: ignore[override]
        """
        One step of the temperatures.

        :param target_entropy: H of one agent, in nats
        """
        loss = self.learner.minimize(
            lambda temperature: agent_temperature_loss(temperature.coefficient(), sample, target_entropy)
        )
        return {"ent_coef_loss": loss}
