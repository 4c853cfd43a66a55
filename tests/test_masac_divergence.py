"""The sign of the cross-entropy, by what it does: how far the policies of a small game are apart after training."""

import functools
from typing import Any

import pytest
import torch as th
from agents import AgentsEnv, make
from stable_baselines3.common.logger import Logger

from sb3_sac_variants import MASAC
from sb3_sac_variants.masac.cross_entropy import policy_divergence

ALPHA, UPDATES = 0.2, 300


def trained(**kwargs: Any) -> MASAC:
    """
    Two agents that each want their own action, 0.25 to the left and right of the middle, in episodes of one step.

    :param kwargs: arguments of the algorithm
    :return: the model, trained on random actions
    """
    env = AgentsEnv(n_agents=2, obs_dim=1, action_dim=1, targets=[-0.25, 0.25], episode_length=1)
    arguments = {"ent_coef": ALPHA, "learning_rate": 1e-2, "batch_size": 128, "buffer_size": 1000, "net_arch": [16]}
    model = make(env, **{**arguments, "learning_starts": 1000, **kwargs}).learn(500)
    model.set_logger(Logger(None, []))
    model.train(UPDATES, batch_size=128)
    return model


@functools.cache
def divergence(**kwargs: Any) -> float:
    """
    :param kwargs: arguments of the algorithm
    :return: Jensen-Shannon divergence between its trained policies, in nats
    """
    model, generator = trained(**kwargs), th.Generator().manual_seed(0)
    with th.no_grad():
        obs = th.zeros(2000, 2, 1)
        sample = model.actor.sample(obs, th.randn(2000, 2, 1, generator=generator))
        return policy_divergence(model.actor.log_densities(obs, sample, "theirs"), sample.weights).item()


@pytest.mark.slow
@pytest.mark.parametrize("ce_obs", ["theirs", "own"])
def test_the_objective_with_positive_beta_makes_policies_differ(ce_obs: str) -> None:
    apart, together = (divergence(ce_coef=beta, ce_obs=ce_obs) for beta in (0.15, -0.15))
    assert together < 0.7 * divergence() < divergence() < 0.7 * apart


def test_the_other_convention_turns_the_sign_around() -> None:
    similar = divergence(ce_coef=0.15, ce_obs="theirs", ce_convention="similarity")
    assert similar == divergence(ce_coef=-0.15, ce_obs="theirs")
