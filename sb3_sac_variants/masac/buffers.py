"""Replay memory with a reward for each agent, which SB3's environments can carry in their infos only."""

from typing import Any

import numpy as np

from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer
from sb3_sac_variants.envs.agent_rewards import read_agent_rewards


class AgentReplayBuffer(TensorReplayBuffer):
    """
    Replay buffer whose rewards, ``(B, n_agents)`` in a batch, are those of ``info["agent_rewards"]``.

    The scalar reward of the environment is not stored. Arguments as
    :class:`~sb3_sac_variants.common.replay.buffers.TensorReplayBuffer`; the first number of an observation's
    shape is that of the agents.
    """

    @property
    def n_agents(self) -> int:
        """Number of agents."""
        assert self.observation_space.shape is not None
        return int(self.observation_space.shape[0])

    def _row_layout(self) -> dict[str, int]:
        return {**super()._row_layout(), "reward": self.n_agents}

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
        Store one step of all environments, as the base class does.

        :param reward: not stored
        :param infos: with "agent_rewards", ``(n_agents,)``, besides
        :raises ValueError: if an info has no such rewards, or not that many finite numbers; if a wrapper has changed
            ``reward`` and not those
        """
        each = zip(infos, reward, strict=True)
        rewards = np.stack([read_agent_rewards(info, self.n_agents, for_all) for info, for_all in each])
        super().add(obs, next_obs, action, rewards, done, infos)
