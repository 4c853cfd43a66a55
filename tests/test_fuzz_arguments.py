"""Any arguments: a model that learns, or an error that names the argument."""

import contextlib
import warnings
from typing import Any

import numpy as np
from helpers import SpacesEnv, every_algorithm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sb3_sac_variants.common.checks.validation import DivergedError

ODD = st.sampled_from(
    [
        *(None, True, "auto", "", "1", -1, 0, 1, 2, 7, 0.5, 1.0, -0.5, float("nan"), float("inf"), 1e300, 10**400),
        *((), [1], (1, "step"), (1, "episode"), {}, {"a": 1}, np.float32(0.5), np.int64(3), np.bool_(True), b"x"),
        *(object, print),
    ]
)
#: arguments, and values for them beside the odd ones, small enough to learn with
ARGUMENTS: dict[str, st.SearchStrategy[Any]] = {
    "policy": st.sampled_from(["MlpPolicy", "CnnPolicy", "MultiInputPolicy"]),
    "learning_rate": st.floats(0, 1),
    "buffer_size": st.integers(1, 50),
    "learning_starts": st.integers(0, 20),
    "batch_size": st.integers(1, 8),
    "tau": st.floats(0, 1),
    "gamma": st.floats(0, 1),
    "train_freq": st.integers(1, 5),
    "gradient_steps": st.integers(-1, 3),
    "action_noise": st.none(),
    "replay_buffer_class": st.none(),
    "replay_buffer_kwargs": st.just({"handle_timeout_termination": False}),
    "optimize_memory_usage": st.booleans(),
    "n_steps": st.integers(1, 3),
    "ent_coef": st.floats(1e-3, 1) | st.just("auto_0.1"),
    "target_update_interval": st.integers(1, 4),
    "target_entropy": st.floats(-3, 0),
    "use_sde": st.booleans(),
    "sde_sample_freq": st.integers(-1, 4),
    "use_sde_at_warmup": st.booleans(),
    "stats_window_size": st.integers(1, 10),
    "tensorboard_log": st.none(),
    "policy_kwargs": st.fixed_dictionaries({}, optional={"n_critics": st.integers(1, 3), "net_arch": ODD, "x": ODD}),
    "verbose": st.just(0),
    "seed": st.integers(0, 2**32 - 1),
    "engine": st.sampled_from(["eager", "auto"]),
    "precision": st.just("float32"),
    "reward_scale": st.floats(0.1, 10),
    "qf_learning_rate": st.floats(0, 1),
    "ent_coef_learning_rate": st.floats(0, 1),
}
#: what an error is about that comes from a value in another argument
ABOUT = {"policy": ["observation_space", "features_extractor_class"], "n_steps": ["replay_buffer_kwargs"]}


@every_algorithm
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_arguments(algorithm: type, data: Any) -> None:
    arguments: dict[str, Any] = {"policy": "MlpPolicy", "env": SpacesEnv(), "policy_kwargs": {"net_arch": [4]}}
    for name in data.draw(st.lists(st.sampled_from(sorted(ARGUMENTS)), min_size=1, max_size=3, unique=True)):
        arguments[name] = data.draw(ODD | ARGUMENTS[name], label=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = algorithm(**{"device": "cpu", **arguments})
    except (ValueError, TypeError) as error:
        names = [*arguments, *(about for name in arguments for about in ABOUT.get(name, []))]
        assert any(name in str(error) for name in names), (arguments, error)  # noqa: PT017
        return
    with contextlib.suppress(DivergedError):  # a learning rate of 1, say, is allowed
        model.learn(12)
        assert model.num_timesteps >= 12
