"""
Float32 replay on the training device.

SB3's buffer keeps NumPy arrays of the environment's type (float64 for MuJoCo) and converts at each sample. Here a batch
is one gather from the training device, of rows that are drawn there, so that a whole gradient step can be captured in a
CUDA graph. Memory is taken when the first transition arrives: a model loaded to play takes none.
"""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants.common.checks.replaced import has_own
from sb3_sac_variants.common.replay.memory import ReplayMemory
from sb3_sac_variants.common.replay.normalization import (
    SINGLE,
    DeviceNormalizer,
    normalized_on_host,
)


class TensorReplayBuffer(ReplayMemory):
    """
    Replay buffer for any observation space, dictionaries included. Arguments as SB3's ``ReplayBuffer``.

    Takes the place of SB3's ``ReplayBuffer`` and ``DictReplayBuffer``. ``optimize_memory_usage=True`` stores each
    observation once and, unlike there, still bootstraps through truncation: last observations of episodes are kept
    apart.
    """

    # ---------------------------------------------------------------- writing

    def reset(self) -> None:
        super().reset()
        if getattr(self, "_storage", None) is not None:
            self._storage = None  # allocated anew by the next transition
            self.version += 1

    def add(
        self,
        obs: np.ndarray | dict[str, np.ndarray],
        next_obs: np.ndarray | dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of all environments, as SB3's buffers do."""
        if self._storage is None:
            self._storage = self._allocate()
        following = (self.pos + 1) % self.buffer_size
        self._unfinished = True
        try:
            last_next = self._write(following, self._as_dict(obs), self._as_dict(next_obs), action, reward, done, infos)
            full = self.full or following == 0
            # On one line: an interrupt comes before it or after it
            self.pos, self.full, self._last_next, self._unfinished = following, full, last_next, False
        except BaseException:  # Ctrl-C too
            if self.optimize_memory_usage and self._unfinished:
                self._set_aside(range(self.n_envs))
                self._last_next = None
            raise
        finally:
            self._update_range()

    def _write(
        self,
        following: int,
        obs: dict[str, np.ndarray],
        next_obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> dict[str, np.ndarray] | None:
        """
        Write one step of all environments to the memory.

        :param following: position after it
        :return: a copy of the next observations, where each observation is stored once
        """
        assert self._storage is not None
        terminated = timeouts = done = np.asarray(done)
        if self.handle_timeout_termination and done.any():
            timeouts = np.logical_and(done, [info.get("TimeLimit.truncated", False) for info in infos])
            terminated = done * (1.0 - timeouts)
        self._timeouts[self.pos] = timeouts if self.handle_timeout_termination else False
        numbers, images = self._parts(obs, "obs")
        if not self.optimize_memory_usage:
            next_numbers, next_images = self._parts(next_obs, "next_obs")
            numbers = [*numbers, action, *next_numbers, reward, terminated]
            self._storage.write(self.pos, numbers, images | next_images)
            return None
        width = sum(self._widths[key] for key in self._numbers)
        if self._goes_on(obs):  # its observations are there already, as next observations of the last step
            self._storage.write(self.pos, [action, reward, terminated], {}, slice(width, None))
        else:
            self._storage.write(self.pos, [*numbers, action, reward, terminated], images)
        # A next observation is the observation of the next row
        self._storage.write(following, *self._parts(next_obs, "obs"), slice(0, width))
        return {key: np.array(value) for key, value in next_obs.items()}

    def _as_dict(self, obs: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return obs if isinstance(obs, dict) else {SINGLE: obs}

    def _parts(self, observation: dict[str, np.ndarray], name: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """Tell numbers, which go into the float32 rows, from images."""
        numbers = [observation[key] for key in self._numbers]
        return numbers, {f"{name}.{key}": observation[key] for key in self._images} if self._images else {}

    def _goes_on(self, observation: dict[str, np.ndarray]) -> bool:
        """
        Whether an observation of all environments is what the last step led to.

        Where it differs (an episode ended, or the environment was reset), the row about to be written would overwrite a
        next observation: that one is set aside.
        """
        # The rows written now no longer need what was set aside for them a round ago
        self._final.forget(range(self.pos * self.n_envs, (self.pos + 1) * self.n_envs))
        last = self._last_next
        if last is None:
            return False
        if all((value == observation[key]).all() for key, value in last.items()):
            return True
        same = [
            (value.reshape(self.n_envs, -1) == np.reshape(observation[key], (self.n_envs, -1))).all(axis=1)
            for key, value in last.items()
        ]
        self._set_aside(np.flatnonzero(~np.all(same, axis=0)).tolist())
        return False

    def _set_aside(self, envs: Iterable[int]) -> None:
        """Keep the next observations that the last step of some environments led to apart from the memory."""
        last = self._last_next or {}
        for env in envs if last else ():
            row = ((self.pos - 1) % self.buffer_size) * self.n_envs + env
            if self._final.put(row, {key: value.reshape(self.n_envs, -1)[env] for key, value in last.items()}):
                self.version += 1

    # ---------------------------------------------------------------- reading

    def set_normalization(self, env: VecNormalize | None) -> None:
        """Take over the present statistics of a ``VecNormalize`` (None: no normalisation) for the draws that follow."""
        before = self._normalizer
        own = env is not None and has_own(env, VecNormalize, "normalize_obs", "_normalize_obs", "normalize_reward")
        if before is not None and env is not None and not own and before.is_of(env):
            before.update()
            return
        self._own_normalization = env if own else None
        self._normalizer = None
        if env is not None and not own and (env.norm_obs or env.norm_reward):
            self._normalizer = DeviceNormalizer(env, list(self._spaces), th.device(self.device))
        if self._normalizer is not before:
            self.version += 1

    @property
    def draws_on_device(self) -> bool:
        """
        Whether :meth:`draw` serves, without synchronising with the host.

        It does not where somebody's method samples in its own way, or one of ``VecNormalize`` normalises in its own.
        """
        own = has_own(self, TensorReplayBuffer, "sample") or self._samples_by_index
        return not own and self._own_normalization is None

    @property
    def signature(self) -> Hashable:
        """Changes when memory that a captured graph reads has been replaced."""
        return self.version, self.draws_on_device, None if self._storage is None else self._storage.numbers.data_ptr()

    @property
    def _samples_by_index(self) -> bool:
        """Whether somebody has put in a ``_get_samples``, which SB3's ``sample`` calls."""
        return has_own(self, TensorReplayBuffer, "_get_samples")

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples | DictReplayBufferSamples:  # type: ignore[override]
        """
        Draw a batch uniformly with replacement, normalised by ``env``.

        :raises ValueError: if nothing is stored
        """
        self._check_filled()
        if self._samples_by_index:
            return super().sample(batch_size, env)
        self.set_normalization(env)
        return self.draw(batch_size)

    def draw(self, batch_size: int) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        Draw a batch as :meth:`sample`, without synchronising with the host: may be captured in a CUDA graph.

        :raises ValueError: if nothing is stored
        """
        self._check_filled()
        return self.gather(self._range.draw(batch_size))

    def _check_filled(self) -> None:
        if self._storage is not None:
            self._update_range()  # an interrupt may have come between a step and this
        if self._storage is None or not self._range.count:
            raise ValueError("cannot sample from an empty replay buffer: collect transitions first")

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        self.set_normalization(env)
        position = th.as_tensor(batch_inds, dtype=th.int64, device=self.device)
        envs = th.randint(0, self.n_envs, position.shape, device=self.device)
        return self.gather(position * self.n_envs + envs)

    def gather(self, rows: th.Tensor) -> ReplayBufferSamples | DictReplayBufferSamples:
        """Read the transitions in some rows of the memory, ``(B,)``."""
        assert self._storage is not None
        stored = following = self._storage.gather(rows)
        source = "next_obs"
        if self.optimize_memory_usage:
            following = self._storage.gather((rows + self.n_envs) % (self.buffer_size * self.n_envs))
            source = "obs"
        observations, next_observations = {}, {}
        for key in self._spaces:
            next_observation = following[f"{source}.{key}"]
            if self.optimize_memory_usage:
                next_observation = self._final.replace(key, rows, next_observation)
            observations[key] = self._as_observed(key, stored[f"obs.{key}"])
            next_observations[key] = self._as_observed(key, next_observation)
        actions, rewards, terminated = stored["action"], stored["reward"], stored["terminated"]
        if isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete):
            actions = actions.long()
        if self._normalizer is not None:
            observations = self._normalizer.observations(observations)
            next_observations = self._normalizer.observations(next_observations)
            rewards = self._normalizer.reward(rewards)
        samples: ReplayBufferSamples | DictReplayBufferSamples
        if SINGLE in self._spaces:
            samples = ReplayBufferSamples(observations[SINGLE], actions, next_observations[SINGLE], terminated, rewards)
        else:
            samples = DictReplayBufferSamples(observations, actions, next_observations, terminated, rewards)
        return samples if self._own_normalization is None else normalized_on_host(samples, self._own_normalization)

    def _as_observed(self, key: str, value: th.Tensor) -> th.Tensor:
        """Give observations their shape, and numbers of categories their type."""
        shape = self._shapes[key]
        if isinstance(self._spaces[key], spaces.Discrete | spaces.MultiDiscrete):
            value = value.long()
        return value if len(shape) == 1 else value.reshape(len(value), *shape)
