"""Exact soft dynamic programming: the theorems of maximum-entropy reinforcement learning on random processes."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_sac_variants.tabular import (
    FiniteMDP,
    soft_dp,
    soft_optimality_backup,
    soft_policy_backup,
    soft_policy_evaluation,
    soft_policy_improvement,
    soft_policy_iteration,
    soft_q_iteration,
)

# Without a deadline, for slow machines; the same examples in every run, so that no run fails out of nowhere.
property_test = settings(deadline=None, derandomize=True, max_examples=50)


class Problem(NamedTuple):
    mdp: FiniteMDP
    alpha: float
    rng: np.random.Generator

    def policy(self) -> np.ndarray:
        """A random policy; about one in four gives some actions no probability."""
        policy = self.rng.dirichlet(np.full(self.mdp.n_actions, 0.5), size=self.mdp.n_states)
        if self.rng.random() < 0.25:
            policy[policy < policy.max(1, keepdims=True) / 2] = 0
        return policy / policy.sum(1, keepdims=True)

    def q(self) -> np.ndarray:
        q = 10 * self.rng.normal(size=self.mdp.reward.shape)
        q[self.mdp.terminal] = 0
        return q

    def rounding(self) -> float:
        """How far rounding may move a state-action value: a few hundred units in the last place, over 1 - gamma."""
        largest = np.abs(self.mdp.reward).max() + self.alpha * math.log(self.mdp.n_actions)
        return 1e-13 * (largest / (1 - self.mdp.gamma) ** 2 + 10)


@st.composite
def problems(draw: st.DrawFn, terminal: bool | None = None) -> Problem:
    """Random processes: dense or with few successors, with or without terminal states, over five decades of alpha."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_states = draw(st.integers(1, 12))
    n_actions = draw(st.integers(1, 5))
    gamma = draw(st.sampled_from([0.0, 0.3, 0.9, 0.97]))
    alpha = 10 ** draw(st.floats(-3, 2))
    concentration = draw(st.sampled_from([0.01, 1.0]))
    transition = rng.dirichlet(np.full(n_states, concentration), size=(n_states, n_actions))
    if draw(st.booleans()):  # one successor each: the sparse way of taking expectations
        transition = np.eye(n_states)[transition.argmax(-1)]
    reward = draw(st.sampled_from([0.1, 1.0, 10.0])) * rng.normal(size=(n_states, n_actions))
    over = np.zeros(n_states, dtype=bool)
    if draw(st.booleans()) if terminal is None else terminal:
        over[0] = True
        transition[0] = np.eye(n_states)[0]
        reward[0] = 0
    return Problem(FiniteMDP(transition, reward, gamma, over), alpha, rng)


def hard_value_iteration(mdp: FiniteMDP) -> np.ndarray:
    q = np.zeros(mdp.reward.shape)
    for _ in range(1000):
        q = mdp.reward + mdp.gamma * np.einsum("sat,t->sa", mdp.transition, q.max(1))
    return q


def loss_of_entropy(policy: np.ndarray) -> np.ndarray:
    return np.where(policy > 0, policy * np.log(np.where(policy > 0, policy, 1)), 0).sum(-1)


