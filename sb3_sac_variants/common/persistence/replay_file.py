"""Save and load replay buffers."""

import contextlib
import hashlib
import math
import os
import pickle
from typing import Any

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_sac_variants.common.persistence.allowed import read_pickle
from sb3_sac_variants.common.persistence.files import (
    HASH,
    Path,
    check_writable,
    describe,
    file_errors,
    find,
    is_file_object,
    refuse,
    require_hash,
    written_whole,
)


class _Hashing:
    """A file that hashes what is read from it or written to it."""

    def __init__(self, file: Any):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.sha256.update(content)
        return content

    def readline(self) -> bytes:
        content = self.file.readline()
        self.sha256.update(content)
        return content


def save_replay_buffer(model: Any, path: Path) -> None:
    """Save a replay buffer, for the algorithm's ``save_replay_buffer``."""
    assert model.replay_buffer is not None
    is_path = isinstance(path, str | os.PathLike)
    if not is_path:
        check_writable(path)
    opened: Any = written_whole(path, ".pkl") if is_path else contextlib.nullcontext(path)  # type: ignore[arg-type]
    with opened as file:
        hashing = _Hashing(file)
        pickle.dump(model.replay_buffer, hashing, protocol=pickle.HIGHEST_PROTOCOL)
        file.write(HASH + hashing.sha256.digest())  # whoever reads the pickle does not get so far


def load_replay_buffer(model: Any, path: Path, truncate_last_traj: bool, trusted: bool) -> None:
    """Load a replay buffer, for ``load_replay_buffer``; a model keeps its own if anything is wrong with the new one."""
    is_file = is_file_object(path)
    opened: Any = contextlib.nullcontext(path) if is_file else find(path, ".pkl").open("rb")
    with file_errors(path, "load_replay_buffer"), opened as file:
        hashing = _Hashing(file)
        buffer = read_pickle(hashing, trusted)
        digest = hashing.sha256.digest()
        # Older files have no hash; in a file that somebody else has opened, something else may follow
        rest = file.read(len(HASH) + len(digest) + (not is_file))
        require_hash(rest in (b"", HASH + digest) or (is_file and not rest.startswith(HASH)))
        if not isinstance(buffer, ReplayBuffer):
            raise TypeError(f"a {type(buffer).__name__} is no replay buffer")
        for name in ("observation_space", "action_space", "n_envs"):
            _check_same(path, name, getattr(buffer, name), getattr(model, name))
        own = getattr(model, "replay_buffer", None)
        wanted = {"n_steps": model.n_steps, "n_rewards": math.prod(getattr(model, "value_shape", ()))}
        for name in wanted:
            _check_same(path, name, getattr(buffer, name, 1), wanted[name] if own is None else getattr(own, name, 1))
    if isinstance(buffer, HerReplayBuffer):
        if model.env is None:
            raise ValueError(f"path={describe(path)!r} needs an environment, for HerReplayBuffer: call set_env() first")
        buffer.set_env(model.env)
        if truncate_last_traj:
            buffer.truncate_last_trajectory()
    elif issubclass(model.replay_buffer_class or ReplayBuffer, HerReplayBuffer):
        refuse(
            path,
            f"holds a {type(buffer).__name__}, which would end this model's hindsight (HerReplayBuffer): load the "
            "buffer of a model with HerReplayBuffer",
        )
    buffer.device = model.device
    model.replay_buffer = buffer


def _check_same(path: Path, name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        refuse(
            path,
            f"holds a replay buffer with {name}={found}, not {wanted}: load one of a model on the same environments, "
            "with the same arguments",
        )
