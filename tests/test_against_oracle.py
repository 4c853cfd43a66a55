"""
The deep algorithms on small processes against exact soft dynamic programming.

Observations are one-hot and networks linear, so that the exact solution lies within their reach. The replay buffer
holds every transition as often as its probability says, and each gradient step takes all of them: what remains of the
difference is how far the iteration has come.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import make, newest, set_progress
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.tabular import FiniteMDP, SoftQIteration, soft_q_iteration

GAMMA = 0.8


class TableEnv(gym.Env):
    """The spaces of a finite process; nothing is ever collected from it."""

    def __init__(self, mdp: FiniteMDP):
        self.observation_space = spaces.Discrete(mdp.n_states)
        self.action_space = spaces.Discrete(mdp.n_actions)


def random_mdp() -> FiniteMDP:
    """Eight states, three actions; one action leads to up to four states, and one state ends the episode."""
    rng = np.random.default_rng(0)
    transition = np.zeros((8, 3, 8))
    for state, action, successor in zip(*np.indices((8, 3, 4)), strict=True):
        for s, a, n in zip(state.ravel(), action.ravel(), rng.integers(0, 8, successor.size), strict=True):
            transition[s, a, n] += 0.25
    reward = rng.normal(size=(8, 3))
    transition[7], reward[7] = np.eye(8)[7], 0
    return FiniteMDP(transition, reward, GAMMA, np.arange(8) == 7)


#: process, temperature, transitions of a state and action in the buffer, learning rate (in the units of its rewards)
PROCESSES = {
    "random": (random_mdp, 0.2, 4, 3e-2),
    "FrozenLake-v1": (lambda: FiniteMDP.from_gymnasium(gym.make("FrozenLake-v1"), GAMMA), 0.05, 3, 1e-2),
    "CliffWalking": (lambda: FiniteMDP.from_gymnasium(newest("CliffWalking"), GAMMA), 0.5, 1, 0.3),
}


def solve(algorithm: type, process: str, gradient_steps: int) -> tuple[Any, FiniteMDP, SoftQIteration]:
    """
    :param algorithm: class of the algorithm
    :param process: name of the process
    :param gradient_steps: gradient steps over all transitions
    :return: the trained model, the process, its exact solution
    """
    make_mdp, alpha, copies, learning_rate = PROCESSES[process]
    mdp = make_mdp()
    model = make(
        algorithm,
        TableEnv(mdp),
        net_arch=[],
        gamma=GAMMA,
        ent_coef=alpha,
        learning_rate=lambda progress: learning_rate * progress,
        tau=0.1,
        buffer_size=1000,
    )
    model.set_logger(Logger(None, []))
    for state, action, successor in np.argwhere(mdp.transition > 0):
        for _ in range(0 if mdp.terminal[state] else round(copies * mdp.transition[state, action, successor])):
            over, reward = mdp.terminal[[successor]], mdp.reward[state, action]
            model.replay_buffer.add(
                np.array([[state]]), np.array([[successor]]), np.array([[action]]), np.array([reward]), over, [{}]
            )
    size = model.replay_buffer.size()
    everything = model.replay_buffer.gather(th.arange(size))
    batch = Batch(
        everything.observations,
        everything.actions,
        everything.next_observations,
        everything.dones,
        everything.rewards,
        th.full((size, 1), GAMMA),
    )
    model.draw_batch = lambda _: (batch, model.draw_noise(size))
    for progress_remaining in (1.0, 1.0, 0.3, 0.1):
        set_progress(progress_remaining, model)
        model.train(gradient_steps // 4, size)
    return model, mdp, soft_q_iteration(mdp, alpha)


@pytest.mark.thin(2)
@pytest.mark.parametrize(
    ("algorithm", "process", "gradient_steps"),
    [
        *((SQL, process, 900) for process in PROCESSES),
        (SACv2, "random", 1200),
        pytest.param(SACv2, "FrozenLake-v1", 1200, marks=pytest.mark.slow),
        pytest.param(SACv2, "CliffWalking", 1200, marks=pytest.mark.slow),
        (SACv1, "random", 1200),
        pytest.param(SACv1, "FrozenLake-v1", 1200, marks=pytest.mark.slow),
    ],
)
def test_agrees_with_the_exact_soft_solution(algorithm, process, gradient_steps):
    """To a hundredth in the probabilities of the policy, and to a hundredth of the largest Q and of the largest V."""
    model, mdp, exact = solve(algorithm, process, gradient_steps)
    states, going_on = np.arange(mdp.n_states), ~mdp.terminal
    scale = np.abs(exact.q).max()
    q = np.stack([model.q_value(states, np.full(mdp.n_states, a)) for a in range(mdp.n_actions)], axis=1)
    np.testing.assert_allclose(q[going_on], exact.q[going_on], atol=0.01 * scale)
    np.testing.assert_allclose(model.soft_value(states)[going_on], exact.v[going_on], atol=0.01 * np.abs(exact.v).max())
    with th.no_grad():
        policy = model.actor.log_prob(th.as_tensor(states)[:, None]).exp().numpy()
    np.testing.assert_allclose(policy[going_on], exact.policy[going_on], atol=0.01)
    greedy = model.predict(states, deterministic=True)[0]
    best = exact.q[states, greedy][going_on]
    np.testing.assert_allclose(best, exact.q.max(axis=1)[going_on], atol=0.01 * scale)
