"""The agents of an environment as environments of their own, for algorithms that know a single agent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from .agent_rewards import AGENT_TERMINATIONS, AGENT_TRUNCATIONS, read_agent_rewards

_ADAPTER = "wrap a PettingZoo ParallelEnv in ParallelEnvAdapter"


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

    An agent's episode ends when it terminates or is truncated itself (``info["agent_terminations"]`` and
    ``info["agent_truncations"]``, where the environment says so). One that leaves before others then has an episode of
    zeros, whose actions have no effect, until the last one ends: a vectorised environment has no place for an agent
    that is not there.

    :param venv: environments with observations ``(N, d)``, actions ``(N, D)`` or MultiDiscrete ``[n] * N``, and
        ``info["agent_rewards"]``
    :raises TypeError: if it is no ``VecEnv``
    :raises ValueError: if spaces are none of these or of different N, the bounds of the agents' actions differ, or
        there is a ``VecNormalize`` in it, which would hand out original rewards and observations of all agents together
    """

    def __init__(self, venv: VecEnv) -> None:
        if not isinstance(venv, VecEnv):
            raise TypeError(f"venv={venv!r} is no VecEnv: pass DummyVecEnv([lambda: env])")
        if unwrap_vec_normalize(venv) is not None:
            raise ValueError(
                "venv has VecNormalize inside, which knows all agents as one: put it outside, "
                "VecNormalize(IndependentAgents(venv))"
            )
        observation_space = _observation_space_of_one(venv.observation_space)
        action_space = _action_space_of_one(venv.action_space)
        assert venv.observation_space.shape is not None
        assert venv.action_space.shape is not None
        self.n_agents = venv.action_space.shape[0]
        if venv.observation_space.shape[0] != self.n_agents:
            raise ValueError(
                f"observation_space={venv.observation_space} and action_space={venv.action_space} have rows for "
                f"different numbers of agents: {_ADAPTER}"
            )
        super().__init__(venv, observation_space, action_space)
        self.num_envs = venv.num_envs * self.n_agents

    def reset(self) -> VecEnvObs:
        """Start an episode in all environments; give observations, ``(n_envs * N, d)``."""
        observations = self.venv.reset()
        self.reset_infos = [info for info in self.venv.reset_infos for _ in range(self.n_agents)]
        return self._rows(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Hand out the agents' actions, ``(n_envs * N, D)``, or ``(n_envs * N,)`` if they are discrete."""
        assert self.venv.action_space.shape is not None
        self.venv.step_async(actions.reshape(self.venv.num_envs, *self.venv.action_space.shape))

    def step_wait(self) -> VecEnvStepReturn:
        """
        Wait for what they led to: each agent's observation, own reward, whether its episode ended, information.

        :raises ValueError: if an environment does not say N finite rewards, or a wrapper has changed the mean of them
        """
        observations, mean_rewards, dones, infos = self.venv.step_wait()
        each = zip(infos, mean_rewards, strict=True)
        rewards = np.concatenate([read_agent_rewards(info, self.n_agents, mean) for info, mean in each])
        rows, own_dones = self._rows(observations).copy(), np.repeat(dones, self.n_agents)
        own_infos: list[dict[str, Any]] = []
        nobody = np.zeros(self.n_agents, dtype=bool)
        for info, done in zip(infos, dones, strict=True):
            terminated, truncated = info.get(AGENT_TERMINATIONS, nobody), info.get(AGENT_TRUNCATIONS, nobody)
            for agent in range(self.n_agents):
                own, row = dict(info), len(own_infos)
                if "terminal_observation" in info:
                    own["terminal_observation"] = info["terminal_observation"][agent]
                if not done and (terminated[agent] or truncated[agent]):  # before others; it observes zeros from now on
                    own |= {"terminal_observation": rows[row].copy(), "TimeLimit.truncated": True}
                    rows[row], own_dones[row] = 0, True
                if terminated[agent]:  # whatever became of the others
                    own["TimeLimit.truncated"] = False
                own_infos.append(own)
        return rows, rewards, own_dones, own_infos

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the environments, at their next reset; give the seed of each agent's."""
        return [number for number in self.venv.seed(seed) for _ in range(self.n_agents)]

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """
        Set the options of the environments' next reset.

        :param options: for all environments, or a list with those of each agent's
        :raises ValueError: if there are not as many as agents, or agents of one environment have different ones
        """
        if isinstance(options, list):
            given, options = options, options[:: self.n_agents]
            if given != [option for option in options for _ in range(self.n_agents)] or len(given) != self.num_envs:
                raise ValueError(
                    f"options={given!r} must be {self.num_envs} dictionaries, the same for the {self.n_agents} agents "
                    "of an environment: pass those, or one dictionary for all"
                )
        self.venv.set_options(options)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Read an attribute of each agent's environment; ``indices`` number the agents through all environments."""
        return self._of_agents(lambda envs: self.venv.get_attr(attr_name, envs), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the agents' environments."""
        self.venv.set_attr(attr_name, value, sorted(set(self._env_of_agents(indices))))

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method once in each environment; give what it gave, for each agent."""
        return self._of_agents(lambda envs: self.venv.env_method(method_name, *args, indices=envs, **kwargs), indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the environment of each agent has a wrapper."""
        return self._of_agents(lambda envs: self.venv.env_is_wrapped(wrapper_class, envs), indices)

    def _of_agents(self, ask: Callable[[list[int]], list[Any]], indices: VecEnvIndices) -> list[Any]:
        """Ask each environment once, for all of its agents."""
        env_of_agents = self._env_of_agents(indices)
        envs = sorted(set(env_of_agents))
        answers = dict(zip(envs, ask(envs), strict=True))
        return [answers[env] for env in env_of_agents]

    def _env_of_agents(self, indices: VecEnvIndices) -> list[int]:
        return [index // self.n_agents for index in self._get_indices(indices)]

    def _rows(self, observations: VecEnvObs) -> np.ndarray:
        assert isinstance(observations, np.ndarray)
        return observations.reshape(self.num_envs, -1)


def _rows_of(name: str, space: spaces.Space) -> spaces.Box:
    """The space of all agents, a Box with a row for each."""
    if not isinstance(space, spaces.Box) or len(space.shape) != 2:
        raise ValueError(f"{name}={space} has no row for each agent: {_ADAPTER}")
    return space


def _observation_space_of_one(space: spaces.Space) -> spaces.Box:
    """A space that every agent's observation lies in."""
    rows = _rows_of("observation_space", space)
    return spaces.Box(rows.low.min(axis=0), rows.high.max(axis=0), dtype=rows.dtype.type)


def _action_space_of_one(space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """The space of each agent's action, which is the same for all."""
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        if np.ptp(space.nvec) or np.any(space.start):
            raise ValueError(f"action_space={space} differs between agents, whom one policy cannot tell apart")
        return spaces.Discrete(int(space.nvec[0]))
    rows = _rows_of("action_space", space)
    if (rows.low != rows.low[0]).any() or (rows.high != rows.high[0]).any():
        raise ValueError(
            f"action_space={space} has bounds that differ between agents, whom one policy cannot tell apart"
        )
    return spaces.Box(rows.low[0], rows.high[0], dtype=rows.dtype.type)
