"""What SB3's replay buffers have to be told when an episode is broken off."""

import warnings

from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer

from sb3_sac_variants.common.replay.buffers import TensorReplayBuffer


def end_trajectory(buffer: ReplayBuffer) -> None:
    """
    Say that the transition stored next does not follow the last one, because the environment is reset.

    :class:`TensorReplayBuffer` finds that out by itself. SB3's buffers that follow a trajectory from row to row do not.
    """
    if isinstance(buffer, TensorReplayBuffer) or buffer.size() == 0:
        return
    last = (buffer.pos - 1) % buffer.buffer_size
    if isinstance(buffer, HerReplayBuffer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is wanted here
            buffer.truncate_last_trajectory()
    elif isinstance(buffer, NStepReplayBuffer):
        buffer.timeouts[last] = (buffer.timeouts[last] > 0) | (buffer.dones[last] == 0)
    elif buffer.optimize_memory_usage:
        buffer.dones[last] = True
