"""
The memory of the replay buffer.

It is taken when the first transition arrives, pickled as far as it is filled, and shown as the arrays that people read
from SB3's buffers.
"""

import copy
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants.common.replay.normalization import SINGLE, DeviceNormalizer
from sb3_sac_variants.common.replay.storage import RowRange, RowStorage
from sb3_sac_variants.common.replay.terminal_observations import TerminalObservations

Arrays = np.ndarray | dict[str, np.ndarray]


class ReplayMemory(ReplayBuffer):
    """
    What a :class:`~sb3_sac_variants.common.replay.buffers.TensorReplayBuffer` writes to and reads from.

    ``observations``, ``next_observations``, ``actions``, ``rewards``, ``dones`` and ``timeouts`` are as in SB3's
    ``ReplayBuffer``: NumPy arrays ``(buffer_size, n_envs, ...)``, or dictionaries of such; zero where nothing is stored
    yet. They are read-only, since the transitions live in the memory of the training device. Floating-point numbers are
    float32. On the CPU, floating-point numbers and images are shown without a copy; what is left is copied at each
    access.
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
        self.optimize_memory_usage = optimize_memory_usage
        if buffer_size > 1:  # with 1 a model is loaded to play, as the zoo's enjoy does: it stores nothing
            self._check_room(buffer_size)
        self.handle_timeout_termination = handle_timeout_termination
        self._read_spaces()
        #: counts (re)allocations: a captured graph of an older version points to freed memory
        self.version = 0
        self._storage: RowStorage | None = None
        self._normalizer: DeviceNormalizer | None = None
        #: a wrapper with methods of its own, which normalises on the host
        self._own_normalization: VecNormalize | None = None
        #: whether a step was interrupted while it was written
        self._unfinished = False

    def _read_spaces(self) -> None:
        """Find out what a row holds."""
        space = self.observation_space
        self.obs_shape, self.action_dim = get_obs_shape(space), get_action_dim(self.action_space)  # type: ignore[assignment]
        self._spaces: dict[str, spaces.Space] = {SINGLE: space}
        if isinstance(space, spaces.Dict):
            self._spaces = dict(space.spaces)
        shapes = self.obs_shape if isinstance(self.obs_shape, dict) else {SINGLE: self.obs_shape}
        self._shapes: dict[str, tuple[int, ...]] = {key: tuple(shape) for key, shape in shapes.items()}
        self._widths = {key: int(np.prod(shape)) for key, shape in self._shapes.items()}
        self._images = [key for key, space in self._spaces.items() if space.dtype == np.uint8]
        self._numbers = [key for key in self._spaces if key not in self._images]

    def _check_room(self, buffer_size: int) -> None:
        if self.optimize_memory_usage and self.buffer_size < 2:
            raise ValueError(
                f"buffer_size={buffer_size} holds less than two steps of {self.n_envs} environments, which "
                "optimize_memory_usage=True needs: raise buffer_size"
            )

    def _row_layout(self) -> dict[str, int]:
        """Numbers in a row: observations, action, next observations (unless stored once), reward, terminated."""
        layout = {f"obs.{key}": self._widths[key] for key in self._numbers}
        layout["action"] = self.action_dim
        if not self.optimize_memory_usage:
            layout |= {f"next_obs.{key}": self._widths[key] for key in self._numbers}
        return {**layout, "reward": 1, "terminated": 1}

    def _image_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the images of a row, by name."""
        names = ("obs",) if self.optimize_memory_usage else ("obs", "next_obs")
        return {f"{name}.{key}": self._shapes[key] for name in names for key in self._images}

    @property
    def n_rewards(self) -> int:
        """Rewards of a transition: one, or one for each of several agents."""
        return self._row_layout()["reward"]

    # ---------------------------------------------------------------- memory

    @th.inference_mode(False)  # its tensors are written to later, outside of that mode
    def _allocate(self) -> RowStorage:
        """Take the memory, when the first transition arrives."""
        self._check_room(self.buffer_size)
        rows = self.buffer_size * self.n_envs
        storage = RowStorage(rows, self.n_envs, self._row_layout(), self._image_shapes(), self.device)
        self._range = RowRange(rows, self.device)
        self._timeouts = np.zeros((self.buffer_size, self.n_envs), dtype=bool)
        if self.optimize_memory_usage:
            shapes = {
                key: self._shapes[key] if key in self._images else (width,) for key, width in self._widths.items()
            }
            dtypes = {key: th.uint8 if key in self._images else th.float32 for key in self._spaces}
            self._final = TerminalObservations(rows, shapes, dtypes, self.device)
        self._last_next: dict[str, np.ndarray] | None = None
        self._unfinished = False
        self.version += 1
        return storage

    @property
    def nbytes(self) -> int:
        """Bytes taken by the stored transitions."""
        if self._storage is None:
            return 0
        return self._storage.nbytes + (self._final.nbytes if self.optimize_memory_usage else 0)

    @th.inference_mode(False)
    def to(self, device: th.device | str) -> "ReplayMemory":
        """Move the transitions to another device."""
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
        state = {**self.__dict__, "_normalizer": None, "_own_normalization": None, "device": th.device("cpu")}
        if self._storage is not None:
            filled = self.size() * self.n_envs
            if self.optimize_memory_usage and not self.full:
                filled += self.n_envs  # the next observation of the newest transition
            filled = min(filled, self.buffer_size * self.n_envs)
            state["_storage"] = self._storage.first(filled)
            state["_timeouts"] = self._timeouts[: self.size()].copy()
            if self.optimize_memory_usage:
                state["_final"] = self._final.resized(filled)
            del state["_range"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._read_spaces()
        rows = self.buffer_size * self.n_envs
        if not (0 <= self.pos < self.buffer_size and self.n_envs > 0):
            raise ValueError(f"a replay buffer of {self.buffer_size} steps at step {self.pos}")
        if self._storage is not None:
            filled = min(rows, self.size() * self.n_envs)
            self._storage.check(self._row_layout(), self._image_shapes(), self.n_envs, filled)
            self._storage = self._storage.resized(rows)
            if self.optimize_memory_usage:
                self._final = self._final.resized(rows)
            self._range = RowRange(rows, "cpu")
            timeouts = np.zeros((self.buffer_size, self.n_envs), dtype=bool)
            timeouts[: self.size()] = state["_timeouts"]
            self._timeouts = timeouts
            self._update_range()

    def __copy__(self) -> "ReplayMemory":
        """A shallow copy would write to the memory of this one: a copy has its own, on the CPU, however it is made."""
        return copy.deepcopy(self)

    def _update_range(self) -> None:
        """Draw only what is whole: the oldest rows may be overwritten."""
        # The oldest observation by the newest next observation, and one more step if the last one is not finished
        overwritten = self.full * (self.optimize_memory_usage + self._unfinished)
        first = self.pos + overwritten if overwritten else 0
        self._range.set(first * self.n_envs, (self.size() - overwritten) * self.n_envs)

    # ---------------------------------------------------------------- arrays as in SB3

    @property
    def observations(self) -> Arrays:  # type: ignore[override]
        """Observations before the step, ``(buffer_size, n_envs, *obs_shape)``."""
        return self._observation_arrays(following=False)

    @property
    def next_observations(self) -> Arrays:  # type: ignore[override]
        """Observations after the step, terminal observations in place; a copy where observations are stored once."""
        return self._observation_arrays(following=True)

    @property
    def actions(self) -> np.ndarray:  # type: ignore[override]
        """Actions, scaled to [-1, 1] if they are continuous, ``(buffer_size, n_envs, action_dim)``."""
        actions, space = self._array("action"), self.action_space
        return actions if isinstance(space, spaces.Box) else read_only(actions.astype(space.dtype))

    @property
    def rewards(self) -> np.ndarray:  # type: ignore[override]
        """Rewards as the environment gave them, ``(buffer_size, n_envs)``; of several agents with one more axis."""
        rewards = self._array("reward")
        return rewards.squeeze(2) if rewards.shape[2] == 1 else rewards

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """Whether the step ended an episode, by termination or truncation, ``(buffer_size, n_envs)``."""
        return read_only(np.maximum(self._array("terminated").squeeze(2), self.timeouts))

    @property
    def timeouts(self) -> np.ndarray:  # type: ignore[override]
        """Whether the step ended an episode by truncation, ``(buffer_size, n_envs)``."""
        if self._storage is None:
            return np.broadcast_to(np.float32(0), (self.buffer_size, self.n_envs))
        return read_only(self._timeouts.astype(np.float32))

    def _observation_arrays(self, following: bool) -> Arrays:
        arrays = {key: self._observation_array(key, following) for key in self._spaces}
        return arrays.get(SINGLE, arrays)

    def _observation_array(self, key: str, following: bool) -> np.ndarray:
        shape, dtype = (self.buffer_size, self.n_envs, *self._shapes[key]), self._spaces[key].dtype
        assert dtype is not None
        if dtype.kind == "f":
            dtype = np.dtype(np.float32)
        if self._storage is None:
            return np.broadcast_to(dtype.type(0), shape)
        if following and self.optimize_memory_usage:
            stored = th.from_numpy(np.roll(self._storage.array(f"obs.{key}"), -self.n_envs, axis=0))
            rows = th.arange(len(stored), device=self.device)
            array = self._final.replace(key, rows, stored.to(self.device)).cpu().numpy()
        else:
            array = self._storage.array(f"{'next_obs' if following else 'obs'}.{key}")
        return read_only(array.reshape(shape).astype(dtype, copy=False))

    def _array(self, name: str) -> np.ndarray:
        if self._storage is None:
            return np.broadcast_to(np.float32(0), (self.buffer_size, self.n_envs, self._row_layout()[name]))
        return read_only(self._storage.array(name).reshape(self.buffer_size, self.n_envs, -1))


def read_only(array: np.ndarray) -> np.ndarray:
    """Forbid writing to an array that nobody else has."""
    array.flags.writeable = False
    return array
