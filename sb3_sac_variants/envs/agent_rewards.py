"""Where environments of several agents put what is each agent's own, and what is wrong if it is not there."""

from __future__ import annotations

from typing import Any

import numpy as np

#: the keys in ``info``: each agent's reward, and the one number that the environment gives for them
AGENT_REWARDS, MEAN_REWARD = "agent_rewards", "mean_reward"
#: which agents terminate or are truncated in this step
AGENT_TERMINATIONS, AGENT_TRUNCATIONS = "agent_terminations", "agent_truncations"


def as_numbers(values: Any, count: int, dtype: type[np.floating]) -> np.ndarray | None:
    """
    Make an array of what should be numbers.

    :param values: anything
    :param count: how many there must be
    :param dtype: of the array
    :return: the array, ``(count,)``; None if they are something else
    """
    try:
        array = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError):  # ragged, or no numbers
        return None
    return array if array.shape == (count,) else None


def read_agent_rewards(info: dict[str, Any], n_agents: int, reward: float) -> np.ndarray:
    """
    Read each agent's own reward from what an environment said of a step.

    :param info: of one environment
    :param n_agents: number of agents N
    :param reward: the one number that came for all of them
    :return: float32, ``(N,)``
    :raises ValueError: if there are no rewards in it, or not N finite numbers; if a wrapper has changed ``reward`` only
    """
    remedy = (
        "wrap a PettingZoo ParallelEnv in sb3_sac_variants.envs.ParallelEnvAdapter, or have the environment put an "
        "array of the agents' rewards there"
    )
    if AGENT_REWARDS not in info:
        raise ValueError(f"info has no {AGENT_REWARDS!r}, only {sorted(map(str, info))}: {remedy}")
    rewards = as_numbers(info[AGENT_REWARDS], n_agents, np.float32)
    if rewards is not None and not np.isfinite(rewards).all():
        agents = ", ".join(map(str, np.flatnonzero(~np.isfinite(rewards))))
        raise ValueError(
            f"info[{AGENT_REWARDS!r}]={rewards} is not finite for agent {agents}: mend the rewards of the environment"
        )
    if rewards is None:
        raise ValueError(
            f"info[{AGENT_REWARDS!r}]={info[AGENT_REWARDS]!r} must be {n_agents} numbers, one for each agent: {remedy}"
        )
    given = info.get(MEAN_REWARD, reward)
    # As float32, which vectorised environments make of rewards; a wrapper may change those of the agents as well
    if np.float32(reward) != np.float32(given) and not np.isclose(reward, rewards.mean()):
        raise ValueError(
            f"a wrapper made reward={reward} of {given}, the mean over the agents, who learn from their own rewards "
            f"info[{AGENT_REWARDS!r}]={rewards}: change those inside, in the PettingZoo environment, or let the "
            "wrapper change them, too"
        )
    return rewards
