"""Saving and loading of replay buffers."""

import pathlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch as th
from agents import AgentsEnv
from gymnasium import spaces
from helpers import (
    DICTIONARY,
    IMAGE,
    VECTOR,
    SpacesEnv,
    every_algorithm,
    goal_env,
    make,
    n_updates,
)
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants import MASAC, SACv1, SACv2
from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

#: observations, policy and arguments
KINDS: dict[str, tuple[spaces.Space, str, dict[str, Any]]] = {
    "plain": (VECTOR, "MlpPolicy", {}),
    "images": (IMAGE, "CnnPolicy", {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 4}}}),
    "dictionary": (
        DICTIONARY,
        "MultiInputPolicy",
        {"policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}, "optimize_memory_usage": True},
    ),
    "n-step returns": (VECTOR, "MlpPolicy", {"n_steps": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
@every_algorithm
def test_replay_buffer_goes_to_another_model(algorithm: type, kind: str, tmp_path: pathlib.Path) -> None:
    space, policy, arguments = KINDS[kind]
    model = make(algorithm, SpacesEnv(space), policy, **arguments).learn(15)
    model.save_replay_buffer(tmp_path / "buffer")
    other = make(algorithm, SpacesEnv(space), policy, **arguments)
    other.load_replay_buffer(str(tmp_path / "buffer.pkl"))
    batches = []
    for each in (model, other):
        th.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        batches.append(each.replay_buffer.sample(20))
    for left, right in zip(*batches, strict=True):
        for key in left if isinstance(left, dict) else [...]:
            assert left is right is None or th.equal(left[key], right[key])
    other.learn(10)
    assert n_updates(other) == 5
    assert other.replay_buffer.size() == 25


@every_algorithm
def test_replay_buffer_of_another_class(algorithm: type, tmp_path: pathlib.Path) -> None:
    """A buffer that SB3's SAC saved serves as well, and the other way round."""
    theirs = make(algorithm, replay_buffer_class=ReplayBuffer).learn(10)
    theirs.save_replay_buffer(tmp_path / "buffer.pkl")
    ours = make(algorithm)
    ours.load_replay_buffer(tmp_path / "buffer.pkl")
    assert type(ours.replay_buffer) is ReplayBuffer
    ours.learn(12, reset_num_timesteps=False)
    assert ours.replay_buffer.size() == 22


@every_algorithm
def test_buffer_file_holds_only_what_is_filled(algorithm: type, tmp_path: pathlib.Path) -> None:
    model = make(algorithm, buffer_size=100_000).learn(10)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    assert (tmp_path / "buffer.pkl").stat().st_size < 10_000
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert (model.replay_buffer.buffer_size, model.replay_buffer.size()) == (100_000, 10)


@every_algorithm
def test_hindsight_buffer_is_saved_without_its_environment(algorithm: type, tmp_path: pathlib.Path) -> None:
    kwargs = {"policy": "MultiInputPolicy", "replay_buffer_class": HerReplayBuffer, "learning_starts": 10}
    model = make(algorithm, goal_env(), **kwargs).learn(23)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    loaded = algorithm.load(tmp_path / "model", env=goal_env(), device="cpu")
    with pytest.warns(UserWarning, match="last trajectory in the replay buffer will be truncated"):
        loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    assert loaded.replay_buffer.env is loaded.env
    loaded.learn(10, reset_num_timesteps=False)


def test_buffer_without_hindsight_is_none_for_a_model_with_it(tmp_path: pathlib.Path) -> None:
    make(SACv1, goal_env(), "MultiInputPolicy").learn(12).save_replay_buffer(tmp_path / "buffer.pkl")
    model = make(SACv1, goal_env(), "MultiInputPolicy", replay_buffer_class=HerReplayBuffer)
    with pytest.raises(
        ValueError, match=r"path='.*' holds a TensorReplayBuffer, .* load the buffer of a model with Her"
    ):
        model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert type(model.replay_buffer) is HerReplayBuffer


@every_algorithm
def test_training_goes_on_after_loading(algorithm: type, tmp_path: pathlib.Path) -> None:
    env = VecNormalize(make_vec_env(SpacesEnv, 2))
    model = make(algorithm, env, gradient_steps=-1).learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    env.save(tmp_path / "statistics.pkl")
    env = VecNormalize.load(tmp_path / "statistics.pkl", make_vec_env(SpacesEnv, 2))
    loaded = algorithm.load(tmp_path / "model", env=env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer.pkl")
    loaded.learn(20, reset_num_timesteps=False)
    assert (loaded.num_timesteps, n_updates(loaded)) == (50, n_updates(model) + 20)
    assert loaded.replay_buffer.size() == 25


def test_memory_is_taken_by_the_first_transition() -> None:
    model = make(SACv1, buffer_size=10**16)  # more than there are addresses: some systems promise all the rest
    assert isinstance(model.replay_buffer, TensorReplayBuffer)
    model.predict(VECTOR.sample())
    with pytest.raises(MemoryError, match=r"buffer_size=10{16} transitions: lower buffer_size"):
        model.learn(1)


@pytest.mark.parametrize("image", [False, True])
def test_a_full_buffer_is_saved_and_loaded_without_another_copy(image: bool, tmp_path: pathlib.Path) -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8) if image else spaces.Box(-1, 1, (1000,))
    model = make(SACv1, SpacesEnv(space), "CnnPolicy" if image else "MlpPolicy", buffer_size=1000, learning_starts=2000)
    model.learn(1000)
    assert model.replay_buffer.full
    size = model.replay_buffer.nbytes
    peaks = []
    for step in (model.save_replay_buffer, model.load_replay_buffer):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.start()
        step(tmp_path / "buffer.pkl")
        peaks.append((tracemalloc.get_traced_memory()[1] - before) / size)
        tracemalloc.stop()
    assert peaks[0] < 0.4  # a piece of a megabyte and the like
    assert peaks[1] < 1.4  # what is loaded
    model.learn(20, reset_num_timesteps=False)  # its memory can be written to


@pytest.mark.parametrize(("algorithm", "n_steps"), [(SACv2, 1), (SACv2, 3), (MASAC, 1)])
def test_a_buffer_is_loaded_where_there_is_none(algorithm: type, n_steps: int, tmp_path: pathlib.Path) -> None:
    model = make(algorithm, AgentsEnv() if algorithm is MASAC else SpacesEnv(), n_steps=n_steps).learn(20)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    for remove in (lambda: setattr(model, "replay_buffer", None), lambda: delattr(model, "replay_buffer")):
        remove()
        model.load_replay_buffer(tmp_path / "buffer.pkl")
        assert model.replay_buffer.size() == 20


@pytest.mark.parametrize(("saved", "other"), [(MASAC, SACv2), (SACv2, MASAC)])
def test_buffers_with_another_number_of_rewards_are_refused(saved: type, other: type, tmp_path: pathlib.Path) -> None:
    models = [make(algorithm, AgentsEnv()).learn(12) for algorithm in (saved, other)]
    models[0].save_replay_buffer(tmp_path / "buffer.pkl")
    before = models[1].replay_buffer
    with pytest.raises(ValueError, match=r"holds a replay buffer with n_rewards=\d, not \d: load one of a model on"):
        models[1].load_replay_buffer(tmp_path / "buffer.pkl")
    assert models[1].replay_buffer is before
