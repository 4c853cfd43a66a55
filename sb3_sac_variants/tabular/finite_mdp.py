"""A finite Markov decision process as arrays: what exact soft dynamic programming works on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from sb3_sac_variants.tabular import checks
from sb3_sac_variants.tabular.checks import BoolArray, FloatArray

if TYPE_CHECKING:
    import gymnasium

#: Expectations over next states gather the successors when these are fewer than S divided by this number, and are one
#: dense matrix product otherwise. A gathered entry costs a few times what an entry of a product does.
GATHER_ADVANTAGE = 4


class FiniteMDP:
    r"""
    A Markov decision process with S states and A actions, discounted by gamma.

    An episode that ends is over: where deep soft actor-critic writes ``(1 - d)`` before the next value, a terminal
    state here has value 0, neither reward nor entropy. An ordinary absorbing state would go on collecting
    :math:`\alpha \log A` at every step, up to :math:`\alpha \log A / (1 - \gamma)` in all.
    So an end costs the entropy that could still have come: at a high temperature policies keep away from it, and as
    alpha grows they become uniform, in general, only in a process without terminal states.

    Terminal states keep their rows (one state, one row everywhere): each absorbs, with reward 0; their ``q`` and ``v``
    are 0 and their ``policy``, which no step ever asks for, is uniform.

    :param transition: ``P(s'|s, a)``, shape (S, A, S); every row sums to one, and is divided by what its sum is
    :param reward: r(s, a), the expected reward of a step, shape (S, A)
    :param gamma: Discount factor in [0, 1)
    :param terminal: Boolean mask of the states in which the episode is over, shape (S,); None for none.
        Each must absorb (``transition[s, :, s] == 1``) with reward 0.
    :raises ValueError: a wrong shape, an entry that is not finite, a row that does not sum to one, gamma outside
        [0, 1), or a terminal state that pays or can be left

    The attributes ``transition``, ``reward`` and ``terminal`` are read-only float64 and boolean copies.
    """

    def __init__(
        self,
        transition: ArrayLike,
        reward: ArrayLike,
        gamma: float,
        terminal: ArrayLike | None = None,
    ) -> None:
        rows = checks.probability_array("transition", transition, "(S, A, S)")
        n_states, n_actions, n_successors = rows.shape
        if n_successors != n_states:
            raise ValueError(
                f"transition must have shape (S, A, S), got {rows.shape}: its first and last axes differ; "
                f"give a probability for every next state"
            )
        self.reward: FloatArray = checks.read_only(
            checks.finite_array("reward", reward, "(S, A)", (n_states, n_actions)), reward
        )
        self.gamma = checks.discount(gamma)
        self.terminal: BoolArray = checks.terminal_mask(terminal, n_states)
        self.terminal.flags.writeable = False
        self._check_terminal_rows(rows)
        rows[self.terminal] = np.eye(n_states)[self.terminal][:, None]  # left by no more than the tolerance until now
        self.transition: FloatArray = checks.read_only(rows, transition)

        # Rows are laid out action by action: an array of shape (S, A) whose memory runs over the states first is
        # reduced over its few actions several times faster than one whose memory runs over the actions first.
        by_action = self.transition.transpose(1, 0, 2).reshape(-1, n_states)
        n_outcomes = int((by_action > 0).sum(1).max())
        self._outcomes: np.ndarray | None = None
        if n_outcomes * GATHER_ADVANTAGE <= n_states:
            self._outcomes = np.ascontiguousarray(np.argsort(by_action == 0, axis=1, kind="stable")[:, :n_outcomes].T)
            self._probabilities = np.take_along_axis(by_action.T, self._outcomes, axis=0)
        else:
            self._probabilities = by_action

    def _check_terminal_rows(self, rows: FloatArray) -> None:
        """Refuse a terminal state that pays or can be left: the solution would silently ignore it."""
        for state in np.flatnonzero(self.terminal):
            stays = rows[state, :, state]
            if np.abs(stays - 1).max() > checks.ROW_SUM_TOLERANCE:
                raise ValueError(
                    f"terminal state {state} can be left: transition[{state}, :, {state}] is {stays}; set it to 1 and "
                    f"the rest of transition[{state}] to 0, or take {state} out of terminal"
                )
            if self.reward[state].any():
                raise ValueError(
                    f"terminal state {state} pays: reward[{state}] is {self.reward[state]}; the reward of the last "
                    f"step belongs to the state and action that lead there, so set it to 0, or take {state} out of "
                    f"terminal"
                )

    @classmethod
    def from_gymnasium(cls, env: gymnasium.Env[Any, Any], gamma: float) -> FiniteMDP:
        """
        The process behind a toy-text environment of Gymnasium.

        Read from its table of transitions ``env.unwrapped.P``: FrozenLake, CliffWalking, Taxi and any other environment
        with such a table.

        States and actions keep the environment's numbers. A state that is entered when an episode ends is terminal: it
        absorbs, pays nothing and has value 0. Time limits do not end an episode in this sense.
        If a transition ends the episode in a state that can also be visited while the episode runs, that transition
        leads to one more terminal state instead, appended as the last: S is then one more than the environment has.
        Which states can be visited follows from the start distribution, ``env.unwrapped.initial_state_distrib``; values
        of states that no episode visits, of which Taxi's table has some, mean nothing.

        :param env: The environment; Gymnasium's wrappers that change observations, record or count steps do not matter
        :param gamma: Discount factor in [0, 1)
        :return: The process
        :raises TypeError: ``env`` is not a Gymnasium environment
        :raises ValueError: ``env`` has no table ``P``, as Blackjack and all environments that are not tables, or no
            start distribution; or ``P`` may not describe how the environment steps (a wrapper has a step of its own,
            Taxi's passenger is fickle); or gamma is outside [0, 1)
        """
        from sb3_sac_variants.tabular.toy_text import read_table

        transition, reward, terminal = read_table(env)
        return cls(transition, reward, gamma, terminal)

    @property
    def n_states(self) -> int:
        """S."""
        return int(self.transition.shape[0])

    @property
    def n_actions(self) -> int:
        """A."""
        return int(self.transition.shape[1])

    def expected_next(self, v: FloatArray) -> FloatArray:
        """
        E_{s' ~ P(.|s, a)}[ v(s') ].

        :param v: A number for each state, shape (S,)
        :return: Its expectation one step later, shape (S, A)
        :raises ValueError: another shape
        """
        v = np.asarray(v, dtype=np.float64)
        if v.shape != (self.n_states,):
            raise ValueError(f"v must have shape (S,) = ({self.n_states},), got {v.shape}; pass one number a state")
        if self._outcomes is None:
            expectation = self._probabilities @ v
        else:
            expectation = np.einsum("kn,kn->n", self._probabilities, v.take(self._outcomes))
        return expectation.reshape(self.n_actions, self.n_states).T

    def backup(self, v: FloatArray) -> FloatArray:
        """
        r(s, a) + gamma E_{s' ~ P(.|s, a)}[ v(s') ], the right-hand side of every Bellman equation here.

        :param v: State values, 0 in terminal states, shape (S,)
        :return: State-action values, shape (S, A)
        :raises ValueError: another shape
        """
        return self.reward + self.gamma * self.expected_next(v)

    def __repr__(self) -> str:
        return (
            f"FiniteMDP(n_states={self.n_states}, n_actions={self.n_actions}, gamma={self.gamma:g}, "
            f"n_terminal={int(self.terminal.sum())})"
        )
