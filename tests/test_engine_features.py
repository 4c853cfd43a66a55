"""What Stable-Baselines3 offers beside vectors and one environment, compiled: the same numbers as eagerly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers import DICTIONARY, IMAGE, SpacesEnv, flat_parameters, goal_env, make, n_updates, several
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from sb3_sac_variants import SQL, SACv1, SACv2
from sb3_sac_variants.common.gradient_step.compilation import compile_unsupported
from sb3_sac_variants.common.gradient_step.engine import EngineUnavailableError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compile_unsupported() is not None, reason=str(compile_unsupported())),
]

SMALL = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 4}}}
SMALL_PARTS = {"policy_kwargs": {"features_extractor_kwargs": {"cnn_output_dim": 4}}}
APART = {"policy_kwargs": {**SMALL["policy_kwargs"], "share_features_extractor": False}}

#: environment, policy, arguments
FEATURES: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "images": (lambda: SpacesEnv(IMAGE), "CnnPolicy", SMALL),
    "images, an extractor each": (lambda: SpacesEnv(IMAGE), "CnnPolicy", APART),
    "images stored once": (lambda: SpacesEnv(IMAGE), "CnnPolicy", {"optimize_memory_usage": True, **SMALL}),
    "dictionaries": (lambda: SpacesEnv(DICTIONARY), "MultiInputPolicy", SMALL_PARTS),
    "numbers of states": (lambda: SpacesEnv(spaces.Discrete(5)), "MlpPolicy", {}),
    "several numbers": (lambda: SpacesEnv(spaces.MultiDiscrete([3, 4])), "MlpPolicy", {}),
    "switches": (lambda: SpacesEnv(spaces.MultiBinary(4)), "MlpPolicy", {}),
    "hindsight": (goal_env, "MultiInputPolicy", {"replay_buffer_class": HerReplayBuffer, "learning_starts": 10}),
    "n steps, several environments": (lambda: several(3), "MlpPolicy", {"n_steps": 3, "gradient_steps": -1}),
    "normalised": (lambda: VecNormalize(several(2)), "MlpPolicy", {"gradient_steps": 2}),
    "action noise": (SpacesEnv, "MlpPolicy", {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))}),
    "other activation": (SpacesEnv, "MlpPolicy", {"policy_kwargs": {"activation_fn": th.nn.SiLU}, "net_arch": [8, 8]}),
}
CASES = [
    *((algorithm, name) for algorithm in (SACv1, SACv2, SQL) for name in ("images", "dictionaries", "hindsight")),
    *((SACv2, name) for name in FEATURES if name not in ("images", "dictionaries", "hindsight")),
]


def assert_same_training(one: Any, other: Any, updates: int) -> None:
    """
    :param one: a model
    :param other: another, trained by another engine
    :param updates: gradient steps of each
    """
    assert n_updates(one) == n_updates(other) == updates
    left, right = flat_parameters(one), flat_parameters(other)
    for name, value in left.items():
        th.testing.assert_close(value, right[name], rtol=1e-3, atol=5e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("algorithm", "name"), CASES)
def test_training_is_the_same(algorithm: type, name: str) -> None:
    env, policy, kwargs = FEATURES[name]
    steps = kwargs.get("learning_starts", 5) + 8
    models = [make(algorithm, env(), policy, engine=engine, **kwargs).learn(steps) for engine in ("eager", "compile")]
    assert models[1].updater.engine.name == "compile"
    assert_same_training(*models, updates=n_updates(models[0]))
    assert n_updates(models[0]) >= 5


def test_training_goes_on_from_a_file_and_in_another_environment(tmp_path: Path) -> None:
    models = []
    for engine in ("eager", "compile"):
        model = make(SACv2, several(2), engine=engine, gradient_steps=-1).learn(12)
        model.save(tmp_path / engine)
        model.save_replay_buffer(tmp_path / f"{engine}_replay")
        model = SACv2.load(tmp_path / engine, env=several(2), device="cpu", engine=engine)
        model.load_replay_buffer(tmp_path / f"{engine}_replay")
        model.set_random_seed(1)
        model.learn(6, reset_num_timesteps=False)
        model.set_env(several(2, episode_length=3))
        model.set_random_seed(2)
        models.append(model.learn(6, reset_num_timesteps=False))
    assert_same_training(*models, updates=n_updates(models[0]))


def test_batch_norm_says_what_to_do() -> None:
    """torch.func does not let a function change running statistics."""
    from helpers import NormalizingExtractor

    kwargs = {"features_extractor_class": NormalizingExtractor, "share_features_extractor": False}
    with pytest.raises(EngineUnavailableError, match=r"running statistics of a BatchNorm1d; pass engine='eager'"):
        make(SACv2, engine="compile", policy_kwargs=kwargs).learn(8)
