"""Evaluate the saved model of a zoo run and write the returns to a JSON file beside it.

``python final_evaluation.py FOLDER --algo sac_v2 --env Pendulum-v1 --episodes 50`` looks at the run that
``rl_zoo3.train ... -f FOLDER`` has made. The harness starts it after each training.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch as th
import yaml
from huggingface_sb3 import EnvironmentName  # type: ignore[import-untyped]
from rl_zoo3.utils import ALGOS, create_test_env, get_model_path, get_saved_hyperparams
from run_folder import ZooLoader, write_json
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed


def evaluate_run(
    folder: Path, algo: str, env_id: str, episodes: int, seed: int, deterministic: bool, device: str
) -> tuple[list[float], list[int]]:
    """Load the last model of a zoo run, with its wrappers and normalisation, and let it play.

    :param folder: The zoo's log folder
    :param algo: Algorithm id in the zoo
    :param env_id: Gymnasium id
    :param episodes: Number of episodes
    :param seed: Seed of the environment and of the policy's noise
    :param deterministic: Whether the policy acts without noise
    :param device: PyTorch device
    :return: Returns and lengths of the episodes; rewards are the environment's own, not normalised ones
    """
    set_random_seed(seed)
    env_name = EnvironmentName(env_id)
    _, model_path, log_path = get_model_path(1, str(folder), algo, env_name)
    stats_folder = Path(log_path) / env_name
    hyperparams, stats_path = get_saved_hyperparams(str(stats_folder), test_mode=True)
    arguments = yaml.load((stats_folder / "args.yml").read_text(encoding="utf-8"), Loader=ZooLoader)
    env_kwargs = arguments["env_kwargs"] or hyperparams.pop("env_kwargs", {})
    env = create_test_env(
        env_id,
        stats_path=stats_path,
        seed=seed,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=env_kwargs,
    )
    load_kwargs: dict[str, Any] = {}
    if issubclass(ALGOS[algo], OffPolicyAlgorithm):
        # The replay buffer stays empty; optimize_memory_usage would refuse to load with the default buffer.
        load_kwargs = {"buffer_size": 1, "optimize_memory_usage": False}
    model = ALGOS[algo].load(model_path, env=env, device=device, **load_kwargs)
    eval_env = model.get_env()
    assert eval_env is not None
    returns, lengths = evaluate_policy(
        model, eval_env, n_eval_episodes=episodes, deterministic=deterministic, return_episode_rewards=True
    )
    eval_env.close()
    assert isinstance(returns, list)
    assert isinstance(lengths, list)
    return [float(value) for value in returns], [int(value) for value in lengths]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="log folder of the zoo run")
    parser.add_argument("--algo", required=True, choices=sorted(ALGOS))
    parser.add_argument("--env", required=True)
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stochastic", action="store_true", help="sample actions")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    th.set_num_threads(1)
    returns, lengths = evaluate_run(
        args.folder, args.algo, args.env, args.episodes, args.seed, not args.stochastic, args.device
    )
    result = {"deterministic": not args.stochastic, "seed": args.seed, "returns": returns, "lengths": lengths}
    write_json(args.folder / "final_evaluation.json", result)
    print(f"Final evaluation of {len(returns)} episodes: mean return {sum(returns) / len(returns):.2f}")


if __name__ == "__main__":
    main()
