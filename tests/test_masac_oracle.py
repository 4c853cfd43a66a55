"""
MASAC on small Markov games against exact soft dynamic programming, the other agents held fixed.

Agents see the state as a one-hot vector. A gradient step takes every state and joint action, as often as its
successors' probabilities say. The other agents' actions in it are drawn from their policies: that is the only noise.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from agents import make
from gymnasium import spaces

from sb3_sac_variants import MASAC
from sb3_sac_variants.common.equations.types import Batch
from sb3_sac_variants.tabular import AgentSolution, FiniteMarkovGame, agent_policy_iteration

ALPHA = 0.5
#: without the cross-entropy, and with both signs, with a floor and without
CROSS_ENTROPY: dict[str, dict[str, Any]] = {
    "none": {},
    "apart": {"ce_coef": 0.3},
    "together": {"ce_coef": -0.3},
    "apart_without_a_floor": {"ce_coef": 0.3, "ce_floor": "none"},
    "together_without_a_floor": {"ce_coef": 0.3, "ce_convention": "similarity", "ce_floor": "none"},
}


class GameEnv(gym.Env):
    """The spaces of a finite game, whose state all agents see; nothing is ever collected from it."""

    def __init__(self, game: FiniteMarkovGame):
        self.observation_space = spaces.Box(0.0, 1.0, (game.n_agents, game.n_states), dtype=np.float32)
        self.action_space = spaces.MultiDiscrete([game.n_actions] * game.n_agents)


def random_game(n_agents: int, n_states: int, n_actions: int) -> FiniteMarkovGame:
    """Each joint action leads to two states of equal probability; the last state ends the episode."""
    rng = np.random.default_rng(1)
    joint = (n_actions,) * n_agents
    transition = np.zeros((n_states, *joint, n_states))
    for index in np.ndindex(n_states - 1, *joint):
        for successor in rng.integers(0, n_states, 2):
            transition[(*index, successor)] += 0.5
    reward = rng.normal(size=(n_agents, n_states, *joint))
    transition[-1, ..., -1], reward[:, -1] = 1, 0
    return FiniteMarkovGame(transition, reward, 0.7, np.arange(n_states) == n_states - 1)


def transitions(game: FiniteMarkovGame, copies: int) -> Batch:
    """All of them, each ``copies`` times where its probability is 1/2."""
    rows = []
    for state, *joint, successor in np.argwhere(game.transition > 0):
        repetitions = round(2 * copies * game.transition[(state, *joint, successor)])
        rows += [(state, joint, successor)] * (0 if game.terminal[state] else repetitions)
    state, joint, successor = (np.array(column) for column in zip(*rows, strict=True))
    observations, next_observations = (
        th.tensor(np.eye(game.n_states, dtype=np.float32)[each]).unsqueeze(1).expand(-1, game.n_agents, -1)
        for each in (state, successor)
    )
    rewards = th.tensor(game.reward[(slice(None), state, *joint.T)].T.astype(np.float32))
    dones = th.tensor(game.terminal[successor].astype(np.float32)).unsqueeze(1)
    return Batch(observations, th.tensor(joint), next_observations, dones, rewards, th.full_like(rewards, game.gamma))


def policies_of(model: MASAC, game: FiniteMarkovGame) -> np.ndarray:
    states = th.eye(game.n_states).unsqueeze(1).expand(-1, game.n_agents, -1)
    with th.no_grad():
        policies = model.actor.log_prob(states).exp().double().transpose(0, 1).numpy()
    return policies / policies.sum(axis=2, keepdims=True)


def solve(
    game: FiniteMarkovGame, steps: int, copies: int, arguments: dict[str, Any]
) -> tuple[MASAC, AgentSolution, np.ndarray]:
    """
    Train agent 0 while the others keep the policies that they start with.

    :param game: the game
    :param steps: gradient steps
    :param copies: times that a transition is in each of them, with other actions of the other agents
    :param arguments: of the cross-entropy
    :return: the model, agent 0's exact best response, the policies of all after training
    """
    model = make(
        GameEnv(game), net_arch={"pi": [], "qf": [32]}, gamma=game.gamma, ent_coef=ALPHA, tau=0.05, **arguments
    )
    model.critic_target_tracker.configure(model.tau, 1, 0)  # as train() does
    generator = th.Generator().manual_seed(0)
    for parameter in model.actor.parameters():  # policies that are neither uniform nor alike
        parameter.data.copy_(th.randn(parameter.shape, generator=generator))
    start = [parameter.detach().clone() for parameter in model.actor.parameters()]
    batch = transitions(game, copies)
    with th.no_grad():
        for step in range(steps):
            for learner in model.updater.learners.values():
                learner.set_learning_rate(0.02 * (1 - step / steps) ** 2)
            model.update(batch, model.draw_noise(len(batch.actions)))
            for parameter, old in zip(model.actor.parameters(), start, strict=True):
                parameter[1:] = old[1:]
    policies = policies_of(model, game)
    floor = 0.0 if model.ce_floor == "none" else 0.05
    exact = agent_policy_iteration(game, policies, 0, ALPHA, model.ce_coef, model.ce_convention, floor)
    return model, exact, policies


@pytest.mark.thin(4)
@pytest.mark.parametrize(
    "cross_entropy",
    [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("floor") else []) for name in CROSS_ENTROPY],
)
def test_an_agents_policy_is_its_exact_best_response(cross_entropy: str) -> None:
    """To three hundredths in the probabilities, and of the largest Q."""
    game = random_game(n_agents=2, n_states=4, n_actions=3)
    model, exact, policies = solve(game, 600, 2, CROSS_ENTROPY[cross_entropy])
    going_on = ~game.terminal
    np.testing.assert_allclose(policies[0][going_on], exact.policy[going_on], atol=0.03)
    states = th.eye(game.n_states).unsqueeze(1).expand(-1, 2, -1)
    marginal_q = np.zeros_like(exact.policy)
    for action in range(game.n_actions):  # of the other agent
        with th.no_grad():
            q = model.critic.values(states, th.full((game.n_states, 2), action)).amin(dim=0)
        marginal_q += policies[1, :, action, None] * q[:, 0].numpy()
    tolerance = 0.03 * np.abs(exact.q).max()
    np.testing.assert_allclose(marginal_q[going_on], exact.marginal_q[going_on], atol=tolerance)


@pytest.mark.thin(3)
@pytest.mark.parametrize("cross_entropy", CROSS_ENTROPY)
def test_a_policy_of_a_one_state_game_is_the_closed_form(cross_entropy: str) -> None:
    """exp(Q/alpha) prod_j pi^j^(-beta/alpha) of three agents, to two hundredths."""
    game = random_game(n_agents=3, n_states=2, n_actions=3)
    transition = game.transition.copy()
    transition[0] = np.eye(2)[1]  # one action each, and it is over
    game = FiniteMarkovGame(transition, game.reward, game.gamma, game.terminal)
    model, exact, policies = solve(game, 300, 2, CROSS_ENTROPY[cross_entropy])
    eps = 0.0 if model.ce_floor == "none" else 0.05
    others = (1 - eps) * policies[1:, 0] + eps / 3
    beta = model.ce_coef if model.ce_convention == "objective" else -model.ce_coef
    q = np.einsum("abc,b,c->a", game.reward[0, 0], policies[1, 0], policies[2, 0])
    closed_form = np.exp((q - beta * np.log(others).sum(axis=0)) / ALPHA)
    np.testing.assert_allclose(exact.policy[0], closed_form / closed_form.sum(), rtol=1e-9)
    np.testing.assert_allclose(policies[0, 0], exact.policy[0], atol=0.02)
