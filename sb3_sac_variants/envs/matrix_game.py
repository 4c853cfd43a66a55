"""Matrix games: agents that choose once, at the same time, and share what it pays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

#: The penalty game (Claus and Boutilier 1998): two equally good equilibria, (0, 0) and (2, 2), on which the agents must
#: agree, since one that goes for the other costs the penalty; and a safe equilibrium (1, 1) that pays less.
PENALTY_GAME = ((10, 0, -30), (0, 2, 0), (-30, 0, 10))


class MatrixGameEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """
    A game of one step in which all agents get the same payoff, registered as ``PenaltyGame-v0``.

    The observation says nothing: Box of shape (n_agents, 1), always one. Action: MultiDiscrete ``[n] * n_agents``.
    ``info["agent_rewards"]`` holds the payoff once for each agent.

    :param payoff: What each joint action pays, an axis of equal length for each agent; by default the penalty game
    :raises ValueError: If its axes have different lengths, or an entry is no finite number
    """

    def __init__(self, payoff: ArrayLike = PENALTY_GAME) -> None:
        try:
            real = np.asarray(payoff).dtype.kind in "biuf"
            self.payoff = np.array(payoff if real else (), dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            self.payoff = np.empty(0)
        if self.payoff.size == 0 or len(set(self.payoff.shape)) != 1 or not np.isfinite(self.payoff).all():
            raise ValueError(
                f"payoff={payoff!r} must be finite numbers, with an axis of the same length for each agent"
            )
        self.n_agents, n_actions = self.payoff.ndim, self.payoff.shape[0]
        self.observation_space = spaces.Box(0.0, 1.0, (self.n_agents, 1), dtype=np.float32)
        self.action_space = spaces.MultiDiscrete([n_actions] * self.n_agents)
        self._needs_reset = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """
        Start a game.

        :param seed: Seed of the generator, which nothing here uses
        :param options: Not used
        :return: Observation and info
        """
        super().reset(seed=seed)
        self._needs_reset = False
        return np.ones((self.n_agents, 1), dtype=np.float32), {}

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """
        Play it.

        :param action: Each agent's action, shape (n_agents,)
        :return: Observation, payoff, terminated (always), truncated (never), info
        :raises ValueError: If the game has no such actions
        :raises gymnasium.error.ResetNeeded: Before each reset
        """
        if self._needs_reset:
            raise gym.error.ResetNeeded("call reset() before step(): a game lasts one step")
        if not self.action_space.contains(np.asarray(action)):
            raise ValueError(
                f"action={action!r} must be whole numbers from 0 to {self.payoff.shape[0] - 1}, one for each of "
                f"{self.n_agents} agents"
            )
        self._needs_reset = True
        reward = float(self.payoff[tuple(action)])
        info = {"agent_rewards": np.full(self.n_agents, reward, dtype=np.float32)}
        return np.ones((self.n_agents, 1), dtype=np.float32), reward, True, False, info
