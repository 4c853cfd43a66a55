"""What the tests over all algorithms share: the list of algorithms, tiny models, and an environment of any spaces."""

import copy
import re
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from sb3_sac_variants import SQL, SACv1, SACv2

#: the algorithms on continuous actions: a new one joins all their tests by joining this list
ALGORITHMS = [SACv1, SACv2, SQL]
#: those of them with a Gaussian policy, whose entropy is known: they take gSDE and a learned temperature
GAUSSIAN = [SACv1, SACv2]

every_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
every_gaussian_algorithm = pytest.mark.parametrize("algorithm", GAUSSIAN)

VECTOR = spaces.Box(-1.0, 1.0, (3,), dtype=np.float32)
ACTION = spaces.Box(-1.0, 1.0, (2,), dtype=np.float32)
#: the smallest image that SB3's NatureCNN takes
IMAGE = spaces.Box(0, 255, (1, 36, 36), dtype=np.uint8)
DICTIONARY = spaces.Dict({"image": IMAGE, "vector": VECTOR})

TINY: dict[str, Any] = {
    "learning_starts": 5,
    "buffer_size": 100,
    "batch_size": 4,
    "engine": "eager",
    "device": "cpu",
    "seed": 0,
}


def every_algorithm_with(name: str, cases: Collection[str], gaussian: Collection[str] = ()) -> pytest.MarkDecorator:
    """
    :param name: what a case is called in the test's arguments
    :param cases: names of the cases
    :param gaussian: those of them for Gaussian policies only
    :return: parametrisation over the algorithms and the cases that they can do
    """
    pairs = [(algorithm, case) for algorithm in ALGORITHMS for case in cases]
    return pytest.mark.parametrize(
        ("algorithm", name),
        [(algorithm, case) for algorithm, case in pairs if algorithm in GAUSSIAN or case not in gaussian],
    )


class SpacesEnv(gym.Env):
    """
    Random observations of any space; the reward falls with the distance of the action from the middle of its range.

    :param observation_space: observation space
    :param action_space: action space
    :param episode_length: steps to the end of an episode
    :param truncate: whether it ends by truncation, not termination
    """

    def __init__(
        self,
        observation_space: spaces.Space = VECTOR,
        action_space: spaces.Space = ACTION,
        episode_length: int = 10,
        truncate: bool = False,
    ):
        # Spaces hold a random generator: environments must not share it
        self.observation_space = copy.deepcopy(observation_space)
        self.action_space = copy.deepcopy(action_space)
        self.episode_length = episode_length
        self.truncate = truncate
        self.actions: list[np.ndarray] = []
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, dtype=self.action_space.dtype)), action
        self.actions.append(np.array(action))
        self.steps += 1
        over = self.steps >= self.episode_length
        middle = (self.action_space.low + self.action_space.high) / 2
        reward = -float(np.square(action - middle).mean())
        return self.observation_space.sample(), reward, over and not self.truncate, over and self.truncate, {}


class NormalizingExtractor(BaseFeaturesExtractor):
    """
    Features with batch normalisation and dropout, which behave differently in training and evaluation.

    :param observation_space: observation space
    :param features_dim: number of features
    :param dropout: probability of leaving a feature out
    """

    def __init__(self, observation_space: spaces.Box, features_dim: int = 8, dropout: float = 0.5):
        super().__init__(observation_space, features_dim)
        self.layers = nn.Sequential(
            nn.Linear(observation_space.shape[0], features_dim),
            nn.BatchNorm1d(features_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
        )

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layers(observations)


def goal_env() -> gym.Env:
    """
    :return: an environment for hindsight experience replay, episodes of at most five steps
    """
    return BitFlippingEnv(n_bits=5, continuous=True)


def newest(name: str, **kwargs: Any) -> gym.Env:
    """The newest version of an environment which this Gymnasium has."""
    versions = [int(found[1]) for key in gym.registry if (found := re.fullmatch(rf"{name}-v(\d+)", key))]
    return gym.make(f"{name}-v{max(versions)}", **kwargs)


def make(algorithm: type, env: Any = None, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    """
    :param algorithm: class of the algorithm
    :param env: environment, a :class:`SpacesEnv` unless given
    :param policy: name of the policy
    :param kwargs: arguments of the algorithm; ``net_arch`` is passed on in ``policy_kwargs``
    :return: a model that learns within milliseconds
    """
    policy_kwargs = {"net_arch": kwargs.pop("net_arch", [16]), **kwargs.pop("policy_kwargs", {})}
    env = SpacesEnv() if env is None else env
    return algorithm(policy, env, policy_kwargs=policy_kwargs, **{**TINY, **kwargs})


def flat_parameters(model: Any) -> dict[str, th.Tensor]:
    """
    :param model: a model
    :return: copies of all its saved tensors (networks, optimisers, temperature) by name
    """
    found: dict[str, th.Tensor] = {}

    def visit(name: str, value: Any) -> None:
        if isinstance(value, th.Tensor):
            found[name] = value.detach().clone()
        elif isinstance(value, dict):
            for key, item in value.items():
                visit(f"{name}/{key}", item)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                visit(f"{name}/{index}", item)

    visit("", model.get_parameters())
    return found


def assert_same_parameters(one: Any, other: Any) -> None:
    """
    :param one: a model
    :param other: another
    :raises AssertionError: if a saved tensor differs in a single bit
    """
    left, right = flat_parameters(one), flat_parameters(other)
    assert left.keys() == right.keys()
    different = [name for name in left if not th.equal(left[name], right[name])]
    assert not different, different


def several(n_envs: int = 2, **kwargs: Any) -> DummyVecEnv:
    """
    :param n_envs: number of environments
    :param kwargs: as :class:`SpacesEnv`
    :return: that many of them
    """
    return make_vec_env(SpacesEnv, n_envs, env_kwargs=kwargs)


def several_agents(n_envs: int = 1) -> VecEnv:
    """Simple Spread's three agents; the test is skipped without the extra ``multiagent``."""
    pytest.importorskip("mpe2", reason="needs the extra 'multiagent'")
    return make_vec_env("SimpleSpread-v3", n_envs)


def as_arrays(value: Any) -> Any:
    """
    :param value: dictionaries and tuples of tensors
    :return: the same of arrays, which NumPy can compare
    """
    if isinstance(value, dict):
        return {key: as_arrays(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [as_arrays(item) for item in value]
    return value.numpy() if isinstance(value, th.Tensor) else value


def refused(error: type[Exception], name: str, value: Any, remedy: str) -> Any:
    """
    :param error: class of the error
    :param name: of the argument, which the message names
    :param value: its value, which the message shows
    :param remedy: what the message advises
    :return: a context that expects the error
    """
    return pytest.raises(error, match=f"(?s){re.escape(name)}.*{re.escape(repr(value))}.*{re.escape(remedy)}")


# ---------------------------------------------------------------- what SB3 keeps in private attributes only


def n_updates(model: Any) -> int:
    """Gradient steps that a model has done."""
    return model._n_updates


def n_episodes(model: Any) -> int:
    """Episodes that have ended in a run."""
    return model._episode_num


def last_observation(model: Any) -> Any:
    """The observation that the next action answers, None if a new episode begins."""
    return model._last_obs


def set_progress(remaining: float, *models: Any) -> None:
    """Tell models what is left of their training, for schedules in a ``train()`` outside of ``learn()``."""
    for model in models:
        model._current_progress_remaining = remaining


def rows_at(buffer: Any, positions: np.ndarray, env: Any = None) -> Any:
    """What a replay buffer, ours or SB3's, gives for some positions."""
    return buffer._get_samples(positions, env)
