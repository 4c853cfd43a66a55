"""Finite Markov games with cross-entropy between policies: what holds for one agent, for both signs, what does not."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_sac_variants.tabular import (
    FiniteMarkovGame,
    FiniteMDP,
    agent_policy_evaluation,
    agent_policy_improvement,
    agent_policy_iteration,
    alternating_improvement,
    consensus_temperature,
    cross_entropy_bonus,
    jensen_shannon_divergence,
    soft_policy_iteration,
)

# Without a deadline, for slow machines; the same examples in every run, so that no run fails out of nowhere.
property_test = settings(deadline=None, derandomize=True, max_examples=40)


class Problem(NamedTuple):
    game: FiniteMarkovGame
    policies: np.ndarray
    agent: int
    alpha: float
    beta: float
    floor: float
    rng: np.random.Generator

    @property
    def cross_entropy(self) -> dict[str, float]:
        return {"ce_coef": self.beta, "ce_floor": self.floor}

    def with_policy(self, policy: np.ndarray) -> np.ndarray:
        policies = self.policies.copy()
        policies[self.agent] = policy
        return policies

    def log_others(self) -> np.ndarray:
        """sum_{j != i} log pi~^j(a|s), written out."""
        others = [j for j in range(self.game.n_agents) if j != self.agent]
        floored = (1 - self.floor) * self.policies + self.floor / self.game.n_actions
        return sum((np.log(floored[j]) for j in others), np.zeros(self.policies.shape[1:]))


def random_game(rng: np.random.Generator, n_agents: int, n_states: int, n_actions: int, gamma: float, terminal: bool):
    actions = (n_actions,) * n_agents
    transition = rng.dirichlet(np.ones(n_states), size=(n_states, *actions))
    reward = 3 * rng.normal(size=(n_agents, n_states, *actions))
    over = np.zeros(n_states, dtype=bool)
    if terminal:
        over[0], transition[0], reward[:, 0] = True, np.eye(n_states)[0], 0
    return FiniteMarkovGame(transition, reward, gamma, over)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Random games of two or three agents, random full policies, either sign of beta."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_agents, n_states, n_actions = draw(st.integers(2, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 3))
    game = random_game(rng, n_agents, n_states, n_actions, draw(st.sampled_from([0.0, 0.5, 0.9])), draw(st.booleans()))
    policies = 0.95 * rng.dirichlet(np.full(n_actions, 0.5), size=(n_agents, n_states)) + 0.05 / n_actions
    alpha = draw(st.sampled_from([0.2, 1.0, 5.0]))
    beta = alpha * draw(st.sampled_from([-2.0, -0.9, -0.3, 0.0, 0.3, 0.9, 2.0]))
    floor = draw(st.sampled_from([0.0, 0.05, 0.5]))
    return Problem(game, policies, draw(st.integers(0, n_agents - 1)), alpha, beta, floor, rng)


@property_test
@given(problems())
def test_evaluation_is_the_fixed_point_of_the_equation_written_out(problem: Problem) -> None:
    """Joint actions one by one, entropy and cross-entropy at the next state and discounted with it."""
    game, policies, agent, alpha, beta, _, _ = problem
    solution = agent_policy_evaluation(game, policies, agent, alpha, **problem.cross_entropy)
    joint_actions = list(itertools.product(range(game.n_actions), repeat=game.n_agents))
    log_others = problem.log_others()
    v, marginal_q = np.zeros(game.n_states), np.zeros((game.n_states, game.n_actions))
    for s in range(game.n_states):
        for actions in joint_actions:
            chances = [policies[j, s, a] for j, a in enumerate(actions)]
            own = actions[agent]
            extra = alpha * math.log(policies[agent, s, own]) + beta * log_others[s, own]
            marginal_q[s, own] += math.prod(chances) / policies[agent, s, own] * solution.q[(s, *actions)]
            v[s] += 0 if game.terminal[s] else math.prod(chances) * (solution.q[(s, *actions)] - extra)
    for s in range(game.n_states):
        for actions in joint_actions:
            expected = game.reward[(agent, s, *actions)] + game.gamma * game.transition[(s, *actions)] @ v
            assert solution.q[(s, *actions)] == pytest.approx(expected, abs=1e-9)
    np.testing.assert_allclose(solution.v, v, atol=1e-9)
    np.testing.assert_allclose(solution.marginal_q, marginal_q, atol=1e-9)
    expected_policy = np.where(game.terminal[:, None], 1 / game.n_actions, policies[agent])  # nobody acts at the end
    np.testing.assert_allclose(solution.policy, expected_policy, rtol=1e-14)


def test_this_step_pays_neither_entropy_nor_cross_entropy() -> None:
    """The augmented reward belongs to the next state and carries gamma: at gamma 0, Q is the reward."""
    rng = np.random.default_rng(0)
    game = random_game(rng, 2, 2, 3, 0.0, terminal=False)
    policies = rng.dirichlet(np.ones(3), size=(2, 2))
    np.testing.assert_allclose(agent_policy_evaluation(game, policies, 1, 0.7, 0.4).q, game.reward[1], atol=1e-12)


@property_test
@given(problems())
def test_values_are_discounted_reward_entropy_and_cross_entropy(problem: Problem) -> None:
    """V from the definition of the objective, summed over time."""
    game, policies, agent, alpha, beta, _, _ = problem
    gain = game.marginal(game.reward[agent], policies, agent)
    gain = (policies[agent] * (gain - alpha * np.log(policies[agent]) - beta * problem.log_others())).sum(1)
    gain[game.terminal] = 0
    step = np.einsum("sa,sat->st", policies[agent], game.marginal(game.transition, policies, agent))
    occupancy, v = np.eye(game.n_states), np.zeros(game.n_states)
    for t in range(400):
        v += game.gamma**t * occupancy @ gain
        occupancy = occupancy @ step
    solution = agent_policy_evaluation(game, policies, agent, alpha, **problem.cross_entropy)
    np.testing.assert_allclose(solution.v, v, atol=1e-9)


@property_test
@given(problems())
def test_improvement_raises_q_in_every_state_and_joint_action(problem: Problem) -> None:
    game, policies, agent, alpha, *_ = problem
    old = agent_policy_evaluation(game, policies, agent, alpha, **problem.cross_entropy)
    improved = agent_policy_improvement(
        old.marginal_q, policies, agent, alpha, **problem.cross_entropy, terminal=game.terminal
    )
    new = agent_policy_evaluation(game, problem.with_policy(improved.policy), agent, alpha, **problem.cross_entropy)
    assert (new.q - old.q).min() >= -1e-9
    assert (improved.v - old.v).min() >= -1e-9
    assert (new.v - improved.v).min() >= -1e-9


@property_test
@given(problems())
def test_closed_form_is_the_product_and_beats_other_policies(problem: Problem) -> None:
    game, policies, agent, alpha, beta, _, rng = problem
    marginal_q = 3 * rng.normal(size=(game.n_states, game.n_actions))
    improved = agent_policy_improvement(marginal_q, policies, agent, alpha, **problem.cross_entropy)
    np.testing.assert_array_equal(improved.q, marginal_q)
    product = np.exp(marginal_q / alpha) * np.exp(problem.log_others()) ** (-beta / alpha)
    np.testing.assert_allclose(improved.policy, product / product.sum(1, keepdims=True), rtol=1e-9)

    def objective(policy: np.ndarray) -> np.ndarray:
        log_policy = np.log(np.where(policy > 0, policy, 1))
        return (policy * (marginal_q - alpha * log_policy - beta * problem.log_others())).sum(1)

    best = objective(improved.policy)
    np.testing.assert_allclose(best, improved.v, rtol=1e-9, atol=1e-9)
    corners = [np.tile(corner, (game.n_states, 1)) for corner in np.eye(game.n_actions)]
    noise = rng.dirichlet(np.ones(game.n_actions), size=(5, game.n_states))
    for other in (*corners, *noise, *policies):
        for distance in (1.0, 0.1, 1e-3):
            assert (best - objective((1 - distance) * improved.policy + distance * other)).min() >= -1e-10


@property_test
@given(problems())
def test_policy_iteration_is_the_best_response(problem: Problem) -> None:
    game, policies, agent, alpha, _, _, rng = problem
    best = agent_policy_iteration(game, policies, agent, alpha, **problem.cross_entropy)
    again = agent_policy_improvement(best.marginal_q, policies, agent, alpha, **problem.cross_entropy)
    running = ~game.terminal
    np.testing.assert_allclose(again.policy[running], best.policy[running], atol=1e-7)
    for policy in rng.dirichlet(np.ones(game.n_actions), size=(5, game.n_states)):
        other = agent_policy_evaluation(game, problem.with_policy(policy), agent, alpha, **problem.cross_entropy)
        assert (best.q - other.q).min() >= -1e-7


def test_without_cross_entropy_or_others_it_is_the_single_agent_case() -> None:
    rng = np.random.default_rng(1)
    game = random_game(rng, 1, 4, 3, 0.9, terminal=True)
    uniform = np.full((1, 4, 3), 1 / 3)
    alone = soft_policy_iteration(FiniteMDP(game.transition, game.reward[0], 0.9, game.terminal), 0.5)
    for beta in (0.0, 1.0):
        solution = agent_policy_iteration(game, uniform, 0, 0.5, ce_coef=beta)
        np.testing.assert_allclose(solution.q, alone.q, atol=1e-8)
        np.testing.assert_allclose(solution.policy, alone.policy, atol=1e-8)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def worst_change(improve: Callable[..., np.ndarray], beta: float, seed: int) -> float:
    """Least change of an entry of Q^i over three rounds of a would-be improvement of agent 0 in a random game."""
    rng = np.random.default_rng(seed)
    game, alpha = random_game(rng, 3, 3, 3, 0.9, terminal=False), 0.5
    policies = 0.95 * rng.dirichlet(np.full(3, 0.5), size=(3, 3)) + 0.05 / 3
    worst = math.inf
    for _ in range(3):
        old = agent_policy_evaluation(game, policies, 0, alpha, beta)
        policies = np.stack([improve(old, policies, alpha, beta), *policies[1:]])
        worst = min(worst, float((agent_policy_evaluation(game, policies, 0, alpha, beta).q - old.q).min()))
    return worst


def right(old, policies, alpha, beta):
    return softmax((old.marginal_q - beta * np.log(policies[1:]).sum(0)) / alpha)


def misprint_without_temperature(old, policies, alpha, beta):
    """exp(Q) in place of exp(Q~ / alpha)."""
    return softmax(old.marginal_q - beta / alpha * np.log(policies[1:]).sum(0))


def misprint_of_joint_q(old, policies, alpha, beta):
    """exp(Q) in place of exp(Q~ / alpha): the others' actions fixed instead of averaged over."""
    return softmax((old.q[:, :, 0, 0] - beta * np.log(policies[1:]).sum(0)) / alpha)


