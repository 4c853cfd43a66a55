"""
Train SACv2 on Pendulum-v1 for about a minute, then look at what it has learned.

    python examples/train_and_inspect.py
"""

import gymnasium as gym
import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_sac_variants import SACv2


def main() -> None:
    model = SACv2("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, seed=0, verbose=1)
    model.learn(5_000, log_interval=5)

    mean, std = evaluate_policy(model, Monitor(gym.make("Pendulum-v1")), n_eval_episodes=10)
    print(f"Return over 10 deterministic episodes: {mean:.0f} +/- {std:.0f} (random: about -1200)")

    # V(s) over the angle, at rest: highest where the pendulum stands upright (angle 0)
    angles = np.linspace(-np.pi, np.pi, 9)
    observations = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1).astype(np.float32)
    for angle, value in zip(angles, model.soft_value(observations), strict=True):
        print(f"V(angle {np.degrees(angle):+5.0f} deg) = {value:8.1f}")


if __name__ == "__main__":
    main()
