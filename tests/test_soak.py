"""Long runs: memory does not grow once the replay buffer is full."""

import resource
from typing import Any

import pytest
from helpers import SpacesEnv, make
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sac_variants import SACv2


class Memory(BaseCallback):
    """Looks at the peak of this process's resident memory every now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.resident: list[int] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % 5_000 == 0:
            self.resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return True


@pytest.mark.slow
@pytest.mark.parametrize("kwargs", [{}, {"optimize_memory_usage": True}], ids=["plain", "stored once"])
def test_memory_stays_where_it_is(kwargs: dict[str, Any]) -> None:
    memory = Memory()
    model = make(SACv2, SpacesEnv(truncate=True), buffer_size=5_000, train_freq=4, **kwargs)
    model.learn(100_000, callback=memory)
    settled = memory.resident[3:]  # the buffer is full, everything has happened once
    assert len(settled) == 17
    assert max(settled) <= 1.05 * settled[0]