def misprint_of_own_policy(old, policies, alpha, beta):
    """log pi^i where pi^j is meant."""
    return softmax((old.marginal_q - beta * (len(policies) - 1) * np.log(policies[0])) / alpha)


@pytest.mark.parametrize("beta", [-0.4, 0.4])
def test_lemma_holds_for_the_closed_form_and_fails_for_each_misprint(beta: float) -> None:
    seeds = range(10)
    assert min(worst_change(right, beta, seed) for seed in seeds) >= -1e-9
    for misprint in (misprint_without_temperature, misprint_of_joint_q, misprint_of_own_policy):
        broken = [seed for seed in seeds if worst_change(misprint, beta, seed) < -0.01]
        assert len(broken) >= 3, f"{misprint.__doc__} {broken}"


def test_lemma_says_nothing_about_simultaneous_updates() -> None:
    """All agents improving at once against each other's old policies make some agent worse: no joint theorem."""
    worst = 0.0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        game = random_game(rng, 3, 3, 3, 0.9, terminal=False)
        policies = np.full((3, 3, 3), 1 / 3)
        old = [agent_policy_evaluation(game, policies, i, 0.5) for i in range(3)]
        improved = [agent_policy_improvement(old[i].marginal_q, policies, i, 0.5).policy for i in range(3)]
        new = [agent_policy_evaluation(game, np.stack(improved), i, 0.5) for i in range(3)]
        worst = min(worst, *(float((new[i].q - old[i].q).min()) for i in range(3)))
    assert worst < -0.1


