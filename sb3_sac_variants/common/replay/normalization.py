"""The normalisation of ``VecNormalize``, for batches on the training device."""

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize

#: key of an observation that is not a dictionary
SINGLE = ""

Settings = tuple[VecNormalize, bool, bool, float, float, list[str] | None]


def normalizer_of(env: VecNormalize, keys: list[str], device: th.device) -> "DeviceNormalizer | OwnNormalizer | None":
    """
    :param env: the wrapper
    :param keys: keys of the observations
    :param device: where batches are
    :return: what does to a batch what the wrapper does to a step; None if that is nothing
    """
    methods = ("normalize_obs", "_normalize_obs", "normalize_reward")
    own = any(getattr(type(env), name) is not getattr(VecNormalize, name) for name in methods)
    if own:
        return OwnNormalizer(env, device)
    return DeviceNormalizer(env, keys, device) if env.norm_obs or env.norm_reward else None


def _settings(env: VecNormalize) -> Settings:
    """
    :param env: the wrapper
    :return: what of it can be set from outside, beside the statistics
    """
    keys = None if env.norm_obs_keys is None else list(env.norm_obs_keys)
    return env, env.norm_obs, env.norm_reward, float(env.clip_obs), float(env.clip_reward), keys


class OwnNormalizer:
    """
    The normalisation of a subclass of ``VecNormalize`` that has its own: by its own methods, on the host.

    :param env: the wrapper
    :param device: where batches are
    """

    on_device = False

    def __init__(self, env: VecNormalize, device: th.device):
        self._env, self._device = env, device

    def is_of(self, env: VecNormalize) -> bool:
        """
        :param env: a wrapper
        :return: whether it is the one whose methods are used
        """
        return env is self._env

    def update(self) -> None:
        """Nothing to take over: the wrapper itself is asked."""

    def observations(self, values: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param values: as the environment gives them, by their keys
        :return: normalised
        """
        arrays: Any = {key: value.cpu().numpy() for key, value in values.items()}
        if SINGLE in arrays:
            return {SINGLE: self._tensor(self._env.normalize_obs(arrays[SINGLE]))}
        return {key: self._tensor(value) for key, value in self._env.normalize_obs(arrays).items()}  # type: ignore[union-attr]

    def reward(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: rewards as the environment gives them
        :return: normalised
        """
        return self._tensor(self._env.normalize_reward(value.cpu().numpy()))

    def _tensor(self, value: Any) -> th.Tensor:
        tensor = th.as_tensor(value)
        return tensor.to(self._device, th.float32 if tensor.is_floating_point() else tensor.dtype)


class DeviceNormalizer:
    """
    What ``VecNormalize`` does to a batch, on the device.

    :param env: the wrapper whose settings and statistics are used
    :param keys: keys of the observations
    :param device: where
    """

    on_device = True

    def __init__(self, env: VecNormalize, keys: list[str], device: th.device):
        self._settings = _settings(env)
        self._env, _, self.norm_reward, self.clip_obs, self.clip_reward, _ = self._settings
        chosen = list(env.norm_obs_keys or [SINGLE]) if env.norm_obs else []
        self.keys = [key for key in keys if key in chosen]
        self.statistics = {key: [self._tensor(x, device) for x in self._observation(env, key)] for key in self.keys}
        self.reward_scale = self._tensor(self._reward(env), device)

    def is_of(self, env: VecNormalize) -> bool:
        """
        :param env: a wrapper
        :return: whether it is the one whose statistics are used, with the same settings as then
        """
        return env is self._env and _settings(env) == self._settings

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

    def update(self) -> None:
        """Take the present statistics, into the same tensors: a captured graph reads them."""
        for key in self.keys:
            for tensor, value in zip(self.statistics[key], self._observation(self._env, key), strict=True):
                tensor.copy_(th.as_tensor(value, dtype=th.float32))
        self.reward_scale.copy_(th.as_tensor(self._reward(self._env), dtype=th.float32))

    def observations(self, values: dict[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        :param values: as the environment gives them, ``(B, ...)``, by their keys
        :return: normalised, likewise
        """
        normalized = dict(values)
        for key in self.keys:
            mean, std = self.statistics[key]
            normalized[key] = ((values[key] - mean) / std).clamp(-self.clip_obs, self.clip_obs)
        return normalized

    def reward(self, value: th.Tensor) -> th.Tensor:
        """
        :param value: rewards as the environment gives them, ``(B, 1)``
        :return: normalised, likewise
        """
        return (value / self.reward_scale).clamp(-self.clip_reward, self.clip_reward) if self.norm_reward else value
