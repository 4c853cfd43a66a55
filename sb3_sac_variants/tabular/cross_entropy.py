"""Cross-entropy between the policies of several agents: the term it adds to an agent's reward, and what it does."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sb3_sac_variants.tabular import checks
from sb3_sac_variants.tabular.checks import FloatArray

CrossEntropyConvention = Literal["objective", "similarity"]


def cross_entropy_bonus(
    policies: ArrayLike,
    agent: int,
    ce_coef: float = 0.0,
    ce_convention: CrossEntropyConvention = "objective",
    ce_floor: float = 0.0,
) -> FloatArray:
    """
    What the cross-entropy term adds to agent i's reward for each of its actions.

    That is -beta sum_{j != i} log pi^j(a|s). Its mean under pi^i is beta sum_{j != i} CE(pi^i, pi^j).

    :param policies: Every agent's policy, shape (N, S, A)
    :param agent: i, from 0
    :param ce_coef: beta, in units of reward as alpha is; 0 for the game without cross-entropy
    :param ce_convention: "objective": beta > 0 makes policies differ; "similarity": beta > 0 makes them alike
    :param ce_floor: Uniform share mixed into every pi^j here, in [0, 1)
    :return: Shape (S, A)
    :raises ValueError: a wrong shape, a row of ``policies`` that is no distribution, no such agent, an unknown
        convention, a floor outside [0, 1), or, with beta other than 0, an action which another agent never takes while
        there is no floor
    """
    policies = checks.probability_array("policies", policies, "(N, S, A)")
    n_agents, _, n_actions = policies.shape
    beta = _signed_coefficient(ce_coef, ce_convention)
    floor = checks.real_number("ce_floor", ce_floor)
    if not 0 <= floor < 1:
        raise ValueError(f"ce_floor must lie in [0, 1), got {floor:g}; it is a share of probability, such as 0.05")
    others = np.delete(policies, checks.agent_index(agent, n_agents), axis=0)
    if beta == 0:
        return np.zeros(policies.shape[1:])
    others = (1 - floor) * others + floor / n_actions
    if (others == 0).any():
        raise ValueError(
            f"policies hold a zero for an agent other than {agent}, whose cross-entropy is infinite; use ce_floor > 0, "
            f"such as 0.05, or policies without zeros"
        )
    return -beta * np.log(others).sum(0)


def consensus_temperature(
    alpha: float, n_agents: int, ce_coef: float, ce_convention: CrossEntropyConvention = "objective"
) -> float:
    """
    The temperature of agents that agree.

    Where all policies are the same, CE(pi, pi) = H(pi), so that alpha H and the cross-entropy terms add up to
    (alpha + beta (N - 1)) H.

    :param alpha: Temperature, positive
    :param n_agents: N
    :param ce_coef: beta, see :func:`cross_entropy_bonus`
    :param ce_convention: see :func:`cross_entropy_bonus`
    :return: alpha + beta (N - 1); at 0 or below nothing holds such policies from collapsing to a point
    :raises ValueError: alpha <= 0, n_agents <= 0, or an unknown convention
    """
    agents = checks.positive_integer("n_agents", n_agents)
    return checks.temperature(alpha) + _signed_coefficient(ce_coef, ce_convention) * (agents - 1)


def jensen_shannon_divergence(policies: ArrayLike) -> FloatArray:
    """
    How far the agents' policies differ: the Jensen-Shannon divergence, averaged over pairs of agents.

    :param policies: Every agent's policy, at least two, shape (N, S, A)
    :return: The divergence in each state in nats, 0 (all the same) to log 2 (no action shared), shape (S,)
    :raises TypeError: ``policies`` is not an array of real numbers
    :raises ValueError: a wrong shape, a row that is no distribution, or fewer than two agents
    """
    policies = checks.probability_array("policies", policies, "(N, S, A)")
    if len(policies) < 2:
        raise ValueError(f"policies must hold two agents or more to differ, got shape {policies.shape}; stack them")
    first, second = np.triu_indices(len(policies), k=1)
    p, q = policies[first], policies[second]
    return np.asarray((_relative_entropy_to_mixture(p, q) + _relative_entropy_to_mixture(q, p)).mean(0) / 2)


def _relative_entropy_to_mixture(p: FloatArray, q: FloatArray) -> FloatArray:
    """sum_a p log(p / m) over the last axis, with m = (p + q)/2, which may be too small a number itself."""
    ratio = np.divide(p, p + q, out=np.full_like(p, 0.5), where=p > 0)
    return (p * np.log(2 * ratio)).sum(-1)


def _signed_coefficient(ce_coef: float, ce_convention: CrossEntropyConvention) -> float:
    """beta with the sign of the objective."""
    coefficient = checks.real_number("ce_coef", ce_coef)
    if ce_convention not in ("objective", "similarity"):
        raise ValueError(f"ce_convention must be 'objective' or 'similarity', got {ce_convention!r}; choose one")
    return coefficient if ce_convention == "objective" else -coefficient
