"""REDQ as a package of its own: SACv2 with an ensemble of critics, and many gradient steps for each environment step.

Paper: Chen et al. 2021, Randomized Ensembled Double Q-Learning, https://arxiv.org/abs/2101.05982.
"""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch as th

from sb3_sac_variants import SACv2
from sb3_sac_variants.zoo import ZooAlgorithm


class Noise(NamedTuple):
    """
    Random numbers of one update: SACv2's, and the critics whose minimum is the target.

    :param actions: for the actions in the sampled states
    :param next_actions: for those in the states that followed
    :param critics: indices of the critics, ``(subset_size,)``
    """

    actions: th.Tensor
    next_actions: th.Tensor
    critics: th.Tensor


class REDQ(SACv2):
    """
    Randomised ensembled double Q-learning.

    The target is the minimum over a random subset of the target critics, the policy climbs the mean of all critics.
    (The paper lets the policy learn at the last of the gradient steps only; here it learns at each of them.)

    :param gradient_steps: gradient steps for each environment step, G in the paper
    :param subset_size: critics in the minimum of the target, M in the paper
    :param policy_kwargs: arguments of the policy; ``n_critics``, N in the paper, is 10 unless it is given
    :param kwargs: as :class:`~sb3_sac_variants.SACv2`
    """

    algorithm_id = "redq"
    update_constants = (*SACv2.update_constants, "subset_size")

    def __init__(
        self,
        *args: Any,
        gradient_steps: int = 20,
        subset_size: int = 2,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        policy_kwargs = {"n_critics": 10, **(policy_kwargs or {})}
        if not 1 <= subset_size <= policy_kwargs["n_critics"]:
            raise ValueError(f"subset_size={subset_size} must be from 1 to n_critics={policy_kwargs['n_critics']}")
        self.subset_size = subset_size
        super().__init__(*args, gradient_steps=gradient_steps, policy_kwargs=policy_kwargs, **kwargs)

    def draw_noise(self, batch_size: int) -> Any:
        """As SACv2's, with a random subset of the critics."""
        shuffled = th.rand(self.critic.n_critics, device=self.device).argsort()
        return Noise(*super().draw_noise(batch_size), shuffled[: self.subset_size])

    def bootstrap_q(self, next_obs: Any, next_sample: Any, noise: Any) -> th.Tensor:
        """Minimum over the random subset of the target critics."""
        return self.critic_target.sample_q(next_obs, next_sample)[noise.critics].amin(dim=0)

    def actor_q(self, obs: Any, sample: Any) -> th.Tensor:
        """Mean over all critics."""
        return self.critic.sample_q(obs, sample).mean(dim=0)


def without_updates(name: str) -> Any:
    """SACv2's sampler or converter, but for how often it updates: many updates a step are the point of REDQ."""
    dropped = ("train_freq", "gradient_steps")

    def call(*given: Any) -> dict[str, Any]:
        samplers = importlib.import_module("sb3_sac_variants.zoo.samplers")  # not above: it needs Optuna
        return {key: value for key, value in getattr(samplers, name)(*given).items() if key not in dropped}

    return call


ZOO = ZooAlgorithm(
    algorithm=REDQ,
    hyperparameters=Path(__file__).parent / "redq.yml",
    sampler=without_updates("sample_sac_v2_params"),
    converter=without_updates("convert_sac_v2_params"),
)
