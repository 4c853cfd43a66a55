"""Finite processes: from arrays, from Gymnasium's toy-text environments, and what is refused."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
from helpers import newest as make
from stable_baselines3.common.monitor import Monitor

from sb3_sac_variants.tabular import FiniteMDP, soft_policy_evaluation, soft_policy_iteration, soft_q_iteration

TOY_TEXT = [
    ("FrozenLake", {}),
    ("FrozenLake", {"is_slippery": False}),
    ("FrozenLake8x8", {}),
    ("CliffWalking", {}),
    ("Taxi", {}),
]


def visited_states(env: gymnasium.Env) -> set[int]:
    """States in which an episode may have to choose an action."""
    table, found = env.unwrapped.P, set(np.flatnonzero(env.unwrapped.initial_state_distrib))
    queue = list(found)
    while queue:
        for outcomes in table[queue.pop()].values():
            new = {int(successor) for p, successor, _, ended in outcomes if p > 0 and not ended} - found
            found |= new
            queue += new
    return found


@pytest.mark.parametrize(("name", "kwargs"), TOY_TEXT)
@pytest.mark.parametrize("alpha", [0.05, 2.0])
def test_toy_text_solution_fulfils_the_equation_of_deep_soft_actor_critic(
    name: str, kwargs: dict[str, Any], alpha: float
) -> None:
    """Q = r + gamma (1 - d) V', straight from the environment's own table, wherever an episode can come."""
    env, gamma = make(name, **kwargs), 0.95
    mdp = FiniteMDP.from_gymnasium(env, gamma)
    assert (mdp.n_states, mdp.n_actions) == (env.observation_space.n, env.action_space.n)
    q = soft_q_iteration(mdp, alpha, tolerance=1e-10).q
    v = {}
    for state in range(mdp.n_states):
        top = max(q[state])
        v[state] = top + alpha * math.log(sum(math.exp((x - top) / alpha) for x in q[state]))
    for state in visited_states(env):
        assert not mdp.terminal[state]
        for action, outcomes in env.unwrapped.P[state].items():
            expected = sum(p * (r + gamma * (1 - ended) * v[int(successor)]) for p, successor, r, ended in outcomes)
            assert q[state, action] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "terminal"),
    [("FrozenLake", [5, 7, 11, 12, 15]), ("CliffWalking", [47]), ("Taxi", [0, 85, 410, 475])],
)
def test_states_that_end_an_episode_absorb_without_value(name: str, terminal: list[int]) -> None:
    mdp = FiniteMDP.from_gymnasium(make(name), 0.99)
    assert np.flatnonzero(mdp.terminal).tolist() == terminal
    np.testing.assert_array_equal(mdp.transition[terminal, :, terminal], 1)
    np.testing.assert_array_equal(mdp.reward[terminal], 0)
    assert not soft_policy_iteration(mdp, 1.0).v[terminal].any()


def test_values_are_what_episodes_return() -> None:
    """Play FrozenLake by the soft policy and count: discounted reward plus alpha times the entropy of every choice."""
    env, alpha, gamma, episodes = gymnasium.make("FrozenLake-v1", max_episode_steps=10**6), 0.1, 0.9, 1500
    solution = soft_policy_iteration(FiniteMDP.from_gymnasium(env, gamma), alpha)
    rng, returns = np.random.default_rng(0), []
    cumulative = solution.policy.cumsum(1)
    state, _ = env.reset(seed=0)
    for _ in range(episodes):
        total, weight, ended = 0.0, 1.0, False
        while not ended:
            action = min(int(np.searchsorted(cumulative[state], rng.random())), 3)
            bonus = -alpha * math.log(solution.policy[state, action])
            state, reward, ended, _, _ = env.step(action)
            total += weight * (float(reward) + bonus)
            weight *= gamma
        returns.append(total)
        state, _ = env.reset()
    assert np.mean(returns) == pytest.approx(solution.v[0], abs=4 * np.std(returns) / math.sqrt(episodes))


def test_taxi_drives_home() -> None:
    """Greedy actions at a low temperature finish every episode in Taxi with the best possible return."""
    env = make("Taxi")
    q = soft_q_iteration(FiniteMDP.from_gymnasium(env, 0.99), 1e-3, tolerance=1e-8).q
    returns = []
    for seed in range(50):
        state, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            state, reward, ended, truncated, _ = env.step(int(q[state].argmax()))
            total += float(reward)
            over = ended or truncated
        returns.append(total)
        assert ended
    assert np.mean(returns) > 7.0


class Table(gymnasium.Env):
    """An environment given by its table alone."""

    def __init__(self, table: dict, start: list[float] | None = None) -> None:
        self.P = table
        self.observation_space = gymnasium.spaces.Discrete(max(len(table), 1))
        self.action_space = gymnasium.spaces.Discrete(2)
        if start is not None:
            self.initial_state_distrib = np.array(start)


@pytest.mark.parametrize("number", [lambda value: value, int, float])
def test_an_end_in_a_state_of_running_episodes_goes_to_a_state_of_its_own(number: Any) -> None:
    """State 1 is walked through by action 0 and ends an episode by action 1: both must come out right."""
    table = {
        0: {0: [(1.0, 1, 0.0, False)], 1: [(0.5, 1, 3.0, True), (0.5, 1, 1.0, True)]},
        1: {0: [(1.0, 0, 1.0, False)], 1: [(1.0, 0, 5.0, True)]},
    }
    table = {
        state: {
            action: [(p, number(successor), reward, number(done)) for p, successor, reward, done in outcomes]
            for action, outcomes in row.items()
        }
        for state, row in table.items()
    }
    mdp = FiniteMDP.from_gymnasium(Table(table, [1.0, 0.0]), 0.9)
    assert mdp.terminal.tolist() == [False, False, True]
    result = soft_q_iteration(mdp, 0.5, tolerance=1e-12)
    np.testing.assert_allclose(result.q[:2, 1], [2.0, 5.0], rtol=1e-12)
    np.testing.assert_allclose(result.q[0, 0], 0.9 * result.v[1], rtol=1e-10)
    np.testing.assert_allclose(result.q[1, 0], 1 + 0.9 * result.v[0], rtol=1e-10)
    assert result.v[2] == 0


def test_expectations_over_few_and_over_many_successors_agree() -> None:
    rng = np.random.default_rng(0)
    for n_outcomes in (1, 2, 5, 6, 40):
        transition = np.zeros((40, 3, 40))
        for state, action in np.ndindex(40, 3):
            outcomes = rng.choice(40, size=rng.integers(1, n_outcomes + 1), replace=False)
            transition[state, action, outcomes] = rng.dirichlet(np.ones(len(outcomes)))
        mdp = FiniteMDP(transition, np.zeros((40, 3)), 0.9)
        v = rng.normal(size=40)
        np.testing.assert_allclose(mdp.expected_next(v), np.einsum("sat,t->sa", transition, v), atol=1e-14)


def test_arrays_are_copies_that_cannot_be_changed() -> None:
    transition, reward, terminal = np.full((2, 1, 2), 0.5), np.ones((2, 1)), np.array([False, False])
    mdp = FiniteMDP(transition, reward, 0.9, terminal)
    transition[0, 0], reward[0], terminal[0] = [1.0, 0.0], 7.0, True
    assert mdp.transition[0, 0, 0] == 0.5
    assert mdp.reward[0, 0] == 1.0
    assert not mdp.terminal[0]
    for array in (mdp.transition, mdp.reward, mdp.terminal):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert repr(mdp) == "FiniteMDP(n_states=2, n_actions=1, gamma=0.9, n_terminal=0)"


def test_lists_and_single_precision_are_taken() -> None:
    mdp = FiniteMDP([[[0.25, 0.75]], [[0, 1]]], np.array([[1], [2]], dtype=np.float32), np.float32(0.5))
    assert mdp.transition.dtype == mdp.reward.dtype == np.float64
    assert mdp.gamma == 0.5


HALF = np.full((2, 3, 2), 0.5)
ONES = np.ones((2, 3))
NEGATIVE = np.tile([1.5, -0.5], (2, 3, 1))
ABSORBING = np.stack([np.full((3, 2), 0.5), np.tile([0.0, 1.0], (3, 1))])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((HALF * 0.9, ONES, 0.9), ValueError, r"transition\[0, 0\] sums to 0.9 .*every row must sum to one: divide"),
        ((NEGATIVE, ONES, 0.9), ValueError, r"transition\[0, 0, 1\] is -0.5"),
        ((np.where(HALF, math.nan, 0), ONES, 0.9), ValueError, r"transition\[0, 0, 0\] is nan"),
        ((HALF[0], ONES, 0.9), ValueError, r"transition must have the axes \(S, A, S\).* got shape \(3, 2\)"),
        ((HALF[:1], ONES, 0.9), ValueError, r"transition must have shape \(S, A, S\), got \(1, 3, 2\)"),
        ((HALF[:, :0], ONES, 0.9), ValueError, r"transition must have the axes .*none of them empty"),
        (("FrozenLake-v1", ONES, 0.9), TypeError, "transition must hold real numbers"),
        ((HALF, ONES.T, 0.9), ValueError, r"reward must have shape \(S, A\) = \(2, 3\), got \(3, 2\)"),
        ((HALF, ONES * math.inf, 0.9), ValueError, r"reward\[0, 0\] is inf"),
        ((HALF, ONES + 1j, 0.9), TypeError, "reward must hold real numbers, got dtype complex128"),
        ((HALF, ONES, 1.0), ValueError, r"gamma must lie in \[0, 1\), got 1; use 0.99"),
        ((HALF, ONES, -0.1), ValueError, r"gamma must lie in \[0, 1\), got -0.1"),
        ((HALF, ONES, math.nan), ValueError, "gamma must be finite, got nan"),
        ((HALF, ONES, 10**400), ValueError, "gamma must be finite, got 1000"),
        ((HALF, ONES, "0.9"), TypeError, "gamma must be a real number, got '0.9'"),
        ((HALF, ONES, 0.9, [0, 1]), TypeError, "terminal must be a boolean mask, got dtype int64"),
        ((HALF, ONES, 0.9, [True]), ValueError, r"terminal must have shape \(S,\) = \(2,\), got \(1,\)"),
        ((HALF, ONES, 0.9, [False, True]), ValueError, r"terminal state 1 can be left: .*take 1 out of terminal"),
        ((ABSORBING, ONES, 0.9, [False, True]), ValueError, r"terminal state 1 pays: .*set it to 0"),
    ],
)
def test_bad_arrays_are_refused(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FiniteMDP(*arguments)


class Negated(gymnasium.Wrapper):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, -float(reward), *rest


class OwnMonitor(Negated):
    """Named like a wrapper that is known."""

    def step(self, action: Any) -> Any:
        return super().step(action)


OwnMonitor.__name__ = "Monitor"


def fickle_taxi() -> gymnasium.Env:
    env = make("Taxi")
    env.unwrapped.fickle_passenger = True
    return env


def test_a_state_where_the_episode_is_over_needs_no_outcomes() -> None:
    mdp = FiniteMDP.from_gymnasium(Table({0: {0: [(1.0, 1, 2.0, True)]}, 1: {0: []}}, [1.0, 0.0]), 0.9)
    assert mdp.terminal.tolist() == [False, True]
    assert soft_q_iteration(mdp, 0.5).q[0, 0] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        (lambda: "FrozenLake-v1", TypeError, "env must be a gymnasium.Env, got 'FrozenLake-v1'; make one"),
        (lambda: make("Blackjack"), ValueError, "has no transition table P"),
        (lambda: make("CartPole"), ValueError, "has no transition table P"),
        (lambda: gymnasium.wrappers.TransformReward(make("CliffWalking"), np.sign), ValueError, "in TransformReward"),
        (lambda: gymnasium.wrappers.NormalizeReward(make("FrozenLake")), ValueError, "in NormalizeReward"),
        (lambda: Negated(make("FrozenLake")), ValueError, r"in Negated, whose step\(\).*pass env.unwrapped"),
        (lambda: OwnMonitor(make("FrozenLake")), ValueError, "in Monitor, whose step"),
        (fickle_taxi, ValueError, "fickle_passenger=True"),
        (lambda: Table({}), ValueError, "has no transition table P"),
        (lambda: Table({0: {0: [(1.0, 0, 0.0, False)]}, 2: {}}), ValueError, "number the states and actions"),
        (lambda: Table({0: {0: [(1.0, 0, 0.0, False)]}, 1: {}}), ValueError, "number the states and actions"),
        *[
            (lambda outcomes=outcomes: Table({0: {0: outcomes}}, [1.0]), ValueError, r"P\[0\]\[0\]=.*from 0 to 0; mend")
            for outcomes in ([(1.0, 0, 0.0)], *([(1.0, wrong, 0.0, False)] for wrong in (-1, 1, 0.5, "0", None)))
        ],
        (lambda: Table({0: {}}, [1.0]), ValueError, "number the states and actions"),
        (lambda: Table({0: {0: []}}, [1.0]), ValueError, "lists no outcome in its table P"),
        (
            lambda: Table({0: {0: [(1.0, 0, 0.0, False)]}, 1: {0: []}}, [0.5, 0.5]),
            ValueError,
            r"transition\[1, 0\] sums to 0",
        ),
        (lambda: Table({0: {0: [(1.0, 0, 0.0, False)]}}), ValueError, "must have a start distribution"),
        (lambda: Table({0: {0: [(0.5, 0, 0.0, False)]}}, [1.0]), ValueError, r"transition\[0, 0\] sums to 0.5"),
        (
            lambda: Table({s: {0: [(1.5, 0, 0.0, False), (-0.5, 1, 0.0, False)]} for s in range(2)}, [1.0, 0.0]),
            ValueError,
            r"transition\[0, 0, 1\] is -0.5; probabilities must not be negative",
        ),
    ],
)
def test_environments_without_a_faithful_table_are_refused(env: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FiniteMDP.from_gymnasium(env(), 0.9)


def test_wrappers_that_leave_the_dynamics_alone_are_taken() -> None:
    env = gymnasium.wrappers.TransformObservation(make("FrozenLake"), lambda s: np.eye(16)[s], None)
    assert FiniteMDP.from_gymnasium(env, 0.9).n_states == 16
    assert FiniteMDP.from_gymnasium(Monitor(gymnasium.wrappers.TimeLimit(env, 5)), 0.9).n_states == 16

    class PatchedTimeLimit(gymnasium.wrappers.TimeLimit):  # as the RL Zoo has it
        __module__ = "rl_zoo3.gym_patches"

        def step(self, action: Any) -> Any:
            return super().step(action)

    assert FiniteMDP.from_gymnasium(PatchedTimeLimit(env, 5), 0.9).n_states == 16


@pytest.mark.parametrize("n_states", [3, 50])  # one product, or successors that are gathered
def test_values_of_another_shape_are_refused(n_states: int) -> None:
    mdp = FiniteMDP(np.eye(n_states)[:, None, :], np.zeros((n_states, 1)), 0.9)
    assert mdp.backup([1.0] * n_states).shape == (n_states, 1)
    for v in (np.zeros(n_states + 1), np.zeros(n_states - 1), np.zeros((n_states, 1))):
        with pytest.raises(ValueError, match=rf"v must have shape \(S,\) = \({n_states},\)"):
            mdp.backup(v)


def test_rows_are_divided_by_their_sums() -> None:
    """What is above one by the tolerance would undo a discount that close to one."""
    mdp = FiniteMDP([[[1 + 9e-9]]], [[1.0]], 1 - 1e-9)
    assert soft_policy_evaluation(mdp, [[1.0]], 1.0).v[0] == pytest.approx(1e9, rel=1e-6)
    assert soft_policy_evaluation(mdp, [[1 + 9e-9]], 1.0).v[0] == pytest.approx(1e9, rel=1e-6)


def test_terminal_states_are_not_left() -> None:
    """Not by the tolerance either, which gamma near 1 would multiply."""
    transition = np.zeros((2, 2, 2))
    transition[0, [0, 1], [0, 1]] = 1.0
    transition[1, :] = 9e-9, 1 - 9e-9
    mdp = FiniteMDP(transition, [[1.0, 0.0], [0.0, 0.0]], 1 - 1e-6, [False, True])
    assert (mdp.transition[1] == [0.0, 1.0]).all()
    solution = soft_policy_evaluation(mdp, np.full((2, 2), 0.5), 0.1)
    assert (solution.q[1] == 0.0).all()
    assert solution.v[0] == pytest.approx((0.5 + 0.1 * math.log(2)) / (1 - 0.5 * mdp.gamma), rel=1e-9)
