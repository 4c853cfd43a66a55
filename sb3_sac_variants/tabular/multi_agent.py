r"""
Exact soft dynamic programming in finite Markov games, with and without cross-entropy between the agents' policies.

Agent i of N maximises, with the other agents' policies given,

.. math:: J(\pi^i) = \sum_t \gamma^t E[r^i_t + \alpha H(\pi^i) + \beta \sum_{j \ne i} CE(\pi^i, \pi^j)],
          \quad CE(\pi^i, \pi^j) = -E_{a \sim \pi^i} \log \pi^j(a|s).

**The sign of beta.** Maximising the objective with beta > 0 rewards actions which the others find unlikely: it makes
policies differ, and beta < 0 makes them alike. The idea has also been described the other way round in words. Here
``ce_coef`` is beta with the sign of the formula (``ce_convention="objective"``); ``ce_convention="similarity"`` flips
it, so that a positive number means similar policies.

**One agent at a time.** With the others fixed, agent i faces an ordinary Markov decision process whose reward for
action a in state s is r^i averaged over the others' actions, plus the bonus
:math:`-\beta \sum_{j \ne i} \log \pi^j(a|s)`. All of :mod:`~sb3_sac_variants.tabular.soft_dp` holds in it:
evaluation contracts, improvement is monotone for either sign, and iteration reaches the best response. Nothing of this
is true of all agents together: while one improves, the problem of each other one changes.

**Floor.** log pi^j(a|s) must be finite. ``ce_floor`` = eps puts (1 - eps) pi^j + eps / A in place of each pi^j
inside the cross-entropy, which is a distribution too, so that all of the above holds for it.
"""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sb3_sac_variants.tabular import checks
from sb3_sac_variants.tabular.checks import FloatArray
from sb3_sac_variants.tabular.cross_entropy import (
    CrossEntropyConvention,
    consensus_temperature,
    cross_entropy_bonus,
)
from sb3_sac_variants.tabular.finite_mdp import FiniteMDP
from sb3_sac_variants.tabular.markov_game import FiniteMarkovGame
from sb3_sac_variants.tabular.soft_dp import (
    SoftSolution,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
)


class AgentSolution(NamedTuple):
    """
    One agent's policy and its values, the other agents' policies being fixed.

    :param q: Q^i(s, a^1, ..., a^N), shape (S, A, ..., A)
    :param marginal_q: Q^i averaged over the other agents' actions, shape (S, A)
    :param policy: pi^i(a|s), shape (S, A)
    :param v: V^i(s) = sum_a pi^i(a|s) (marginal_q - alpha log pi^i - beta sum_{j != i} log pi^j), 0 in terminal states,
        shape (S,)
    """

    q: FloatArray
    marginal_q: FloatArray
    policy: FloatArray
    v: FloatArray


class AlternatingImprovement(NamedTuple):
    """
    Where rounds of improvement, one agent after the other, have led.

    :param policies: Every agent's policy, shape (N, S, A)
    :param v: Every agent's value under these policies, shape (N, S)
    :param history: Largest change of a probability in each round, shape (n_rounds,)
    """

    policies: FloatArray
    v: FloatArray
    history: FloatArray


def agent_policy_evaluation(
    game: FiniteMarkovGame,
    policies: ArrayLike,
    agent: int,
    alpha: float,
    ce_coef: float = 0.0,
    ce_convention: CrossEntropyConvention = "objective",
    ce_floor: float = 0.0,
) -> AgentSolution:
    """
    One agent's soft values under everybody's policies.

    They are the fixed point of

    Q^i <- r^i + gamma E_{s', a' ~ pi}[ Q^i(s', a') - alpha log pi^i(a'^i|s') - beta sum_{j != i} log pi^j(a'^i|s') ].

    Entropy and cross-entropy belong to the next state and are discounted with it.

    :param game: The game
    :param policies: Every agent's policy, shape (N, S, A)
    :param agent: i, from 0
    :param alpha: Temperature of agent i, positive
    :param ce_coef: beta; it, ``ce_convention`` and ``ce_floor`` are those of :func:`cross_entropy_bonus`
    :return: ``q`` (S, A, ..., A), ``marginal_q`` (S, A), the ``policy`` (S, A) as given (uniform in terminal states),
        ``v`` (S,)
    :raises ValueError: see :func:`cross_entropy_bonus`; or alpha <= 0
    """
    policies = _checked_policies(game, policies)
    mdp, bonus = _induced_mdp(game, policies, agent, ce_coef, ce_convention, ce_floor)
    solution = soft_policy_evaluation(mdp, policies[agent], alpha)
    return AgentSolution(game.joint_backup(solution.v, agent), solution.q - bonus, solution.policy, solution.v)


