"""The normalisation of ``VecNormalize``, for batches on the training device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

Samples = ReplayBufferSamples | DictReplayBufferSamples

#: key of an observation that is not a dictionary
SINGLE = ""

Settings = tuple[VecNormalize, bool, bool, float, float, list[str] | None]


def normalized_on_host(samples: Samples, env: VecNormalize) -> Samples:
    """Normalise a batch by the methods of the wrapper, as SB3's buffers do."""

    def normalize(function: Callable[..., Any], values: Any) -> Any:
        if isinstance(values, dict):
            arrays = function({key: value.cpu().numpy() for key, value in values.items()})
            return {key: tensor(array, values[key]) for key, array in arrays.items()}
        return tensor(function(values.cpu().numpy()), values)

    def tensor(array: Any, like: th.Tensor) -> th.Tensor:
        result = th.as_tensor(array)
        return result.to(like.device, th.float32 if result.is_floating_point() else result.dtype)

    return samples._replace(
        observations=normalize(env.normalize_obs, samples.observations),
        next_observations=normalize(env.normalize_obs, samples.next_observations),
        rewards=normalize(env.normalize_reward, samples.rewards),
    )


def _settings(env: VecNormalize) -> Settings:
    """What of a wrapper can be set from outside, beside the statistics."""
    keys = None if env.norm_obs_keys is None else list(env.norm_obs_keys)
    return env, env.norm_obs, env.norm_reward, float(env.clip_obs), float(env.clip_reward), keys


class DeviceNormalizer:
    """Normalise batches on the device as ``VecNormalize`` normalises steps."""

    @th.inference_mode(False)  # its tensors are written to later, outside of that mode
    def __init__(self, env: VecNormalize, keys: list[str], device: th.device):
        self._settings = _settings(env)
        self._env, _, self.norm_reward, self.clip_obs, self.clip_reward, _ = self._settings
        chosen = list(env.norm_obs_keys or [SINGLE]) if env.norm_obs else []
        self.keys = [key for key in keys if key in chosen]
        self.statistics = {key: [self._tensor(x, device) for x in self._observation(env, key)] for key in self.keys}
        self.reward_scale = self._tensor(self._reward(env), device)

    def is_of(self, env: VecNormalize) -> bool:
        """Whether the statistics are those of this wrapper, with the same settings as then."""
        return env is self._env and _settings(env) == self._settings

    @staticmethod
    def _tensor(value: Any, device: th.device) -> th.Tensor:
        return th.as_tensor(value, dtype=th.float32).to(device, copy=True)

    @staticmethod
    def _observation(env: VecNormalize, key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rms = env.obs_rms[key] if isinstance(env.obs_rms, dict) else env.obs_rms
        mean = rms.mean.astype(np.float32)
        # What single precision leaves of the mean: much of a deviation where that is small beside the mean
        return mean, rms.mean - mean, np.sqrt(rms.var + env.epsilon)

    @staticmethod
    def _reward(env: VecNormalize) -> np.ndarray:
        return np.sqrt(env.ret_rms.var + env.epsilon)

    def update(self) -> None:
        """Take the present statistics, into the same tensors: a captured graph reads them."""
        for key in self.keys:
            for tensor, value in zip(self.statistics[key], self._observation(self._env, key), strict=True):
                tensor.copy_(th.as_tensor(value, dtype=th.float32))
        self.reward_scale.copy_(th.as_tensor(self._reward(self._env), dtype=th.float32))

    def observations(self, values: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """Normalise observations ``(B, ...)``, by their keys."""
        normalized = dict(values)
        for key in self.keys:
            mean, rest, std = self.statistics[key]
            normalized[key] = ((values[key] - mean - rest) / std).clamp(-self.clip_obs, self.clip_obs)
        return normalized

    def reward(self, value: th.Tensor) -> th.Tensor:
        """Normalise rewards, ``(B, 1)``."""
        return (value / self.reward_scale).clamp(-self.clip_reward, self.clip_reward) if self.norm_reward else value
