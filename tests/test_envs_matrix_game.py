"""Matrix games, and MASAC in the penalty game beside the exact solution."""

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from agents import make
from gymnasium.utils.env_checker import check_env
from helpers import refused

from sb3_sac_variants import MASAC
from sb3_sac_variants.envs import MatrixGameEnv, register_envs
from sb3_sac_variants.tabular import FiniteMarkovGame, alternating_improvement

register_envs()


@pytest.mark.filterwarnings("error")
def test_gymnasium_checker_passes_without_a_warning() -> None:
    check_env(gym.make("PenaltyGame-v0", render_mode="rgb_array").unwrapped)


def test_payoffs_are_shared() -> None:
    payoff = np.arange(8.0).reshape(2, 2, 2)
    env = MatrixGameEnv(payoff)
    for joint in np.ndindex(2, 2, 2):
        env.reset()
        _, reward, terminated, truncated, info = env.step(np.array(joint))
        assert (reward, terminated, truncated) == (payoff[joint], True, False)
        assert info["agent_rewards"].tolist() == [reward] * 3


@pytest.mark.parametrize("payoff", [1.0, [[1, 2, 3], [4, 5, 6]], [[1, float("nan")], [0, 1]]], ids=str)
def test_payoffs_of_a_wrong_kind_are_refused(payoff: object) -> None:
    with refused(ValueError, "payoff", payoff, "an axis of the same length for each agent"):
        MatrixGameEnv(payoff)


@pytest.mark.parametrize("payoff", [[["a", "b"], ["c", "d"]], [[1, 2], [3]], np.zeros((0, 0)), None, 10**400])
def test_what_is_no_payoff_is_refused(payoff: object) -> None:
    with pytest.raises(ValueError, match=r"(?s)payoff=.* must be finite numbers, with an axis"):
        MatrixGameEnv(payoff)


@pytest.mark.parametrize("action", [[3, 0], [-1, 0], [1], [0.5, 0], 1], ids=str)
def test_actions_that_the_game_does_not_have_are_refused(action: object) -> None:
    env = MatrixGameEnv()
    env.reset()
    with refused(ValueError, "action", np.array(action), "whole numbers from 0 to 2, one for each of 2 agents"):
        env.step(np.array(action))


def test_a_game_is_played_once_after_each_reset() -> None:
    env = MatrixGameEnv()
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        env.step(np.array([1, 1]))
    env.reset()
    env.step(np.array([1, 1]))
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\)"):
        env.step(np.array([1, 1]))


def test_the_frame_is_the_table_of_payoffs_with_what_was_played_last() -> None:
    env = MatrixGameEnv([[1, 0], [-1, 0.5]], render_mode="rgb_array")
    env.reset()
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((480, 480, 3), np.uint8)
    assert frame[::240, ::240].tolist() == [[[0, 230, 0], [230, 230, 230]], [[230, 0, 0], [115, 230, 115]]]
    env.step(np.array([1, 0]))
    for _ in range(2):  # before and after the next reset
        marked = env.render()
        assert (marked != frame).any(axis=-1)[240:, :240].sum() == 240**2 - 192**2
        assert (marked == frame)[:240].all()
        assert (marked == frame)[:, 240:].all()
        env.reset()


@pytest.mark.parametrize("shape", [(1,), (2, 2, 2), (30, 30, 30)], ids=str)
def test_all_games_can_be_drawn(shape: tuple[int, ...]) -> None:
    env = MatrixGameEnv(np.zeros(shape), render_mode="rgb_array")
    env.reset()
    env.step(np.full(env.n_agents, env.payoff.shape[0] - 1))
    height, width, _ = env.render().shape
    assert height % 2 == width % 2 == 0


def test_render_modes() -> None:
    assert MatrixGameEnv().render() is None
    with refused(ValueError, "render_mode", "human", 'gymnasium.make("PenaltyGame-v0", render_mode="human")'):
        MatrixGameEnv(render_mode="human")


def test_agents_with_a_single_action_learn_and_are_loaded(tmp_path: Path) -> None:
    """No policy has an entropy but 0, which is then the target, too."""
    model = make(MatrixGameEnv(np.zeros((1, 1)))).learn(10)
    assert model.target_entropy == 0
    model.save(tmp_path / "model")
    assert MASAC.load(tmp_path / "model").target_entropy == 0


def markov_game(env: MatrixGameEnv) -> FiniteMarkovGame:
    """One state in which the game is played, and one in which it is over."""
    transition = np.zeros((2, *env.payoff.shape, 2))
    transition[..., 1] = 1
    reward = np.zeros((env.n_agents, 2, *env.payoff.shape))
    reward[:, 0] = env.payoff
    return FiniteMarkovGame(transition, reward, 0.9, [False, True])


def test_the_oracle_knows_two_good_equilibria_and_a_safe_one() -> None:
    game = markov_game(MatrixGameEnv())
    for action in range(3):
        start = np.full((2, 2, 3), 0.01)
        start[:, :, action] = 0.98
        policies = alternating_improvement(game, 0.5, initial_policies=start).policies[:, 0]
        assert (policies.argmax(axis=1) == action).all()


@pytest.mark.slow
def test_masac_ends_where_each_policy_answers_the_other() -> None:
    """A fixed point of the exact improvement, to three hundredths; which one is a matter of the start."""
    env = gym.make("PenaltyGame-v0")
    model = make(env, ent_coef=2.0, learning_rate=1e-2, batch_size=64, buffer_size=2000, net_arch=[32])
    model.learn(800)
    with th.no_grad():
        policies = model.actor.log_prob(th.ones(1, 2, 1)).exp()[0].double().numpy()
    payoff = MatrixGameEnv().payoff
    for own, other, table in ((0, 1, payoff), (1, 0, payoff.T)):
        response = np.exp((table @ policies[other]) / 2.0)
        np.testing.assert_allclose(policies[own], response / response.sum(), atol=0.03)
