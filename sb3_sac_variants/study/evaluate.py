"""Let the saved model of a zoo run play, and keep the returns beside it; started by the study after each training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch as th
import yaml
from huggingface_sb3 import EnvironmentName  # type: ignore[import-untyped]
from rl_zoo3.utils import ALGOS, create_test_env, get_model_path, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed

from sb3_sac_variants.study.run_folder import ZooLoader, read_json, write_json


def evaluate_run(
    folder: Path,
    algo: str,
    env_id: str,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    params: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> tuple[Any, Any]:
    """Load the last model of a zoo run, with its wrappers and normalisation, and let it play.

    :param folder: The zoo's log folder
    :param params: Hyperparameters that differ from those of training: ``env_wrapper``, ``env_kwargs``
    :return: Returns and lengths of the episodes; rewards are the environment's own, not normalised ones
    """
    set_random_seed(seed)
    env_name = EnvironmentName(env_id)
    _, model_path, log_path = get_model_path(1, str(folder), algo, env_name)
    stats_folder = Path(log_path) / env_name
    hyperparams, stats_path = get_saved_hyperparams(str(stats_folder), test_mode=True)
    arguments = yaml.load((stats_folder / "args.yml").read_text(encoding="utf-8"), Loader=ZooLoader)
    env_kwargs = arguments["env_kwargs"] or hyperparams.get("env_kwargs") or {}
    hyperparams.update(params or {})
    env_kwargs |= hyperparams.pop("env_kwargs", {})
    env = create_test_env(env_id, stats_path=stats_path, seed=seed, should_render=False, hyperparams=hyperparams,
                          env_kwargs=env_kwargs)  # fmt: skip
    # The replay buffer stays empty; optimize_memory_usage would refuse to load with the default buffer.
    replay: dict[str, Any] = (
        {"buffer_size": 1, "optimize_memory_usage": False} if issubclass(ALGOS[algo], OffPolicyAlgorithm) else {}
    )
    model = ALGOS[algo].load(model_path, env=env, device=device, **replay)
    vec_env: Any = model.get_env()
    played = evaluate_policy(model, vec_env, episodes, deterministic=deterministic, return_episode_rewards=True)
    vec_env.close()
    return played


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="log folder of the zoo run")
    parser.add_argument("--algo", required=True, choices=sorted(ALGOS))
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plays", type=json.loads, required=True, help="JSON: name to episodes, deterministic, params")
    args = parser.parse_args()
    th.set_num_threads(args.threads)
    file = args.folder / "plays.json"
    for name, play in args.plays.items():
        returns, lengths = evaluate_run(args.folder, args.algo, args.env, seed=args.seed, device=args.device, **play)
        played = {**play, "seed": args.seed, "returns": list(map(float, returns)), "lengths": list(map(int, lengths))}
        write_json(file, {**read_json(file), name: played})
        print(f"{name}: mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes", flush=True)


if __name__ == "__main__":
    main()
