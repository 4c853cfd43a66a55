r"""
How many episodes of HalfCheetah-v5 end upside down? For models that the RL Zoo saved on the way (``--save-freq``).

``python benchmarks/learning/upside_down.py logs/sac_v1/HalfCheetah-v5_1/rl_model_*_steps.zip`` prints CSV: of each
model, with the mean action and with sampled ones, the episodes that end upside down, and the mean returns of these and
of the others. All play from the same 30 initial states. ``results/upside_down.csv`` has models of::

    python -m rl_zoo3.train --algo sac_v1 --env HalfCheetah-v5 -n 300000 --seed 1 --save-freq 10000 \
        --eval-freq 10000 --eval-episodes 10 --num-threads 1 --device cpu
"""

import argparse
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
from rl_zoo3.utils import ALGOS

from sb3_sac_variants.study.provenance import describe

EPISODES = 30
FIRST_SEED = 1000


def play(model: object, env: gym.Env, seed: int, deterministic: bool) -> tuple[float, bool]:
    """
    Play an episode.

    :param model: with ``predict``
    :param env: HalfCheetah
    :param seed: of the initial state
    :param deterministic: whether to take the mean action
    :return: its return, and whether the torso is upside down at its end
    """
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        action, _ = model.predict(observation, deterministic=deterministic)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, over = total + float(reward), terminated or truncated
    return total, bool(np.cos(env.unwrapped.data.qpos[2]) < 0)  # the angle of the torso


def main() -> None:
    """Let each model play, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="files of models, in a folder of the zoo")
    rows = []
    for file in parser.parse_args().models:
        model = ALGOS[file.parent.parent.name].load(file, device="cpu", buffer_size=1)
        model.set_random_seed(FIRST_SEED)
        env = gym.make("HalfCheetah-v5")
        step = int(re.findall(r"_(\d+)_steps", file.name)[0])
        for actions in ("mean", "sampled"):
            played = [play(model, env, FIRST_SEED + k, actions == "mean") for k in range(EPISODES)]
            returns, upside_down = map(pd.Series, zip(*played, strict=True))
            means = returns.groupby(upside_down).mean().round(1)
            row = {"algo": file.parent.parent.name, "step": step, "actions": actions, "episodes": EPISODES}
            row |= {"upside_down": upside_down.sum(), "return_upside_down": means.get(True)}
            rows.append(row | {"return_others": means.get(False)} | describe())
    pd.DataFrame(rows).sort_values(["algo", "step"], kind="stable").to_csv(sys.stdout, index=False)


if __name__ == "__main__":
    main()