def agent_policy_improvement(
    marginal_q: ArrayLike,
    policies: ArrayLike,
    agent: int,
    alpha: float,
    ce_coef: float = 0.0,
    ce_convention: CrossEntropyConvention = "objective",
    ce_floor: float = 0.0,
    terminal: ArrayLike | None = None,
) -> SoftSolution:
    """
    The best policy of one agent against its marginal Q, in closed form for either sign of beta.

    It is proportional to exp(marginal_q / alpha) prod_{j != i} pi^j^(-beta / alpha). With the other agents' policies
    unchanged, Q^i does not fall in any state and joint action. For the other agents that says nothing.

    :param marginal_q: Q^i of the old policies, averaged over the other agents' actions, shape (S, A)
    :param policies: Every agent's policy, shape (N, S, A); agent i's own does not matter
    :param agent: i, from 0
    :param alpha: Temperature of agent i, positive
    :param ce_coef: beta; it, ``ce_convention`` and ``ce_floor`` are those of :func:`cross_entropy_bonus`
    :param terminal: Mask of the terminal states, where v is 0, shape (S,); None for none
    :return: ``q`` (S, A), the marginal Q as given; ``policy`` (S, A), improved; ``v`` (S,), the value of taking one
        action by it and going on with the old
    :raises ValueError: see :func:`cross_entropy_bonus`; or alpha <= 0, or shapes that differ
    """
    checked = checks.probability_array("policies", policies, "(N, S, A)").copy()
    checked[:, checks.terminal_mask(terminal, checked.shape[1])] = 1 / checked.shape[2]  # where nobody acts
    bonus = cross_entropy_bonus(checked, agent, ce_coef, ce_convention, ce_floor)
    marginal_q = checks.finite_array("marginal_q", marginal_q, "(S, A)", bonus.shape)
    return soft_policy_improvement(marginal_q + bonus, alpha, terminal)._replace(q=marginal_q)


def agent_policy_iteration(
    game: FiniteMarkovGame,
    policies: ArrayLike,
    agent: int,
    alpha: float,
    ce_coef: float = 0.0,
    ce_convention: CrossEntropyConvention = "objective",
    ce_floor: float = 0.0,
    tolerance: float = 1e-8,
) -> AgentSolution:
    """
    One agent's optimal soft policy, its best response to the other agents' fixed policies, by soft policy iteration.

    :param game: The game
    :param policies: Every agent's policy, shape (N, S, A); the iteration starts from agent i's
    :param agent: i, from 0
    :param alpha: Temperature of agent i, positive
    :param ce_coef: beta; it, ``ce_convention`` and ``ce_floor`` are those of :func:`cross_entropy_bonus`
    :param tolerance: Stop when no state-action value gains more, in units of reward
    :return: ``q`` (S, A, ..., A), ``marginal_q`` (S, A), the best ``policy`` (S, A), ``v`` (S,)
    :raises ValueError: see :func:`cross_entropy_bonus`; or alpha or tolerance <= 0
    """
    policies = _checked_policies(game, policies)
    mdp, bonus = _induced_mdp(game, policies, agent, ce_coef, ce_convention, ce_floor)
    solution = soft_policy_iteration(mdp, alpha, tolerance, initial_policy=policies[agent])
    return AgentSolution(game.joint_backup(solution.v, agent), solution.q - bonus, solution.policy, solution.v)