def preference_game() -> FiniteMarkovGame:
    """Three agents, three states, three actions; agent i likes action i, whatever the others do."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.ones(3), size=(3, 3, 3, 3))
    likes = 2 * np.eye(3)
    shapes = [(1, 3, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
    reward = np.stack(
        [np.broadcast_to(row.reshape(shape), (3, 3, 3, 3)) for row, shape in zip(likes, shapes, strict=True)]
    )
    return FiniteMarkovGame(transition, reward, 0.9)


@pytest.mark.filterwarnings("ignore:.*collapse")
def test_beta_orders_the_divergence_between_policies() -> None:
    """Beta above 0 makes policies differ, below 0 alike, down to the same policy and up to no action in common."""
    game = preference_game()
    betas = [-0.97, -0.7, -0.5, -0.3, 0.0, 0.17, 0.5, 1.0, 1.5, 3.0]

    def divergence(convention: str, beta: float) -> float:
        result = alternating_improvement(game, 1.0, beta, convention, ce_floor=0.05, n_rounds=200)
        return float(jensen_shannon_divergence(result.policies).mean())

    by_objective = [divergence("objective", beta) for beta in betas]
    assert (np.diff(by_objective) > 1e-3).all(), by_objective
    assert by_objective[0] < 0.01
    assert by_objective[-1] > math.log(2) - 1e-3
    assert [divergence("similarity", -beta) for beta in betas] == by_objective


def test_agents_that_agree_have_temperature_alpha_plus_beta_times_the_others() -> None:
    """In a game of equals the soft optimum at that temperature is where no agent wants to change."""
    rng = np.random.default_rng(3)
    n_agents, alpha = 3, 1.0
    preference, transition = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4), size=4)
    actions = (3,) * n_agents
    rows = np.broadcast_to(transition.reshape(4, *(1,) * n_agents, 4), (4, *actions, 4))
    reward = np.stack(
        [np.broadcast_to(np.moveaxis(preference[:, :, None, None], 1, 1 + i), (4, *actions)) for i in range(n_agents)]
    )
    game = FiniteMarkovGame(rows, reward, 0.9)
    alone = np.broadcast_to(transition[:, None], (4, 3, 4))
    for beta, convention in [(-0.4, "objective"), (0.4, "similarity"), (0.25, "objective"), (0.0, "objective")]:
        effective = consensus_temperature(alpha, n_agents, beta, convention)
        signed = beta if convention == "objective" else -beta
        assert effective == pytest.approx(alpha + 2 * signed)
        optimum = soft_policy_iteration(FiniteMDP(alone, preference, 0.9), effective)
        policies = np.stack([optimum.policy] * n_agents)
        solution = agent_policy_evaluation(game, policies, 0, alpha, beta, convention)
        np.testing.assert_allclose(solution.v, optimum.v, atol=1e-8)
        improved = agent_policy_improvement(solution.marginal_q, policies, 0, alpha, beta, convention)
        np.testing.assert_allclose(improved.policy, optimum.policy, atol=1e-8)


def test_alternating_improvement_stops_where_nobody_gains() -> None:
    game = preference_game()
    start = np.random.default_rng(0).dirichlet(np.ones(3), size=(3, 3))
    kept = start.copy()
    result = alternating_improvement(game, 1.0, 0.3, tolerance=1e-10, initial_policies=start)
    np.testing.assert_array_equal(start, kept)
    assert result.history[-1] <= 1e-10 < result.history[-2]
    for agent in range(3):
        best = agent_policy_iteration(game, result.policies, agent, 1.0, 0.3)
        np.testing.assert_allclose(best.policy, result.policies[agent], atol=1e-8)
        np.testing.assert_allclose(best.v, result.v[agent], atol=1e-7)
    assert len(alternating_improvement(game, 1.0, 0.3, n_rounds=2).history) == 2


def test_a_negative_temperature_of_consensus_warns() -> None:
    game = preference_game()
    with pytest.warns(UserWarning, match=r"ce_coef=-0.6 \('objective'\) leave 3 agents .* keep \|beta\| \(N - 1\)"):
        alternating_improvement(game, 1.0, -0.6, ce_floor=0.05, n_rounds=1)
    with pytest.warns(UserWarning, match="'similarity'"):
        alternating_improvement(game, 1.0, 0.6, "similarity", ce_floor=0.05, n_rounds=1)


def test_jensen_shannon_divergence_of_known_policies() -> None:
    same, apart = np.full((3, 1, 4), 0.25), np.eye(3)[:, None]
    np.testing.assert_allclose(jensen_shannon_divergence(same), [0.0], atol=1e-15)
    np.testing.assert_allclose(jensen_shannon_divergence(apart), [math.log(2)], rtol=1e-12)
    halves = np.array([[[1.0, 0.0]], [[0.5, 0.5]]])
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    np.testing.assert_allclose(jensen_shannon_divergence(halves), [expected], rtol=1e-12)
    almost_the_same = np.array([[[1.0, 5e-324]], [[1.0, 0.0]]])  # half of the smallest number is 0
    np.testing.assert_allclose(jensen_shannon_divergence(almost_the_same), [0.0], atol=1e-15)


RNG = np.random.default_rng(0)
GAME = random_game(RNG, 2, 2, 3, 0.9, terminal=True)
UNIFORM = np.full((2, 2, 3), 1 / 3)
GREEDY = np.broadcast_to(np.eye(3)[0], (2, 2, 3))
ROWS = np.array(GAME.transition)
REWARD = np.array(GAME.reward)


def test_zero_probabilities_need_no_floor_where_no_cross_entropy_asks_for_them() -> None:
    assert np.isfinite(agent_policy_evaluation(GAME, GREEDY, 0, 1.0).q).all()
    assert np.isfinite(agent_policy_evaluation(GAME, GREEDY, 0, 1.0, 0.1, ce_floor=1e-3).q).all()
    at_the_end = random_game(np.random.default_rng(3), 2, 3, 2, 0.9, terminal=True)
    policies = np.full((2, 3, 2), 0.5)
    policies[:, 0] = [1.0, 0.0]
    assert np.isfinite(agent_policy_evaluation(at_the_end, policies, 0, 1.0, 0.1).q).all()
    own_zero = np.stack([GREEDY[0], UNIFORM[1]])
    assert np.isfinite(agent_policy_evaluation(GAME, own_zero, 0, 1.0, 0.1).q).all()


def test_rows_of_policies_need_not_sum_to_one_beyond_the_tolerance() -> None:
    """Three agents' rows, each at the edge of what is taken for one, multiply to a row beyond it."""
    game = random_game(np.random.default_rng(6), 3, 2, 2, 0.9, terminal=False)
    policies = np.full((3, 2, 2), 0.5 + 0.45e-8)
    exact = agent_policy_evaluation(game, np.full((3, 2, 2), 0.5), 0, 1.0, 0.1)
    solution = agent_policy_evaluation(game, policies, 0, 1.0, 0.1)
    np.testing.assert_allclose(solution.q, exact.q, rtol=1e-5, atol=1e-5)


