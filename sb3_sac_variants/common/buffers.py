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

from sb3_sac_variants.common.final_observations import FinalObservations
from sb3_sac_variants.common.normalization import SINGLE, BatchNormalizer


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
        # Row of the float32 store: observations, action, next observations (unless stored once), reward, terminated
        self._columns: dict[str, slice] = {}
        for name, width in self._row_layout():
            start = max((column.stop for column in self._columns.values()), default=0)
            self._columns[name] = slice(start, start + width)
        self._width = max(column.stop for column in self._columns.values())
        #: counts (re)allocations: a captured graph of an older version points to freed memory
        self.version = 0
        self._rows: th.Tensor | None = None
        self._normalizer: BatchNormalizer | None = None

    def _row_layout(self) -> list[tuple[str, int]]:
        numbers = [(key, self._widths[key]) for key in self._numbers]
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
            shapes = {
                key: self._shapes[key] if key in self._images else (width,) for key, width in self._widths.items()
            }
            dtypes = {key: th.uint8 if key in self._images else th.float32 for key in self._spaces}
            self._final = FinalObservations(rows, shapes, dtypes, self.device)
            self._last_next: dict[str, np.ndarray] | None = None
        self.version += 1
        self._map_to_host()
        self._update_range()

    def _stores(self) -> list[th.Tensor]:
        assert self._rows is not None
        return [self._rows, *self._image_rows.values()]

    def _map_to_host(self) -> None:
        """
        Find the memory that a step is written to, as arrays ``(steps, n_envs, ...)``: the stores themselves on the CPU,
        elsewhere room for one step, which is then copied as a whole.
        """
        stores = self._stores()
        self._staging: list[th.Tensor] = []
        self._range: tuple[Any, Any] = (self._start, self._count)
        if th.device(self.device).type == "cpu":
            self._range = (self._start.numpy(), self._count.numpy())
        else:
            stores = self._staging = [th.zeros((self.n_envs, *x.shape[1:]), dtype=x.dtype) for x in stores]
        self._host, *images = [store.numpy().reshape(-1, self.n_envs, *store.shape[1:]) for store in stores]
        self._host_images = dict(zip(self._image_rows, images, strict=True))

    @property
    def nbytes(self) -> int:
        """
        :return: bytes taken by the stored transitions
        """
        if self._rows is None:
            return 0
        final = self._final.nbytes if self.optimize_memory_usage else 0
        return final + sum(tensor.numel() * tensor.element_size() for tensor in self._stores())

    def _update_range(self) -> None:
        """Positions that may be drawn, as tensors: ``start, start + 1, ..., start + count - 1`` modulo the size."""
        start, count = 0, self.size()
        if self.optimize_memory_usage and self.full:
            # The oldest observation has been overwritten by the newest next observation
            start, count = self.pos + 1, self.buffer_size - 1
        in_start, in_count = self._range
        in_start[...] = start
        in_count[...] = count * self.n_envs

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
            elif name == "_image_rows":
                state[name] = {key: tensor.to(device) for key, tensor in value.items()}
            elif name == "_final":
                value.to(device)
        self.device = device
        self._normalizer = None
        if self._rows is not None:
            self._map_to_host()
        self.version += 1
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A pickled buffer lives on the CPU and holds the rows that are filled, not the whole store."""
        views = ("_normalizer", "_host", "_host_images", "_staging", "_range")
        state = {key: value for key, value in self.__dict__.items() if key not in views}
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
                state["_final"] = self._final.resized(filled)
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
                self._final = self._final.resized(rows)
            self._map_to_host()

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
        observation, next_observation = self._as_dict(obs), self._as_dict(next_obs)
        terminated = done
        if self.handle_timeout_termination and done.any():
            timeouts = np.array([info.get("TimeLimit.truncated", False) for info in infos])
            terminated = done * (1.0 - timeouts)
        if self.optimize_memory_usage:
            self._keep_final_observations(observation)
            self._write(self.pos, [*self._numbers_of(observation), action, reward, terminated], {"obs": observation})
            # A next observation is the observation of the next row, which the next step writes again
            following = (self.pos + 1) % self.buffer_size
            width = sum(self._widths[key] for key in self._numbers)
            self._write(following, self._numbers_of(next_observation), {"obs": next_observation}, width)
            self._last_next = {key: np.array(value) for key, value in next_observation.items()}
        else:
            numbers = [*self._numbers_of(observation), action, *self._numbers_of(next_observation), reward, terminated]
            self._write(self.pos, numbers, {"obs": observation, "next_obs": next_observation})
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0
        if not self.full or self.pos == 0 or self.optimize_memory_usage:
            self._update_range()

    def _as_dict(self, obs: np.ndarray | dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return obs if isinstance(obs, dict) else {SINGLE: obs}

    def _numbers_of(self, observation: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [observation[key] for key in self._numbers]

    def _write(
        self,
        position: int,
        numbers: list[np.ndarray],
        observations: dict[str, dict[str, np.ndarray]],
        width: int | None = None,
    ) -> None:
        """
        Write a step of all environments, or the beginning of it.

        :param position: which step
        :param numbers: for the float32 store, in the order of its columns
        :param observations: by their names in the image stores, for these
        :param width: columns that these numbers take, by default all
        """
        host_position = 0 if self._staging else position
        if numbers:
            numbers = [np.asarray(values).reshape(self.n_envs, -1) for values in numbers]
            # Converts to float32 on the way
            np.concatenate(numbers, axis=1, out=self._host[host_position, :, :width], casting="unsafe")
        for name, memory in self._host_images.items():
            source, _, key = name.partition(".")
            room = memory[host_position]
            room[...] = np.reshape(observations[source][key], room.shape)
        if self._staging:
            here = slice(position * self.n_envs, (position + 1) * self.n_envs)
            for stored, staged in zip(self._stores(), self._staging, strict=True):
                stored[here].copy_(staged)

    def _keep_final_observations(self, observation: dict[str, np.ndarray]) -> None:
        """
        Where this observation is not what the last step led to (an episode ended, or the environment was reset), the
        row about to be written would overwrite a next observation: put that one aside.
        """
        # The rows written now no longer need what was put aside for them a round ago
        self._final.forget(range(self.pos * self.n_envs, (self.pos + 1) * self.n_envs))
        last = self._last_next
        if last is None:
            return
        same = [
            (value.reshape(self.n_envs, -1) == np.reshape(observation[key], (self.n_envs, -1))).all(axis=1)
            for key, value in last.items()
        ]
        for env in np.flatnonzero(~np.logical_and.reduce(same)).tolist():
            row = ((self.pos - 1) % self.buffer_size) * self.n_envs + env
            if self._final.put(row, {key: value[env] for key, value in last.items()}):
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
            self._normalizer = BatchNormalizer(env, list(self._spaces), th.device(self.device))
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
            if self.optimize_memory_usage:
                next_observation = self._final.replace(key, index, next_observation)
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
