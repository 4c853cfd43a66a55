"""The normalisation of ``VecNormalize``, for batches on the training device."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

#: key of an observation that is not a dictionary
SINGLE = ""


class BatchNormalizer:
    """
    What ``VecNormalize`` does to a batch, on the device.

    :param env: the wrapper whose statistics are used
    :param keys: keys of the observations
    :param device: where
    """

    def __init__(self, env: VecNormalize, keys: list[str], device: th.device):
        self.clip_obs, self.clip_reward = float(env.clip_obs), float(env.clip_reward)
        self.norm_reward = env.norm_reward
        chosen = list(env.norm_obs_keys or [SINGLE]) if env.norm_obs else []
        self.keys = [key for key in keys if key in chosen]
        self.statistics = {key: [self._tensor(x, device) for x in self._observation(env, key)] for key in self.keys}
        self.reward_scale = self._tensor(self._reward(env), device)

    @staticmethod
    def _tensor(value: Any, device: th.device) -> th.Tensor:
        return th.as_tensor(value, dtype=th.float32).to(device, copy=True)

    @staticmethod
    def _observation(env: VecNormalize, key: str) -> tuple[np.ndarray, np.ndarray]:
        rms = env.obs_rms[key] if isinstance(env.obs_rms, dict) else env.obs_rms
        return rms.mean, np.sqrt(rms.var + env.epsilon)

    @staticmethod
    def _reward(env: VecNormalize) -> np.ndarray:
        return np.sqrt(env.ret_rms.var + env.epsilon)

    def update(self, env: VecNormalize) -> None:
        """
        Take the present statistics, into the same tensors: a captured graph reads them.

        :param env: the wrapper
        """
        for key in self.keys:
            for tensor, value in zip(self.statistics[key], self._observation(env, key), strict=True):
                tensor.copy_(th.as_tensor(value, dtype=th.float32))
        self.reward_scale.copy_(th.as_tensor(self._reward(env), dtype=th.float32))

    def observation(self, key: str, value: th.Tensor) -> th.Tensor:
        """
        :param key: of the observations
        :param value: as the environment gives them, ``(B, ...)``
        :return: normalised, likewise
        """
        if key not in self.statistics:
            return value
        mean, std = self.statistics[key]
        return ((value - mean) / std).clamp(-self.clip_obs, self.clip_obs)

    def reward(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: rewards as the environment gives them, ``(B, 1)``
        :return: normalised, likewise
        """
        return (value / self.reward_scale).clamp(-self.clip_reward, self.clip_reward) if self.norm_reward else value
