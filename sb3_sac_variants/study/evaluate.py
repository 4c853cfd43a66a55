"""Let the saved model of a zoo run play, and keep the returns beside it; started by the study after each training."""

import json
import sys
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
    folder: str,
    algo: str,
    env_id: str,
    device: str,
    seed: int,
    episodes: int,
    deterministic: bool,
    params: dict[str, Any],
) -> tuple[Any, Any]:
    """Load the last model of a zoo run, with its wrappers and normalisation, and let it play.

    :param folder: The zoo's log folder
    :param params: Hyperparameters that differ from those of training: ``env_wrapper``, ``env_kwargs``
    :return: Returns and lengths of the episodes; rewards are the environment's own, not normalised ones
    """
    set_random_seed(seed)
    env_name = EnvironmentName(env_id)
    _, model_path, log_path = get_model_path(1, folder, algo, env_name)
    stats_folder = Path(log_path) / env_name
    hyperparams, stats_path = get_saved_hyperparams(str(stats_folder), test_mode=True)
    arguments = yaml.load((stats_folder / "args.yml").read_text(encoding="utf-8"), Loader=ZooLoader)
    env_kwargs = arguments["env_kwargs"] or hyperparams.get("env_kwargs") or {}
    hyperparams.update(params)
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
    """Make the evaluations that the JSON text of the only argument asks for."""
    wanted = json.loads(sys.argv[1])
    th.set_num_threads(wanted["threads"])
    for name, play in wanted["plays"].items():
        returns, lengths = evaluate_run(*(wanted[key] for key in ("folder", "algo", "env", "device", "seed")), **play)
        played = {**play, "seed": wanted["seed"], "returns": [*map(float, returns)], "lengths": [*map(int, lengths)]}
        file = Path(wanted["folder"], "plays.json")
        write_json(file, {**read_json(file), name: played})
        print(f"{name}: mean return {sum(returns) / len(returns):.2f} over {len(returns)} episodes", flush=True)


if __name__ == "__main__":
    main()
