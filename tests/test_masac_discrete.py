"""What only discrete actions of several agents have; what both kinds have is with the continuous ones."""

import math
from typing import Any

import numpy as np
import pytest
import torch as th
from agents import KINDS, AgentsEnv, env_of, make, several
from gymnasium import spaces
from helpers import SpacesEnv, refused
from helpers import make as make_single
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from torch.nn import functional as F

from sb3_sac_variants import SACv2
from sb3_sac_variants.envs import IndependentAgents, MatrixGameEnv

N, OBS, ACTIONS = 3, 4, KINDS["discrete"]["n_actions"]


def discrete(*args: Any, **kwargs: Any) -> AgentsEnv:
    return env_of("discrete", *args, **kwargs)


def test_drawn_actions_are_as_frequent_as_their_probabilities() -> None:
    model = make(discrete())
    obs = th.randn(1, N, OBS, generator=th.Generator().manual_seed(1)).expand(20_000, -1, -1)
    with th.no_grad():
        sample = model.actor.sample(obs, th.randn(20_000, N, generator=th.Generator().manual_seed(0)))
    frequencies = F.one_hot(sample.actions, ACTIONS).double().mean(dim=0)
    th.testing.assert_close(frequencies, sample.weights[0].double(), atol=0.015, rtol=0)
    extremes = model.actor.sample(obs[:2], th.tensor([[-40.0] * N, [40.0] * N])).actions
    assert extremes.tolist() == [[0] * N, [ACTIONS - 1] * N]


def test_a_q_does_not_depend_on_the_agents_own_action() -> None:
    model = make(discrete())
    rng = np.random.default_rng(3)
    obs = th.tensor(rng.normal(size=(6, N, OBS)), dtype=th.float32)
    actions = th.tensor(rng.integers(0, ACTIONS, (6, N)))
    changed = actions.clone()
    changed[:, 0] = (changed[:, 0] + 1) % ACTIONS
    with th.no_grad():
        one, other = model.critic.values(obs, actions), model.critic.values(obs, changed)
    assert th.equal(one[:, :, 0], other[:, :, 0])
    assert (one[:, :, 1:] != other[:, :, 1:]).any(dim=3).all()


@pytest.mark.parametrize("target", [-1.0, 0.0, 1.7, "auto_1.1", "auto_x"])
def test_an_entropy_that_no_policy_has_is_refused(target: Any) -> None:
    with refused(ValueError, "target_entropy", target, "pass 'auto'"):
        make(discrete(), target_entropy=target)


def test_the_deterministic_action_is_the_likeliest() -> None:
    model = make(discrete())
    obs = np.random.default_rng(0).normal(size=(5, N, OBS)).astype(np.float32)
    with th.no_grad():
        likely = model.actor.log_prob(th.tensor(obs)).argmax(dim=2).numpy()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], likely)


def test_values_are_those_of_each_agent() -> None:
    model = make(discrete(), ent_coef=0.5, ce_coef=0.1)
    obs = np.random.default_rng(0).normal(size=(4, N, OBS)).astype(np.float32)
    actions, _ = model.predict(obs)
    tensors = th.tensor(obs), th.tensor(actions)
    with th.no_grad():
        q = model.critic.values(*tensors).amin(dim=0)
        own = q.gather(2, tensors[1].unsqueeze(2)).squeeze(2)
        probabilities = model.actor.log_prob(tensors[0]).exp()
    np.testing.assert_allclose(model.q_value(obs, actions), own.numpy(), rtol=1e-5)
    # The exact value of agent 0, over all joint actions of the others
    bonus = -0.1 * (0.95 * probabilities[:, 1:] + 0.05 / ACTIONS).log().sum(dim=1)
    exact = th.zeros(4)
    for first, second in np.ndindex(ACTIONS, ACTIONS):
        joint = th.tensor([0, first, second]).expand(4, -1)
        with th.no_grad():
            q = model.critic.values(tensors[0], joint).amin(dim=0)[:, 0]
        weight = probabilities[:, 1, first] * probabilities[:, 2, second]
        own = probabilities[:, 0]
        exact += weight * (own * (q - 0.5 * own.log() + bonus)).sum(dim=1)
    np.testing.assert_allclose(model.soft_value(obs, n_samples=500)[:, 0], exact.numpy(), atol=5e-3)


