"""
A task with two equally good answers, and a policy that can give both.

One step, reward high at the actions -0.6 and +0.6. A single Gaussian has to choose or to cover the middle; SACv1's
mixture policy, learned by the likelihood ratio, puts a component on each. Runs in about a minute.

    python examples/mixture_policy.py
"""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_sac_variants import SACv1


class TwoPeaks(gym.Env):
    """One-step episodes; the reward has peaks of the same height at -0.6 and +0.6."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = float(np.exp(-0.5 * ((np.abs(action[0]) - 0.6) / 0.1) ** 2))
        return np.zeros(1, np.float32), reward, True, False, {}


def main() -> None:
    for n_components in (1, 4):
        model = SACv1(
            "MlpPolicy",
            TwoPeaks(),
            learning_rate=3e-3,
            ent_coef=0.2,
            policy_gradient="likelihood_ratio",
            policy_kwargs={"net_arch": [32], "n_components": n_components},
            seed=0,
        )
        model.learn(6_000)
        actions, _ = model.predict(np.zeros((5_000, 1), np.float32), deterministic=False)
        counts, edges = np.histogram(actions, bins=10, range=(-1, 1))
        print(f"\n{n_components} component(s)")
        for count, left in zip(counts, edges[:-1], strict=True):
            print(f"{left:+.1f} {'#' * int(60 * count / counts.max())}")


if __name__ == "__main__":
    main()
