"""
Three agents learn to cover three landmarks without running into each other, and are filmed.

MASAC on SimpleSpread-v3, with the hyperparameters of ``hyperparams/masac.yml``; 20 000 steps take some minutes on one
core, the zoo's 100 000 look better. A return is summed over the agents: random ones have about -77, a scripted
assignment of landmarks about -18.

    pip install ".[multiagent]" pillow
    python examples/multi_agent.py --timesteps 20000 --ce-coef 0 --gif spread.gif
    python examples/multi_agent.py --discrete  # standing still, or one push in each of four directions

``--model`` films what has been trained already, by the zoo for one:

    python -m rl_zoo3.train --algo masac --env SimpleSpread-v3
    python examples/multi_agent.py --model logs/masac/SimpleSpread-v3_1/SimpleSpread-v3.zip
"""

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from sb3_sac_variants import MASAC


def train(env: VecEnv, timesteps: int, ce_coef: float) -> MASAC:
    """
    Train with the zoo's hyperparameters.

    :param env: four environments
    :param timesteps: environment steps
    :param ce_coef: coefficient of the cross-entropy: above 0 policies are driven apart, below 0 together
    :return: the trained model
    """
    model = MASAC(
        "MlpPolicy",
        env,
        learning_rate=1e-3,
        gamma=0.9,
        tau=0.01,
        batch_size=128,
        gradient_steps=4,
        ent_coef="auto_0.1",
        target_entropy="auto_0.5",  # of the actions' dimension, or of log|A| if they are discrete
        learning_starts=1000,
        ce_coef=ce_coef,
        policy_kwargs={"net_arch": [128, 128], "share_actor": True, "share_critic": True},
        seed=0,
        verbose=1,
    )
    return model.learn(timesteps, log_interval=100)


def film(model: MASAC, path: Path, episodes: int = 6) -> None:
    """
    Film some episodes.

    :param model: who acts
    :param path: of the GIF
    :param episodes: how many to show
    """
    continuous = isinstance(model.action_space, gym.spaces.Box)
    env = gym.make("SimpleSpread-v3", continuous_actions=continuous, render_mode="rgb_array")
    frames: list[np.ndarray] = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        over = False
        while not over:
            frames.append(env.render())
            action, _ = model.predict(observation, deterministic=True)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
        frames += [frames[-1]] * 5  # a moment to look at the end
    images = [Image.fromarray(frame).resize((350, 350)).quantize(32) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, loop=0, optimize=True)
    print(f"{episodes} episodes in {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, help="environment steps to train (default: 20000)")
    parser.add_argument("--ce-coef", type=float, help="coefficient of the cross-entropy (default: 0)")
    parser.add_argument("--discrete", action="store_true", help="discrete actions")
    parser.add_argument("--model", type=Path, help="a saved model to film, instead of training one")
    parser.add_argument("--gif", type=Path, default=Path("multi_agent.gif"))
    args = parser.parse_args()

    env = make_vec_env("SimpleSpread-v3", n_envs=4, env_kwargs={"continuous_actions": not args.discrete})
    if args.model is None:
        model = train(env, args.timesteps or 20_000, args.ce_coef or 0.0)
    elif args.timesteps is not None or args.ce_coef is not None:
        parser.error("--timesteps and --ce-coef are for training: leave them out with --model")
    else:
        model = MASAC.load(args.model, env=env, device="cpu")
    mean, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=100)
    print(f"Return summed over the agents, 100 deterministic episodes: {model.n_agents * mean:.1f}")
    film(model, args.gif)


if __name__ == "__main__":
    main()