@property_test
@given(problems())
def test_backups_are_the_equations_written_out(problem: Problem) -> None:
    mdp, alpha, _ = problem
    q, policy = problem.q(), problem.policy()
    of_policy, of_optimum = np.empty_like(q), np.empty_like(q)
    for s in range(mdp.n_states):
        for a in range(mdp.n_actions):
            of_policy[s, a] = of_optimum[s, a] = mdp.reward[s, a]
            for t in range(mdp.n_states):
                if mdp.terminal[t]:
                    continue
                mean = sum(
                    policy[t, b] * (q[t, b] - alpha * math.log(policy[t, b]))
                    for b in range(mdp.n_actions)
                    if policy[t, b] > 0
                )
                top = max(q[t])
                soft_maximum = top + alpha * math.log(sum(math.exp((x - top) / alpha) for x in q[t]))
                of_policy[s, a] += mdp.gamma * mdp.transition[s, a, t] * mean
                of_optimum[s, a] += mdp.gamma * mdp.transition[s, a, t] * soft_maximum
    np.testing.assert_allclose(soft_policy_backup(mdp, q, policy, alpha), of_policy, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(soft_optimality_backup(mdp, q, alpha), of_optimum, rtol=1e-10, atol=1e-10)


@property_test
@given(problems())
def test_both_backups_contract_at_rate_gamma(problem: Problem) -> None:
    mdp, alpha, _ = problem
    first, second, policy = problem.q(), problem.q(), problem.policy()
    apart = mdp.gamma * np.abs(first - second).max() + problem.rounding()
    of_policy = soft_policy_backup(mdp, first, policy, alpha) - soft_policy_backup(mdp, second, policy, alpha)
    of_optimum = soft_optimality_backup(mdp, first, alpha) - soft_optimality_backup(mdp, second, alpha)
    assert np.abs(of_policy).max() <= apart
    assert np.abs(of_optimum).max() <= apart


def test_contraction_rate_is_attained() -> None:
    """Without terminal states a constant added to q comes back multiplied by gamma: the rate is not less than gamma."""
    rng = np.random.default_rng(0)
    mdp = FiniteMDP(rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3)), 0.9)
    q = rng.normal(size=(4, 3))
    np.testing.assert_allclose(
        soft_optimality_backup(mdp, q + 5, 0.3) - soft_optimality_backup(mdp, q, 0.3), 0.9 * 5, rtol=1e-12
    )


@property_test
@given(problems())
def test_evaluation_is_the_discounted_sum_of_reward_and_entropy(problem: Problem) -> None:
    mdp, alpha, _ = problem
    policy = problem.policy()
    gain = (policy * mdp.reward).sum(1) - alpha * loss_of_entropy(policy)
    gain[mdp.terminal] = 0
    step = np.einsum("sa,sat->st", policy, mdp.transition)
    occupancy, v = np.eye(mdp.n_states), np.zeros(mdp.n_states)
    for t in range(1000):
        v += mdp.gamma**t * occupancy @ gain
        occupancy = occupancy @ step
    solution = soft_policy_evaluation(mdp, policy, alpha)
    tolerance = max(problem.rounding(), 1e-10)
    np.testing.assert_allclose(solution.v, v, rtol=0, atol=tolerance)
    np.testing.assert_allclose(solution.q, soft_policy_backup(mdp, solution.q, policy, alpha), rtol=0, atol=tolerance)
    np.testing.assert_allclose(solution.policy, policy, rtol=1e-14)


@property_test
@given(problems())
def test_repeated_backup_converges_to_the_evaluation(problem: Problem) -> None:
    mdp, alpha, _ = problem
    policy, q = problem.policy(), problem.q()
    target = soft_policy_evaluation(mdp, policy, alpha).q
    first_error = np.abs(q - target).max()
    for sweep in range(1, 30):
        q = soft_policy_backup(mdp, q, policy, alpha)
        assert np.abs(q - target).max() <= mdp.gamma**sweep * first_error + problem.rounding()


@property_test
@given(problems())
def test_improvement_raises_q_everywhere(problem: Problem) -> None:
    mdp, alpha, _ = problem
    old = soft_policy_evaluation(mdp, problem.policy(), alpha)
    improved = soft_policy_improvement(old.q, alpha, mdp.terminal)
    new = soft_policy_evaluation(mdp, improved.policy, alpha)
    assert (new.q - old.q).min() >= -problem.rounding()
    # One improved action before going on as of old lies between the two.
    assert (improved.v - old.v).min() >= -problem.rounding()
    assert (new.v - improved.v).min() >= -problem.rounding()


