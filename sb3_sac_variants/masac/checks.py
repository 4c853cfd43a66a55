"""What several agents ask of the environment and of the arguments: every error names the value and the remedy."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants.common.checks.compatibility import check_subclass
from sb3_sac_variants.common.gradient_step.target_entropy import parse_target_entropy
from sb3_sac_variants.masac.buffers import AgentReplayBuffer

_ADAPTER = (
    "wrap a PettingZoo ParallelEnv in sb3_sac_variants.envs.ParallelEnvAdapter, or train a single agent with SACv2"
)


def check_agent_spaces(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param observation_space: of the environment
    :param action_space: of the environment
    :raises ValueError: if they are no Boxes of shape (n_agents, d)
    """
    if isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(
            f"MASAC does not support action_space={action_space}: its actors are Gaussian, create the environment with "
            "continuous actions (for the MPE environments, continuous_actions=True)"
        )
    for name, space in (("observation_space", observation_space), ("action_space", action_space)):
        if not isinstance(space, spaces.Box) or len(space.shape) != 2:
            raise ValueError(
                f"{name}={space} has no row for each agent: MASAC needs a Box of shape (n_agents, d), {_ADAPTER}"
            )
    assert observation_space.shape is not None
    assert action_space.shape is not None
    if observation_space.shape[0] != action_space.shape[0]:
        raise ValueError(
            f"observation_space={observation_space} and action_space={action_space} have rows for different numbers of "
            f"agents: {_ADAPTER}"
        )


def check_reward_normalization(env: VecNormalize | None) -> None:
    """
    :param env: the wrapper, if there is one
    :raises ValueError: if it is to normalise rewards
    """
    if env is not None and env.norm_reward:
        raise ValueError(
            "VecNormalize with norm_reward=True knows the mean of the agents' rewards only, and cannot normalise each: "
            "pass norm_reward=False, and reward_scale to MASAC where rewards are large"
        )


def check_agent_replay_buffer(model: Any) -> None:
    """
    :param model: a MASAC whose arguments are set
    :raises TypeError: if its replay buffer is no class of them
    :raises ValueError: if its replay buffer has no room for the agents' rewards
    """
    buffer_class = model.replay_buffer_class
    if buffer_class is None:
        return
    check_subclass("replay_buffer_class", buffer_class, object)
    if not issubclass(buffer_class, AgentReplayBuffer):
        raise ValueError(
            f"replay_buffer_class={buffer_class.__name__} stores one reward for all agents: leave it out, or pass a "
            "subclass of sb3_sac_variants.masac.AgentReplayBuffer"
        )


def parse_agent_target_entropy(target_entropy: Any, action_space: spaces.Box) -> float:
    """
    :param target_entropy: "auto" for -D, "auto_<factor>" for that times the factor, or a number of nats
    :param action_space: of all agents, Box ``(N, D)``
    :return: H of each agent, in nats
    :raises ValueError: if it is none of these, or no policy has it
    """
    dim = action_space.shape[1]
    if isinstance(target_entropy, str) and target_entropy.startswith("auto_"):
        try:
            return parse_target_entropy(-dim * float(target_entropy[len("auto_") :]), _one_agent(action_space))
        except ValueError as error:
            raise ValueError(
                f"target_entropy={target_entropy!r} is not known: pass 'auto', 'auto_<factor>' with a factor of "
                f"-dim(A), which is {-dim} for each agent, or a number (nats)"
            ) from error
    return parse_target_entropy(target_entropy, _one_agent(action_space))


def _one_agent(action_space: spaces.Box) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, action_space.shape[1:], dtype=np.float32)
