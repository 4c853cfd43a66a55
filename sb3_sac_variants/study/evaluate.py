"""Let the saved model of a run play, and note the returns; started by the study after each training."""

import importlib
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import rl_zoo3.import_envs  # noqa: F401
import torch as th
import yaml
from rl_zoo3.utils import ALGOS, create_test_env, get_saved_hyperparams
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_sac_variants.study.run_folder import RunFolder
from sb3_sac_variants.study.studies import Run


def play(
    folder: RunFolder, device: str, seed: int, episodes: int, deterministic: bool, params: dict[str, Any]
) -> dict[str, Any]:
    """Let the model play as a run's ``plays()`` say, with its wrappers; returns are the environment's own."""
    algo = ALGOS[folder.run.algo]
    hyperparams, stats_path = get_saved_hyperparams(str(folder.zoo / folder.run.env_name), test_mode=True)
    env_kwargs = (hyperparams.get("env_kwargs") or {}) | (params.get("env_kwargs") or {})
    env = create_test_env(folder.run.env, stats_path=stats_path, should_render=False, hyperparams=hyperparams | params,
                          env_kwargs=env_kwargs)  # fmt: skip
    # The replay buffer stays empty; optimize_memory_usage would refuse to load with the default buffer.
    replay: Any = {"buffer_size": 1, "optimize_memory_usage": False} if issubclass(algo, OffPolicyAlgorithm) else {}
    model = algo.load(folder.model, env=env, device=device, **replay)
    model.set_random_seed(seed)  # not before: while it is loaded, a model seeds its environment as in training
    vec_env: Any = model.get_env()
    played: Any = evaluate_policy(model, vec_env, episodes, deterministic=deterministic, return_episode_rewards=True)
    vec_env.close()
    return {"returns": [*map(float, played[0])], "lengths": [*map(int, played[1])]}


def main() -> None:
    """Make the evaluations that a run lacks; the arguments are the run as YAML, device and threads."""
    run, device = Run.model_validate(yaml.safe_load(sys.argv[1])), sys.argv[2]
    th.set_num_threads(int(sys.argv[3]))
    for module in run.modules():  # so that the model may name their classes
        importlib.import_module(module)
    folder = RunFolder(Path(), run)
    for name, how in folder.missing_plays().items():
        played = play(folder, device, **how)
        folder.write_record(plays={**folder.record().get("plays", {}), name: {**how, **played}})
        print(f"{name}: mean return {fmean(played['returns']):.2f} over {how['episodes']} episodes", flush=True)


if __name__ == "__main__":
    main()