def alternating_improvement(
    game: FiniteMarkovGame,
    alpha: float,
    ce_coef: float = 0.0,
    ce_convention: CrossEntropyConvention = "objective",
    ce_floor: float = 0.0,
    n_rounds: int = 1000,
    tolerance: float = 1e-8,
    initial_policies: ArrayLike | None = None,
) -> AlternatingImprovement:
    """
    Evaluate and improve one agent after the other, round after round.

    Each step is an improvement for the agent that takes it; whether the rounds settle is a property of the game, not a
    theorem: read ``history``.

    :param game: The game
    :param alpha: Temperature of every agent, positive
    :param ce_coef: beta; it, ``ce_convention`` and ``ce_floor`` are those of :func:`cross_entropy_bonus`
    :param n_rounds: Stop after so many rounds, settled or not
    :param tolerance: Stop when no probability changes by more in a round
    :param initial_policies: Where to start, shape (N, S, A); None for uniform policies
    :return: ``policies`` (N, S, A), ``v`` (N, S), ``history`` (n_rounds,)
    :raises ValueError: see :func:`cross_entropy_bonus`; or alpha, tolerance or n_rounds <= 0
    """
    if consensus_temperature(alpha, game.n_agents, ce_coef, ce_convention) <= 0:
        warnings.warn(
            f"alpha={alpha:g} and ce_coef={ce_coef:g} ({ce_convention!r}) leave {game.n_agents} agents that agree a "
            f"temperature of zero or less, so policies may collapse to a point; keep |beta| (N - 1) below alpha",
            stacklevel=2,
        )
    rounds = checks.positive_integer("n_rounds", n_rounds)
    tolerance = checks.tolerance(tolerance)
    if initial_policies is None:
        policies = np.full((game.n_agents, game.n_states, game.n_actions), 1 / game.n_actions)
    else:
        policies = _checked_policies(game, initial_policies)

    cross_entropy = (ce_coef, ce_convention, ce_floor)
    history: list[float] = []
    while len(history) < rounds:
        before = policies.copy()
        for agent in range(game.n_agents):
            old = agent_policy_evaluation(game, policies, agent, alpha, *cross_entropy)
            policies[agent] = agent_policy_improvement(old.marginal_q, policies, agent, alpha, *cross_entropy).policy
        history.append(float(np.abs(policies - before).max()))
        if history[-1] <= tolerance:
            break
    v = [agent_policy_evaluation(game, policies, agent, alpha, *cross_entropy).v for agent in range(game.n_agents)]
    return AlternatingImprovement(policies, np.stack(v), np.array(history))


def _induced_mdp(
    game: FiniteMarkovGame,
    policies: FloatArray,
    agent: int,
    ce_coef: float,
    ce_convention: CrossEntropyConvention,
    ce_floor: float,
) -> tuple[FiniteMDP, FloatArray]:
    """The decision process that agent i faces while the others keep their policies, and the bonus in its reward."""
    bonus = cross_entropy_bonus(policies, agent, ce_coef, ce_convention, ce_floor)
    bonus[game.terminal] = 0
    transition = game.marginal(game.transition, policies, agent)
    # Policies whose rows sum to one within the tolerance give rows that sum to one within a few times as much.
    transition = transition / transition.sum(-1, keepdims=True)
    reward = game.marginal(game.reward[agent], policies, agent)
    return FiniteMDP(transition, reward + bonus, game.gamma, game.terminal), bonus


def _checked_policies(game: FiniteMarkovGame, policies: ArrayLike) -> FloatArray:
    """Check the policies of all agents of a game; a copy, uniform where an episode is over and nobody acts."""
    shape = (game.n_agents, game.n_states, game.n_actions)
    checked = checks.probability_array("policies", policies, "(N, S, A)", shape).copy()
    checked[:, game.terminal] = 1 / game.n_actions
    return checked
