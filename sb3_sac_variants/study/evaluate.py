"""Let the saved model of a zoo run play, and keep the returns beside it; started by the study after each training."""

import importlib
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import torch as th
import yaml
from huggingface_sb3 import EnvironmentName  # type: ignore[import-untyped]
from rl_zoo3.utils import ALGOS, create_test_env, get_model_path, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed

from sb3_sac_variants.study.run_folder import ZooLoader, read_json, write_json


def play(wanted: dict[str, Any], episodes: int, deterministic: bool, params: dict[str, Any]) -> dict[str, Any]:
    """Let the last model of a zoo run play, with its wrappers and normalisation; returns are the environment's own.

    :param params: Hyperparameters that differ from those of training: ``env_wrapper``, ``env_kwargs``
    """
    set_random_seed(wanted["seed"])
    env_name, algo = EnvironmentName(wanted["env"]), ALGOS[wanted["algo"]]
    _, model_path, log_path = get_model_path(1, wanted["folder"], wanted["algo"], env_name)
    stats_folder = Path(log_path) / env_name
    hyperparams, stats_path = get_saved_hyperparams(str(stats_folder), test_mode=True)
    arguments = yaml.load((stats_folder / "args.yml").read_text(encoding="utf-8"), Loader=ZooLoader)
    env_kwargs = arguments["env_kwargs"] or hyperparams.get("env_kwargs") or {}
    hyperparams.update(params)
    env_kwargs |= hyperparams.pop("env_kwargs", {})
    env = create_test_env(wanted["env"], stats_path=stats_path, seed=wanted["seed"], should_render=False,
                          hyperparams=hyperparams, env_kwargs=env_kwargs)  # fmt: skip
    # The replay buffer stays empty; optimize_memory_usage would refuse to load with the default buffer.
    replay: Any = {"buffer_size": 1, "optimize_memory_usage": False} if issubclass(algo, OffPolicyAlgorithm) else {}
    model = algo.load(model_path, env=env, device=wanted["device"], **replay)
    vec_env: Any = model.get_env()
    played: Any = evaluate_policy(model, vec_env, episodes, deterministic=deterministic, return_episode_rewards=True)
    vec_env.close()
    return {"returns": [*map(float, played[0])], "lengths": [*map(int, played[1])]}


def main() -> None:
    """Make the evaluations that the only argument asks for, as YAML."""
    wanted = yaml.safe_load(sys.argv[1])
    th.set_num_threads(wanted["threads"])
    for module in wanted["modules"]:  # so that the model may name their classes
        importlib.import_module(module)
    file = Path(wanted["folder"], "plays.json")
    for name, how in wanted["plays"].items():
        played = play(wanted, **how)
        write_json(file, {**read_json(file), name: {**how, "seed": wanted["seed"], **played}})
        print(f"{name}: mean return {fmean(played['returns']):.2f} over {how['episodes']} episodes", flush=True)


if __name__ == "__main__":
    main()