@property_test
@given(problems())
def test_improvement_is_the_best_policy_for_its_q(problem: Problem) -> None:
    _, alpha, rng = problem
    q = problem.q()
    improved = soft_policy_improvement(q, alpha)
    np.testing.assert_array_equal(improved.q, q)

    def value(policy: np.ndarray) -> np.ndarray:
        return (policy * q).sum(1) - alpha * loss_of_entropy(policy)

    np.testing.assert_allclose(value(improved.policy), improved.v, rtol=1e-12, atol=1e-11)
    for distance in (1.0, 0.1, 1e-3):
        other = (1 - distance) * improved.policy + distance * rng.dirichlet(np.ones(q.shape[1]), size=q.shape[0])
        assert (value(improved.policy) - value(other)).min() >= -1e-11


@property_test
@given(problems())
def test_policy_iteration_is_monotone_and_meets_q_iteration(problem: Problem) -> None:
    mdp, alpha, _ = problem
    by_policy = soft_policy_iteration(mdp, alpha, initial_policy=problem.policy())
    by_q = soft_q_iteration(mdp, alpha, tolerance=1e-9, initial_q=problem.q())
    assert np.diff(by_policy.q_history, axis=0).min() >= -problem.rounding()
    np.testing.assert_array_equal(by_policy.q, by_policy.q_history[-1])
    np.testing.assert_allclose(by_policy.history, np.abs(np.diff(by_policy.q_history, axis=0)).max((1, 2)))
    tolerance = 1e-9 / (1 - mdp.gamma) + 10 * problem.rounding()
    np.testing.assert_allclose(by_policy.q, by_q.q, rtol=0, atol=tolerance)
    np.testing.assert_allclose(by_policy.v, by_q.v, rtol=0, atol=tolerance)
    np.testing.assert_allclose(by_policy.policy, by_q.policy, rtol=0, atol=2 * tolerance / alpha + 1e-12)
    np.testing.assert_allclose(by_q.q, soft_optimality_backup(mdp, by_q.q, alpha), rtol=0, atol=tolerance)


