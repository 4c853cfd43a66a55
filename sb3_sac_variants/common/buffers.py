"""
Float32 replay on the training device.

SB3's buffer keeps NumPy arrays of the environment's type (float64 for MuJoCo) and converts at each sample. Here
everything that is a number lives in one contiguous float32 store, one row a transition, so that a batch is one gather;
images stay uint8 in stores of their own. Indices are drawn on the device, so that a whole gradient step can be
captured in a CUDA graph. Memory is taken when the first transition arrives: a model loaded to play takes none.
"""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

#: key of an observation that is not a dictionary
SINGLE = ""


class _Normalizer:
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
        """Take the present statistics, into the same tensors: a captured graph reads them."""
        for key in self.keys:
            for tensor, value in zip(self.statistics[key], self._observation(env, key), strict=True):
                tensor.copy_(th.as_tensor(value, dtype=th.float32))
        self.reward_scale.copy_(th.as_tensor(self._reward(env), dtype=th.float32))

    def observation(self, key: str, value: th.Tensor) -> th.Tensor:
        if key not in self.statistics:
            return value
        mean, std = self.statistics[key]
        return ((value - mean) / std).clamp(-self.clip_obs, self.clip_obs)

    def reward(self, value: th.Tensor) -> th.Tensor:
        return (value / self.reward_scale).clamp(-self.clip_reward, self.clip_reward) if self.norm_reward else value


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
        self._images = [key for key, space in self._spaces.items() if space.dtype == np.uint8]
        # Row of the float32 store: observations, action, next observations (unless stored once), reward, terminated
        self._columns: dict[str, slice] = {}
        for name, width in self._row_layout():
            start = max((column.stop for column in self._columns.values()), default=0)
            self._columns[name] = slice(start, start + width)
        self._width = max(column.stop for column in self._columns.values())
        #: counts (re)allocations: a captured graph of an older version points to freed memory
        self.version = 0
        self._rows: th.Tensor | None = None
        self._normalizer: _Normalizer | None = None

    def _row_layout(self) -> list[tuple[str, int]]:
        numbers = [(key, int(np.prod(self._shapes[key]))) for key in self._spaces if key not in self._images]
        layout = [(f"obs.{key}", width) for key, width in numbers]
        layout.append(("action", self.action_dim))
        if not self.optimize_memory_usage:
            layout += [(f"next_obs.{key}", width) for key, width in numbers]
        return [*layout, ("reward", 1), ("terminated", 1)]

    # ---------------------------------------------------------------- memory

    def _allocate(self) -> None:
        """Take the memory; called by the first transition."""
        rows = self.buffer_size * self.n_envs
        try:
            self._rows = th.empty((rows, self._width), device=self.device)
            names = ("obs",) if self.optimize_memory_usage else ("obs", "next_obs")
            self._image_rows = {
                f"{name}.{key}": th.empty((rows, *self._shapes[key]), dtype=th.uint8, device=self.device)
                for name in names
                for key in self._images
            }
        except RuntimeError as error:  # torch has no narrower type for "out of memory" on the CPU
            raise MemoryError(
                f"No memory on {self.device} for buffer_size={self.buffer_size * self.n_envs} transitions: lower "
                "buffer_size, or pass optimize_memory_usage=True"
            ) from error
        self._start = th.zeros((), dtype=th.int64, device=self.device)
        self._count = th.zeros((), dtype=th.float64, device=self.device)
        if self.optimize_memory_usage:
            # Observations that ended an episode, and for each transition the place of its own (-1: it has none)
            self._final_of = th.full((rows,), -1, dtype=th.int64, device=self.device)
            self._final_of_host = np.full(rows, -1, dtype=np.int64)
            self._final_free: list[int] = []
            self._final: dict[str, th.Tensor] = {}
            self._last_next: dict[str, np.ndarray] | None = None
        self.version += 1
        self._update_range()

    @property
    def nbytes(self) -> int:
        """
        :return: bytes taken by the stored transitions
        """
        if self._rows is None:
            return 0
        tensors = [self._rows, *self._image_rows.values()]
        if self.optimize_memory_usage:
            tensors += [self._final_of, *self._final.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def _update_range(self) -> None:
        """Positions that may be drawn, as tensors: ``start, start + 1, ..., start + count - 1`` modulo the size."""
        start, count = 0, self.size()
        if self.optimize_memory_usage and self.full:
            # The oldest observation has been overwritten by the newest next observation
            start, count = self.pos + 1, self.buffer_size - 1
        self._start.fill_(start)
        self._count.fill_(count * self.n_envs)

    def to(self, device: th.device | str) -> "TensorReplayBuffer":
        """
        :param device: where to move the transitions
        :return: itself
        """
        device = get_device(device)
        state = self.__dict__
        for name, value in state.items():
            if isinstance(value, th.Tensor):
                state[name] = value.to(device)
            elif isinstance(value, dict) and name in ("_image_rows", "_final"):
                state[name] = {key: tensor.to(device) for key, tensor in value.items()}
        self.device = device
        self._normalizer = None
        self.version += 1
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A pickled buffer lives on the CPU and holds the rows that are filled, not the whole store."""
        state = {key: value for key, value in self.__dict__.items() if key != "_normalizer"}
        if self._rows is not None:
            filled = self.size() * self.n_envs
            if self.optimize_memory_usage and not self.full:
                filled += self.n_envs  # the next observation of the newest transition
            filled = min(filled, self.buffer_size * self.n_envs)
            # A copy: pickling a view writes all the memory behind it
            state["_rows"] = self._rows[:filled].to("cpu", copy=True)
            state["_image_rows"] = {key: rows[:filled].to("cpu", copy=True) for key, rows in self._image_rows.items()}
            for name in ("_start", "_count"):
                state[name] = state[name].cpu()
            if self.optimize_memory_usage:
                state["_final"] = {key: value.cpu() for key, value in self._final.items()}
                del state["_final_of"]  # _final_of_host says the same
                state["_final_of_host"] = self._final_of_host[:filled].copy()
        state["device"] = th.device("cpu")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._normalizer = None
        if self._rows is not None:
            rows = self.buffer_size * self.n_envs

            def grown(stored: th.Tensor) -> th.Tensor:
                tensor = th.empty((rows, *stored.shape[1:]), dtype=stored.dtype)
                tensor[: len(stored)] = stored
                return tensor

            self._rows = grown(self._rows)
            self._image_rows = {key: grown(value) for key, value in self._image_rows.items()}
            if self.optimize_memory_usage:
                final_of = np.full(rows, -1, dtype=np.int64)
                final_of[: len(self._final_of_host)] = self._final_of_host
                self._final_of_host, self._final_of = final_of, th.from_numpy(final_of.copy())

    # ---------------------------------------------------------------- writing

    def reset(self) -> None:
        super().reset()
        if getattr(self, "_rows", None) is not None:
            self._rows = None  # allocated anew by the next transition
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
        if self._rows is None:
            self._allocate()
        assert self._rows is not None
        observation, next_observation = self._as_dict(obs), self._as_dict(next_obs)
        terminated = np.asarray(done, dtype=np.float32)
        if self.handle_timeout_termination and terminated.any():
            timeouts = [info.get("TimeLimit.truncated", False) for info in infos]
            terminated = terminated * (1.0 - np.asarray(timeouts, dtype=np.float32))
        row = np.empty((self.n_envs, self._width), dtype=np.float32)
        for key in self._spaces:
            if key not in self._images:
                row[:, self._columns[f"obs.{key}"]] = observation[key].reshape(self.n_envs, -1)
                if not self.optimize_memory_usage:
                    row[:, self._columns[f"next_obs.{key}"]] = next_observation[key].reshape(self.n_envs, -1)
        row[:, self._columns["action"]] = np.asarray(action).reshape(self.n_envs, self.action_dim)
        row[:, self._columns["reward"]] = np.asarray(reward).reshape(self.n_envs, 1)
        row[:, self._columns["terminated"]] = terminated.reshape(self.n_envs, 1)

        here = slice(self.pos * self.n_envs, (self.pos + 1) * self.n_envs)
        if self.optimize_memory_usage:
            self._keep_final_observations(observation)
        self._rows[here].copy_(th.from_numpy(row))
        for key in self._images:
            self._image_rows[f"obs.{key}"][here].copy_(self._image(key, observation))
            if not self.optimize_memory_usage:
                self._image_rows[f"next_obs.{key}"][here].copy_(self._image(key, next_observation))
        if self.optimize_memory_usage:
            self._write_next(next_observation)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0
        if not self.full or self.pos == 0 or self.optimize_memory_usage:
            self._update_range()

    def _as_dict(self, obs: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return obs if isinstance(obs, dict) else {SINGLE: np.asarray(obs)}

    def _image(self, key: str, observation: dict[str, np.ndarray]) -> th.Tensor:
        array = np.ascontiguousarray(observation[key], dtype=np.uint8)
        return th.from_numpy(array.reshape(self.n_envs, *self._shapes[key]))

    def _write_next(self, next_observation: dict[str, np.ndarray]) -> None:
        """Stored once, a next observation is the observation of the next row, which the next ``add`` writes again."""
        assert self._rows is not None
        following = (self.pos + 1) % self.buffer_size
        there = slice(following * self.n_envs, (following + 1) * self.n_envs)
        for key in self._spaces:
            if key in self._images:
                self._image_rows[f"obs.{key}"][there].copy_(self._image(key, next_observation))
            else:
                values = np.asarray(next_observation[key], dtype=np.float32).reshape(self.n_envs, -1)
                self._rows[there, self._columns[f"obs.{key}"]] = th.from_numpy(values).to(self.device)
        self._last_next = {key: np.array(value) for key, value in next_observation.items()}

    def _keep_final_observations(self, observation: dict[str, np.ndarray]) -> None:
        """
        Where this observation is not what the last step led to (an episode ended, or the environment was reset), the
        row about to be written would overwrite a next observation: put that one aside.
        """
        # The rows written now no longer need what was put aside for them a round ago
        here = np.arange(self.pos * self.n_envs, (self.pos + 1) * self.n_envs)
        for row in here[self._final_of_host[here] >= 0]:
            self._final_free.append(int(self._final_of_host[row]))
            self._final_of_host[row] = -1
            self._final_of[row] = -1
        last = self._last_next
        if last is None:
            return
        for env in range(self.n_envs):
            if all(np.array_equal(np.ravel(last[key][env]), np.ravel(observation[key][env])) for key in last):
                continue
            if not self._final_free:
                self._grow_final()
            slot = self._final_free.pop()
            for key in self._spaces:
                value = np.asarray(last[key][env], dtype=np.uint8 if key in self._images else np.float32)
                self._final[key][slot] = th.from_numpy(value.reshape(self._final[key].shape[1:])).to(self.device)
            row = ((self.pos - 1) % self.buffer_size) * self.n_envs + env
            self._final_of_host[row] = slot
            self._final_of[row] = slot

    def _grow_final(self) -> None:
        """Double the room for observations that ended an episode."""
        present = next(iter(self._final.values())).shape[0] if self._final else 0
        capacity = max(2 * present, 64)
        for key in self._spaces:
            image = key in self._images
            shape = self._shapes[key] if image else (int(np.prod(self._shapes[key])),)
            grown = th.zeros((capacity, *shape), dtype=th.uint8 if image else th.float32, device=self.device)
            if present:
                grown[:present] = self._final[key]
            self._final[key] = grown
        self._final_free.extend(range(present, capacity))
        self.version += 1

    # ---------------------------------------------------------------- reading

    def set_normalization(self, env: VecNormalize | None) -> None:
        """
        Take over the present statistics of a ``VecNormalize``, for the draws that follow.

        :param env: the wrapper, or None for raw observations and rewards
        """
        if env is None or not (env.norm_obs or env.norm_reward):
            if self._normalizer is not None:
                self.version += 1
            self._normalizer = None
        elif self._normalizer is None:
            self._normalizer = _Normalizer(env, list(self._spaces), th.device(self.device))
            self.version += 1
        else:
            self._normalizer.update(env)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples | DictReplayBufferSamples:  # type: ignore[override]
        """
        :param batch_size: number of transitions
        :param env: wrapper to normalise them with
        :return: a batch drawn uniformly with replacement
        :raises ValueError: if the buffer is empty
        """
        if self.size() == 0:
            raise ValueError("cannot sample from an empty replay buffer: collect transitions first")
        self.set_normalization(env)
        return self.draw(batch_size)

    def draw(self, batch_size: int) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        As :meth:`sample`, without a word to the host: may be captured in a CUDA graph.

        :param batch_size: number of transitions
        :return: a batch
        """
        # float64: float32 could not reach every row of a large buffer evenly
        ticket = (th.rand(batch_size, dtype=th.float64, device=self.device) * self._count).long()
        position = (self._start + th.div(ticket, self.n_envs, rounding_mode="floor")) % self.buffer_size
        return self._gather(position, position * self.n_envs + ticket % self.n_envs)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        self.set_normalization(env)
        position = th.as_tensor(batch_inds, dtype=th.int64, device=self.device)
        envs = th.randint(0, self.n_envs, position.shape, device=self.device)
        return self._gather(position, position * self.n_envs + envs)

    def _gather(self, position: th.Tensor, index: th.Tensor) -> ReplayBufferSamples | DictReplayBufferSamples:
        assert self._rows is not None
        rows = self._rows.index_select(0, index)
        following = rows
        if self.optimize_memory_usage:
            next_index = ((position + 1) % self.buffer_size) * self.n_envs + index % self.n_envs
            following = self._rows.index_select(0, next_index)
            final = self._final_of.index_select(0, index)
        observations, next_observations = {}, {}
        for key in self._spaces:
            source = "obs" if self.optimize_memory_usage else "next_obs"
            if key in self._images:
                observation = self._image_rows[f"obs.{key}"].index_select(0, index)
                where = next_index if self.optimize_memory_usage else index
                next_observation = self._image_rows[f"{source}.{key}"].index_select(0, where)
            else:
                observation = rows[:, self._columns[f"obs.{key}"]]
                next_observation = following[:, self._columns[f"{source}.{key}"]]
            if self.optimize_memory_usage and self._final:
                last = self._final[key].index_select(0, final.clamp(min=0))
                has_final = (final >= 0).view(-1, *[1] * (last.dim() - 1))
                next_observation = th.where(has_final, last, next_observation)
            shape = (index.shape[0], *self._shapes[key])
            observations[key] = self._normalized(key, observation.reshape(shape))
            next_observations[key] = self._normalized(key, next_observation.reshape(shape))
        actions = rows[:, self._columns["action"]]
        if isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete):
            actions = actions.long()
        rewards = rows[:, self._columns["reward"]]
        if self._normalizer is not None:
            rewards = self._normalizer.reward(rewards)
        terminated = rows[:, self._columns["terminated"]]
        if SINGLE in self._spaces:
            return ReplayBufferSamples(observations[SINGLE], actions, next_observations[SINGLE], terminated, rewards)
        return DictReplayBufferSamples(observations, actions, next_observations, terminated, rewards)

    def _normalized(self, key: str, value: th.Tensor) -> th.Tensor:
        return value if self._normalizer is None else self._normalizer.observation(key, value)
