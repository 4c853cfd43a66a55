"""What several agents ask of the environment and of the arguments: every error names the value and the remedy."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants.common.checks.compatibility import check_subclass
from sb3_sac_variants.common.checks.validation import as_float
from sb3_sac_variants.common.gradient_step.target_entropy import parse_target_entropy
from sb3_sac_variants.masac.buffers import AgentReplayBuffer

_ADAPTER = (
    "wrap a PettingZoo ParallelEnv in sb3_sac_variants.envs.ParallelEnvAdapter, or train a single agent with SACv2"
)


def check_agent_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Refuse spaces without a row for each agent: observations Box (N, d), actions Box (N, D) or MultiDiscrete."""
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 2:
        raise ValueError(
            f"observation_space={observation_space} has no row for each agent: MASAC needs a Box of shape "
            f"(n_agents, d), {_ADAPTER}"
        )
    if isinstance(action_space, spaces.MultiDiscrete):
        if action_space.nvec.ndim != 1 or np.ptp(action_space.nvec) or np.any(action_space.start):
            raise ValueError(
                f"action_space={action_space} does not give every agent the same actions, numbered from 0: MASAC "
                f"needs MultiDiscrete([n] * n_agents), {_ADAPTER}"
            )
    elif not isinstance(action_space, spaces.Box) or len(action_space.shape) != 2:
        raise ValueError(
            f"action_space={action_space} has no row for each agent: MASAC needs a Box of shape (n_agents, d), or "
            f"MultiDiscrete([n] * n_agents), {_ADAPTER}"
        )
    if observation_space.shape[0] != action_space.shape[0]:
        raise ValueError(
            f"observation_space={observation_space} and action_space={action_space} have rows for different numbers of "
            f"agents: {_ADAPTER}"
        )


def check_reward_normalization(env: VecNormalize | None) -> None:
    """Refuse a ``VecNormalize`` that is to normalise rewards."""
    if env is not None and env.norm_reward:
        raise ValueError(
            "VecNormalize with norm_reward=True knows the mean of the agents' rewards only, and cannot normalise each: "
            "pass norm_reward=False, and reward_scale to MASAC where rewards are large"
        )


def check_agent_replay_buffer(model: Any) -> None:
    """Refuse replay buffers without room for the agents' rewards."""
    buffer_class = model.replay_buffer_class
    if buffer_class is None:
        return
    remedy = "leave it out, or pass a subclass of sb3_sac_variants.masac.AgentReplayBuffer"
    check_subclass("replay_buffer_class", buffer_class, object, remedy)
    if not issubclass(buffer_class, AgentReplayBuffer):
        raise ValueError(f"replay_buffer_class={buffer_class.__name__} stores one reward for all agents: {remedy}")


def space_of_one_agent(action_space: spaces.Space) -> spaces.Box | spaces.Discrete:
    """Actions of one agent, as its policy gives them: Box of [-1, 1], or Discrete."""
    if isinstance(action_space, spaces.MultiDiscrete):
        return spaces.Discrete(int(action_space.nvec[0]))
    assert isinstance(action_space, spaces.Box)
    return spaces.Box(-1.0, 1.0, action_space.shape[1:], dtype=np.float32)


def parse_agent_target_entropy(target_entropy: Any, action_space: spaces.Space) -> float:
    """
    Read the argument ``target_entropy`` as H of each agent, in nats.

    :param target_entropy: as :class:`~sb3_sac_variants.MASAC` says
    :param action_space: of all agents
    :raises ValueError: if it is none of these, or no policy has it
    """
    one = space_of_one_agent(action_space)
    if isinstance(one, spaces.Box) and isinstance(target_entropy, str) and target_entropy.startswith("auto_"):
        dim = one.shape[0]
        try:
            return parse_target_entropy(-dim * as_float(target_entropy[len("auto_") :]), one)
        except ValueError as error:
            raise ValueError(
                f"target_entropy={target_entropy!r} is not known: pass 'auto', 'auto_<factor>' with a factor of "
                f"-dim(A), which is {-dim} for each agent, or a number (nats)"
            ) from error
    return parse_target_entropy(target_entropy, one)
