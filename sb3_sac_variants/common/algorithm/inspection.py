"""What a trained model thinks of states and actions: NumPy in, NumPy out, for analysis and plots."""

import math
from abc import abstractmethod

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import TensorDict

from sb3_sac_variants.common.checks.validation import check_range
from sb3_sac_variants.common.networks.actors import SquashedGaussianActor
from sb3_sac_variants.common.networks.critics import StackedCritic
from sb3_sac_variants.common.networks.discrete import CategoricalActor
from sb3_sac_variants.common.networks.policies import MaxEntPolicy


class Inspection(OffPolicyAlgorithm):
    """Values of states and actions."""

    policy: MaxEntPolicy
    actor: SquashedGaussianActor | CategoricalActor
    critic: StackedCritic

    @abstractmethod
    def _soft_value(self, obs: th.Tensor | TensorDict, noise: th.Tensor) -> th.Tensor:
        """
        :param obs: observations
        :param noise: noise of one action for each
        :return: (an estimate of) V(s), ``(B, 1)``
        """

    def q_value(self, observation: np.ndarray | dict[str, np.ndarray], action: np.ndarray) -> np.ndarray:
        """
        Q(s, a), the minimum over the critics, for analysis and plots.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param action: actions as the environment takes them, ``(n, *action_shape)``
        :return: ``(n,)``
        """
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observation)
        if isinstance(self.action_space, spaces.Box):
            action = np.asarray(action).reshape(-1, *self.action_space.shape)
            action = self.policy.scale_action(action).astype(np.float32)  # the bounds may be float64
        actions = th.as_tensor(action, device=self.device)
        with th.no_grad():
            q_values = self.critic.evaluate(obs, actions.reshape(-1, get_action_dim(self.action_space)))
        return q_values.amin(dim=0).squeeze(1).cpu().numpy()

    def soft_value(self, observation: np.ndarray | dict[str, np.ndarray], n_samples: int = 64) -> np.ndarray:
        """
        Soft state value V(s), for analysis and plots: of the value network where the algorithm has one, else the mean
        of min Q - alpha log pi over sampled actions, or its exact sum over discrete ones. Does not touch the random
        state of the training.

        :param observation: one observation or n of them (normalised, where VecNormalize is used)
        :param n_samples: continuous actions to sample for each observation
        :return: ``(n,)``
        """
        check_range("n_samples", n_samples, 1, integer=True)
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(observation)
        batch_size = next(iter(obs.values())).shape[0] if isinstance(obs, dict) else obs.shape[0]
        generator = th.Generator(self.device).manual_seed(0)
        with th.no_grad():
            noise = self._draw_inspection_noise(n_samples, batch_size, generator)
            values = th.stack([self._soft_value(obs, sample_noise) for sample_noise in noise])
        return values.mean(dim=0).squeeze(1).cpu().numpy()

    def _draw_inspection_noise(self, n_samples: int, batch_size: int, generator: th.Generator) -> th.Tensor:
        """
        :param n_samples: actions to sample for each observation
        :param batch_size: number of observations
        :param generator: what to draw from
        :return: arguments of :meth:`_soft_value`, stacked: its results are averaged
        """
        shape = self.actor.noise_shape(batch_size)
        repetitions = n_samples if math.prod(shape) > 0 else 1  # without noise all results are the same
        return th.randn((repetitions, *shape), generator=generator, device=self.device)
