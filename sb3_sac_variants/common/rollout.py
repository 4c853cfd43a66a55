"""Collecting experience: SB3's rollout with a shorter way from observation to action, and a guard before the buffer."""

from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor

from sb3_sac_variants.common.buffers import TensorReplayBuffer
from sb3_sac_variants.common.validation import check_action_space, check_finite


class MaxEntRollout(OffPolicyAlgorithm):
    """What :class:`MaxEntAlgorithm` changes in SB3's rollout."""

    supported_action_spaces: ClassVar[tuple[type[spaces.Space], ...]]

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        As SB3's, without the way through ``predict()``, which unscales an action that is then scaled again.

        :param learning_starts: steps of random actions
        :param action_noise: noise to add
        :param n_envs: number of environments
        :return: actions for the environment, and scaled to [-1, 1] for the buffer
        """
        warm_up = self.num_timesteps < learning_starts and not (self.use_sde and self.use_sde_at_warmup)
        if warm_up or not isinstance(self.action_space, spaces.Box):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None, "self._last_obs was not set"
        with th.no_grad():
            scaled = self.actor(obs_as_tensor(self._last_obs, self.device)).cpu().numpy()
        scaled = scaled.reshape(-1, *self.action_space.shape)
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """
        As SB3's, after a look at what is about to be stored.

        :param replay_buffer: where to
        :param buffer_action: actions in [-1, 1]
        :param new_obs: next observations (the first of the next episode where one ended)
        :param reward: rewards
        :param dones: whether an episode ended
        :param infos: information of the environments
        :raises ValueError: if a reward or observation is NaN or infinite
        """
        check_finite("reward", reward, self.num_timesteps)
        check_finite("observation", new_obs, self.num_timesteps)
        for index in np.flatnonzero(dones):
            last = infos[index].get("terminal_observation")
            if last is not None:
                values = (
                    {key: np.asarray(value)[None] for key, value in last.items()} if isinstance(last, dict) else last
                )
                check_finite(
                    f"terminal observation ({index})",
                    values if isinstance(values, dict) else np.asarray(values)[None],
                    self.num_timesteps,
                )
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        # Our buffer sees by itself where a trajectory was cut: SB3's truncation of the last one, which would end the
        # episode as if it had terminated, is for its own memory-saving buffer
        optimize_memory_usage = self.optimize_memory_usage
        if isinstance(self.replay_buffer, TensorReplayBuffer):
            self.optimize_memory_usage = False
        try:
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.optimize_memory_usage = optimize_memory_usage

    @classmethod
    def _check_env(cls, env: GymEnv | None) -> None:
        """
        :param env: the environment
        :raises ValueError: if its actions are of an unsupported kind
        """
        if env is not None:
            check_action_space(env.action_space, cls.supported_action_spaces, cls.__name__)
