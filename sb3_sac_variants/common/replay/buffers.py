"""
Float32 replay on the training device.

SB3's buffer keeps NumPy arrays of the environment's type (float64 for MuJoCo) and converts at each sample. Here a batch
is one gather from the training device, of rows that are drawn there, so that a whole gradient step can be captured in a
CUDA graph. Memory is taken when the first transition arrives: a model loaded to play takes none.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants.common.replay.normalization import SINGLE, DeviceNormalizer, OwnNormalizer, normalizer_of
from sb3_sac_variants.common.replay.storage import RowRange, RowStorage
from sb3_sac_variants.common.replay.terminal_observations import TerminalObservations


class TensorReplayBuffer(ReplayBuffer):
    """
    Replay buffer for any observation space, dictionaries included. Drop-in for SB3's ``ReplayBuffer`` and
    ``DictReplayBuffer``; ``optimize_memory_usage=True`` stores each observation once and, unlike there, still
    bootstraps through truncation: last observations of episodes are kept apart.

    :param buffer_size: number of transitions to keep
    :param observation_space: observation space
    :param action_space: action space
    :param device: where the transitions live
    :param n_envs: number of parallel environments
    :param optimize_memory_usage: whether to store each observation once
    :param handle_timeout_termination: whether an episode cut by a time limit counts as going on (bootstrapping)
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        # Not ReplayBuffer.__init__, which would allocate the arrays
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, get_device(device), n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        if optimize_memory_usage and self.buffer_size < 2:
            raise ValueError(
                f"buffer_size={buffer_size} holds less than two steps of {n_envs} environments, which "
                "optimize_memory_usage=True needs: raise buffer_size"
            )
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self._spaces: dict[str, spaces.Space] = {SINGLE: observation_space}
        if isinstance(observation_space, spaces.Dict):
            self._spaces = dict(observation_space.spaces)
        shapes = self.obs_shape if isinstance(self.obs_shape, dict) else {SINGLE: self.obs_shape}
        self._shapes: dict[str, tuple[int, ...]] = {key: tuple(shape) for key, shape in shapes.items()}
        self._widths = {key: int(np.prod(shape)) for key, shape in self._shapes.items()}
        self._images = [key for key, space in self._spaces.items() if space.dtype == np.uint8]
        self._numbers = [key for key in self._spaces if key not in self._images]
        #: counts (re)allocations: a captured graph of an older version points to freed memory
        self.version = 0
        self._storage: RowStorage | None = None
        self._normalizer: DeviceNormalizer | OwnNormalizer | None = None

    def _row_layout(self) -> dict[str, int]:
        """
        :return: numbers in a row: observations, action, next observations (unless stored once), reward, terminated
        """
        layout = {f"obs.{key}": self._widths[key] for key in self._numbers}
        layout["action"] = self.action_dim
        if not self.optimize_memory_usage:
            layout |= {f"next_obs.{key}": self._widths[key] for key in self._numbers}
        return {**layout, "reward": 1, "terminated": 1}

    # ---------------------------------------------------------------- memory

    def _allocate(self) -> RowStorage:
        """
        :return: the memory; taken when the first transition arrives
        """
        rows = self.buffer_size * self.n_envs
        names = ("obs",) if self.optimize_memory_usage else ("obs", "next_obs")
        images = {f"{name}.{key}": self._shapes[key] for name in names for key in self._images}
        storage = RowStorage(rows, self.n_envs, self._row_layout(), images, self.device)
        self._range = RowRange(rows, self.device)
        if self.optimize_memory_usage:
            shapes = {
                key: self._shapes[key] if key in self._images else (width,) for key, width in self._widths.items()
            }
            dtypes = {key: th.uint8 if key in self._images else th.float32 for key in self._spaces}
            self._final = TerminalObservations(rows, shapes, dtypes, self.device)
            self._last_next: dict[str, np.ndarray] | None = None
        self.version += 1
        return storage

    @property
    def nbytes(self) -> int:
        """
        :return: bytes taken by the stored transitions
        """
        if self._storage is None:
            return 0
        return self._storage.nbytes + (self._final.nbytes if self.optimize_memory_usage else 0)

    def to(self, device: th.device | str) -> "TensorReplayBuffer":
        """
        :param device: where to move the transitions
        :return: itself
        """
        self.device = get_device(device)
        self._normalizer = None
        if self._storage is not None:
            self._storage.to(self.device)
            self._range.to(self.device)
            if self.optimize_memory_usage:
                self._final.to(self.device)
        self.version += 1
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A pickled buffer lives on the CPU and holds the rows that are filled, not the whole memory."""
        state = {**self.__dict__, "_normalizer": None, "device": th.device("cpu")}
        if self._storage is not None:
            filled = self.size() * self.n_envs
            if self.optimize_memory_usage and not self.full:
                filled += self.n_envs  # the next observation of the newest transition
            filled = min(filled, self.buffer_size * self.n_envs)
            state["_storage"] = self._storage.resized(filled)
            if self.optimize_memory_usage:
                state["_final"] = self._final.resized(filled)
            del state["_range"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._storage is not None:
            rows = self.buffer_size * self.n_envs
            self._storage = self._storage.resized(rows)
            if self.optimize_memory_usage:
                self._final = self._final.resized(rows)
            self._range = RowRange(rows, "cpu")
            self._update_range()

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
        """
        Store one step of all environments.

        :param obs: observations, ``(n_envs, *obs_shape)``, or a dictionary of such
        :param next_obs: what followed, terminal observations in place
        :param action: actions, ``(n_envs, action_dim)``
        :param reward: ``(n_envs,)``
        :param done: whether the episode ended, ``(n_envs,)``
        :param infos: "TimeLimit.truncated" tells truncation from termination
        """
        if self._storage is None:
            self._storage = self._allocate()
        observation, next_observation = self._as_dict(obs), self._as_dict(next_obs)
        terminated = done
        if self.handle_timeout_termination and done.any():
            timeouts = np.array([info.get("TimeLimit.truncated", False) for info in infos])
            terminated = done * (1.0 - timeouts)
        numbers, images = self._parts(observation, "obs")
        if self.optimize_memory_usage:
            width = sum(self._widths[key] for key in self._numbers)
            if self._goes_on(observation):  # its observations are there already, as next observations of the last step
                self._storage.write(self.pos, [action, reward, terminated], {}, slice(width, None))
            else:
                self._storage.write(self.pos, [*numbers, action, reward, terminated], images)
            # A next observation is the observation of the next row
            following = (self.pos + 1) % self.buffer_size
            self._storage.write(following, *self._parts(next_observation, "obs"), slice(0, width))
            self._last_next = {key: np.array(value) for key, value in next_observation.items()}
        else:
            next_numbers, next_images = self._parts(next_observation, "next_obs")
            numbers = [*numbers, action, *next_numbers, reward, terminated]
            self._storage.write(self.pos, numbers, images | next_images)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0
        if not self.full or self.pos == 0 or self.optimize_memory_usage:
            self._update_range()

    def _as_dict(self, obs: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return obs if isinstance(obs, dict) else {SINGLE: obs}

    def _parts(self, observation: dict[str, np.ndarray], name: str) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """
        :param observation: of all environments
        :param name: "obs" or "next_obs"
        :return: what of it goes into the float32 rows, and the images
        """
        numbers = [observation[key] for key in self._numbers]
        return numbers, {f"{name}.{key}": observation[key] for key in self._images} if self._images else {}

    def _update_range(self) -> None:
        if self.optimize_memory_usage and self.full:
            # The oldest observation has been overwritten by the newest next observation
            self._range.set((self.pos + 1) * self.n_envs, (self.buffer_size - 1) * self.n_envs)
        else:
            self._range.set(0, self.size() * self.n_envs)

    def _goes_on(self, observation: dict[str, np.ndarray]) -> bool:
        """
        Where an observation is not what the last step led to (an episode ended, or the environment was reset), the row
        about to be written would overwrite a next observation: put that one aside.

        :param observation: of all environments
        :return: whether it is what the last step led to, in all of them
        """
        # The rows written now no longer need what was put aside for them a round ago
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
        for env in np.flatnonzero(~np.logical_and.reduce(same)).tolist():
            row = ((self.pos - 1) % self.buffer_size) * self.n_envs + env
            if self._final.put(row, {key: value[env] for key, value in last.items()}):
                self.version += 1
        return False

    # ---------------------------------------------------------------- reading

    def set_normalization(self, env: VecNormalize | None) -> None:
        """
        Take over the present statistics of a ``VecNormalize``, for the draws that follow.

        :param env: the wrapper, or None for raw observations and rewards
        """
        before = self._normalizer
        if before is not None and env is not None and before.is_of(env):
            before.update()
            return
        self._normalizer = None if env is None else normalizer_of(env, list(self._spaces), th.device(self.device))
        if self._normalizer is not before:
            self.version += 1

    @property
    def draws_on_device(self) -> bool:
        """
        :return: whether :meth:`draw` serves, without a word to the host: not where a subclass samples in its own way,
            or one of ``VecNormalize`` normalises in its own
        """
        own = type(self).sample is not TensorReplayBuffer.sample or self._samples_by_index
        return not own and (self._normalizer is None or self._normalizer.on_device)

    @property
    def signature(self) -> Hashable:
        """
        :return: changes when memory that a captured graph reads has been replaced
        """
        return self.version, self.draws_on_device, None if self._storage is None else self._storage.numbers.data_ptr()

    @property
    def _samples_by_index(self) -> bool:
        """Whether a subclass has its own ``_get_samples``, which SB3's ``sample`` calls."""
        return type(self)._get_samples is not TensorReplayBuffer._get_samples

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples | DictReplayBufferSamples:  # type: ignore[override]
        """
        :param batch_size: number of transitions
        :param env: wrapper to normalise them with
        :return: a batch drawn uniformly with replacement
        :raises ValueError: if the buffer is empty
        """
        self._check_filled()
        if self._samples_by_index:
            return super().sample(batch_size, env)
        self.set_normalization(env)
        return self.draw(batch_size)

    def draw(self, batch_size: int) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        As :meth:`sample`, without a word to the host: may be captured in a CUDA graph.

        :param batch_size: number of transitions
        :return: a batch
        :raises ValueError: if the buffer is empty
        """
        self._check_filled()
        return self._gather(self._range.draw(batch_size))

    def _check_filled(self) -> None:
        if self._storage is None:
            raise ValueError("cannot sample from an empty replay buffer: collect transitions first")

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        self.set_normalization(env)
        position = th.as_tensor(batch_inds, dtype=th.int64, device=self.device)
        envs = th.randint(0, self.n_envs, position.shape, device=self.device)
        return self._gather(position * self.n_envs + envs)

    def _gather(self, rows: th.Tensor) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param rows: of the memory, ``(B,)``
        :return: the transitions in them
        """
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
            observations[key] = self._in_shape(key, stored[f"obs.{key}"])
            next_observations[key] = self._in_shape(key, next_observation)
        actions, rewards, terminated = stored["action"], stored["reward"], stored["terminated"]
        if isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete):
            actions = actions.long()
        if self._normalizer is not None:
            observations = self._normalizer.observations(observations)
            next_observations = self._normalizer.observations(next_observations)
            rewards = self._normalizer.reward(rewards)
        if SINGLE in self._spaces:
            return ReplayBufferSamples(observations[SINGLE], actions, next_observations[SINGLE], terminated, rewards)
        return DictReplayBufferSamples(observations, actions, next_observations, terminated, rewards)

    def _in_shape(self, key: str, value: th.Tensor) -> th.Tensor:
        shape = self._shapes[key]
        return value if len(shape) == 1 else value.reshape(len(value), *shape)
