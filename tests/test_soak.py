"""Long runs: memory does not grow once the replay buffer is full."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SpacesEnv, make
from stable_baselines3.common.callbacks import BaseCallback

from sb3_sac_variants import SACv2

STATM = Path("/proc/self/statm")


class Forgetful(SpacesEnv):
    """Keeps no list of all actions, which would grow."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.actions.clear()
        return super().step(action)


class Memory(BaseCallback):
    """Looks at this process's resident memory (in pages) every now and then: the peak would hide what others used."""

    def __init__(self) -> None:
        super().__init__()
        self.resident: list[int] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % 5_000 == 0:
            self.resident.append(int(STATM.read_text().split()[1]))
        return True


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="reads the resident memory where Linux tells it")
@pytest.mark.parametrize("kwargs", [{}, {"optimize_memory_usage": True}], ids=["plain", "stored once"])
def test_memory_stays_where_it_is(kwargs: dict[str, Any]) -> None:
    memory = Memory()
    # Few gradient steps, which take most of the time, but thousands all the same
    model = make(SACv2, Forgetful(truncate=True), buffer_size=5_000, train_freq=20, **kwargs)
    model.learn(100_000, callback=memory)
    settled = memory.resident[3:]  # the buffer is full, everything has happened once
    assert len(settled) == 17
    assert max(settled) <= 1.05 * settled[0], memory.resident
