"""Actions in training: random ones, noise, gSDE."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import (
    SpacesEnv,
    every_algorithm,
    every_gaussian_algorithm,
    make,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.vec_env import DummyVecEnv

# ---------------------------------------------------------------- actions


@every_algorithm
def test_first_actions_are_uniform(algorithm: type) -> None:
    low, high = np.array([-3.0, 1.0], dtype=np.float32), np.array([5.0, 2.0], dtype=np.float32)
    env = SpacesEnv(action_space=spaces.Box(low, high), episode_length=1000)
    make(algorithm, env, learning_starts=1000).learn(1000)
    relative = (np.array(env.actions) - low) / (high - low)
    assert np.allclose(relative.mean(axis=0), 0.5, atol=0.05)
    assert np.allclose(relative.std(axis=0), 12**-0.5, atol=0.03)


@every_algorithm
def test_stored_actions_are_those_taken(algorithm: type) -> None:
    low, high = np.array([-3.0, 1.0], dtype=np.float32), np.array([5.0, 2.0], dtype=np.float32)
    env = SpacesEnv(action_space=spaces.Box(low, high))
    model = make(algorithm, env, action_noise=NormalActionNoise(np.zeros(2), np.ones(2))).learn(30)
    stored = model.replay_buffer.actions[:30, 0]
    assert np.abs(stored).max() == 1.0  # noise of this size is clipped now and then
    np.testing.assert_allclose(low + (stored + 1) / 2 * (high - low), env.actions, rtol=1e-5, atol=1e-5)


class CountedNoise(ActionNoise):
    """Says how often it was asked and reset; pushes every action to the upper bound."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.resets = 0

    def __call__(self) -> np.ndarray:
        self.calls += 1
        return np.full(2, 5.0, dtype=np.float32)

    def reset(self) -> None:
        self.resets += 1


@every_algorithm
def test_action_noise_is_added_to_every_action(algorithm: type) -> None:
    env, noise = SpacesEnv(episode_length=10), CountedNoise()
    make(algorithm, env, action_noise=noise).learn(30)
    assert (noise.calls, noise.resets) == (30, 1 + 3)
    np.testing.assert_array_equal(env.actions, np.ones((30, 2)))


@every_algorithm
def test_action_noise_of_several_environments(algorithm: type) -> None:
    lengths = [10, 6]
    env = DummyVecEnv([lambda length=length: SpacesEnv(episode_length=length) for length in lengths])
    model = make(algorithm, env, action_noise=CountedNoise(), gradient_steps=-1).learn(60)
    assert isinstance(model.action_noise, VectorizedActionNoise)
    first, second = model.action_noise.noises
    assert (first.calls, second.calls) == (30, 30)
    assert second.resets - first.resets == 5 - 3
    ou = OrnsteinUhlenbeckActionNoise(np.zeros(2), 0.3 * np.ones(2))
    make(algorithm, make_vec_env(SpacesEnv, 2), action_noise=ou, gradient_steps=-1).learn(20)


# ---------------------------------------------------------------- gSDE


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [({"sde_sample_freq": 3}, 4), ({"sde_sample_freq": -1}, 1), ({"sde_sample_freq": 1}, 12)],
    ids=str,
)
@every_gaussian_algorithm
def test_exploration_matrices(algorithm: type, arguments: dict[str, Any], changes: int) -> None:
    matrices = []

    def callback(names: dict[str, Any], _: Any) -> bool:
        matrices.append(names["self"].actor.action_dist.exploration_matrices.clone())
        return True

    env = make_vec_env(SpacesEnv, 2)
    make(algorithm, env, use_sde=True, train_freq=12, gradient_steps=-1, **arguments).learn(24, callback=callback)
    assert matrices[0].shape == (2, 16, 2)
    assert not th.equal(matrices[0][0], matrices[0][1])
    assert 1 + sum(not th.equal(one, other) for one, other in itertools.pairwise(matrices)) == changes


@pytest.mark.parametrize("use_sde_at_warmup", [False, True])
@every_gaussian_algorithm
def test_actions_before_learning_starts_with_gsde(algorithm: type, use_sde_at_warmup: bool) -> None:
    env = SpacesEnv(observation_space=spaces.Box(0.5, 0.5, (3,)))
    make(algorithm, env, use_sde=True, use_sde_at_warmup=use_sde_at_warmup, train_freq=10, learning_starts=20).learn(10)
    # In one and the same state, one exploration matrix gives one action
    assert (np.ptp(env.actions, axis=0) == 0).all() == use_sde_at_warmup


@pytest.mark.parametrize("policy_kwargs", [{"use_expln": True}, {"log_std_init": -1.0}, {"clip_mean": 0.5}], ids=str)
@every_gaussian_algorithm
def test_gsde_options(algorithm: type, policy_kwargs: dict[str, Any]) -> None:
    model = make(algorithm, use_sde=True, policy_kwargs=policy_kwargs).learn(20)
    for name, value in policy_kwargs.items():
        assert getattr(model.actor, name) == value
    std = model.actor.get_std()
    assert std.shape == (16, 2)
    assert (std > 0).all()
    assert model.policy_kwargs["use_sde"]
