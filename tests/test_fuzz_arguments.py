"""Any arguments: a model that learns, or an error that names the argument."""

import contextlib
import inspect
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agents import AgentsEnv
from gymnasium import spaces
from helpers import ALGORITHMS, VECTOR, SpacesEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_util import make_vec_env

from sb3_sac_variants import MASAC
from sb3_sac_variants.common.checks.data import DivergedError

ODD = st.sampled_from(
    [
        *(None, True, "auto", "", "1", -1, 0, 1, 2, 7, 0.5, 1.0, -0.5, float("nan"), float("inf"), 1e300, 10**400),
        *((), [1], (1, "step"), (1, "episode"), {}, {"a": 1}, np.float32(0.5), np.int64(3), np.bool_(True), b"x"),
        *(object, print),
    ]
)
#: arguments of a policy, and one that is none
IN_POLICY = ["net_arch", "activation_fn", "optimizer_class", "optimizer_kwargs", "features_extractor_kwargs",
             "normalize_images", "share_features_extractor", "x"]  # fmt: skip
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
    "policy_kwargs": st.fixed_dictionaries(
        {}, optional={"n_critics": st.integers(1, 3)} | dict.fromkeys(IN_POLICY, ODD)
    ),
    "verbose": st.just(0),
    "seed": st.integers(0, 2**32 - 1),
    "engine": st.sampled_from(["eager", "auto"]),
    "precision": st.just("float32"),
    "reward_scale": st.floats(0.1, 10),
    "qf_learning_rate": st.floats(0, 1),
    "ent_coef_learning_rate": st.floats(0, 1),
    # of one algorithm
    "policy_gradient": st.sampled_from(["reparameterized", "likelihood_ratio"]),
    "policy_q": st.sampled_from(["min", "q1"]),
    "ent_coef_loss": st.sampled_from(["alpha", "log_alpha"]),
    "update_order": st.sampled_from(["paper", "sb3"]),
    "n_value_particles": st.integers(1, 4),
    "n_svgd_particles": st.integers(2, 6),
    "svgd_update_ratio": st.floats(0.1, 0.9),
    "squash_gradient": st.sampled_from(["pre_tanh", "action", "none"]),
    "ce_coef": st.floats(-0.5, 0.5),
    "ce_convention": st.sampled_from(["objective", "similarity"]),
    "ce_obs": st.sampled_from(["theirs", "own"]),
    "ce_floor": st.sampled_from(["product", "none"]),
    "ce_center": st.booleans(),
    "ce_relative": st.booleans(),
}
#: what an error is about that comes from a value in another argument
ABOUT = {"policy": ["observation_space", "features_extractor_class"], "n_steps": ["replay_buffer_kwargs"]}


#: an environment of each kind of spaces, and the policy for it
ENVIRONMENTS: dict[str, tuple[Any, str]] = {
    "Box": (SpacesEnv, "MlpPolicy"),
    "Discrete": ("CartPole-v1", "MlpPolicy"),
    "Dict": (lambda: SpacesEnv(spaces.Dict({"one": VECTOR, "other": VECTOR})), "MultiInputPolicy"),
    "agents": (AgentsEnv, "MlpPolicy"),
    "discrete agents": (lambda: AgentsEnv(n_actions=3), "MlpPolicy"),
}
every_case = pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        *((algorithm, kind) for algorithm in ALGORITHMS for kind in ("Box", "Discrete", "Dict")),
        *((MASAC, kind) for kind in ("agents", "discrete agents")),
    ],
)
#: arguments that may be so large that networks diverge
MAY_DIVERGE = {"learning_rate", "qf_learning_rate", "ent_coef_learning_rate", "reward_scale", "ent_coef", "ce_coef"}
MAY_DIVERGE |= {"target_entropy"}
ANY = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a log goes whose folder was drawn."""
    monkeypatch.chdir(tmp_path)


def learns_or_is_refused(algorithm: type, kind: str, data: Any) -> None:
    """
    :param algorithm: class of an algorithm
    :param kind: of spaces, a name in :data:`ENVIRONMENTS`
    :param data: draws the arguments
    """
    make_env, policy = ENVIRONMENTS[kind]
    env = make_vec_env(make_env, data.draw(st.integers(1, 2), label="n_envs"))
    arguments: dict[str, Any] = {"policy": policy, "env": env, "policy_kwargs": {"net_arch": [4]}, "engine": "eager"}
    arguments |= {"learning_starts": 3, "batch_size": 4}
    known = sorted(ARGUMENTS.keys() & inspect.signature(algorithm).parameters.keys())
    drawn = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True))
    for name in drawn:
        arguments[name] = data.draw(ODD | ARGUMENTS[name], label=name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = algorithm(**{"device": "cpu", **arguments})
    except (ValueError, TypeError) as error:
        names = [*drawn, *(about for name in drawn for about in ABOUT.get(name, []))]
        assert any(name in str(error).lower() for name in names), (arguments, error)  # noqa: PT017
        return
    # A learning rate of 1, say, is allowed
    outcome = contextlib.suppress(*[DivergedError] if MAY_DIVERGE & {*drawn} else [])
    if model.optimize_memory_usage and model.buffer_size == 1:  # enough to play, as the zoo does
        outcome = pytest.raises(ValueError, match=r"^buffer_size=1 holds less than two steps.*: raise buffer_size")
    with outcome, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.learn(12)
        assert model.num_timesteps >= 12


@every_case
@settings(ANY, max_examples=12)
@given(data=st.data())
def test_arguments(algorithm: type, kind: str, data: Any) -> None:
    learns_or_is_refused(algorithm, kind, data)


@pytest.mark.slow
@every_case
@settings(ANY, max_examples=300)
@given(data=st.data())
def test_many_arguments(algorithm: type, kind: str, data: Any) -> None:
    learns_or_is_refused(algorithm, kind, data)
