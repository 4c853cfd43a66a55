"""Replay memory with a reward for each agent, which SB3's environments can carry in their infos only."""

from typing import Any

import numpy as np

from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer

#: what an environment puts each agent's own reward under
AGENT_REWARDS = "agent_rewards"


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
        :raises ValueError: if an info has no such rewards
        """
        rewards = np.stack([self._agent_rewards(info) for info in infos])
        super().add(obs, next_obs, action, rewards, done, infos)

    def _agent_rewards(self, info: dict[str, Any]) -> np.ndarray:
        remedy = (
            "wrap a PettingZoo ParallelEnv in sb3_sac_variants.envs.ParallelEnvAdapter, or have the environment put an "
            "array of the agents' rewards there"
        )
        if AGENT_REWARDS not in info:
            raise ValueError(f"info has no {AGENT_REWARDS!r}, only {sorted(map(str, info))}: {remedy}")
        rewards = np.asarray(info[AGENT_REWARDS], dtype=np.float32)
        if rewards.shape != (self.n_agents,) or not np.isfinite(rewards).all():
            raise ValueError(
                f"info[{AGENT_REWARDS!r}]={info[AGENT_REWARDS]!r} must be {self.n_agents} finite numbers, one for each "
                f"agent: {remedy}"
            )
        return rewards
