"""The agents of an environment as environments of their own, for algorithms that know a single agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class IndependentAgents(VecEnvWrapper):
    """
    The agents of environments as environments of their own: independent learning with a shared policy.

    Splits environments of N agents, such as :class:`~sb3_sac_variants.envs.ParallelEnvAdapter`. One policy acts for
    every agent on its own observation and learns from its own reward. To each agent the others are part of an
    environment that changes as they learn.

    ``SACv2("MlpPolicy", IndependentAgents(make_vec_env("SimpleSpread-v3")))``; in the zoo, the hyperparameter
    ``vec_env_wrapper: sb3_sac_variants.envs.IndependentAgents``, for its ``train``, ``-optimize`` and ``record_video``
    (its ``enjoy`` plays a single environment only, which N agents are not). A joint step counts N time steps. What
    Monitor notes of an episode is the mean over the agents, for each of them.

    :param venv: environments with observations ``(N, d)``, actions ``(N, D)`` or MultiDiscrete ``[n] * N``, and
        ``info["agent_rewards"]``
    :raises ValueError: if spaces are none of these, the agents' bounds differ, or there is a ``VecNormalize`` in it,
        which would hand out original rewards and observations of all agents together
    """

    def __init__(self, venv: VecEnv) -> None:
        if unwrap_vec_normalize(venv) is not None:
            raise ValueError(
                "venv has VecNormalize inside, which knows all agents as one: put it outside, "
                "VecNormalize(IndependentAgents(venv))"
            )
        observation_space = _space_of_one("observation_space", venv.observation_space)
        action_space = _space_of_one("action_space", venv.action_space)
        assert venv.action_space.shape is not None
        self.n_agents = venv.action_space.shape[0]
        super().__init__(venv, observation_space, action_space)
        self.num_envs = venv.num_envs * self.n_agents

    def reset(self) -> VecEnvObs:
        """
        Start an episode in all environments.

        :return: observations, ``(n_envs * N, d)``
        """
        observations = self.venv.reset()
        self.reset_infos = [info for info in self.venv.reset_infos for _ in range(self.n_agents)]
        return self._rows(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """
        Hand out the agents' actions.

        :param actions: ``(n_envs * N, D)``, or ``(n_envs * N,)`` if they are discrete
        """
        assert self.venv.action_space.shape is not None
        self.venv.step_async(actions.reshape(self.venv.num_envs, *self.venv.action_space.shape))

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for what they led to.

        :return: observations ``(n_envs * N, d)``, each agent's own reward, whether its episode ended, information
        """
        observations, _, dones, infos = self.venv.step_wait()
        rewards = np.concatenate([info["agent_rewards"] for info in infos])
        own_infos: list[dict[str, Any]] = []
        for info in infos:
            for agent in range(self.n_agents):
                own = dict(info)
                if "terminal_observation" in info:
                    own["terminal_observation"] = info["terminal_observation"][agent]
                own_infos.append(own)
        return self._rows(observations), rewards, np.repeat(dones, self.n_agents), own_infos

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """
        Read an attribute of the environments.

        :param attr_name: its name
        :param indices: agents, numbered through all environments; None for all
        :return: its value in the environment of each
        """
        return self._of_agents(lambda envs: self.venv.get_attr(attr_name, envs), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """
        Set an attribute of the environments.

        :param attr_name: its name
        :param value: what to set it to
        :param indices: agents, numbered through all environments, for whose environments; None for all
        """
        self.venv.set_attr(attr_name, value, sorted(set(self._env_of_agents(indices))))

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """
        Call a method of the environments, once in each.

        :param method_name: its name
        :param args: its arguments
        :param indices: agents, numbered through all environments; None for all
        :param kwargs: as ``args``
        :return: what it gave in the environment of each
        """
        return self._of_agents(
            lambda envs: self.venv.env_method(method_name, *args, indices=envs, **kwargs),
            indices,
        )

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """
        Whether the environments have a wrapper.

        :param wrapper_class: the wrapper
        :param indices: agents, numbered through all environments; None for all
        :return: whether the environment of each has it
        """
        return self._of_agents(lambda envs: self.venv.env_is_wrapped(wrapper_class, envs), indices)

    def _of_agents(self, ask: Callable[[list[int]], list[Any]], indices: VecEnvIndices) -> list[Any]:
        """
        Ask each environment once, for all of its agents.

        :param ask: gives the answers of some of the environments
        :param indices: agents, numbered through all environments; None for all
        :return: the answer of the environment of each
        """
        env_of_agents = self._env_of_agents(indices)
        envs = sorted(set(env_of_agents))
        answers = dict(zip(envs, ask(envs), strict=True))
        return [answers[env] for env in env_of_agents]

    def _env_of_agents(self, indices: VecEnvIndices) -> list[int]:
        return [index // self.n_agents for index in self._get_indices(indices)]

    def _rows(self, observations: VecEnvObs) -> np.ndarray:
        assert isinstance(observations, np.ndarray)
        return observations.reshape(self.num_envs, -1)


def _space_of_one(name: str, space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """
    The space of each agent.

    :param name: of the space
    :param space: of all agents
    :return: that of one
    :raises ValueError: if there is no such space
    """
    if name == "action_space" and isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        if np.ptp(space.nvec) or np.any(space.start):
            raise ValueError(f"{name}={space} differs between agents, whom one policy cannot tell apart")
        return spaces.Discrete(int(space.nvec[0]))
    if not isinstance(space, spaces.Box) or len(space.shape) != 2:
        raise ValueError(
            f"{name}={space} has no row for each agent: wrap a PettingZoo ParallelEnv in ParallelEnvAdapter"
        )
    if (space.low != space.low[0]).any() or (space.high != space.high[0]).any():
        raise ValueError(f"{name}={space} has bounds that differ between agents, whom one policy cannot tell apart")
    return spaces.Box(space.low[0], space.high[0], dtype=space.dtype.type)