@pytest.mark.parametrize("tolerance", [1e-8, 1e-14])
def test_successors_whose_actions_all_end_unpaid_have_entropy_to_round(tolerance: float) -> None:
    """Their q is 0, and v, which the entries before them are made of, is not: iteration must not stop for that."""
    rng = np.random.default_rng(93)
    transition = np.eye(20)[rng.integers(20, size=(20, 2))]
    terminal = rng.random(20) < 0.3
    transition[terminal] = np.eye(20)[terminal][:, None]
    mdp = FiniteMDP(transition, np.zeros((20, 2)), 0.9999, terminal)
    q = soft_policy_iteration(mdp, 100.0, tolerance).q
    np.testing.assert_allclose(soft_optimality_backup(mdp, q, 100.0), q, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(q, 100.0 * soft_policy_iteration(mdp, 1.0).q, rtol=1e-9)


@property_test
@given(problems())
def test_no_policy_beats_the_optimum(problem: Problem) -> None:
    mdp, alpha, rng = problem
    best = soft_policy_iteration(mdp, alpha)
    np.testing.assert_allclose(
        soft_policy_evaluation(mdp, best.policy, alpha).q, best.q, rtol=0, atol=1e-7 + problem.rounding()
    )
    for distance in (1.0, 0.1):
        noise = rng.dirichlet(np.ones(mdp.n_actions), size=mdp.n_states)
        other = soft_policy_evaluation(mdp, (1 - distance) * best.policy + distance * noise, alpha)
        assert (best.q - other.q).min() >= -1e-7 - problem.rounding()


@property_test
@given(problems())
def test_history_of_q_iteration_contracts_and_ends_at_the_tolerance(problem: Problem) -> None:
    mdp, alpha, _ = problem
    result = soft_q_iteration(mdp, alpha, tolerance=1e-6)
    assert (result.history[1:] <= mdp.gamma * result.history[:-1] + problem.rounding()).all()
    assert result.history[-1] <= 1e-6
    assert (result.history[:-1] > 1e-6).all()


@property_test
@given(problems())
def test_small_alpha_is_value_iteration(problem: Problem) -> None:
    mdp = problem.mdp
    hard = hard_value_iteration(mdp)
    for alpha in (1e-2, 1e-5, 1e-300):
        for q in (soft_q_iteration(mdp, alpha).q, soft_policy_iteration(mdp, alpha).q):
            excess = q - hard
            # Soft values exceed the hard ones by no more than all the entropy there is.
            margin = 1e-8 / (1 - mdp.gamma) + problem.rounding()
            assert excess.min() >= -margin
            assert excess.max() <= mdp.gamma * alpha * math.log(mdp.n_actions) / (1 - mdp.gamma) + margin


@property_test
@given(problems(terminal=False))
def test_large_alpha_is_the_uniform_policy(problem: Problem) -> None:
    mdp = problem.mdp
    for alpha, distance in ((1e5, 1e-2), (1e12, 1e-9)):
        for policy in (soft_q_iteration(mdp, alpha).policy, soft_policy_iteration(mdp, alpha).policy):
            np.testing.assert_allclose(policy, 1 / mdp.n_actions, rtol=0, atol=distance)


@property_test
@given(problems(terminal=True))
def test_large_alpha_with_an_end_is_the_policy_of_most_entropy(problem: Problem) -> None:
    """Where episodes end, entropy is worth staying for: the limit is the optimum without rewards, not uniformity."""
    mdp = problem.mdp
    without_reward = FiniteMDP(mdp.transition, np.zeros(mdp.reward.shape), mdp.gamma, mdp.terminal)
    limit = soft_policy_iteration(without_reward, 1.0, tolerance=1e-12).policy
    np.testing.assert_allclose(soft_policy_iteration(mdp, 1e12).policy, limit, rtol=0, atol=1e-8)


@property_test
@given(problems(terminal=False))
def test_values_are_bounded_and_the_bound_is_attained(problem: Problem) -> None:
    mdp, alpha, _ = problem

    def bound(process: FiniteMDP) -> float:
        return (process.reward.max() + alpha * math.log(process.n_actions)) / (1 - process.gamma)

    assert soft_policy_iteration(mdp, alpha).v.max() <= bound(mdp) + problem.rounding()
    flat = FiniteMDP(mdp.transition, np.full(mdp.reward.shape, 0.7), mdp.gamma)
    np.testing.assert_allclose(soft_policy_iteration(flat, alpha).v, bound(flat), rtol=1e-9)


@property_test
@given(problems(terminal=False), st.floats(-5, 5), st.floats(0.1, 10))
def test_invariances(problem: Problem, shift: float, scale: float) -> None:
    """A constant reward moves values alone; scaling reward and alpha together, or shaping, leaves the policy alone."""
    mdp, alpha, rng = problem
    base = soft_policy_iteration(mdp, alpha)
    tolerance = 1e-6 + 100 * problem.rounding()
    close = {"rtol": 0, "atol": tolerance}
    policies_close = {"rtol": 0, "atol": 2 * tolerance / alpha}

    shifted = soft_policy_iteration(FiniteMDP(mdp.transition, mdp.reward + shift, mdp.gamma), alpha)
    np.testing.assert_allclose(shifted.q, base.q + shift / (1 - mdp.gamma), **close)
    np.testing.assert_allclose(shifted.policy, base.policy, **policies_close)

    scaled = soft_policy_iteration(FiniteMDP(mdp.transition, scale * mdp.reward, mdp.gamma), scale * alpha)
    np.testing.assert_allclose(scaled.q, scale * base.q, rtol=0, atol=(1 + scale) * tolerance)
    np.testing.assert_allclose(scaled.policy, base.policy, rtol=0, atol=2 * (1 + 1 / scale) * tolerance / alpha)

    potential = rng.normal(size=mdp.n_states)
    shaping = mdp.gamma * mdp.transition @ potential - potential[:, None]
    shaped = soft_policy_iteration(FiniteMDP(mdp.transition, mdp.reward + shaping, mdp.gamma), alpha)
    np.testing.assert_allclose(shaped.q, base.q - potential[:, None], **close)
    np.testing.assert_allclose(shaped.policy, base.policy, **policies_close)


@property_test
@given(problems())
def test_names_of_states_and_actions_do_not_matter(problem: Problem) -> None:
    mdp, alpha, rng = problem
    states, actions = rng.permutation(mdp.n_states), rng.permutation(mdp.n_actions)
    renamed = FiniteMDP(
        mdp.transition[np.ix_(states, actions, states)],
        mdp.reward[np.ix_(states, actions)],
        mdp.gamma,
        mdp.terminal[states],
    )
    base = soft_policy_iteration(mdp, alpha).q
    np.testing.assert_allclose(
        soft_policy_iteration(renamed, alpha).q, base[np.ix_(states, actions)], rtol=0, atol=1e-6 + problem.rounding()
    )


@property_test
@given(problems())
def test_an_action_listed_twice_adds_alpha_log_2(problem: Problem) -> None:
    """Two copies of every action are alpha log 2 of entropy more at each step: how entropy is counted in the values."""
    mdp, alpha, _ = problem
    twice = FiniteMDP(
        np.concatenate([mdp.transition] * 2, axis=1), np.concatenate([mdp.reward] * 2, axis=1), mdp.gamma, mdp.terminal
    )
    if mdp.terminal.any():
        return
    v, v_twice = soft_policy_iteration(mdp, alpha).v, soft_policy_iteration(twice, alpha).v
    np.testing.assert_allclose(
        v_twice, v + alpha * math.log(2) / (1 - mdp.gamma), rtol=1e-9, atol=1e-6 + problem.rounding()
    )


@property_test
@given(problems(terminal=True))
def test_terminal_states_have_no_value(problem: Problem) -> None:
    mdp, alpha, _ = problem
    for result in (
        soft_policy_evaluation(mdp, problem.policy(), alpha),
        soft_policy_iteration(mdp, alpha),
        soft_q_iteration(mdp, alpha),
        soft_q_iteration(mdp, alpha, initial_q=np.ones(mdp.reward.shape)),
    ):
        np.testing.assert_array_equal(result.q[mdp.terminal], 0)
        np.testing.assert_array_equal(result.v[mdp.terminal], 0)
    np.testing.assert_array_equal(soft_policy_iteration(mdp, alpha).policy[mdp.terminal], 1 / mdp.n_actions)


def test_one_choice_then_the_end() -> None:
    """The last action's entropy counts, that of the states behind it does not: v = alpha log sum exp(r / alpha)."""
    reward = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    transition = np.zeros((2, 3, 2))
    transition[:, :, 1] = 1
    alpha = 0.7
    expected = alpha * math.log(sum(math.exp(r / alpha) for r in reward[0]))
    ends = soft_q_iteration(FiniteMDP(transition, reward, 0.9, [False, True]), alpha)
    np.testing.assert_allclose(ends.v, [expected, 0], rtol=1e-12)
    np.testing.assert_allclose(ends.q, reward, rtol=1e-12)
    goes_on = soft_q_iteration(FiniteMDP(transition, reward, 0.9), alpha, tolerance=1e-12)
    np.testing.assert_allclose(goes_on.v[1], alpha * math.log(3) / (1 - 0.9), rtol=1e-9)


@pytest.mark.parametrize("solver", [soft_policy_iteration, soft_q_iteration])
@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1e6, 1e200])
def test_extreme_magnitudes_are_solved_to_rounding(solver, scale: float) -> None:  # type: ignore[no-untyped-def]
    """The default tolerance is absolute; where float64 cannot resolve it, the iteration ends by itself."""
    rng = np.random.default_rng(1)
    transition, reward = rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3))
    q = solver(FiniteMDP(transition, reward, 0.9), 0.5, tolerance=1e-12).q
    tolerance = min(1e-8, 1e-12 * scale)
    scaled = solver(FiniteMDP(transition, scale * reward, 0.9), scale * 0.5, tolerance=tolerance).q
    np.testing.assert_allclose(scaled / scale, q, rtol=1e-8)