def test_the_game_keeps_copies_that_cannot_be_changed() -> None:
    rows, reward = ROWS.copy(), REWARD.copy()
    game = FiniteMarkovGame(rows, reward, 0.9)
    rows[1, 0, 0], reward[0, 1] = [1.0, 0.0], 100.0
    np.testing.assert_array_equal(game.transition, ROWS)
    np.testing.assert_array_equal(game.reward, REWARD)
    with pytest.raises(ValueError, match="read-only"):
        game.transition[0] = 0
    assert repr(GAME) == "FiniteMarkovGame(n_agents=2, n_states=2, n_actions=3, gamma=0.9, n_terminal=1)"


def test_policies_of_states_where_nobody_acts_may_hold_zeros() -> None:
    sure = UNIFORM.copy()
    sure[:, GAME.terminal] = np.eye(GAME.n_actions)[0]
    marginal_q = np.arange(GAME.n_states * GAME.n_actions, dtype=float).reshape(GAME.n_states, -1)
    found = agent_policy_improvement(marginal_q, sure, 0, 0.5, 0.1, terminal=GAME.terminal)
    expected = agent_policy_improvement(marginal_q, UNIFORM, 0, 0.5, 0.1, terminal=GAME.terminal)
    np.testing.assert_array_equal(found.policy, expected.policy)
    with pytest.raises(ValueError, match="policies hold a zero"):
        agent_policy_improvement(marginal_q, sure, 0, 0.5, 0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FiniteMarkovGame(ROWS * 0.9, REWARD, 0.9), ValueError, r"transition\[0, 0, 0\] sums to 0.9"),
        (lambda: FiniteMarkovGame(ROWS[:, 0], REWARD, 0.9), ValueError, "an axis of actions for each of the N agents"),
        (lambda: FiniteMarkovGame(ROWS, REWARD[0], 0.9), ValueError, "an axis of actions for each of the N agents"),
        (lambda: FiniteMarkovGame(ROWS, 1.0, 0.9), ValueError, "an axis of actions for each of the N agents"),
        (
            lambda: FiniteMarkovGame(ROWS, REWARD[:, :, :, :2], 0.9),
            ValueError,
            r"reward must have shape .*got \(2, 2, 3, 2",
        ),
        (
            lambda: FiniteMarkovGame(ROWS[:, :, :2], REWARD, 0.9),
            ValueError,
            r"transition must have shape .*got \(2, 3, 2",
        ),
        (lambda: FiniteMarkovGame(ROWS, REWARD * math.nan, 0.9), ValueError, r"reward\[0, 0, 0, 0\] is nan"),
        (
            lambda: GAME.marginal(REWARD, UNIFORM, 0),
            ValueError,
            r"values must have shape \(S, A, \.\.\., A\) = \(2, 3, 3\)",
        ),
        (lambda: GAME.marginal(REWARD[0], UNIFORM[0], 0), ValueError, r"policies must have shape \(N, S, A\)"),
        (lambda: FiniteMarkovGame("game", REWARD, 0.9), TypeError, "transition must hold real numbers"),
        (lambda: FiniteMarkovGame(ROWS, REWARD, 1.0), ValueError, "gamma must lie in"),
        (lambda: FiniteMarkovGame(ROWS, REWARD, 0.9, [False, True]), ValueError, "terminal state 1 can be left"),
        (lambda: FiniteMarkovGame(ROWS, REWARD + 1, 0.9, [True, False]), ValueError, r"terminal states \[0\] pay"),
        (
            lambda: agent_policy_evaluation(GAME, UNIFORM[0], 0, 1.0),
            ValueError,
            r"policies must have shape \(N, S, A\)",
        ),
        (lambda: agent_policy_evaluation(GAME, 2 * UNIFORM, 0, 1.0), ValueError, r"policies\[0, 0\] sums to 2"),
        (lambda: agent_policy_evaluation(GAME, UNIFORM, 2, 1.0), ValueError, "agent must lie between 0 and 1, got 2"),
        (lambda: agent_policy_evaluation(GAME, UNIFORM, -1, 1.0), ValueError, "agent must lie between 0 and 1, got -1"),
        (lambda: agent_policy_evaluation(GAME, UNIFORM, 0.5, 1.0), TypeError, "agent must be an integer, got 0.5"),
        (lambda: agent_policy_evaluation(GAME, UNIFORM, 0, 0.0), ValueError, "alpha must be positive, got 0"),
        (
            lambda: agent_policy_evaluation(GAME, UNIFORM, 0, 1.0, math.nan),
            ValueError,
            "ce_coef must be finite, got nan",
        ),
        (lambda: agent_policy_evaluation(GAME, UNIFORM, 0, 1.0, "auto"), TypeError, "ce_coef must be a real number"),
        (
            lambda: agent_policy_evaluation(GAME, UNIFORM, 0, 1.0, 0.1, "diversity"),
            ValueError,
            "ce_convention must be 'objective' or 'similarity', got 'diversity'",
        ),
        (
            lambda: cross_entropy_bonus(UNIFORM, 0, 0.1, ce_floor=1.0),
            ValueError,
            r"ce_floor must lie in \[0, 1\), got 1",
        ),
        (lambda: cross_entropy_bonus(UNIFORM, 0, 0.1, ce_floor=-0.1), ValueError, "ce_floor must lie in"),
        (lambda: cross_entropy_bonus(GREEDY, 0, 0.1), ValueError, "zero for an agent other than 0.*use ce_floor > 0"),
        (
            lambda: agent_policy_improvement(np.ones((3, 2)), UNIFORM, 0, 1.0),
            ValueError,
            r"marginal_q must have shape \(S, A\) = \(2, 3\), got \(3, 2\)",
        ),
        (
            lambda: agent_policy_improvement(np.ones((2, 3)), UNIFORM, 0, -1.0),
            ValueError,
            "alpha must be positive, got -1",
        ),
        (lambda: agent_policy_iteration(GAME, UNIFORM, 0, 1.0, tolerance=0), ValueError, "tolerance must be positive"),
        (lambda: alternating_improvement(GAME, 1.0, n_rounds=0), ValueError, "n_rounds must be positive, got 0"),
        (lambda: alternating_improvement(GAME, 1.0, n_rounds=1.5), TypeError, "n_rounds must be an integer, got 1.5"),
        (lambda: alternating_improvement(GAME, 1.0, tolerance=0.0), ValueError, "tolerance must be positive, got 0"),
        (lambda: GAME.joint_backup(np.zeros(2), -1), ValueError, "agent must lie between 0 and 1, got -1"),
        (lambda: consensus_temperature(1.0, 0, 0.1), ValueError, "n_agents must be positive, got 0"),
        (lambda: consensus_temperature(0.0, 2, 0.1), ValueError, "alpha must be positive, got 0"),
        (lambda: jensen_shannon_divergence(UNIFORM[:1]), ValueError, "policies must hold two agents or more"),
    ],
)
def test_bad_arguments_are_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
