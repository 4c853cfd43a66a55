"""Matrix games: agents that choose once, at the same time, and share what it pays."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from .agent_rewards import AGENT_REWARDS, MEAN_REWARD
from .render_mode import check_render_mode

_METADATA = {"render_modes": ["rgb_array"], "render_fps": 2}
#: The penalty game (Claus and Boutilier 1998): two equally good equilibria, (0, 0) and (2, 2), on which the agents must
#: agree, since one that goes for the other costs the penalty; and a safe equilibrium (1, 1) that pays less.
PENALTY_GAME = ((10, 0, -30), (0, 2, 0), (-30, 0, 10))


class MatrixGameEnv(gym.Env[NDArray[np.float32], NDArray[np.int64]]):
    """
    A game of one step in which all agents get the same payoff, registered as ``PenaltyGame-v0``.

    The observation says nothing: Box of shape (n_agents, 1), always one. Action: MultiDiscrete ``[n] * n_agents``.
    ``info["agent_rewards"]`` holds the payoff once for each agent.

    :param payoff: What each joint action pays, an axis of equal length for each agent; by default the penalty game
    :param render_mode: None or "rgb_array": the payoffs as a table, green where they are positive and red where they
        are negative, a row for each action of the first agent; a border marks what was played last.
        ``gymnasium.make("PenaltyGame-v0", render_mode="human")`` shows it in a window
    :raises ValueError: If the axes of ``payoff`` have different lengths, or an entry is no finite number; if
        ``render_mode`` is unknown
    """

    metadata: dict[str, Any] = _METADATA

    def __init__(self, payoff: ArrayLike = PENALTY_GAME, render_mode: str | None = None) -> None:
        try:
            real = np.asarray(payoff).dtype.kind in "biuf"
            self.payoff = np.array(payoff if real else (), dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            self.payoff = np.empty(0)
        if self.payoff.size == 0 or len(set(self.payoff.shape)) != 1 or not np.isfinite(self.payoff).all():
            raise ValueError(
                f"payoff={payoff!r} must be finite numbers, with an axis of the same length for each agent"
            )
        check_render_mode(render_mode, self.metadata["render_modes"], "PenaltyGame-v0")
        self.render_mode = render_mode
        self._last_action: tuple[int, ...] | None = None
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
        :raises gymnasium.error.ResetNeeded: If reset() was not called since the last step
        """
        if self._needs_reset:
            raise gym.error.ResetNeeded("call reset() before step(): a game lasts one step")
        given = np.asarray(action)
        if given.dtype.kind not in "iu" or not self.action_space.contains(given):
            raise ValueError(
                f"action={action!r} must be whole numbers from 0 to {self.payoff.shape[0] - 1}, one for each of "
                f"{self.n_agents} agents"
            )
        self._needs_reset = True
        self._last_action = tuple(map(int, action))
        reward = float(self.payoff[self._last_action])
        info = {AGENT_REWARDS: np.full(self.n_agents, reward, dtype=np.float32), MEAN_REWARD: reward}
        return np.ones((self.n_agents, 1), dtype=np.float32), reward, True, False, info

    def render(self) -> NDArray[np.uint8] | None:
        """
        Draw the payoffs, and mark what was played last, before the last reset too: a game lasts one step.

        :return: Frame of shape (height, width, 3), uint8; None without a render mode
        """
        if self.render_mode is None:
            gym.logger.warn('render() draws nothing without a render mode: make the environment with "rgb_array"')
            return None
        rows = len(self.payoff)
        table = self.payoff.reshape(rows, -1) / max(np.abs(self.payoff).max(), np.finfo(np.float64).tiny)
        faded = 1.0 - np.abs(table)  # white where nothing is paid
        colours = np.stack([np.where(table < 0, 1.0, faded), np.where(table > 0, 1.0, faded), faded], axis=-1)
        size = 2 * max(1, 240 // max(table.shape))  # pixels of a cell, even as video formats want them
        frame = (230 * colours).astype(np.uint8).repeat(size, axis=0).repeat(size, axis=1)
        if self._last_action is not None:
            row, column = divmod(int(np.ravel_multi_index(self._last_action, self.payoff.shape)), table.shape[1])
            cell = frame[row * size : (row + 1) * size, column * size : (column + 1) * size]
            border = max(1, size // 10)
            inside = cell[border:-border, border:-border].copy()
            cell[:] = 0
            cell[border:-border, border:-border] = inside
        return frame
