"""A finite Markov game as arrays: several agents in one finite process."""

import numpy as np
from numpy.typing import ArrayLike

from sb3_sac_variants.tabular import checks
from sb3_sac_variants.tabular.checks import FloatArray
from sb3_sac_variants.tabular.finite_mdp import FiniteMDP


class FiniteMarkovGame:
    """
    A Markov game of N agents with the same A actions each, S states and discount gamma.

    :param transition: ``P(s'|s, a^1, ..., a^N)``, shape (S, A, ..., A, S) with N axes of actions; every row sums to one
    :param reward: r^i(s, a^1, ..., a^N), shape (N, S, A, ..., A)
    :param gamma: Discount factor in [0, 1)
    :param terminal: Boolean mask of the states in which the episode is over, shape (S,), as in :class:`FiniteMDP`:
        absorbing, with reward 0 for every agent; there is neither entropy nor cross-entropy to collect in them
    :raises ValueError: a wrong shape, an entry that is not finite, a row that does not sum to one, gamma outside
        [0, 1), or a terminal state that pays or can be left

    The attributes ``transition``, ``reward`` and ``terminal`` are read-only.
    """

    def __init__(
        self, transition: ArrayLike, reward: ArrayLike, gamma: float, terminal: ArrayLike | None = None
    ) -> None:
        axes_of_reward, axes_of_transition = "(N, S, A, ..., A)", "(S, A, ..., A, S)"
        rewards = checks.real_array("reward", reward, axes_of_reward)
        rows = checks.real_array("transition", transition, axes_of_transition)
        n_agents = rewards.shape[0] if rewards.ndim else 0
        if rewards.size == 0 or rewards.ndim != n_agents + 2 or rows.ndim != rewards.ndim:
            raise ValueError(
                f"reward must have the axes {axes_of_reward} and transition {axes_of_transition}, none empty, with an "
                f"axis of actions for each of the N agents, got shapes {rewards.shape} and {rows.shape}; reshape them"
            )
        self.n_agents, self.n_states, self.n_actions = rewards.shape[:3]
        actions = (self.n_actions,) * self.n_agents
        shape = (self.n_states, *actions, self.n_states)
        rewards = checks.finite_array("reward", rewards, axes_of_reward, (self.n_agents, self.n_states, *actions))
        self.reward: FloatArray = checks.read_only(rewards, reward)
        rows = checks.probability_array("transition", rows, axes_of_transition, shape)
        joint_rows = rows.reshape(self.n_states, -1, self.n_states)
        self._joint = FiniteMDP(joint_rows, np.zeros(joint_rows.shape[:2]), gamma, terminal)
        self.transition = self._joint.transition.reshape(shape)
        self.gamma = self._joint.gamma
        self.terminal = self._joint.terminal
        if self.reward[:, self.terminal].any():
            paying = [int(s) for s in np.flatnonzero(self.terminal) if self.reward[:, s].any()]
            raise ValueError(f"terminal states {paying} pay: set their reward to 0, or take them out of terminal")

    def marginal(self, values: FloatArray, policies: FloatArray, agent: int) -> FloatArray:
        """
        Average over the other agents' actions, E_{a^-i ~ pi^-i}[ values(s, a^1, ..., a^N) ].

        :param values: Numbers for states and joint actions, shape (S, A, ..., A), or with further axes behind
        :param policies: Every agent's policy, shape (N, S, A)
        :param agent: i, from 0
        :return: Shape (S, A), or with the same further axes behind
        :raises ValueError: a wrong shape, or no such agent
        """
        shape = (self.n_states, *(self.n_actions,) * self.n_agents)
        values = checks.real_array("values", values, "(S, A, ..., A)")
        if values.shape[: len(shape)] != shape:
            raise ValueError(f"values must have shape (S, A, ..., A) = {shape}, got {values.shape}; reshape them")
        shape = (self.n_agents, self.n_states, self.n_actions)
        policies = checks.finite_array("policies", policies, "(N, S, A)", shape)
        index = checks.agent_index(agent, self.n_agents)
        for other in reversed(range(self.n_agents)):
            if other != index:
                values = np.einsum("sa,sa...->s...", policies[other], np.moveaxis(values, 1 + other, 1))
        return values

    def joint_backup(self, v: FloatArray, agent: int) -> FloatArray:
        """
        r^i(s, a^1, ..., a^N) + gamma E_s'[ v(s') ].

        :param v: Values of agent i, 0 in terminal states, shape (S,)
        :param agent: i, from 0
        :return: State-action values of agent i, shape (S, A, ..., A)
        """
        reward: FloatArray = self.reward[checks.agent_index(agent, self.n_agents)]
        return reward + self.gamma * self._joint.expected_next(v).reshape(reward.shape)

    def __repr__(self) -> str:
        return (
            f"FiniteMarkovGame(n_agents={self.n_agents}, n_states={self.n_states}, n_actions={self.n_actions}, "
            f"gamma={self.gamma:g}, n_terminal={int(self.terminal.sum())})"
        )
