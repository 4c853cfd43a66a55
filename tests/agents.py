"""What the tests of several agents share: an environment for any number of them, and tiny models."""

from typing import Any

import gymnasium as gym
import helpers
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_sac_variants import MASAC

#: the kinds of actions: arguments of :class:`AgentsEnv`
KINDS: dict[str, dict[str, Any]] = {"continuous": {}, "discrete": {"n_actions": 5}}

both_kinds = pytest.mark.parametrize("kind", KINDS)


class AgentsEnv(gym.Env):
    """
    Random observations of several agents; each one's reward falls with the distance of its action from its own target.

    :param n_agents: number of agents
    :param obs_dim: size of an agent's observation
    :param action_dim: size of an agent's action
    :param targets: of the agents, on all action dimensions; by default spread over [-0.5, 0.5]
    :param episode_length: steps to the end of an episode
    :param truncate: whether it ends by truncation, not termination
    :param low: lower bound of the actions, whose upper bound is 1
    :param n_actions: if given, an agent chooses one of so many points spread over these bounds
    """

    def __init__(
        self,
        n_agents: int = 3,
        obs_dim: int = 4,
        action_dim: int = 2,
        targets: Any = None,
        episode_length: int = 5,
        truncate: bool = False,
        low: float = -1.0,
        n_actions: int | None = None,
    ):
        self.observation_space = spaces.Box(-2.0, 2.0, (n_agents, obs_dim), dtype=np.float32)
        self.action_space = spaces.Box(low, 1.0, (n_agents, action_dim), dtype=np.float32)
        self.points = None if n_actions is None else np.linspace(low, 1.0, n_actions)
        if n_actions is not None:
            self.action_space = spaces.MultiDiscrete([n_actions] * n_agents)
        self.targets = np.linspace(-0.5, 0.5, n_agents) if targets is None else np.asarray(targets)
        self.episode_length, self.truncate = episode_length, truncate
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def _observation(self) -> np.ndarray:
        return self.np_random.uniform(-2, 2, self.observation_space.shape).astype(np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, dtype=self.action_space.dtype)), action
        if self.points is not None:
            action = self.points[action][:, None]
        self.steps += 1
        over = self.steps >= self.episode_length
        rewards = -np.square(action - self.targets[:, None]).mean(axis=1).astype(np.float32)
        info = {"agent_rewards": rewards}
        return self._observation(), float(rewards.mean()), over and not self.truncate, over and self.truncate, info


def env_of(kind: str, *args: Any, **kwargs: Any) -> AgentsEnv:
    """
    :param kind: of the actions, a name in :data:`KINDS`
    :param args: as :class:`AgentsEnv`
    :param kwargs: as :class:`AgentsEnv`
    :return: an environment with such actions
    """
    return AgentsEnv(*args, **KINDS[kind], **kwargs)


def several(n_envs: int = 2, **kwargs: Any) -> DummyVecEnv:
    """
    :param n_envs: number of environments
    :param kwargs: as :class:`AgentsEnv`
    :return: that many of them
    """
    return make_vec_env(AgentsEnv, n_envs, env_kwargs=kwargs)


def make(env: Any = None, **kwargs: Any) -> MASAC:
    """
    :param env: environment, an :class:`AgentsEnv` unless given
    :param kwargs: arguments of the algorithm; ``net_arch`` is passed on in ``policy_kwargs``
    :return: a model that learns within milliseconds
    """
    return helpers.make(MASAC, AgentsEnv() if env is None else env, **kwargs)