@pytest.mark.parametrize(
    ("solver", "step", "limit"), [(soft_policy_iteration, "_evaluate", 100), (soft_q_iteration, "_soft_value", 400)]
)
def test_iteration_ends_though_rounding_never_settles(solver, step: str, limit: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """With arithmetic so coarse that no two steps agree to the tolerance, both still end, near the solution."""
    rng = np.random.default_rng(4)
    # One successor each: averages over many would bring the errors of all states together.
    mdp = FiniteMDP(np.eye(30)[rng.integers(30, size=(30, 3))], rng.normal(size=(30, 3)), 0.9)
    exact = solver(mdp, 0.5)
    original, calls = getattr(soft_dp, step), itertools.count()

    def coarse(*args: object) -> np.ndarray:
        assert next(calls) < limit, "it goes on and on"
        return original(*args) + 1e-6 * rng.normal(size=30)

    monkeypatch.setattr(soft_dp, step, coarse)
    result = solver(mdp, 0.5)
    assert result.history[-1] > 1e-8
    np.testing.assert_allclose(result.q, exact.q, rtol=0, atol=1e-4)


def test_iteration_starts_where_it_is_told() -> None:
    rng = np.random.default_rng(5)
    mdp = FiniteMDP(rng.dirichlet(np.ones(4), size=(4, 3)), rng.normal(size=(4, 3)), 0.9)
    best = soft_policy_iteration(mdp, 0.5)
    assert len(soft_q_iteration(mdp, 0.5, initial_q=best.q).history) == 1
    assert len(soft_policy_iteration(mdp, 0.5, initial_policy=best.policy).history) == 1


@pytest.mark.parametrize("gamma", [0.999, 0.99999])
def test_policy_iteration_needs_few_rounds_at_any_discount(gamma: float) -> None:
    rng = np.random.default_rng(2)
    mdp = FiniteMDP(rng.dirichlet(np.full(20, 0.1), size=(20, 4)), rng.normal(size=(20, 4)), gamma)
    result = soft_policy_iteration(mdp, 0.1)
    assert len(result.history) <= 12
    residual = soft_optimality_backup(mdp, result.q, 0.1) - result.q
    assert np.abs(residual).max() <= 1e-8


def test_rounding_of_large_values_does_not_hide_what_small_ones_gain() -> None:
    """Beside states that pay 1e12, which round to some 0.01, a chain of 30 states whose last step pays 40."""
    chain, end = 40, 70
    transition, reward = np.zeros((71, 4, 71)), np.zeros((71, 4))
    transition[:chain, :, :chain] = np.random.default_rng(0).dirichlet(np.ones(chain), size=(chain, 4))
    reward[:chain] = 1e12
    for state in range(chain, end):
        transition[state, 0, state + 1] = transition[state, 1:, end] = 1  # go on at a cost, or leave
    reward[chain:end, 0] = -1.0
    reward[end - 1, 0] = 40.0
    transition[end, :, end] = 1
    found = soft_policy_iteration(FiniteMDP(transition, reward, 0.99, np.arange(71) == end), 1e-3)
    small = FiniteMDP(transition[chain:, :, chain:], reward[chain:], 0.99, np.arange(31) == 30)
    np.testing.assert_allclose(found.q[chain:], soft_q_iteration(small, 1e-3).q, atol=1e-4)


def test_arguments_stay_as_they_are() -> None:
    rng = np.random.default_rng(3)
    mdp = FiniteMDP(rng.dirichlet(np.ones(3), size=(3, 2)), rng.normal(size=(3, 2)), 0.9)
    q, policy = rng.normal(size=(3, 2)), rng.dirichlet(np.ones(2), size=3)
    kept_q, kept_policy = q.copy(), policy.copy()
    soft_q_iteration(mdp, 0.1, initial_q=q)
    soft_policy_iteration(mdp, 0.1, initial_policy=policy)
    soft_policy_evaluation(mdp, policy, 0.1)
    soft_policy_improvement(q, 0.1, np.array([True, False, False]))
    np.testing.assert_array_equal(q, kept_q)
    np.testing.assert_array_equal(policy, kept_policy)


MDP = FiniteMDP(np.full((2, 3, 2), 0.5), np.ones((2, 3)), 0.9)
TO_FIRST = FiniteMDP([[[1, 0]], [[1, 0]]], [[0], [0]], 0.9)
UNIFORM = np.full((2, 3), 1 / 3)


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "call",
    [
        lambda alpha: soft_policy_evaluation(MDP, UNIFORM, alpha),
        lambda alpha: soft_policy_improvement(UNIFORM, alpha),
        lambda alpha: soft_policy_iteration(MDP, alpha),
        lambda alpha: soft_q_iteration(MDP, alpha),
        lambda alpha: soft_policy_backup(MDP, UNIFORM, UNIFORM, alpha),
        lambda alpha: soft_optimality_backup(MDP, UNIFORM, alpha),
    ],
)
def test_alpha_must_be_positive_and_finite(call, alpha: float) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"alpha must be (positive|finite), got .*; "):
        call(alpha)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: soft_q_iteration(MDP, "auto"), TypeError, "alpha must be a real number, got 'auto'"),
        (lambda: soft_q_iteration(MDP, True), TypeError, "alpha must be a real number, got True"),
        (lambda: soft_q_iteration(MDP, 1e308), ValueError, r"alpha=1e\+308 .* beyond float64"),
        (
            lambda: soft_q_iteration(TO_FIRST, 1.0, initial_q=[[1.7e308], [-1.7e308]]),
            ValueError,
            "beyond float64",
        ),
        (lambda: soft_policy_improvement(np.zeros((2, 3)), 1.7e308), ValueError, r"alpha=1.7e\+308 .*beyond float64"),
        (lambda: soft_q_iteration(MDP, 1.0, tolerance=0.0), ValueError, "tolerance must be positive, got 0"),
        (lambda: soft_policy_iteration(MDP, 1.0, tolerance=-1), ValueError, "tolerance must be positive, got -1"),
        (
            lambda: soft_q_iteration(MDP, 1.0, initial_q=np.ones((3, 2))),
            ValueError,
            r"initial_q .*\(2, 3\), got \(3, 2",
        ),
        (
            lambda: soft_q_iteration(MDP, 1.0, initial_q=[[0, 0, math.nan], [0, 0, 0]]),
            ValueError,
            r"initial_q\[0, 2\] is nan",
        ),
        (
            lambda: soft_policy_iteration(MDP, 1.0, initial_policy=2 * UNIFORM),
            ValueError,
            r"initial_policy\[0\] sums to 2",
        ),
        (
            lambda: soft_policy_evaluation(MDP, UNIFORM[:, :2], 1.0),
            ValueError,
            r"policy must have shape .*got \(2, 2\)",
        ),
        (
            lambda: soft_policy_evaluation(MDP, [[1.5, -0.5, 0], [1, 0, 0]], 1.0),
            ValueError,
            r"policy\[0, 1\] is -0.5; probabilities must not be negative",
        ),
        (lambda: soft_policy_evaluation(MDP, "uniform", 1.0), TypeError, "policy must hold real numbers"),
        (
            lambda: soft_policy_improvement(np.ones(3), 1.0),
            ValueError,
            r"q must have the axes \(S, A\).*got shape \(3,\)",
        ),
        (
            lambda: soft_policy_improvement([[1.0], [2.0, 3.0]], 1.0),
            TypeError,
            "q must be an array .* rows equally long",
        ),
        (lambda: soft_policy_improvement(UNIFORM, 1.0, [0, 1]), TypeError, "terminal must be a boolean mask"),
        (lambda: soft_policy_improvement(UNIFORM, 1.0, [True]), ValueError, r"terminal must have shape .*got \(1,\)"),
    ],
)
def test_bad_arguments_are_refused(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        call()
