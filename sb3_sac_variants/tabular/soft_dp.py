r"""
Exact soft dynamic programming on finite Markov decision processes, in float64.

The maximum-entropy objective is :math:`J(\pi) = \sum_t \gamma^t E[r_t + \alpha H(\pi(\cdot|s_t))]`; alpha is the
temperature, in units of reward, the ``ent_coef`` of the deep algorithms. Evaluation, improvement and their iteration
are Lemma 1, Lemma 2 and Theorem 1 of Haarnoja et al. 2018, "Soft Actor-Critic" (arXiv 1801.01290); iteration of Q is
Theorem 3 of Haarnoja et al. 2017, "Reinforcement Learning with Deep Energy-Based Policies" (arXiv 1702.08165).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sb3_sac_variants.tabular import checks
from sb3_sac_variants.tabular.checks import BoolArray, FloatArray
from sb3_sac_variants.tabular.finite_mdp import FiniteMDP


class SoftSolution(NamedTuple):
    """
    A policy and its values.

    :param q: Soft state-action values, without the entropy of the action itself, shape (S, A)
    :param policy: Probabilities pi(a|s), shape (S, A)
    :param v: Soft state values, sum_a pi(a|s) (q(s, a) - alpha log pi(a|s)), 0 in terminal states, shape (S,)
    """

    q: FloatArray
    policy: FloatArray
    v: FloatArray


class SoftQIteration(NamedTuple):
    """
    What :func:`soft_q_iteration` found and how it got there.

    :param q: Optimal soft state-action values, shape (S, A)
    :param policy: Optimal policy, softmax(q / alpha), shape (S, A)
    :param v: Optimal soft state values, alpha logsumexp(q / alpha), 0 in terminal states, shape (S,)
    :param history: Largest change of an entry of q in each sweep, shape (n_sweeps,)
    """

    q: FloatArray
    policy: FloatArray
    v: FloatArray
    history: FloatArray


class SoftPolicyIteration(NamedTuple):
    """
    What :func:`soft_policy_iteration` found and how it got there.

    :param q: Optimal soft state-action values, shape (S, A)
    :param policy: Optimal policy, softmax(q / alpha), shape (S, A)
    :param v: Optimal soft state values, alpha logsumexp(q / alpha), 0 in terminal states, shape (S,)
    :param history: Largest change of an entry of q in each round, shape (n_rounds,)
    :param q_history: q of the initial policy and of each round's, never falling, shape (n_rounds + 1, S, A)
    """

    q: FloatArray
    policy: FloatArray
    v: FloatArray
    history: FloatArray
    q_history: FloatArray


def soft_policy_backup(mdp: FiniteMDP, q: ArrayLike, policy: ArrayLike, alpha: float) -> FloatArray:
    """
    The soft Bellman backup of a policy (Haarnoja et al. 2018, eq. 2 and 3).

    ``r + gamma E_s'[ sum_a' pi(a'|s') (q(s', a') - alpha log pi(a'|s')) ]``. It contracts at rate
    gamma in the largest entry; its fixed point is what :func:`soft_policy_evaluation` solves for.

    :param mdp: The process
    :param q: State-action values, shape (S, A)
    :param policy: Probabilities pi(a|s), shape (S, A)
    :param alpha: Temperature, positive
    :return: The new state-action values, shape (S, A)
    :raises ValueError: a wrong shape, an entry that is not finite, a row of ``policy`` that is no distribution,
        or alpha <= 0
    """
    shape = mdp.reward.shape
    q = checks.finite_array("q", q, "(S, A)", shape)
    policy = checks.probability_array("policy", policy, "(S, A)", shape)
    return mdp.backup(_policy_value(q, policy, checks.temperature(alpha), mdp.terminal))


def soft_optimality_backup(mdp: FiniteMDP, q: ArrayLike, alpha: float) -> FloatArray:
    """
    The soft Bellman optimality backup, r + gamma E_s'[ alpha logsumexp_a' q(s', a') / alpha ].

    Haarnoja et al. 2017, Theorem 3. It contracts at rate gamma in the largest entry; its fixed point is the optimal
    soft q.

    :param mdp: The process
    :param q: State-action values, shape (S, A)
    :param alpha: Temperature, positive
    :return: The new state-action values, shape (S, A)
    :raises ValueError: a wrong shape, an entry that is not finite, or alpha <= 0
    """
    q = checks.finite_array("q", q, "(S, A)", mdp.reward.shape)
    return mdp.backup(_soft_value(q, checks.temperature(alpha), mdp.terminal))


def soft_policy_evaluation(mdp: FiniteMDP, policy: ArrayLike, alpha: float) -> SoftSolution:
    r"""
    The soft values of a policy (Haarnoja et al. 2018, Lemma 1), to machine precision by one linear solve.

    With :math:`r_\pi(s) = \sum_a \pi(a|s) r(s, a)` the fixed point of :func:`soft_policy_backup` reads
    :math:`(I - \gamma P_\pi) v = r_\pi + \alpha H(\pi)`, S equations in as many unknowns.

    :param mdp: The process
    :param policy: Probabilities pi(a|s), shape (S, A); zeros are allowed
    :param alpha: Temperature, positive
    :return: ``q`` (S, A), the ``policy`` (S, A) as given, ``v`` (S,)
    :raises ValueError: a wrong shape, a row of ``policy`` that is no distribution, alpha <= 0, or values beyond float64
    """
    policy = checks.probability_array("policy", policy, "(S, A)", mdp.reward.shape)
    alpha = _checked_temperature(mdp, alpha)
    v = _evaluate(mdp, policy, alpha)
    return SoftSolution(mdp.backup(v), policy, v)


def soft_policy_improvement(q: ArrayLike, alpha: float, terminal: ArrayLike | None = None) -> SoftSolution:
    """
    The policy softmax(q / alpha).

    It is at least as good as the one that q evaluates, in every state and action (Haarnoja et al. 2018, Lemma 2).

    :param q: Soft values of the old policy, shape (S, A)
    :param alpha: Temperature, positive
    :param terminal: Mask of the terminal states, where v is 0, shape (S,); None for none
    :return: ``q`` (S, A) as given, the improved ``policy`` (S, A), and ``v`` (S,) = alpha logsumexp(q / alpha), the
        value of taking one action by the improved policy and going on with the old
    :raises ValueError: a wrong shape, an entry of ``q`` that is not finite, or alpha <= 0
    """
    q = checks.finite_array("q", q, "(S, A)")
    alpha = checks.temperature(alpha)
    over = checks.terminal_mask(terminal, q.shape[0])
    return SoftSolution(q, _softmax(q, alpha), _soft_value(q, alpha, over))


def soft_policy_iteration(
    mdp: FiniteMDP, alpha: float, tolerance: float = 1e-8, initial_policy: ArrayLike | None = None
) -> SoftPolicyIteration:
    """
    Evaluate and improve in turn until q stands still (Haarnoja et al. 2018, Theorem 1).

    Each round raises q everywhere or leaves it, and near the end the number of correct digits doubles. Usually a few
    rounds suffice, whatever gamma is; as in hard policy iteration it may be one for each state of a long chain.

    :param mdp: The process
    :param alpha: Temperature, positive
    :param tolerance: Stop when no entry of q gains more, in units of reward, or when what is left is rounding
    :param initial_policy: Where to start, shape (S, A); None for the uniform policy
    :return: ``q`` (S, A), ``policy`` (S, A), ``v`` (S,), ``history`` (n_rounds,), ``q_history`` (n_rounds + 1, S, A)
    :raises ValueError: a wrong shape, a row of ``initial_policy`` that is no distribution, alpha or tolerance <= 0, or
        values beyond float64
    """
    alpha = _checked_temperature(mdp, alpha)
    tolerance = checks.tolerance(tolerance)
    if initial_policy is None:
        policy = np.full(mdp.reward.shape, 1 / mdp.n_actions)
    else:
        policy = checks.probability_array("initial_policy", initial_policy, "(S, A)", mdp.reward.shape)

    q_history = [mdp.backup(_evaluate(mdp, policy, alpha))]
    while True:
        policy = _softmax(q_history[-1], alpha)
        q_history.append(mdp.backup(_evaluate(mdp, policy, alpha)))
        gain = q_history[-1] - q_history[-2]
        # In exact arithmetic no entry falls, so a round that gains nothing in sum has reached rounding: each entry's
        # own, which large ones elsewhere in the process do not hide. An entry is made of v of its successors, where
        # there is entropy even if all their q are 0.
        v = _soft_value(q_history[-1], alpha, mdp.terminal)
        largest = np.maximum(np.abs(v), np.abs(q_history[-1]).max(-1))
        size = np.abs(mdp.reward) + mdp.gamma * mdp.expected_next(largest)
        if np.max(gain) <= tolerance or np.sum(gain / np.maximum(size, tolerance)) <= 0:
            break
    q = q_history[-1]
    rounds = np.stack(q_history)
    history = np.abs(np.diff(rounds, axis=0)).max(axis=(1, 2))
    return SoftPolicyIteration(q, _softmax(q, alpha), _soft_value(q, alpha, mdp.terminal), history, rounds)


def soft_q_iteration(
    mdp: FiniteMDP, alpha: float, tolerance: float = 1e-8, initial_q: ArrayLike | None = None
) -> SoftQIteration:
    """
    Repeat q <- r + gamma E_s'[ alpha logsumexp_a' q(s', a') / alpha ] until it changes by no more than the tolerance.

    Haarnoja et al. 2017, Theorem 3. As alpha falls to 0 this becomes value iteration.

    The backup contracts at rate gamma, so q is then within ``tolerance * gamma / (1 - gamma)`` of the optimum, and the
    number of sweeps is known in advance; at gamma near 1 :func:`soft_policy_iteration` usually needs far fewer.

    :param mdp: The process
    :param alpha: Temperature, positive
    :param tolerance: Largest change of an entry of q in the last sweep, in units of reward. Where float64 does not
        resolve it the sweeps stop when what is left is rounding; ``history[-1]`` then says more than ``tolerance``.
    :param initial_q: Where to start, shape (S, A); None for zeros
    :return: ``q`` (S, A), ``policy`` (S, A), ``v`` (S,), ``history`` (n_sweeps,)
    :raises ValueError: a wrong shape, an entry of ``initial_q`` that is not finite, alpha or tolerance <= 0, or values
        beyond float64
    """
    alpha = _checked_temperature(mdp, alpha)
    tolerance = checks.tolerance(tolerance)
    start = np.zeros(mdp.reward.shape) if initial_q is None else initial_q
    q = checks.finite_array("initial_q", start, "(S, A)", mdp.reward.shape)

    history: list[float] = []
    sweeps_needed = math.inf
    while len(history) < sweeps_needed:
        new_q = mdp.backup(_soft_value(q, alpha, mdp.terminal))
        with np.errstate(over="ignore"):
            change = float(np.abs(new_q - q).max())
        if not math.isfinite(change):
            raise ValueError(f"initial_q with entries up to {np.abs(q).max():g} gives values beyond float64: scale it")
        q = new_q
        history.append(change)
        if change <= tolerance:
            break
        if len(history) == 1:
            sweeps_needed = _sweeps_needed(mdp.gamma, change, tolerance)
    return SoftQIteration(q, _softmax(q, alpha), _soft_value(q, alpha, mdp.terminal), np.array(history))


def _soft_value(q: FloatArray, alpha: float, terminal: BoolArray) -> FloatArray:
    """alpha logsumexp_a q(s, a) / alpha, 0 in terminal states, shape (S,)."""
    best = q.max(-1)
    # The largest exponent is 0, so nothing overflows but a gap of more than float64's range at a minute temperature,
    # whose exponential is 0 in any case.
    with np.errstate(over="ignore", under="ignore"):
        v = best + alpha * np.log(np.exp((q - best[:, None]) / alpha).sum(-1))
    if not np.isfinite(v).all():
        raise ValueError(f"alpha={alpha:g} and q up to {best.max():g} give values beyond float64: scale both down")
    v[terminal] = 0
    return v


def _softmax(q: FloatArray, alpha: float) -> FloatArray:
    """softmax_a(q(s, a) / alpha), shape (S, A)."""
    with np.errstate(over="ignore", under="ignore"):
        weight = np.exp((q - q.max(-1, keepdims=True)) / alpha)
    return weight / weight.sum(-1, keepdims=True)


def _entropy(policy: FloatArray) -> FloatArray:
    """-sum_a pi(a|s) log pi(a|s) with 0 log 0 = 0, shape (S,)."""
    return -(policy * np.log(policy, out=np.zeros_like(policy), where=policy > 0)).sum(-1)


def _policy_value(q: FloatArray, policy: FloatArray, alpha: float, terminal: BoolArray) -> FloatArray:
    """sum_a pi(a|s) (q(s, a) - alpha log pi(a|s)), 0 in terminal states, shape (S,)."""
    v = (policy * q).sum(-1) + alpha * _entropy(policy)
    v[terminal] = 0
    return v


def _evaluate(mdp: FiniteMDP, policy: FloatArray, alpha: float) -> FloatArray:
    """Solve (I - gamma P_pi) v = r_pi + alpha H(pi) for v, shape (S,)."""
    gain = _policy_value(mdp.reward, policy, alpha, mdp.terminal)
    transition = (policy[:, None, :] @ mdp.transition)[:, 0]
    v = np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * transition, gain)
    return np.where(mdp.terminal, 0.0, v)  # but for rounding it is 0 there already


def _sweeps_needed(gamma: float, first_change: float, tolerance: float) -> int:
    """
    Sweeps after which exact arithmetic has certainly met the tolerance.

    The n-th changes q by no more than gamma^(n-1) times the first. Half the tolerance leaves room for rounding where
    float64 can resolve it.
    """
    if gamma == 0:
        return 2
    return 1 + math.ceil((math.log(tolerance) - math.log(2) - math.log(first_change)) / math.log(gamma))


def _checked_temperature(mdp: FiniteMDP, alpha: float) -> float:
    """Check alpha, and that float64 holds the values, which are bounded by (max|r| + alpha log A) / (1 - gamma)."""
    alpha = checks.temperature(alpha)
    largest = float(np.abs(mdp.reward).max())
    # Twice the bound: differences of values are formed too.
    if not math.isfinite(2 * (largest + alpha * math.log(mdp.n_actions)) / (1 - mdp.gamma)):
        raise ValueError(
            f"alpha={alpha:g} with gamma={mdp.gamma:g} and rewards up to {largest:g} gives values beyond float64; "
            f"divide the rewards and alpha by a common factor"
        )
    return alpha