def test_it_learns_each_agents_best_action() -> None:
    env = Monitor(discrete(2, targets=[-1.0, 0.5], episode_length=1))
    model = make(env, ent_coef=0.05, learning_rate=1e-2, batch_size=32, buffer_size=1000).learn(300)
    obs = np.stack([env.observation_space.sample() for _ in range(20)])
    actions, _ = model.predict(obs, deterministic=True)
    assert (actions == [0, 3]).all()
    assert evaluate_policy(model, env, n_eval_episodes=3)[0] == pytest.approx(0)


def test_a_single_agents_algorithm_learns_for_all() -> None:
    env = IndependentAgents(several(2, n_actions=ACTIONS, targets=[-1.0, -1.0, -1.0], episode_length=1))
    assert env.action_space == spaces.Discrete(ACTIONS)
    arguments = {"ent_coef": 0.02, "learning_rate": 1e-2, "batch_size": 32, "buffer_size": 3000}
    model = make_single(SACv2, env, gradient_steps=1, **arguments).learn(900)
    assert model.replay_buffer.sample(10).actions.shape == (10, 1)
    assert (model.predict(env.reset(), deterministic=True)[0] == 0).all()


# ---------------------------------------------------------------- why there is a floor by default


def log_odds_after_driving_each_other_apart(ce_floor: str) -> float:
    """
    Two agents of two actions that nothing but the cross-entropy tells apart, with beta = 1.5 alpha.

    :param ce_floor: argument of MASAC
    :return: of the first action against the second, the larger one of both agents
    """
    env = MatrixGameEnv(np.zeros((2, 2)))
    arguments = {"ent_coef": 0.2, "ce_coef": 0.3, "learning_rate": 0.02, "batch_size": 16, "net_arch": [16]}
    model = make(env, ce_floor=ce_floor, learning_starts=100, **arguments).learn(50)
    model.set_logger(Logger(None, []))
    model.train(400, batch_size=16)
    with th.no_grad():
        log_prob = model.actor.log_prob(th.ones(1, 2, 1))[0]
    return (log_prob[:, 0] - log_prob[:, 1]).abs().max().item()


def test_a_floor_bounds_what_agents_do_to_each_other() -> None:
    """Each one's best log-odds are -beta/alpha times the other's: without a floor they grow as long as one trains."""
    bound = 1.5 * math.log((0.95 + 0.025) / 0.025)
    assert log_odds_after_driving_each_other_apart("product") < bound + 0.1
    assert log_odds_after_driving_each_other_apart("none") > 2 * bound


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "actions",
    [
        spaces.MultiDiscrete([3, 4]),
        spaces.MultiDiscrete([3, 3], start=[1, 1]),
        spaces.MultiDiscrete([[3, 3], [3, 3]]),
    ],
    ids=str,
)
def test_agents_with_unlike_actions_are_refused(actions: spaces.Space) -> None:
    with pytest.raises(ValueError, match=r"(?s)action_space=.*same actions, numbered from 0.*ParallelEnvAdapter"):
        make(SpacesEnv(spaces.Box(-1.0, 1.0, (2, 3)), actions))


def test_what_is_for_continuous_actions_is_refused() -> None:
    with pytest.raises(ValueError, match="action_noise"):
        make(discrete(), action_noise=NormalActionNoise(np.zeros(N), np.ones(N)))
    with refused(ValueError, "ce_floor", "none", "pass 'product' or 'joint'"):
        make(ce_floor="none")
